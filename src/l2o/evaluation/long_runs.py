"""Long runs, averaged over blocks of steps: what is kept of curves that several figures share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2o import checkpoint
from l2o.curves import Curves
from l2o.errors import ArgumentError, CheckpointError
from l2o.evaluation import statistics
from l2o.evaluation.statistics import FLOOR, Array, Interval, crossed_bootstrap

HEADROOM = 1.5
"""The axis of ln loss ends so far above the start: what explodes leaves the frame."""
_KIND = "long runs"


@dataclass(frozen=True, eq=False)
class LongRuns:
    """The curves of one optimizer on one task family.

    A block is a number of steps in a row; the loss at the start, before any step, belongs to none. Learned optimizers
    have one row for each meta-training seed, hand-designed ones a single row; run i of every row met the same task,
    start and minibatches.

    Args:
        means: `[seeds, runs, blocks]`, mean loss of each block; not a number from the block in which a run failed.
        log_means: `[seeds, runs, blocks]`, mean ln loss of each block, likewise; a loss below 1e-12 counts as it.
        diverged: `[seeds, runs]`, as `l2o.curves.diverged`.
        block: steps of a block.
        about: where they come from, JSON values: "family", "optimizer", "seconds_per_step" and others.
    """

    means: Array
    log_means: Array
    diverged: Array
    block: int
    about: list[dict[str, Any]]

    @classmethod
    def of(cls, curves: Curves, *, block: int, about: dict[str, Any]) -> "LongRuns":
        """One row, from the curves of its runs.

        Raises:
            ArgumentError: the steps fill no whole number of blocks, or a loss is negative.
        """
        losses = statistics.check_losses(curves.losses[:, 1:].numpy())
        if losses.shape[1] % block:
            raise ArgumentError(
                f"{losses.shape[1]} steps are no whole number of blocks of {block}; choose another block"
            )
        statistics.check_logarithms(losses)
        blocks = losses.reshape(len(losses), -1, block)
        logs = np.log(np.maximum(blocks, FLOOR))
        about = {**about, "seconds_per_step": curves.seconds_per_step}
        return cls(blocks.mean(-1)[None], logs.mean(-1)[None], curves.diverged.numpy()[None], block, [about])

    @classmethod
    def stack(cls, rows: Sequence["LongRuns"]) -> "LongRuns":
        """Rows of several meta-training seeds as one."""
        if len({(row.means.shape[1:], row.block) for row in rows}) != 1:
            shapes = [(*row.means.shape[1:], row.block) for row in rows]
            raise ArgumentError(f"rows of (runs, blocks, steps) {shapes}; stack rows of equal lengths")
        return cls(
            np.concatenate([row.means for row in rows]),
            np.concatenate([row.log_means for row in rows]),
            np.concatenate([row.diverged for row in rows]),
            rows[0].block,
            [about for row in rows for about in row.about],
        )

    @property
    def steps(self) -> int:
        """Inner steps of a run."""
        return self.block * self.means.shape[2]

    @property
    def runs(self) -> int:
        """All runs of all seeds."""
        return self.diverged.size

    @property
    def places(self) -> Array:
        """The middle step of each block, `[blocks]`."""
        return (np.arange(self.means.shape[2]) + 0.5) * self.block

    @property
    def start(self) -> float:
        """The largest mean ln loss of a first block; 0 if every run failed in it."""
        first = self.log_means[..., 0]
        return float(np.nanmax(first)) if np.isfinite(first).any() else 0.0

    def final(self) -> Array:
        """Mean ln loss of the last block, `[seeds, runs]`; +inf for a failed run."""
        last = self.log_means[..., -1]
        return np.where(np.isnan(last), np.inf, last)

    def final_losses(self) -> Array:
        """Mean loss of the last block, `[seeds, runs]`; +inf for a failed run."""
        last = self.means[..., -1]
        return np.where(np.isnan(last), np.inf, last)

    def mean_curve(self) -> Array:
        """Mean over all runs of the mean ln loss of each block, `[blocks]`; not a number once a run has failed."""
        return self.log_means.mean((0, 1))

    def band(self, *, resamples: int = 1_000) -> tuple[Array, Array]:
        """The 95 % interval around `mean_curve`, each block by `statistics.crossed_bootstrap`: two `[blocks]`."""
        ends = np.full((2, self.means.shape[2]), np.nan)
        for place in range(self.means.shape[2]):
            values = self.log_means[..., place]
            if np.isfinite(values).all():
                interval = crossed_bootstrap(values, resamples=resamples)
                ends[:, place] = (interval.low, interval.high) if self.runs > 1 else interval.estimate
        return ends[0], ends[1]

    def interval(self) -> Interval:
        """Mean ln loss of the last block over all seeds and runs, with its 95 % interval."""
        return crossed_bootstrap(self.final())

    def below(self, other: "LongRuns") -> Interval:
        """The interval of this minus the other, mean ln loss of the last block; below 0, this is better."""
        return crossed_bootstrap(self.final(), other.final())

    def save(self, path: Path) -> None:
        """Writes everything to one file that is read back exactly or not at all."""
        tensors = {"means": self.means, "log_means": self.log_means, "diverged": self.diverged}
        leaves = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in tensors.items()}
        checkpoint.write(path, leaves, {"block": self.block, "about": self.about}, kind=_KIND)

    @classmethod
    def load(cls, path: Path) -> "LongRuns":
        """Reads what `save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged, or something else.
        """
        leaves, metadata = checkpoint.read(path, kind=_KIND)
        try:
            arrays = [leaves[name].numpy() for name in ("means", "log_means", "diverged")]
            return cls(*arrays, block=metadata["block"], about=metadata["about"])
        except KeyError as error:
            raise CheckpointError(f"{path} lacks {error}; delete it and make it again") from error


def ceiling(runs: Iterable[LongRuns], levels: Iterable[float] = ()) -> float:
    """Where an axis of ln loss ends at the latest: `HEADROOM` above the highest start, or level that it shows."""
    return max([*levels, *(each.start for each in runs)]) + HEADROOM
