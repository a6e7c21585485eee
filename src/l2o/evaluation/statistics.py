"""Statistics over curves that do not flatter: a failed run is counted, never dropped.

Curves are `[runs, steps + 1]`, not a number from the step at which a run failed. Measures of a run, one number each,
are `[runs]`: what a failed run measures is +inf, so that it is the worst in every median and rank, and makes a mean
infinite. Whoever wants a finite mean says what a failure costs: `price_failures`. Not-a-number itself is refused.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from l2o import curves
from l2o.errors import ArgumentError

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""Reduces the last axis: `[..., runs]` to `[...]`."""
Metric = Literal["final", "log-final", "area"]
"""What a run is judged by: `final_losses`, `log_final_losses` or `areas`."""

FLOOR = 1e-12
"""Logarithms are taken of losses no smaller than this: below it, float32 losses of order one are rounding noise."""
RESAMPLES = 10_000
"""Resamples of a bootstrap interval: its ends then move by about 0.01 standard errors from seed to seed."""
_NUMBERS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval.

    Args:
        estimate: the statistic of the runs.
        low: lower end; -inf where the runs say nothing, as a single run does.
        high: upper end; +inf likewise.
        runs: how many runs it was estimated from.
        level: confidence level, in (0, 1).
    """

    estimate: float
    low: float
    high: float
    runs: int
    level: float = 0.95

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside the interval."""
        return not self.low <= value <= self.high


def final_losses(losses: ArrayLike, *, last: int = 1) -> Array:
    """Mean of the last `last` losses of each run: `[runs]`, +inf for a failed run."""
    losses = check_losses(losses)
    return _failures_as_infinite(losses[:, _last(losses, last)].mean(1))


def log_final_losses(losses: ArrayLike, *, last: int = 1, floor: float = FLOOR) -> Array:
    """Mean of the natural logarithms of the last `last` losses of each run: `[runs]`, +inf for a failed run."""
    losses = check_losses(losses)
    return areas(losses[:, _last(losses, last)], floor=floor)


def areas(losses: ArrayLike, *, floor: float = FLOOR) -> Array:
    """Area under the log-loss curve: the mean over steps of ln max(loss, floor), in nats.

    Returns:
        `[runs]`, +inf for a failed run.

    Raises:
        ArgumentError: a loss is negative; its logarithm has no meaning.
    """
    losses = check_losses(losses)
    check_logarithms(losses)
    return _failures_as_infinite(np.log(np.maximum(losses, floor)).mean(1))


def measure(losses: ArrayLike, metric: Metric, *, last: int = 1) -> Array:
    """The metric of each run: `[runs]`, +inf for a failed run."""
    measures: dict[str, Callable[[], Array]] = {
        "final": lambda: final_losses(losses, last=last),
        "log-final": lambda: log_final_losses(losses, last=last),
        "area": lambda: areas(losses),
    }
    if metric not in measures:
        raise ArgumentError(f"metric is {metric!r}; choose one of {', '.join(measures)}")
    return measures[metric]()


def steps_to_target(losses: ArrayLike, target: float, *, last: int = 1) -> Array:
    """The first step at which the mean of the `last` latest losses is at or below `target`.

    With minibatches a single loss touches the target by luck, and the noisiest optimizer first: choose `last` above 1.

    Returns:
        `[runs]`, +inf where the target was not reached, so that `median` treats such a run as censored.
    """
    losses = check_losses(losses)
    _last(losses, last)
    means = np.lib.stride_tricks.sliding_window_view(losses, last, axis=1).mean(-1)  # [runs, steps + 2 - last]
    reached = means <= target
    return np.where(reached.any(1), reached.argmax(1) + last - 1.0, np.inf)


def failed(losses: ArrayLike) -> NDArray[np.bool_]:
    """Whether each run ended in a loss that is not finite: `[runs]`."""
    return ~np.isfinite(check_losses(losses)[:, -1])


def diverged(losses: ArrayLike) -> NDArray[np.bool_]:
    """Whether each run failed, or ended above ten times where it began: `[runs]`, as `Curves.diverged`."""
    return curves.diverged(torch.from_numpy(check_losses(losses))).numpy()


def block_means(losses: ArrayLike, size: int) -> tuple[Array, Array]:
    """Averages each run over blocks of `size` steps, counted from the end; the first block holds what is left over.

    Returns:
        The middle step of each block `[blocks]`, and the means `[runs, blocks]`.
    """
    losses = check_losses(losses)
    count = losses.shape[1]
    if not 1 <= size <= count:
        raise ArgumentError(f"blocks of {size} steps do not fit {count} losses; choose 1 to {count}")
    starts = np.unique([0, *range(count % size, count, size)])
    ends = np.append(starts[1:], count)
    return (starts + ends - 1) / 2, np.add.reduceat(losses, starts, axis=1) / (ends - starts)


def mean(values: ArrayLike) -> Array:
    """The mean of the last axis; infinite if a run failed."""
    with np.errstate(invalid="ignore"):
        return _measures(values).mean(-1)


def median(values: ArrayLike) -> Array:
    """The median of the last axis; a failed run counts as the worst."""
    with np.errstate(invalid="ignore"):
        return np.median(_measures(values), axis=-1)


def interquartile_mean(values: ArrayLike) -> Array:
    """The mean of the last axis without its lowest and highest quarter, each rounded down to whole runs.

    Source: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice".
    """
    values = np.sort(_measures(values), axis=-1)
    cut = values.shape[-1] // 4
    return mean(values[..., cut : values.shape[-1] - cut])


def price_failures(values: ArrayLike, penalty: float) -> Array:
    """Replaces the +inf of failed runs by a penalty, which the caller states beside the result."""
    if not math.isfinite(penalty):
        raise ArgumentError(f"penalty is {penalty}; price a failure at a finite value")
    values = _measures(values)
    return np.where(np.isposinf(values), penalty, values)


def differences(first: ArrayLike, second: ArrayLike) -> Array:
    """`first - second`, run by run: `[runs]`.

    Where only the first failed it is +inf, where only the second failed -inf, and where both failed 0: a tie.
    """
    first, second = _measures(first), _measures(second)
    if first.shape != second.shape:
        raise ArgumentError(f"cannot pair runs of shapes {first.shape} and {second.shape}; run both on one stream")
    with np.errstate(invalid="ignore"):
        return np.where(first == second, 0.0, first - second)


def bootstrap(
    values: ArrayLike,
    statistic: Statistic = mean,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic of runs.

    The ends are order statistics of the resamples, rounded outwards; a resample whose statistic is undefined (failures
    on both sides of a difference) counts as -inf for the lower end and as +inf for the upper. Intervals from few runs
    are too narrow: with 10 normal runs a 95 % interval of the mean covers about 90 %.

    Args:
        values: one measure per run, `[runs]`; +inf for a failed run.
        statistic: reduces the last axis, for instance `mean`, `median` or `interquartile_mean`.
        level: confidence level, in (0, 1).
        resamples: how many resamples are drawn.
        seed: of the resampling; equal seeds give equal intervals.

    Example:
        >>> bootstrap([1.0, 2.0, 3.0, 4.0]).estimate
        2.5
    """
    values = _measures(values)
    if values.ndim != 1:
        raise ArgumentError(f"values have shape {values.shape}; pass one number per run, [runs]")
    if not 0 < level < 1 or resamples < 1:
        raise ArgumentError(f"level {level} must lie in (0, 1), and resamples {resamples} be at least 1")
    runs = len(values)
    estimate = float(statistic(values))
    if runs == 1:
        return Interval(estimate, -math.inf, math.inf, runs, level)
    rng = np.random.default_rng(seed)
    at_once = max(1, _NUMBERS_AT_ONCE // runs)
    parts = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
    draws = np.concatenate([statistic(values[rng.integers(runs, size=(part, runs))]) for part in parts])
    low, high = _ends(draws, level)
    return Interval(estimate, low, high, runs, level)


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    statistic: Statistic = mean,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic of `differences(first, second)`: below 0, the first is better.

    Args:
        first: one measure per run, `[runs]`.
        second: the other optimizer's measures of the same runs, `[runs]`.
        statistic: as in `bootstrap`. The mean is not a number where failures stand on both sides; the median is.
        level: as in `bootstrap`.
        resamples: as in `bootstrap`.
        seed: as in `bootstrap`.
    """
    return bootstrap(differences(first, second), statistic, level=level, resamples=resamples, seed=seed)


def crossed_bootstrap(
    first: ArrayLike,
    second: ArrayLike | None = None,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a mean over meta-training seeds and runs, or of a difference of two.

    Every seed meets the same runs, so that the two are crossed: a resample draws seeds with replacement, for `first`
    and `second` apart, and runs with replacement, the same for all. Three seeds are few: whether the interval lies
    below 0 then says little more than that no choice among them turns the sign.

    Args:
        first: one measure for each seed and run, `[seeds, runs]`; +inf for a failed run.
        second: what is subtracted, `[other seeds, runs]`; None for the mean of `first` alone.
        level: as in `bootstrap`.
        resamples: as in `bootstrap`.
        seed: as in `bootstrap`.

    Example:
        >>> crossed_bootstrap([[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0]]).estimate
        2.0

    Source: Owen 2007, "The pigeonhole bootstrap".
    """
    groups = [_measures(values) for values in ([first] if second is None else [first, second])]
    if any(values.ndim != 2 for values in groups) or len({values.shape[1] for values in groups}) != 1:
        shapes = [values.shape for values in groups]
        raise ArgumentError(f"measures have shapes {shapes}; pass [seeds, runs], of the same runs")
    if not 0 < level < 1 or resamples < 1:
        raise ArgumentError(f"level {level} must lie in (0, 1), and resamples {resamples} be at least 1")
    rng = np.random.default_rng(seed)
    runs = groups[0].shape[1]
    columns = rng.integers(runs, size=(resamples, 1, runs))
    draws = []
    for values in groups:
        rows = rng.integers(len(values), size=(resamples, len(values), 1))
        draws.append(mean(values[rows, columns].reshape(resamples, -1)))
    estimates = [float(mean(values.ravel())) for values in groups]
    count = runs * max(len(values) for values in groups)
    with np.errstate(invalid="ignore"):
        drawn = draws[0] - draws[1] if second is not None else draws[0]
        estimate = estimates[0] - estimates[1] if second is not None else estimates[0]
    if all(values.size == 1 for values in groups):
        return Interval(estimate, -math.inf, math.inf, count, level)
    low, high = _ends(drawn, level)
    return Interval(estimate, low, high, count, level)


def mean_band(values: ArrayLike, *, level: float = 0.95, resamples: int = 1_000, seed: int = 0) -> tuple[Array, Array]:
    """Percentile bootstrap interval of the mean curve, step by step: `[runs, points]` to two ends `[points]`.

    A resample draws whole runs, so that it is the same at every step. One run says nothing: both ends are its curve.
    """
    values = _measures(values)
    runs, points = values.shape
    counts = np.random.default_rng(seed).multinomial(runs, np.full(runs, 1 / runs), size=resamples)
    tail = (1 - level) / 2
    width = max(1, _NUMBERS_AT_ONCE // resamples)
    ends = [
        np.quantile(counts @ values[:, start : start + width] / runs, (tail, 1 - tail), axis=0)
        for start in range(0, points, width)
    ]
    low, high = np.concatenate(ends, axis=1)
    return low, high


def check_losses(losses: ArrayLike) -> Array:
    """Curves as float64 `[runs, steps + 1]`.

    Raises:
        ArgumentError: another shape, no run, or a run that goes on after it failed.
    """
    array = np.asarray(losses, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ArgumentError(f"curves have shape {array.shape}; pass [runs, steps + 1] with at least one of each")
    dead = np.isnan(array)
    if bool((dead[:, :-1] & ~dead[:, 1:]).any()):
        raise ArgumentError("a curve is finite after it was not a number; a failed run must stay failed")
    return array


def check_logarithms(losses: Array) -> None:
    """An error if a loss is negative, `[runs, steps + 1]`: its logarithm has no meaning."""
    if bool((losses < 0).any()):
        raise ArgumentError(f"a loss is {np.nanmin(losses)}; logarithms need losses >= 0, use the metric 'final'")


def _ends(draws: Array, level: float) -> tuple[float, float]:
    """Order statistics of resamples, rounded outwards; an undefined one counts against both ends."""
    tail = (1 - level) / 2 * (len(draws) - 1)
    low = np.sort(np.where(np.isnan(draws), -np.inf, draws))[math.floor(tail)]
    high = np.sort(np.where(np.isnan(draws), np.inf, draws))[math.ceil(len(draws) - 1 - tail)]
    return float(low), float(high)


def _measures(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim < 1 or array.shape[-1] < 1:
        raise ArgumentError(f"values have shape {array.shape}; a statistic needs at least one run")
    if bool(np.isnan(array).any()):
        raise ArgumentError("a measure is not a number; a failed run counts as +inf (see final_losses, areas)")
    return array


def _failures_as_infinite(values: Array) -> Array:
    return np.where(np.isnan(values), np.inf, values)


def _last(losses: Array, last: int) -> slice:
    if not 1 <= last <= losses.shape[1]:
        raise ArgumentError(f"last is {last}; a curve of {losses.shape[1]} losses has a last 1 to {losses.shape[1]}")
    return slice(-last, None)
