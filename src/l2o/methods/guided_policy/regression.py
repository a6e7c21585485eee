"""Linear regressions in one coordinate group: one for each step, from the samples of the steps around it.

Every (trajectory, coordinate of the group) that is alive at a step is one row. Rows become sums one step at a time, in
float64, so that memory does not grow with trajectories or coordinates. The sums are taken about each step's own mean:
nothing is subtracted later, and a constant column keeps a variance of exactly or nearly 0.

The dynamics, the cost, the linearised policy and the first controller are all fitted from these sums.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l2o.errors import ArgumentError

CONSTANT = 1e-9
"""A regressor whose standard deviation is below this part of max(1, |its mean|) is constant: its coefficient is 0."""
LEAST_SCALE = 1e-6
"""A regressor is divided by its standard deviation, or by this where that is less."""
LEAST_PIVOT = 1e-7
"""Below it a Cholesky factor of unit-variance regressors holds nothing but rounding."""


@dataclass(frozen=True)
class Moments:
    """Of the rows of each step, or of the steps around each step.

    Args:
        rows: how many there are, `[steps]`.
        mean: `[steps, columns]`; 0 where there are no rows.
        scatter: sum over rows of (row - mean)(row - mean)', `[steps, columns, columns]`.
    """

    rows: Tensor
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """Scatter over rows, `[steps, columns, columns]`; 0 where there are no rows."""
        return self.scatter / self.rows.clamp(min=1)[:, None, None]

    def about_zero(self) -> "Moments":
        """The same rows with means declared to be 0: a regression on them goes through the origin."""
        shift = self.rows[:, None, None] * self.mean[:, :, None] * self.mean[:, None, :]
        return Moments(self.rows, torch.zeros_like(self.mean), self.scatter + shift)


@dataclass(frozen=True)
class Regression:
    """Targets y given regressors z at step t: y ~ N(W_t z + w_t, residual_t).

    Args:
        W: `[steps, outputs, regressors]`.
        w: `[steps, outputs]`.
        residual: covariance of what the regressors leave, `[steps, outputs, outputs]`.
        r_squared: part of each output's variance that they explain, `[steps, outputs]`; 0 for a constant output.
    """

    W: Tensor
    w: Tensor
    residual: Tensor
    r_squared: Tensor


def regress(
    inputs: Tensor,
    targets: Tensor,
    *,
    window: int,
    ridge: float,
    alive: Tensor | None = None,
    name: str = "samples",
) -> Regression:
    """Ridge regression of targets on inputs at every step t, from the rows of steps t - window to t + window.

    Args:
        inputs: `[trajectories, steps, coordinates, regressors]`.
        targets: `[trajectories, steps, coordinates, outputs]`.
        window: half width, in steps; at the ends it is cut off.
        ridge: added to the diagonal of the regressors' correlation matrix.
        alive: which rows count, `[trajectories, steps]`; all of them if None. Others may hold anything.
        name: of the samples, for messages.

    Raises:
        ArgumentError: a row that counts is not finite, a window holds no rows, or there are fewer rows than regressors
            (or dependent ones) and no ridge.

    >>> inputs = torch.linspace(0, 1, 8, dtype=torch.float64).reshape(4, 1, 2, 1)
    >>> found = regress(inputs, 3 * inputs + 1, window=0, ridge=0.0)
    >>> round(found.W.item(), 9), round(found.w.item(), 9)
    (3.0, 1.0)
    """
    found = pooled(step_moments([inputs, targets], alive, name=name), window)
    check_rows(found, window, name=name)
    return solve(found, inputs.shape[-1], ridge=ridge, name=name)


def step_moments(columns: Sequence[Tensor], alive: Tensor | None = None, *, name: str = "samples") -> Moments:
    """Moments of every step's own rows; a row is a sample's parts, one after the other.

    Args:
        columns: parts of the rows, each `[trajectories, steps, coordinates, some columns]`; views are not copied whole.
        alive: which rows count, `[trajectories, steps]`; all of them if None.
        name: of the samples, for messages.

    Raises:
        ArgumentError: a row that counts is not finite.
    """
    trajectories, steps = columns[0].shape[:2]
    width = sum(part.shape[-1] for part in columns)
    device = columns[0].device
    if alive is None:
        alive = torch.ones(trajectories, steps, dtype=torch.bool, device=device)
    found = Moments(
        torch.zeros(steps, dtype=torch.float64, device=device),
        torch.zeros(steps, width, dtype=torch.float64, device=device),
        torch.zeros(steps, width, width, dtype=torch.float64, device=device),
    )
    for t in range(steps):
        parts = [part[alive[:, t], t].to(torch.float64) for part in columns]  # [alive, coordinates, some columns]
        rows = torch.cat(parts, -1).reshape(-1, width)
        if not len(rows):
            continue
        wrong = int((~rows.isfinite()).any(1).sum())
        if wrong:
            raise ArgumentError(
                f"{name}: {wrong} of {len(rows)} rows of step {t} are not finite; "
                "mark their trajectories as dead there in `alive`, or leave them out"
            )
        mean = rows.mean(0)
        centred = rows - mean
        found.rows[t] = len(rows)
        found.mean[t] = mean
        found.scatter[t] = centred.T @ centred
    return found


def pooled(found: Moments, window: int, *, first: int = 0, last: int | None = None) -> Moments:
    """Moments of the rows of steps t - window to t + window, for each t from `first` to before `last`.

    Args:
        found: moments of every step's own rows.
        window: half width, in steps; at the ends it is cut off.
        first: first step wanted.
        last: the step after the last one wanted; None is the end.

    Raises:
        ArgumentError: the window is negative.
    """
    if window < 0:
        raise ArgumentError(f"window is {window} steps; it must be 0 or more")
    steps = len(found.rows)
    wanted = range(steps)[first:last]
    rows = torch.zeros_like(found.rows[first:last])
    mean = torch.zeros_like(found.mean[first:last])
    scatter = torch.zeros_like(found.scatter[first:last])
    for i, t in enumerate(wanted):
        around = slice(max(t - window, 0), t + window + 1)
        weight = found.rows[around, None]
        rows[i] = weight.sum()
        mean[i] = (weight * found.mean[around]).sum(0) / rows[i].clamp(min=1)
        apart = found.mean[around] - mean[i]
        scatter[i] = found.scatter[around].sum(0) + (weight * apart).T @ apart
    return Moments(rows, mean, scatter)


def check_rows(found: Moments, window: int, *, name: str = "samples", first: int = 0) -> None:
    """Every pooled step has rows.

    Raises:
        ArgumentError: the steps around some step hold none.
    """
    empty = (found.rows == 0).nonzero()
    if len(empty):
        raise ArgumentError(
            f"{name}: no trajectory is alive within {window} steps of step {first + int(empty[0])}; "
            "fit fewer steps, widen the window, or sample from a controller that diverges less"
        )


def solve(found: Moments, regressors: int, *, ridge: float, name: str = "samples") -> Regression:
    """The regression of the last columns on the first ones.

    Regressors are divided by their standard deviation (at least 1e-6), and `ridge` is added to the diagonal of their
    correlation matrix. Constant regressors get coefficient 0. So fewer rows than regressors, or the same value in all
    coordinates, leave a solution: the small one among those that fit.

    Args:
        found: moments of the rows (regressors, outputs).
        regressors: how many columns are regressors.
        ridge: 0 or more.
        name: of the samples, for messages.

    Raises:
        ArgumentError: the ridge is negative, or the system is singular without one.
    """
    if not 0 <= ridge < math.inf:
        raise ArgumentError(f"ridge is {ridge}; it must be finite and not negative")
    covariance = found.covariance
    inputs = covariance[:, :regressors, :regressors]  # [steps, regressors, regressors]
    across = covariance[:, :regressors, regressors:]  # [steps, regressors, outputs]
    outputs = covariance[:, regressors:, regressors:]
    center, level = found.mean[:, :regressors], found.mean[:, regressors:]
    deviation = inputs.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    used = deviation > CONSTANT * center.abs().clamp(min=1)
    inverse = torch.where(used, 1 / deviation.clamp(min=LEAST_SCALE), 0.0)  # [steps, regressors]
    gram = inverse[:, :, None] * inputs * inverse[:, None, :]
    gram = gram + torch.diag_embed(torch.full_like(deviation, ridge).masked_fill(~used, 1.0))
    factor, _ = torch.linalg.cholesky_ex(gram)
    sound = (factor.diagonal(dim1=1, dim2=2) > LEAST_PIVOT).all(1)  # a failed factor holds zeros or NaN
    if not bool(sound.all()):
        step = int((~sound).nonzero()[0])
        raise ArgumentError(
            f"{name}: the regression of step {step} on {regressors} regressors from {int(found.rows[step])} rows is "
            f"singular or overflows with ridge {ridge}; give a ridge of 1e-6 or more, more rows, or smaller values"
        )
    solution = torch.cholesky_solve(inverse[:, :, None] * across, factor)
    W = (inverse[:, :, None] * solution).mT
    fitted = W @ across
    # With a ridge this is the covariance of the residuals, and outputs - W inputs W' is not.
    residual = outputs - fitted - fitted.mT + W @ inputs @ W.mT
    residual = (residual + residual.mT) / 2
    total, left = outputs.diagonal(dim1=1, dim2=2), residual.diagonal(dim1=1, dim2=2)
    return Regression(
        W=W,
        w=level - (W @ center[:, :, None])[..., 0],
        residual=residual,
        r_squared=torch.where(total > 0, 1 - left / total.clamp(min=1e-300), 0.0),
    )


def check_groups(
    states: Sequence[Tensor],
    alive: Tensor | None,
    *,
    at_states: Mapping[str, Sequence[Tensor]] | None = None,
    at_transitions: Mapping[str, Sequence[Tensor]] | None = None,
) -> Tensor:
    """The groups' samples belong together.

    Args:
        states: of each group, `[trajectories, steps + 1, coordinates, states]`.
        alive: `[trajectories, steps + 1]`, or None for all.
        at_states: by name, what there is in each state of each group, `[trajectories, steps + 1, coordinates]`.
        at_transitions: by name, what there is in each transition of each group, `[trajectories, steps, coordinates]`.

    Returns:
        Which states count, `[trajectories, steps + 1]`.

    Raises:
        ArgumentError: shapes do not fit, or no state is alive at all.
    """
    if not states:
        raise ArgumentError("there are no groups; give the samples of at least one")
    trajectories, times, _, width = states[0].shape
    if times < 2:
        raise ArgumentError(f"states have {times} times; a transition needs at least 2")
    for g, group in enumerate(states):
        if (group.shape[0], group.shape[1], group.shape[3]) != (trajectories, times, width):
            raise ArgumentError(
                f"states of group {g} have shape {tuple(group.shape)}; like those of group 0 they need "
                f"{trajectories} trajectories, {times} times and {width} states: only coordinates may differ"
            )
    wanted = [(name, given, times) for name, given in (at_states or {}).items()]
    wanted += [(name, given, times - 1) for name, given in (at_transitions or {}).items()]
    for name, given, length in wanted:
        if len(given) != len(states):
            raise ArgumentError(f"{name} have {len(given)} groups and states have {len(states)}; give as many of each")
        for g, (group, found) in enumerate(zip(states, given, strict=True)):
            shape = (trajectories, length, group.shape[2])
            if found.shape != shape:
                raise ArgumentError(
                    f"{name} of group {g} have shape {tuple(found.shape)}; for these states it must be {shape}"
                )
    if alive is None:
        return torch.ones(trajectories, times, dtype=torch.bool, device=states[0].device)
    if alive.shape != (trajectories, times) or alive.dtype != torch.bool:
        raise ArgumentError(
            f"alive is {alive.dtype} of shape {tuple(alive.shape)}; "
            f"it must be torch.bool of shape {(trajectories, times)}, one for each state"
        )
    if not bool(alive.any()):
        raise ArgumentError(
            "alive is False everywhere: all samples are dead; sample from a controller that diverges less"
        )
    return alive


def transitions(alive: Tensor) -> Tensor:
    """Which transitions count, `[trajectories, steps]`, for states that do, `[trajectories, steps + 1]`.

    Both ends of one must be alive: what is done in the last state before a divergence is often not finite.
    """
    return alive[:, :-1] & alive[:, 1:]
