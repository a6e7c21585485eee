"""Compares optimizers on the same tasks, starts and minibatches, run by run."""

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2o import checkpoint
from l2o.curves import Curves
from l2o.errors import ArgumentError, DataError
from l2o.evaluation import statistics
from l2o.evaluation.kept_curves import curves_of
from l2o.evaluation.statistics import Array, Interval, Metric, Statistic
from l2o.evaluation.tables import Row
from l2o.evaluation.tuning import Tuning
from l2o.optimizers.base import LearnedOptimizer
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily

_FORMAT = "l2o-comparison-1"

# What numpy and zipfile raise for damaged files. RuntimeError: an altered flag says "encrypted", or of a new version.
_FAULTS = (ValueError, KeyError, TypeError, EOFError, AttributeError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Comparison:
    """The curves of several optimizers on the same runs.

    Args:
        curves: name to curves, in the order of the tables; run i of each met the same task, start and minibatches.
        family: name of the task family.
        last: losses at the end of a run that are averaged for "final" and "log-final", and for the target.
        target: loss for "steps to target", or None.
    """

    curves: dict[str, Curves]
    family: str
    last: int
    target: float | None = None

    def __post_init__(self) -> None:
        shapes = {tuple(curves.losses.shape) for curves in self.curves.values()}
        if len(shapes) != 1:
            raise ArgumentError(
                f"curves have shapes {sorted(shapes)}; compare optimizers on equally many runs and steps"
            )
        losses = next(iter(shapes))[1]
        if not 1 <= self.last <= losses:
            raise ArgumentError(f"last is {self.last}; a run of {losses - 1} steps has {losses} losses")

    @property
    def runs(self) -> int:
        """How many runs each optimizer made."""
        return next(iter(self.curves.values())).losses.shape[0]

    @property
    def steps(self) -> int:
        """Inner steps of a run."""
        return next(iter(self.curves.values())).losses.shape[1] - 1

    @property
    def losses(self) -> dict[str, Array]:
        """Each optimizer's losses, `[runs, steps + 1]`."""
        return {name: curves.losses.numpy() for name, curves in self.curves.items()}

    @property
    def note(self) -> str:
        """What the numbers in the tables are, in a sentence or two."""
        return (
            f"{self.runs} runs of {self.steps} steps on {self.family}. Final: mean of the last {self.last} losses; "
            "area: mean over steps of ln loss. In brackets: 95 % percentile bootstrap over runs, "
            f"{statistics.RESAMPLES:,} resamples. A failed run counts as infinite."
        )

    def measures(self, name: str, metric: Metric) -> Array:
        """The metric of each run of one optimizer: `[runs]`, +inf for a failed run."""
        if name not in self.curves:
            raise ArgumentError(f"no optimizer {name!r} in this comparison; there are {', '.join(self.curves)}")
        return statistics.measure(self.losses[name], metric, last=self.last)

    def paired(self, metric: Metric, first: str, second: str, statistic: Statistic = statistics.mean) -> Interval:
        """The interval of `first - second`, run by run: below 0, the first is better.

        In nats for "area" and "log-final": a difference of -1 is a loss e times smaller.
        """
        return statistics.paired_bootstrap(self.measures(first, metric), self.measures(second, metric), statistic)

    def loss_rows(self) -> list[Row]:
        """How low each optimizer got, and how soon. Logarithms are left out where a loss is negative."""
        logarithms = all(not bool((curves.losses < 0).any()) for curves in self.curves.values())
        return [self._loss_row(name, curves, logarithms) for name, curves in self.curves.items()]

    def cost_rows(self, tunings: Mapping[str, Tuning] | None = None) -> list[Row]:
        """What each optimizer cost to run, and to tune where `tunings` names it."""
        searches = any(curves.loss_evaluations for curves in self.curves.values())
        return [_cost_row(name, curves, tunings or {}, searches) for name, curves in self.curves.items()]

    def save(self, path: Path) -> None:
        """Writes everything to an `.npz` file that is read without pickle."""
        header: dict[str, Any] = {"format": _FORMAT, "family": self.family, "last": self.last, "target": self.target}
        header["optimizers"] = [
            {
                "name": name,
                "metrics": list(curves.metrics),
                "evaluations": curves.evaluations,
                "seconds_per_step": curves.seconds_per_step,
                "state_bytes": curves.state_bytes,
                "loss_evaluations": curves.loss_evaluations,
                "true_every": curves.true_every,
            }
            for name, curves in self.curves.items()
        ]
        arrays = {"header": np.array(json.dumps(header))}
        for place, curves in enumerate(self.curves.values()):
            arrays[f"{place}.losses"] = curves.losses.numpy()
            for metric, values in curves.metrics.items():
                arrays[f"{place}.metrics.{metric}"] = values.cpu().numpy()
            if curves.true_losses is not None:
                arrays[f"{place}.true_losses"] = curves.true_losses.numpy()
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
        checkpoint.write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Comparison":
        """Reads what `save` wrote, exactly.

        Raises:
            DataError: the file is truncated, or something else.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                if (damaged := arrays.zip.testzip()) is not None:
                    raise zipfile.BadZipFile(f"its part {damaged} fails its checksum")
                header = json.loads(str(arrays["header"]))
                if header["format"] != _FORMAT:
                    raise ValueError(f"its format is {header['format']!r}, this l2o reads {_FORMAT!r}")
                curves = {
                    entry["name"]: Curves(
                        losses=torch.from_numpy(arrays[f"{place}.losses"]),
                        metrics={
                            metric: torch.from_numpy(arrays[f"{place}.metrics.{metric}"]) for metric in entry["metrics"]
                        },
                        evaluations=entry["evaluations"],
                        seconds_per_step=entry["seconds_per_step"],
                        state_bytes=entry["state_bytes"],
                        # Files from before closures and true objectives have neither.
                        loss_evaluations=entry.get("loss_evaluations", 0),
                        true_losses=(
                            torch.from_numpy(arrays[f"{place}.true_losses"]) if entry.get("true_every") else None
                        ),
                        true_every=entry.get("true_every"),
                    )
                    for place, entry in enumerate(header["optimizers"])
                }
        except (OSError, *_FAULTS) as error:
            raise DataError(f"{path} is not a whole file of curves ({error}); make it again with save") from error
        return cls(curves, header["family"], header["last"], header["target"])

    def _loss_row(self, name: str, curves: Curves, logarithms: bool) -> Row:
        final = self.measures(name, "final")
        row: dict[str, Any] = {
            "optimizer": name,
            "final loss, mean": statistics.bootstrap(final),
            "final loss, median": statistics.bootstrap(final, statistics.median),
            "final loss, IQM": statistics.bootstrap(final, statistics.interquartile_mean),
        }
        if logarithms:
            row["ln final loss, mean"] = statistics.bootstrap(self.measures(name, "log-final"))
            row["area, mean"] = statistics.bootstrap(self.measures(name, "area"))
        if self.target is not None:
            steps = statistics.steps_to_target(curves.losses, self.target, last=self.last)
            row[f"steps to {self.target:g}, median"] = statistics.bootstrap(steps, statistics.median)
            row[f"reached {self.target:g}"] = f"{int(np.isfinite(steps).sum())} of {self.runs}"
        for metric, values in curves.metrics.items():
            row[metric.replace("_", " ")] = _metric_cell(values.double().cpu().numpy())
        row["diverged"] = f"{int(curves.diverged.sum())} of {self.runs}"
        return row


def compare(
    optimizers: Mapping[str, LearnedOptimizer],
    family: TaskFamily,
    rng: Stream,
    *,
    steps: int,
    last: int = 20,
    target: float | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    directory: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Runs every optimizer on the stream's tasks, spread over as many workers as `l2o.sweeps.workers` says.

    Args:
        optimizers: by the name that tables and figures use; the order stays.
        family: where the tasks come from.
        rng: seeds and tasks; each task is one run, equal for all optimizers.
        steps: inner steps of a run.
        last: losses at the end of a run that are averaged for its final loss.
        target: loss for "steps to target", or None.
        device: where the runs happen.
        dtype: of parameters and data.
        directory: keeps the curves of each optimizer as they come in, so that an interrupted comparison goes on; see
            `l2o.evaluation.kept_curves`.
        progress: called with an optimizer's name after its runs.

    Example:
        >>> from l2o.optimizers.handcrafted import SGD, Adam
        >>> from l2o.tasks.quadratic import Quadratics
        >>> rng = Stream(0, ("example",), tasks=range(4))
        >>> both = compare({"SGD": SGD(0.01), "Adam": Adam(0.1)}, Quadratics(3), rng, steps=30)
        >>> both.paired("final", "SGD", "Adam").runs
        4
    """
    if not optimizers:
        raise ArgumentError("optimizers is empty; give at least one to compare")
    if not 1 <= last <= steps + 1:
        raise ArgumentError(f"last is {last}; a run of {steps} steps has {steps + 1} losses")
    curves = curves_of(
        optimizers,
        family,
        rng,
        steps=steps,
        device=device,
        dtype=dtype,
        directory=directory,
        done=None if progress is None else lambda name, _: progress(name),
    )
    return Comparison(curves, family.name, last, target)


def _metric_cell(values: Array) -> Interval | str:
    """The mean of a task's own metric. Which end of it is worse is not known here, so that no run can stand in."""
    undefined = int(np.isnan(values).sum())
    return f"undefined in {undefined} of {len(values)}" if undefined else statistics.bootstrap(values)


def _cost_row(name: str, curves: Curves, tunings: Mapping[str, Tuning], searches: bool) -> Row:
    row: dict[str, Any] = {
        "optimizer": name,
        "ms per step": 1e3 * curves.seconds_per_step,
        "state bytes": curves.state_bytes,
        "gradient evaluations per run": curves.evaluations,
    }
    if searches:
        row["loss evaluations per run"] = curves.loss_evaluations
    if tunings:
        row |= _tuning_cells(tunings.get(name))
    return row


def _tuning_cells(tuning: Tuning | None) -> dict[str, Any]:
    if tuning is None:
        columns = ("tuned by", "values tried", "tuning runs", "tuning gradient evaluations")
        return {"tuned value": "not tuned", **dict.fromkeys(columns)}
    edge = " (on the grid's edge)" if tuning.on_edge else ""
    return {
        "tuned value": f"{tuning.best:.4g}{edge}",
        "tuned by": tuning.metric,
        "values tried": len(tuning.scores),
        "tuning runs": tuning.runs,
        "tuning gradient evaluations": tuning.evaluations,
    }
