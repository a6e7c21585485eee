"""Local dynamics of coordinate groups: how a coordinate's state follows from its last one and its action."""

from collections.abc import Sequence

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.methods.guided_policy.local_models import Dynamics
from l2o.methods.guided_policy.regression import (
    Moments,
    check_groups,
    check_rows,
    pooled,
    solve,
    step_moments,
    transitions,
)

BLOCK = 64
"""Steps that are solved at a time."""
KNOWN_VARIANCE = 1e-10
"""Of the noise in x' = x + a, which has none: covariances stay invertible."""
LEAST_EIGENVALUE = 1e-10
"""Of a noise covariance, as a part of its largest variance."""
LEAST_INITIAL_VARIANCE = 1e-6


def fit_dynamics(
    states: Sequence[Tensor],
    actions: Sequence[Tensor],
    *,
    window: int,
    prior_window: int = 25,
    ridge: float = 1e-4,
    known: int | None,
    alive: Tensor | None = None,
) -> Dynamics:
    """Linear-Gaussian dynamics of every group, s_{t+1} ~ N(A_t s_t + B_t a_t + c_t, F_t), from its samples.

    At each step the rows (s, a, s') of the steps around it have a Gaussian under a normal-inverse-Wishart prior, whose
    mean and covariance are those of a wider window and whose strength n is states + 2 rows. The most probable one,

        Sigma = (R S + n S_wide + R n / (R + n) (z - z_wide)(z - z_wide)') / (R + n),

    with S and z the covariance and mean of R rows, gives A, B, c and F by regression of s' on (s, a). Columns of 0
    (histories that are not full yet) get coefficient 0. An action that does not vary gets B = 0: it tells nothing.

    A window without rows takes the prior's moments. Fewer rows than regressors are no harm: prior and ridge decide.

    Memory, beside samples and result: (2 states + 1)^2 sums of each step of one group at a time. For 77 states, 400
    steps and 4 groups these are 77 MB, whatever the number of trajectories (20) and coordinates (128), and about
    0.1 GB more for the 64 steps that are being solved; A and F together are 152 MB. The samples themselves, in
    float32, are 316 MB for a group of 128 coordinates; they are read in place, one step at a time.

    Args:
        states: of each group, `[trajectories, steps + 1, coordinates, states]`; only coordinates differ.
        actions: of each group, `[trajectories, steps, coordinates]`.
        window: half width of the windows, in steps.
        prior_window: half width of the prior's windows, at least `window`.
        ridge: on the diagonal of the correlation matrix of (s, a).
        known: place of the coordinate's own x in its state, whose row is x' = x + a; None if it has none.
        alive: which states count, `[trajectories, steps + 1]`; all of them if None. Others may hold anything.

    Raises:
        ArgumentError: shapes do not fit, a state or action that counts is not finite, the known component does not move
            by the action, or nobody is alive in one of the prior's windows or at the beginning.

    Source: Levine and Abbeel 2014 for the prior; theirs is a mixture of Gaussians over all samples, as a robot gives
    few trajectories where a group has thousands of rows. Their c uses the rows' own mean, ours the most probable one.
    """
    alive = check_groups(states, alive, at_transitions={"actions": actions})
    if prior_window < window:
        raise ArgumentError(f"prior_window is {prior_window} and window {window}; the prior's must not be narrower")
    both = transitions(alive)
    width, steps = states[0].shape[3], actions[0].shape[1]
    if known is not None and not 0 <= known < width:
        raise ArgumentError(f"known is {known}; of {width} states it must be one of 0 to {width - 1}, or None")
    groups, device = len(states), states[0].device

    def empty(*shape: int) -> Tensor:
        return torch.empty(groups, *shape, dtype=torch.float64, device=device)

    found = Dynamics(
        A=empty(steps, width, width),
        B=empty(steps, width, 1),
        c=empty(steps, width),
        F=empty(steps, width, width),
        mean=empty(width),
        covariance=empty(width, width),
    )
    for g, (state, action) in enumerate(zip(states, actions, strict=True)):
        name = f"group {g}"
        if known is not None:
            _check_known(state[..., known], action, both, known=known, name=name)
        found.mean[g], found.covariance[g] = _initial(state, alive, name=name)
        columns = [state[:, :-1], action[..., None], state[:, 1:]]
        each = step_moments(columns, both, name=name)
        for first in range(0, steps, BLOCK):
            block = slice(first, first + BLOCK)
            wide = pooled(each, prior_window, first=first, last=first + BLOCK)
            check_rows(wide, prior_window, name=name, first=first)
            narrow = pooled(each, window, first=first, last=first + BLOCK)
            fit = solve(_most_probable(narrow, wide, strength=width + 2), width + 1, ridge=ridge, name=name)
            found.A[g, block], found.B[g, block] = fit.W[..., :width], fit.W[..., width:]
            found.c[g, block], found.F[g, block] = fit.w, _floored(fit.residual)
    if known is not None:
        _write_known(found, known)
    return found


def _most_probable(narrow: Moments, wide: Moments, *, strength: float) -> Moments:
    """Moments of the most probable Gaussian, as if of the rows and of `strength` more from the wider window."""
    rows = narrow.rows + strength
    part = (narrow.rows / rows)[:, None]
    apart = narrow.mean - wide.mean
    between = (strength * part)[..., None] * apart[:, :, None] * apart[:, None, :]
    return Moments(rows, wide.mean + part * apart, narrow.scatter + strength * wide.covariance + between)


def _floored(covariance: Tensor) -> Tensor:
    """Symmetric matrices `[steps, states, states]` without eigenvalues below 1e-10 of their largest variance."""
    values, vectors = torch.linalg.eigh(covariance)
    least = LEAST_EIGENVALUE * covariance.diagonal(dim1=1, dim2=2).amax(1, keepdim=True).clamp(min=0)
    return (vectors * values.maximum(least)[:, None, :]) @ vectors.mT


def _initial(states: Tensor, alive: Tensor, *, name: str) -> tuple[Tensor, Tensor]:
    """Mean `[states]` and covariance `[states, states]` of s_0, each variance at least 1e-6."""
    found = step_moments([states[:, :1]], alive[:, :1], name=f"{name} at the beginning")
    check_rows(found, 0, name=name)
    covariance = found.covariance[0]
    missing = (LEAST_INITIAL_VARIANCE - covariance.diagonal()).clamp(min=0)
    return found.mean[0], covariance + torch.diag(missing)


def _check_known(x: Tensor, actions: Tensor, both: Tensor, *, known: int, name: str) -> None:
    """x `[trajectories, steps + 1, coordinates]` moves by the actions, up to the rounding of float32."""
    apart = (x[:, 1:] - x[:, :-1] - actions)[both].abs()
    if apart.numel() and bool(apart.max() > 1e-5 * x[:, :-1][both].abs().max() + 1e-5 * actions[both].abs().max()):
        raise ArgumentError(
            f"{name}: component {known} of the state moves by {float(apart.max()):.3g} more or less than the action; "
            "give the place of the coordinate's own x, or known=None"
        )


def _write_known(found: Dynamics, known: int) -> None:
    """x' = x + a, in place."""
    for part in (found.A, found.B, found.c, found.F):
        part[:, :, known] = 0
    found.F[..., known] = 0
    found.A[..., known, known] = 1
    found.B[..., known, 0] = 1
    found.F[..., known, known] = KNOWN_VARIANCE
