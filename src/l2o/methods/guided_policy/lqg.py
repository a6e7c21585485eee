"""The control step of guided policy search: the best linear-Gaussian controller of each coordinate group.

A backward pass over quadratic values finds it, a forward pass gives the states that it visits. Both are exact, run over
all groups as one batch, and take matrices of any number of actions, though a coordinate has one.

Source: Levine and Koltun 2013 (LQG with an entropy term); Li and Malik 2017, section 3.4 (one small system for each
group).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.methods.guided_policy.local_models import Dynamics, LinearGaussian, QuadraticCost
from l2o.methods.guided_policy.threads import one_thread

LEAST_PIVOT = 1e-12
"""A pivot of Q_aa counts as positive if it is larger than this share of what was added up to it."""


@dataclass(frozen=True)
class Moments:
    """Where a controller leads: s_t ~ N(mean_t, covariance_t).

    Args:
        mean: `[groups, steps + 1, states]`.
        covariance: `[groups, steps + 1, states, states]`.
    """

    mean: Tensor
    covariance: Tensor


@one_thread()
def solve(
    dynamics: Dynamics,
    cost: QuadraticCost,
    *,
    previous: LinearGaussian,
    multiplier: Tensor,
    policy: LinearGaussian | None = None,
    penalty: Tensor | None = None,
    dual: Tensor | None = None,
) -> tuple[LinearGaussian, Tensor]:
    """The controller psi that minimises, in each group and over time-varying linear-Gaussian controllers,

        sum_t E_psi[c_t - lam_t' a_t] + nu_t E_psi KL(psi || pi) + beta E_psi KL(psi || psi_old)

    One backward pass. With z = (s, a), minus the logarithm of the density of a controller (K, k, G) is z'P z / 2 + p'z
    and a constant, where P = J' G^-1 J, p = J' G^-1 k and J = [K, -I]. With V and v of the step after, which begin as
    C and d of the last state, and the dynamics s' = [A B] z + c,

        Q = blkdiag(C, r I) + nu P_pi + beta P_old + [A B]' V [A B]
        q = (d, -lam) + nu p_pi + beta p_old + [A B]' (v + V c)
        K = -Q_aa^-1 Q_as,  k = -Q_aa^-1 q_a,  G = (nu + beta) Q_aa^-1
        V = Q_ss + Q_sa K,  v = q_s + Q_sa k

    Args:
        dynamics: of every group.
        cost: of every group.
        previous: psi_old.
        multiplier: beta, `[groups]`, positive, or 0 where every penalty is positive.
        policy: pi, made linear around the trajectories; None if nothing pulls towards it.
        penalty: nu, `[groups, steps]`, not negative; it comes with a policy.
        dual: lam, `[groups, steps, actions]`; 0 by default.

    Returns:
        The controller, and which groups failed, `[groups]`: some Q_aa was not positive definite, or something not
        finite. A failed group's controller is NaN; a larger beta may mend it.

    Source: Levine and Koltun 2013. The public code of guided policy search divides the costs of a step by nu_t + beta
    and multiplies the value of the next one by the ratio of both steps' divisors: the same in exact arithmetic. Here
    values keep the unit of the cost, and only G carries nu + beta, its temperature.
    """
    if (policy is None) != (penalty is None):
        there, missing = ("penalty", "policy") if policy is None else ("policy", "penalty")
        raise ArgumentError(f"a {there} without a {missing}; pass both, or neither")
    temperature = multiplier[:, None].expand(-1, previous.steps)  # [groups, steps]
    rows, weighted, offsets = _pull(previous, temperature)
    if policy is not None and penalty is not None:
        pulls = zip((rows, weighted, offsets), _pull(policy, penalty), strict=True)
        rows, weighted, offsets = (torch.cat(pair, dim=2) for pair in pulls)
        temperature = temperature + penalty
    groups, steps, states, actions = dynamics.B.shape
    price = cost.r[:, None, None] * torch.eye(actions).to(cost.r)  # [groups, actions, actions]
    V, v = cost.C[:, steps], cost.d[:, steps, :, None]
    gains, factors = [], []
    healthy = torch.ones(groups, dtype=torch.bool, device=multiplier.device)
    for t in reversed(range(steps)):
        transition = torch.cat([dynamics.A[:, t], dynamics.B[:, t]], dim=2)  # [groups, states, states + actions]
        M = weighted[:, t].mT @ rows[:, t]
        M[:, :states, :states] += cost.C[:, t]
        M[:, states:, states:] += price
        m = weighted[:, t].mT @ offsets[:, t]
        m[:, :states] += cost.d[:, t, :, None]
        if dual is not None:
            m[:, states:] -= dual[:, t, :, None]
        future = transition.mT @ (V @ transition)
        Q = M + future
        q = m + transition.mT @ (v + V @ dynamics.c[:, t, :, None])
        # Pivots, unlike eigenvalues, do not mind that actions differ in unit. Comparing NaN gives False: it fails too.
        factor, wrong = torch.linalg.cholesky_ex(Q[:, states:, states:])
        scale = (M.abs() + future.abs()).diagonal(dim1=1, dim2=2)[:, states:]
        healthy &= (wrong == 0) & (factor.diagonal(dim1=1, dim2=2).square() > LEAST_PIVOT * scale).all(1)
        gain = -torch.cholesky_solve(torch.cat([Q[:, states:, :states], q[:, states:]], dim=2), factor)
        crossed = Q[:, :states, states:] @ gain  # [groups, states, states + 1]
        V = _symmetric(Q[:, :states, :states] + crossed[:, :, :states])
        v = q[:, :states] + crossed[:, :, states:]
        gains.append(gain)
        factors.append(factor)
    gain = torch.stack(gains[::-1], dim=1)  # [groups, steps, actions, states + 1]
    G = temperature[..., None, None] * torch.cholesky_inverse(torch.stack(factors[::-1], dim=1))
    healthy &= gain.isfinite().flatten(1).all(1) & G.isfinite().flatten(1).all(1)
    gain[~healthy], G[~healthy] = torch.nan, torch.nan
    return LinearGaussian(gain[..., :-1], gain[..., -1], G), ~healthy


@one_thread()
def forward(dynamics: Dynamics, controller: LinearGaussian) -> Moments:
    """The moments of all states under a controller.

    mean' = (A + B K) mean + B k + c,  covariance' = (A + B K) covariance (A + B K)' + B G B' + F
    """
    mean, covariance = dynamics.mean[..., None], dynamics.covariance
    means, covariances = [mean], [covariance]
    for t in range(controller.steps):
        B = dynamics.B[:, t]
        closed = dynamics.A[:, t] + B @ controller.K[:, t]
        mean = closed @ mean + B @ controller.k[:, t, :, None] + dynamics.c[:, t, :, None]
        spread = closed @ covariance @ closed.mT + B @ controller.G[:, t] @ B.mT
        covariance = _symmetric(spread + dynamics.F[:, t])
        means.append(mean)
        covariances.append(covariance)
    return Moments(torch.stack(means, dim=1)[..., 0], torch.stack(covariances, dim=1))


@one_thread()
def kl(new: LinearGaussian, old: LinearGaussian, moments: Moments) -> Tensor:
    """E_s KL(new(. | s) || old(. | s)) at each step, in nats: `[groups, steps]`.

        (ln |G_old| / |G_new| - actions + tr G_old^-1 (G_new + D S D' + x x')) / 2

    for states of moments m and S, where D = K_new - K_old and x = D m + k_new - k_old.

    Args:
        new: whose moments these are.
        old: what it is compared with.
        moments: of the states.
    """
    difference = new.K - old.K
    shift = difference @ moments.mean[:, :-1, :, None] + (new.k - old.k)[..., None]
    spread = new.G + difference @ moments.covariance[:, :-1] @ difference.mT + shift @ shift.mT
    distance = (_precision(old.G) * spread).sum((2, 3))
    divergence = (torch.logdet(old.G) - torch.logdet(new.G) - new.k.shape[2] + distance) / 2
    return divergence.clamp(min=0.0)  # rounding only: a controller's divergence from itself may be -1e-16


@one_thread()
def expected_cost(cost: QuadraticCost, controller: LinearGaussian, moments: Moments) -> Tensor:
    """E c_t at each step under the controller whose moments these are, the last one without an action:
    `[groups, steps + 1]`.
    """
    second = moments.covariance + moments.mean[..., None] * moments.mean[..., None, :]
    of_states = (cost.C * second).sum((2, 3)) / 2 + (cost.d * moments.mean).sum(2) + cost.e
    mean = (controller.K @ moments.mean[:, :-1, :, None])[..., 0] + controller.k
    spread = controller.K @ moments.covariance[:, :-1] @ controller.K.mT + controller.G
    sizes = spread.diagonal(dim1=2, dim2=3).sum(2) + mean.square().sum(2)  # E |a|^2, [groups, steps]
    return of_states + torch.nn.functional.pad(cost.r[:, None] * sizes / 2, (0, 1))


def _pull(towards: LinearGaussian, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """J, weight G^-1 J and k, one row for each action: weight P = (weight G^-1 J)' J, weight p = (weight G^-1 J)' k."""
    actions = towards.k.shape[2]
    unit = torch.eye(actions).to(towards.k).expand(*towards.k.shape, actions)
    rows = torch.cat([towards.K, -unit], dim=3)  # [groups, steps, actions, states + actions]
    return rows, weight[..., None, None] * _precision(towards.G) @ rows, towards.k[..., None]


def _precision(covariance: Tensor) -> Tensor:
    """The inverses of positive definite matrices `[..., n, n]`; NaN for others."""
    factor, wrong = torch.linalg.cholesky_ex(covariance)
    return torch.cholesky_inverse(factor).where((wrong == 0)[..., None, None], torch.nan)


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2
