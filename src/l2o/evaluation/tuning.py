"""Tuning a hand-designed rule's constant: a grid, a stated budget, and no best value on the grid's edge."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from l2o.curves import Curves
from l2o.errors import ArgumentError
from l2o.evaluation import statistics
from l2o.evaluation.kept_curves import curves_of
from l2o.evaluation.statistics import Metric
from l2o.optimizers.base import LearnedOptimizer
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily

Rule = Callable[[float], LearnedOptimizer]
"""Makes the rule with one value of the constant, for instance `Adam`."""


@dataclass(frozen=True)
class Trial:
    """One value that was tried.

    Args:
        value: of the constant.
        scores: metric to score: the mean over tuning tasks, +inf if any of them diverged.
        diverged: tasks that diverged.
        evaluations: gradient evaluations, over all tasks.
        runs: tasks.
    """

    value: float
    scores: dict[Metric, float]
    diverged: int
    evaluations: int
    runs: int


@dataclass(frozen=True)
class Tuning:
    """What tuning by one metric found, and what it cost.

    Args:
        metric: the score's metric.
        best: the value of the lowest score; of equal scores the smallest value.
        scores: every value tried, ascending, to its score; +inf where a task diverged.
        evaluations: gradient evaluations spent, over all values and tasks.
        runs: optimizer runs spent, over all values and tasks.
        widenings: values added beyond the grid that was asked for.
        on_edge: whether the best is still the smallest or largest value tried: a better one may lie beyond.
    """

    metric: Metric
    best: float
    scores: dict[float, float]
    evaluations: int
    runs: int
    widenings: int
    on_edge: bool

    @property
    def widened(self) -> bool:
        """Whether values beyond the grid that was asked for were tried."""
        return self.widenings > 0


def log_grid(low: float, high: float, *, per_octave: int = 1) -> list[float]:
    """`low * 2^(i / per_octave)` up to and including `high`.

    Example:
        >>> log_grid(0.125, 1.0)
        [0.125, 0.25, 0.5, 1.0]
    """
    if not 0 < low < high < math.inf or per_octave < 1:
        raise ArgumentError(f"a grid from {low} to {high}, {per_octave} per octave; need 0 < low < high, at least 1")
    count = math.floor(math.log2(high / low) * per_octave + 1e-9)
    return [low * 2.0 ** (i / per_octave) for i in range(count + 1)]


def tune(
    rule: Rule,
    family: TaskFamily,
    rng: Stream,
    *,
    steps: int,
    grid: Sequence[float],
    metric: Metric,
    last: int = 20,
    max_widenings: int = 8,
    refinements: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    directory: Path | None = None,
    progress: Callable[[Trial], None] | None = None,
) -> Tuning:
    """Finds the value of a rule's constant with the lowest score.

    Score = mean over the stream's tasks of the metric; +inf if any task diverged. Every value meets the same tasks,
    starts and minibatches. They are drawn from `rng.child("tuning")`, so that they differ from those of a comparison
    that is given the same stream. While the best value is the smallest or largest tried, the grid grows by one value
    there, at the ratio of its two outermost values.

    The values of the grid are tried by as many workers as `l2o.sweeps.workers` says; the result does not depend on it.

    Args:
        rule: makes the optimizer from a value.
        family: where the tuning tasks come from.
        rng: seeds and tasks of the tuning runs.
        steps: inner steps of a run.
        grid: positive values in any order, at least two.
        metric: what a run is judged by.
        last: losses at the end of a run that are averaged for "final" and "log-final".
        max_widenings: how many values may be added; if the best is then still on the edge, `on_edge` says so.
        refinements: how often, after that, the values halfway (in ratio) between the best one and its neighbours are
            tried too: a coarse grid becomes fine where it matters.
        device: where the runs happen.
        dtype: of parameters and data.
        directory: keeps the curves of every value that was tried, so that an interrupted tuning goes on; see
            `l2o.evaluation.kept_curves`.
        progress: called after each value.

    Raises:
        ArgumentError: a bad grid, or a grid on which every value diverges.
    """
    return tune_all(
        rule,
        family,
        rng,
        steps=steps,
        grid=grid,
        metrics=(metric,),
        last=last,
        max_widenings=max_widenings,
        refinements=refinements,
        device=device,
        dtype=dtype,
        directory=directory,
        progress=progress,
    )[metric]


def tune_all(
    rule: Rule,
    family: TaskFamily,
    rng: Stream,
    *,
    steps: int,
    grid: Sequence[float],
    metrics: Sequence[Metric] = ("final", "area"),
    last: int = 20,
    max_widenings: int = 8,
    refinements: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    directory: Path | None = None,
    progress: Callable[[Trial], None] | None = None,
) -> dict[Metric, Tuning]:
    """`tune` by several metrics from the same runs; the grid grows until the best by each of them is inside.

    Returns:
        One tuning per metric. Each states the budget of all runs together.
    """
    values = _check(grid, metrics, max_widenings, refinements)
    if not 1 <= last <= steps + 1:
        raise ArgumentError(f"last is {last}; a run of {steps} steps has {steps + 1} losses")
    trials: dict[float, Trial] = {}

    def done(name: str, curves: Curves) -> None:
        trials[float(name)] = trial = _trial(float(name), curves, metrics, last)
        if progress is not None:
            progress(trial)

    def attempt(values: Iterable[float]) -> None:
        curves_of(
            {repr(value): rule(value) for value in values},
            family,
            rng.child("tuning"),
            steps=steps,
            device=device,
            dtype=dtype,
            directory=directory,
            done=done,
        )

    attempt(values)
    widenings = 0
    while widenings < max_widenings:
        beyond = _beyond(sorted(trials), {_best(trials, metric) for metric in metrics})
        if not beyond:
            break
        attempt(beyond[: max_widenings - widenings])
        widenings += len(beyond[: max_widenings - widenings])
    for _ in range(refinements):
        attempt(_between(sorted(trials), {_best(trials, metric) for metric in metrics}))
    return {metric: _tuning(trials, metric, widenings) for metric in metrics}


def _trial(value: float, curves: Curves, metrics: Sequence[Metric], last: int) -> Trial:
    bad, runs = int(curves.diverged.sum()), len(curves.losses)
    scores: dict[Metric, float] = {
        metric: math.inf if bad else float(statistics.mean(statistics.measure(curves.losses, metric, last=last)))
        for metric in metrics
    }
    return Trial(value, scores, bad, curves.evaluations * runs, runs)


def _check(grid: Sequence[float], metrics: Sequence[Metric], max_widenings: int, refinements: int) -> list[float]:
    values = sorted(set(map(float, grid)))
    if len(values) < 2 or not all(0 < value < math.inf for value in values):
        raise ArgumentError(f"grid is {list(grid)}; give at least two different positive finite values")
    if not metrics or max_widenings < 0 or refinements < 0:
        raise ArgumentError(
            f"metrics {metrics} must name at least one, max_widenings {max_widenings} and refinements {refinements} "
            "must be >= 0"
        )
    return values


def _best(trials: dict[float, Trial], metric: Metric) -> float:
    return min(trials.values(), key=lambda trial: (trial.scores[metric], trial.value)).value


def _beyond(values: list[float], best: set[float]) -> list[float]:
    """The next values outside the grid, on the sides where it holds a best value at its edge."""
    low = [values[0] * (values[0] / values[1])] if values[0] in best else []
    high = [values[-1] * (values[-1] / values[-2])] if values[-1] in best else []
    return low + high


def _between(values: list[float], best: set[float]) -> list[float]:
    """The geometric means of each best value and its neighbours."""
    pairs = [pair for pair in pairwise(values) if best & set(pair)]
    return [math.sqrt(low * high) for low, high in pairs]


def _tuning(trials: dict[float, Trial], metric: Metric, widenings: int) -> Tuning:
    values = sorted(trials)
    best = _best(trials, metric)
    if math.isinf(trials[best].scores[metric]):
        raise ArgumentError(
            f"every value from {values[0]} to {values[-1]} diverged on some tuning task; give a grid of smaller values"
        )
    return Tuning(
        metric=metric,
        best=best,
        scores={value: trials[value].scores[metric] for value in values},
        evaluations=sum(trial.evaluations for trial in trials.values()),
        runs=sum(trial.runs for trial in trials.values()),
        widenings=widenings,
        on_edge=best in (values[0], values[-1]),
    )
