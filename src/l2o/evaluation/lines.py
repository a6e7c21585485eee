"""Curves of many runs as lines that can be drawn: average, band, what failed. Figures and pages draw the same ones."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from l2o.errors import ArgumentError
from l2o.evaluation import statistics
from l2o.evaluation.statistics import FLOOR, Array

Average = Literal["mean", "log-mean"]
"""Over runs: the mean of the losses, or the exponential of the mean of their logarithms."""
Band = Literal["interval", "deviation", "none"]
"""Around the average: its 95 % bootstrap interval, one standard deviation of the runs, or nothing."""

EXPLOSION = 20.0
"""The axis of a loss ends at this many times the largest first loss: what explodes leaves the frame."""
_EVENLY, _EARLY = 300, 100


@dataclass(frozen=True)
class Line:
    """One optimizer's curve, ready to be drawn.

    Args:
        name: shown at its end.
        steps: `[points]`.
        centre: average over the runs that are left, `[points]`, not a number where none is.
        low: lower end of the band, `[whole]`.
        high: upper end of the band, `[whole]`.
        whole: how many points all runs reach.
        runs: all of them.
        deaths: the first point that a run does not reach, one entry per failed run.
        diverged: runs that diverged, as the tables count them.
        start: mean of the first losses.
    """

    name: str
    steps: Array
    centre: Array
    low: Array
    high: Array
    whole: int
    runs: int
    deaths: list[int]
    diverged: int
    start: float

    @property
    def count(self) -> str:
        """How many runs diverged, in words; nothing if none did."""
        return f"{self.diverged} of {self.runs} diverged" if self.diverged else ""

    @property
    def crosses(self) -> list[int]:
        """The last point before each failure, ascending, each once."""
        return sorted({max(0, death - 1) for death in self.deaths})


def line(name: str, losses: ArrayLike, *, average: Average = "mean", band: Band = "interval", block: int = 1) -> Line:
    """The line of one optimizer.

    Args:
        name: shown at its end.
        losses: `[runs, steps + 1]`, not a number from the step at which a run failed.
        average: over runs.
        band: around the average.
        block: steps that are averaged before anything else; counted from the end, see `statistics.block_means`.

    Raises:
        ArgumentError: an unknown average or band, or logarithms of negative losses.
    """
    steps, blocks = statistics.block_means(losses, block)
    shown = thin(blocks.shape[1])
    steps, blocks = steps[shown], blocks[:, shown]
    dead = np.isnan(blocks)
    whole = int((~dead.any(0)).sum())
    forward, back = _transforms(name, blocks, average)
    values = forward(blocks)
    left = np.where(dead.all(0), np.nan, (~dead).sum(0))
    with np.errstate(over="ignore"):
        centre = np.where(dead, 0.0, values).sum(0) / left
        low, high = _ends(values[:, :whole], band)
        return Line(
            name=name,
            steps=steps,
            centre=back(centre),
            low=back(low),
            high=back(high),
            whole=whole,
            runs=len(blocks),
            deaths=[int(np.argmax(row)) for row in dead if row.any()],
            diverged=int(statistics.diverged(losses).sum()),
            start=float(np.nan_to_num(statistics.check_losses(losses)[:, 0]).mean()),
        )


def thin(count: int) -> list[int]:
    """Which of `count` points are drawn: all of a few, or some, the first and the last among them.

    More than a figure can resolve is not drawn: 300 evenly spaced points, and 100 at growing distances, so that a
    logarithmic axis of steps has an early part too.
    """
    if count <= _EVENLY + _EARLY:
        return list(range(count))
    both = [np.linspace(0, count - 1, _EVENLY), np.geomspace(1, count - 1, _EARLY)]
    return np.unique(np.rint(np.concatenate(both)).astype(int)).tolist()


def ceiling(lines: Sequence[Line]) -> float:
    """Where the axis of the losses ends at the latest, see `EXPLOSION`; +inf where that says nothing."""
    limit = EXPLOSION * max(each.start for each in lines)
    return limit if limit > 0 else math.inf


def described(lines: Sequence[Line], average: Average, band: Band) -> list[str]:
    """What lines and bands are, in words."""
    counts = sorted({each.runs for each in lines})
    if counts == [1]:
        return ["one run"]
    runs = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    words = [f"mean of {runs} runs" if average == "mean" else f"exponential of the mean ln loss of {runs} runs"]
    if band != "none":
        words.append(
            "band: 95 % bootstrap interval" if band == "interval" else "band: one standard deviation of the runs"
        )
    return words


def _transforms(
    name: str, blocks: Array, average: Average
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    if average == "mean":
        return (lambda x: x), (lambda x: x)
    if average != "log-mean":
        raise ArgumentError(f"average is {average!r}; choose 'mean' or 'log-mean'")
    if bool((blocks < 0).any()):
        raise ArgumentError(f"{name} has negative losses, which have no logarithm; choose average='mean'")
    return (lambda x: np.log(np.maximum(x, FLOOR))), np.exp


def _ends(values: Array, band: Band) -> tuple[Array, Array]:
    """The band around the mean of `values` `[runs, points]`, which may have no points: two ends `[points]`."""
    if band not in ("interval", "deviation", "none"):
        raise ArgumentError(f"band is {band!r}; choose 'interval', 'deviation' or 'none'")
    centre = values.mean(0)
    if band == "none" or values.shape[0] == 1 or values.shape[1] == 0:
        return centre, centre
    if band == "interval":
        return statistics.mean_band(values)
    deviation = values.std(0, ddof=1)
    # On skewed losses, mean minus deviation lies below every run, and below zero: the band ends at the lowest run.
    return np.maximum(centre - deviation, values.min(0)), centre + deviation
