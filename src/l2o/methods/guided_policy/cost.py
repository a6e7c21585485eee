"""Quadratic costs of coordinate groups: what an objective of all coordinates costs in the state of one of them.

Each model says what a state costs, up to the unit; `fit_cost` brings every group to the same unit.

A state is shared by the coordinates of its group and holds their gradients' history, but not where their optima are.
For a separable quadratic of curvature h, a coordinate's excess h (x - x*)^2 / 2 is g^2 / (2 h) wherever x* is. Hence
`NewtonDecrement`, the default. Expanding the objective in x itself (`Taylor`) averages gradients of both signs over a
weight matrix, and what is left asks for little but a shared weight decay.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.methods.guided_policy.local_models import QuadraticCost
from l2o.methods.guided_policy.regression import check_groups, check_rows, pooled, regress, step_moments, transitions


class StateCost(NamedTuple):
    """What a state of one group costs at each step: s' C_t s / 2 + d_t' s + e_t.

    Args:
        C: `[steps + 1, states, states]`, positive semi-definite.
        d: `[steps + 1, states]`.
        e: `[steps + 1]`.
        r_squared: part of the gradient's variance that the state explains, `[steps + 1]`; NaN if that was not fitted.
    """

    C: Tensor
    d: Tensor
    e: Tensor
    r_squared: Tensor


class CostModel(Protocol):
    """A group's samples in, what its states cost out."""

    def __call__(
        self, states: Tensor, gradients: Tensor, curvature: Tensor, *, alive: Tensor, name: str = "samples"
    ) -> StateCost:
        """The cost of one group.

        Args:
            states: `[trajectories, steps + 1, coordinates, states]`.
            gradients: of the objective, `[trajectories, steps + 1, coordinates]`.
            curvature: of the objective along the group's moves, a scalar, positive.
            alive: which states count, `[trajectories, steps + 1]`.
            name: of the samples, for messages.
        """
        ...


@dataclass(frozen=True)
class NewtonDecrement:
    """The gradient is regressed on the state, g ~ W_t s + w_t with variance v_t left; a state costs g^2 / (2 h).

        C_t = W_t' W_t / h,  d_t = W_t' w_t / h,  e_t = (w_t^2 + v_t) / (2 h)

    The curvature h sets the unit of the cost only. With true gradients these are training-time knowledge: no policy
    sees them. With few rows, or useless ones, the ridge decides.

    Args:
        window: half width of the regression's windows, in steps.
        ridge: on the diagonal of the states' correlation matrix.
    """

    window: int = 3
    ridge: float = 1e-3

    def __call__(
        self, states: Tensor, gradients: Tensor, curvature: Tensor, *, alive: Tensor, name: str = "samples"
    ) -> StateCost:
        fit = regress(states, gradients[..., None], window=self.window, ridge=self.ridge, alive=alive, name=name)
        return StateCost(
            C=fit.W.mT @ fit.W / curvature,
            d=fit.W[:, 0] * fit.w / curvature,
            e=(fit.w[:, 0].square() + fit.residual[:, 0, 0]) / (2 * curvature),
            r_squared=fit.r_squared[:, 0],
        )


@dataclass(frozen=True)
class GradientFeature:
    """A state costs v^2 / (2 h) for one of its components v, the newest normalised gradient. No gradient is fitted.

    Args:
        feature: place of v in the state.
    """

    feature: int

    def __call__(
        self, states: Tensor, gradients: Tensor, curvature: Tensor, *, alive: Tensor, name: str = "samples"
    ) -> StateCost:
        del gradients, alive
        _check_place("feature", self.feature, states, name=name)
        found = _nothing(states)
        found.C[:, self.feature, self.feature] = 1 / curvature
        return found


@dataclass(frozen=True)
class Taylor:
    """The objective's expansion in a coordinate's own x, averaged over the rows of a window: the paper read literally.

        c_t(s) = h (x + b_t / h)^2 / 2  with  b_t = mean of g - h x

    Only x is priced, so it must be in the state. The diagonal of the Hessian would belong into h; what is at hand is
    the group's curvature along its moves, which for coherent moves is larger. The constant makes the least cost 0.

    Args:
        x: place of x in the state.
        window: half width of the windows, in steps.
    """

    x: int
    window: int = 3

    def __call__(
        self, states: Tensor, gradients: Tensor, curvature: Tensor, *, alive: Tensor, name: str = "samples"
    ) -> StateCost:
        _check_place("x", self.x, states, name=name)
        columns = [states[..., self.x : self.x + 1], gradients[..., None]]
        moments = pooled(step_moments(columns, alive, name=name), self.window)
        check_rows(moments, self.window, name=name)
        slope = moments.mean[:, 1] - curvature * moments.mean[:, 0]  # [steps + 1]
        found = _nothing(states)
        found.C[:, self.x, self.x] = curvature
        found.d[:, self.x] = slope
        return found._replace(e=slope.square() / (2 * curvature))


@dataclass(frozen=True)
class FittedCost:
    """Costs of every group, in units in which the samples cost 1, and how they came about.

    Args:
        cost: of states and actions.
        kappa: by what the groups' raw costs were multiplied, `[groups]`. Keep it from the first iteration on.
        curvature: of the objective along each group's moves, `[groups]`.
        r_squared: of the gradient's fits, `[groups, steps + 1]`; NaN for models that have none.
    """

    cost: QuadraticCost
    kappa: Tensor
    curvature: Tensor
    r_squared: Tensor


def fit_cost(
    model: CostModel,
    states: Sequence[Tensor],
    actions: Sequence[Tensor],
    *,
    gradients: Sequence[Tensor],
    kappa: Tensor | None = None,
    price: float = 1e-6,
    least_curvature: float = 1e-6,
    alive: Tensor | None = None,
) -> FittedCost:
    """Quadratic costs of every group, multiplied by kappa so that the mean over steps of the samples' mean cost is 1.

    Raw costs of a coordinate are 1e-6 or so while divergences of controllers are of order 1; in common units, constants
    of the C-step mean the same in every task. A kappa that changed from iteration to iteration would change the meaning
    of dual variables: pass the first one to all later fits.

    Memory, beside samples and result: (states + 1)^2 sums of each step of one group, twice, 39 MB for 77 states and 400
    steps; C is 76 MB for 4 groups. Trajectories (20) and coordinates (128) do not matter.

    Args:
        model: what a state costs: `NewtonDecrement()`, `GradientFeature(feature)` or `Taylor(x)`.
        states: of each group, `[trajectories, steps + 1, coordinates, states]`; only coordinates differ.
        actions: of each group, `[trajectories, steps, coordinates]`: by what its coordinates move.
        gradients: of the objective, of each group, `[trajectories, steps + 1, coordinates]`.
        kappa: `[groups]`, from an earlier fit, or None.
        price: of an action of mean square size, in the units of the result.
        least_curvature: a group's curvature is at least so large.
        alive: which states count, `[trajectories, steps + 1]`; all of them if None. Others may hold anything.

    Raises:
        ArgumentError: shapes do not fit, a value that counts is not finite, nobody is alive around a step, or a group
            costs nothing, so that there is no unit.

    Source: Li and Malik 2017 leave the quadratic open; the models say where theirs come from.
    """
    alive = check_groups(states, alive, at_states={"gradients": gradients}, at_transitions={"actions": actions})
    if not 0 <= price < math.inf:
        raise ArgumentError(f"price is {price}; it must be finite and not negative")
    if not 0 < least_curvature < math.inf:
        raise ArgumentError(f"least_curvature is {least_curvature}; it must be finite and positive")
    if kappa is not None and (kappa.shape != (len(states),) or not bool((kappa > 0).all())):
        raise ArgumentError(
            f"kappa is {kappa.tolist()}; it must hold {len(states)} positive numbers, one for each group"
        )
    groups, times, width = len(states), states[0].shape[1], states[0].shape[3]
    zeros = torch.zeros(groups, times, dtype=torch.float64, device=states[0].device)
    r_squared, e, d = zeros, zeros.clone(), zeros[..., None].repeat(1, 1, width)
    C = d[..., None].repeat(1, 1, 1, width)
    scales, curvatures, prices = [], [], []
    for g, (state, action, gradient) in enumerate(zip(states, actions, gradients, strict=True)):
        name = f"group {g}"
        curvature = secant_curvature(action, gradient, least=least_curvature, alive=alive, name=name)
        found = model(state, gradient, curvature, alive=alive, name=name)
        scale = _unit(found, state, alive, name=name) if kappa is None else kappa[g].to(zeros)
        C[g], d[g], e[g], r_squared[g] = scale * found.C, scale * found.d, scale * found.e, found.r_squared
        square = action[transitions(alive)].double().square().mean()
        prices.append(torch.where(square > 0, price / square, 0.0))
        scales.append(scale)
        curvatures.append(curvature)
    cost = QuadraticCost(C=C, d=d, e=e, r=torch.stack(prices))
    return FittedCost(cost, torch.stack(scales), torch.stack(curvatures), r_squared)


def secant_curvature(
    actions: Tensor,
    gradients: Tensor,
    *,
    least: float = 1e-6,
    alive: Tensor | None = None,
    name: str = "samples",
) -> Tensor:
    """The curvature that a group's moves meet: sum of a (g' - g) over sum of a^2, over all transitions; a scalar.

    All coordinates move at once, so this is the coherent curvature and not the mean of the Hessian's diagonal, which
    can be a hundred times less. A group that does not move, or moves against negative curvature, gets `least`.

    Args:
        actions: `[trajectories, steps, coordinates]`.
        gradients: `[trajectories, steps + 1, coordinates]`.
        least: positive.
        alive: which states count, `[trajectories, steps + 1]`; all of them if None.
        name: of the samples, for messages.

    Raises:
        ArgumentError: no transition counts, or one that does is not finite.
    """
    if alive is None:
        alive = torch.ones(gradients.shape[:2], dtype=torch.bool, device=gradients.device)
    both = transitions(alive)
    if not bool(both.any()):
        raise ArgumentError(f"{name}: no trajectory is alive for two states in a row; sample again, with less noise")
    moves = actions[both].double()  # [transitions, coordinates]
    changes = gradients[:, 1:][both].double() - gradients[:, :-1][both].double()
    slope, square = (moves * changes).sum(), moves.square().sum()
    if not bool(slope.isfinite() & square.isfinite()):
        raise ArgumentError(
            f"{name}: actions or gradients of living trajectories are not finite; "
            "mark them as dead there in `alive`, or leave them out"
        )
    return (slope / square.clamp(min=1e-300)).clamp(min=least)


def expected_cost(found: StateCost, states: Tensor, *, alive: Tensor, name: str = "samples") -> Tensor:
    """Mean cost of a group's samples at each step, `[steps + 1]`; NaN where none is alive.

    Args:
        found: what its states cost.
        states: `[trajectories, steps + 1, coordinates, states]`.
        alive: which states count, `[trajectories, steps + 1]`.
        name: of the samples, for messages.
    """
    moments = step_moments([states], alive, name=name)
    second = moments.covariance + moments.mean[:, :, None] * moments.mean[:, None, :]
    mean = (found.C * second).sum((1, 2)) / 2 + (found.d * moments.mean).sum(1) + found.e
    return torch.where(moments.rows > 0, mean, torch.nan)


def _unit(found: StateCost, states: Tensor, alive: Tensor, *, name: str) -> Tensor:
    """By what a cost must be multiplied so that the samples cost 1 in the mean; a scalar."""
    mean = expected_cost(found, states, alive=alive, name=name).nanmean()
    kappa = 1 / mean
    if not (bool(mean > 0) and bool(kappa.isfinite())):
        raise ArgumentError(
            f"{name}: its samples cost {float(mean):.3g} in the mean, which gives no unit; "
            "leave the group out if its gradients are 0, or pass kappa"
        )
    return kappa


def _check_place(what: str, place: int, states: Tensor, *, name: str) -> None:
    width = states.shape[-1]
    if not 0 <= place < width:
        raise ArgumentError(f"{name}: {what} is {place}; of {width} states it must be one of 0 to {width - 1}")


def _nothing(states: Tensor) -> StateCost:
    """Costs of 0 for states `[trajectories, steps + 1, coordinates, states]`."""
    times, width = states.shape[1], states.shape[3]
    zeros = torch.zeros(times, dtype=torch.float64, device=states.device)
    flat = zeros[:, None].repeat(1, width)
    return StateCost(flat[..., None].repeat(1, 1, width), flat, zeros, torch.full_like(zeros, torch.nan))
