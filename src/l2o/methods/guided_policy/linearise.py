"""Linear-Gaussian controllers from samples: a policy, linearised where it went, and the first controller of all."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.methods.guided_policy.local_models import LinearGaussian
from l2o.methods.guided_policy.regression import (
    check_groups,
    check_rows,
    pooled,
    regress,
    solve,
    step_moments,
    transitions,
)

LEAST_VARIANCE = 1e-4
"""Of a linearised policy, as a part of the mean square of the actions."""


def linearise_policy(
    states: Sequence[Tensor],
    means: Sequence[Tensor],
    *,
    actions: Sequence[Tensor],
    variance: Tensor,
    window: int,
    ridge: float = 1e-4,
    alive: Tensor | None = None,
) -> LinearGaussian:
    """The linear-Gaussian controller nearest to a policy, around the states that were sampled.

    Its means are regressed on the states of the steps around each step. What states do not explain, and the policy's
    own variance, make G; it is at least 1e-4 of the mean square of the actions there.

    Memory, beside samples and result: (states + 1)^2 sums of each step of one group, twice, 39 MB for 77 states and 400
    steps. Trajectories (20) and coordinates (128) do not matter.

    Args:
        states: of each group, `[trajectories, steps + 1, coordinates, states]`; only coordinates differ.
        means: of the policy's actions in all states but the last, of each group, `[trajectories, steps, coordinates]`.
        actions: that were sampled, of each group, `[trajectories, steps, coordinates]`: the unit of the least variance.
        variance: of the policy's actions, `[groups]`, positive.
        window: half width of the windows, in steps.
        ridge: on the diagonal of the states' correlation matrix.
        alive: which states count, `[trajectories, steps + 1]`; all of them if None. Others may hold anything.

    Raises:
        ArgumentError: shapes do not fit, the variance is not positive, a value that counts is not finite, or nobody is
            alive around a step.

    Source: Levine et al. 2016, where the policy is linearised like the dynamics.
    """
    alive = check_groups(states, alive, at_transitions={"means": means, "actions": actions})
    if variance.shape != (len(states),) or not bool(((variance > 0) & variance.isfinite()).all()):
        raise ArgumentError(
            f"variance is {variance.tolist()}; it must hold {len(states)} positive numbers, one for each group"
        )
    both = transitions(alive)
    squares = mean_square(actions, window=window, alive=both)  # [groups, steps]
    K, k, G = [], [], []
    for g, (state, mean) in enumerate(zip(states, means, strict=True)):
        name = f"group {g}"
        fit = regress(state[:, :-1], mean[..., None], window=window, ridge=ridge, alive=both, name=name)
        K.append(fit.W)
        k.append(fit.w)
        spread = variance[g].to(fit.residual) + fit.residual.clamp(min=0)
        G.append(spread.maximum(LEAST_VARIANCE * squares[g, :, None, None]))
    return LinearGaussian(torch.stack(K), torch.stack(k), torch.stack(G))


def initial_controller(
    states: Sequence[Tensor],
    actions: Sequence[Tensor],
    *,
    features: Sequence[int],
    window: int,
    ridge: float = 1e-4,
    noise: float = 0.1,
    alive: Tensor | None = None,
) -> LinearGaussian:
    """The controller that imitates a known optimizer, momentum say, by some of the state's components.

    The actions are regressed on these components, through the origin: k = 0. G is noise^2 times the mean square of the
    actions. For momentum of rate r and decay b, and small gradients that vary slowly, the gain of the averaged gradient
    that is 5 i steps old comes out as -r times the sum of b^l over lags l = 5 i - 1 to 5 i + 3, from 0 for i = 0.

    Args:
        states: of each group, `[trajectories, steps + 1, coordinates, states]`; only coordinates differ.
        actions: of each group, `[trajectories, steps, coordinates]`.
        features: places of the components in the state: its normalised gradients. All other gains are 0.
        window: half width of the windows, in steps.
        ridge: on the diagonal of the matrix of second moments of these components, each divided by its root.
        noise: standard deviation of the controller, as a part of the actions' root mean square; positive.
        alive: which states count, `[trajectories, steps + 1]`; all of them if None. Others may hold anything.

    Raises:
        ArgumentError: shapes do not fit, there are no features, the noise is not positive, a value that counts is not
            finite, or around a step nobody is alive or all actions are 0.

    Source: Li and Malik 2016 begin from the steps of momentum. The regression is our way to get a controller from them.
    """
    alive = check_groups(states, alive, at_transitions={"actions": actions})
    width = states[0].shape[3]
    chosen = list(features)
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= place < width for place in chosen):
        raise ArgumentError(f"features are {chosen}; they must be different places in 0 to {width - 1}, at least one")
    if not 0 < noise < math.inf:
        raise ArgumentError(f"noise is {noise}; it must be positive: a controller needs a variance")
    both = transitions(alive)
    squares = mean_square(actions, window=window, alive=both)  # [groups, steps]
    if bool((squares == 0).any()):
        g, step = (squares == 0).nonzero()[0].tolist()
        raise ArgumentError(
            f"group {g}: all actions are 0 within {window} steps of step {step}, which leaves a controller without "
            "variance; leave the group out, or imitate an optimizer that moves"
        )
    K = torch.zeros(*squares.shape, 1, width, dtype=torch.float64, device=squares.device)
    for g, (state, action) in enumerate(zip(states, actions, strict=True)):
        name = f"group {g}"
        columns = [state[:, :-1, :, place : place + 1] for place in chosen]  # views: indexing by a list would copy
        each = step_moments([*columns, action[..., None]], both, name=name)
        fit = solve(pooled(each, window).about_zero(), len(chosen), ridge=ridge, name=name)
        K[g, :, :, chosen] = fit.W
    return LinearGaussian(K, torch.zeros_like(K[..., 0]), noise**2 * squares[..., None, None])


def mean_square(actions: Sequence[Tensor], *, window: int, alive: Tensor | None = None) -> Tensor:
    """Of each group's actions around each step, `[groups, steps]`.

    Args:
        actions: of each group, `[trajectories, steps, coordinates]`.
        window: half width of the windows, in steps.
        alive: which actions count, `[trajectories, steps]`; all of them if None.

    Raises:
        ArgumentError: an action that counts is not finite, or nobody is alive around a step.
    """
    found = []
    for g, action in enumerate(actions):
        name = f"actions of group {g}"
        moments = pooled(step_moments([action[..., None]], alive, name=name), window)
        check_rows(moments, window, name=name)
        found.append(moments.about_zero().covariance[:, 0, 0])
    return torch.stack(found)
