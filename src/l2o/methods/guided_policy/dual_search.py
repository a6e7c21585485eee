"""The control step with a bound on how far a controller may move: a search for the bound's multiplier, group by group.

Source: Levine and Abbeel 2014 (dual descent on the multiplier). The brackets and the tolerance are those of the public
code of guided policy search, which raises the multiplier of a failed pass by doubling additions only: here tenfold.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from l2o.errors import ArgumentError, DivergedError
from l2o.methods.guided_policy.local_models import Dynamics, LinearGaussian, QuadraticCost
from l2o.methods.guided_policy.lqg import forward, kl, solve
from l2o.methods.guided_policy.threads import one_thread

LEAST, MOST = 1e-8, 1e16
"""Bounds of a multiplier, for costs of unit size."""

TOLERANCE = 0.1
"""A bound counts as met by a divergence within this share of it."""

Outcome = Literal["active", "inactive", "unfinished"]
"""How a search ended: the bound is met; the smallest multiplier keeps within it; the best of what was tried does."""


@dataclass(frozen=True)
class Constrained:
    """What a search found.

    Args:
        controller: within the bound, up to the tolerance where it is active.
        multiplier: beta that gave it, `[groups]`; where the next search begins.
        divergence: sum_t E KL(psi || psi_old), in nats, `[groups]`.
        outcomes: how each group's search ended.
        solves: backward passes of each group.
        failures: how many of them failed.
    """

    controller: LinearGaussian
    multiplier: Tensor
    divergence: Tensor
    outcomes: tuple[Outcome, ...]
    solves: tuple[int, ...]
    failures: tuple[int, ...]


@dataclass(frozen=True)
class Standing:
    """Where the search of one group stands.

    Args:
        multiplier: to be tried next.
        low: the largest that failed or led too far; 0 if there was none.
        high: the smallest that kept within the bound; infinite if there was none.
        solves: how many were tried.
        failures: how many of them failed.
        keeps: what was tried last is the best so far.
        outcome: how the search ended; None while it goes on.
    """

    multiplier: float
    low: float = 0.0
    high: float = math.inf
    solves: int = 0
    failures: int = 0
    keeps: bool = False
    outcome: Outcome | None = None

    def after(self, divergence: float, budget: float) -> "Standing":
        """Where it stands when its multiplier led to a divergence: too far and it rises, else it falls.

        A geometric bisection whose steps are tenfold at most: the divergence falls as the multiplier rises. One that is
        not finite tells of a solve that failed.
        """
        beta = self.multiplier
        here = replace(self, solves=self.solves + 1, keeps=divergence <= budget)
        if abs(divergence - budget) < TOLERANCE * budget:
            return replace(here, keeps=True, outcome="active")
        if divergence <= budget:
            if beta <= LEAST:
                return replace(here, high=beta, outcome="inactive")
            return replace(here, high=beta, multiplier=max(math.sqrt(self.low * beta), 0.1 * beta, LEAST))
        raised = min(math.sqrt(beta * self.high), 10 * beta)
        if divergence < math.inf:
            return replace(here, low=beta, multiplier=raised)
        if self.high == math.inf:  # tenfold alone would take many failures to leave 1e-8
            raised = max(raised, beta + 1e-4 * 2.0**self.failures)
        return replace(here, low=beta, multiplier=raised, failures=self.failures + 1)


@dataclass(frozen=True)
class _Problem:
    """What `solve` is asked, the multipliers aside."""

    dynamics: Dynamics
    cost: QuadraticCost
    previous: LinearGaussian
    policy: LinearGaussian | None
    penalty: Tensor | None
    dual: Tensor | None
    groups: list[int]

    def leaves(self) -> dict[str, Tensor]:
        """All tensors, by name."""
        models = {"dynamics": self.dynamics, "cost": self.cost, "previous": self.previous, "policy": self.policy}
        leaves = {"penalty": self.penalty, "dual": self.dual}
        for title, model in models.items():
            leaves |= {} if model is None else {f"{title}.{name}": leaf for name, leaf in vars(model).items()}
        return {name: leaf for name, leaf in leaves.items() if leaf is not None}

    def of(self, groups: list[int]) -> "_Problem":
        """Of some groups, by their number in the whole problem."""
        places = [self.groups.index(group) for group in groups]
        return _Problem(
            _chosen(self.dynamics, places),
            _chosen(self.cost, places),
            _chosen(self.previous, places),
            None if self.policy is None else _chosen(self.policy, places),
            None if self.penalty is None else self.penalty[places],
            None if self.dual is None else self.dual[places],
            groups,
        )

    def at(self, multiplier: Tensor) -> tuple[LinearGaussian, list[float]]:
        """The controllers at these multipliers and their divergences from the previous ones, NaN where a solve failed.

        A controller whose states leave the range of floats has a divergence that is not finite either.
        """
        found, _ = solve(
            self.dynamics,
            self.cost,
            previous=self.previous,
            multiplier=multiplier,
            policy=self.policy,
            penalty=self.penalty,
            dual=self.dual,
        )
        return found, kl(found, self.previous, forward(self.dynamics, found)).sum(1).tolist()


@one_thread()
def constrained(
    dynamics: Dynamics,
    cost: QuadraticCost,
    previous: LinearGaussian,
    *,
    budget: Tensor | float,
    multiplier: Tensor,
    policy: LinearGaussian | None = None,
    penalty: Tensor | None = None,
    dual: Tensor | None = None,
    trials: int = 50,
) -> Constrained:
    """The controller that minimises, in each group,

        sum_t E_psi[c_t - lam_t' a_t] + nu_t E_psi KL(psi || pi)   subject to   sum_t E_psi KL(psi || psi_old) <= budget

    The multiplier beta of the bound is found by a search, at each point of which `solve` has the solution. All groups
    are solved as one batch; those whose search has ended leave it. Where a solve fails the multiplier rises, since a
    large one makes every Q_aa positive definite.

    With the policy in the place of `previous`, and neither policy, penalty nor dual, this is the control step of mirror
    descent (Montgomery and Levine 2016).

    Args:
        dynamics: of every group.
        cost: of every group, of about unit size at each step, which `LEAST` and `MOST` suppose.
        previous: psi_old.
        budget: bound on the divergence over all steps, in nats, positive: one for all groups, or `[groups]`.
        multiplier: beta to begin with, `[groups]`; the last search's is a good choice.
        policy: pi, made linear around the trajectories; None if nothing pulls towards it.
        penalty: nu, `[groups, steps]`, not negative; it comes with a policy.
        dual: lam, `[groups, steps, actions]`; 0 by default.
        trials: the most solves of a group. Where the bound is not met by then, the controller of the smallest
            multiplier that kept within it is taken.

    Raises:
        ArgumentError: an argument that is not finite, not float64, or out of range.
        DivergedError: no multiplier up to 1e16, or none of those tried, gave a controller within the bound.
    """
    groups = len(previous.k)
    budgets = torch.as_tensor(budget, dtype=torch.float64).expand(groups).tolist()
    betas = multiplier.tolist()
    problem = _Problem(dynamics, cost, previous, policy, penalty, dual, list(range(groups)))
    _check(problem, budgets, betas, trials)
    standings = [Standing(beta) for beta in betas]
    kept: dict[int, tuple[LinearGaussian, float, float]] = {}
    while problem.groups:
        tried = [standings[group].multiplier for group in problem.groups]
        found, divergences = problem.at(previous.k.new_tensor(tried))
        for place, group in enumerate(problem.groups):
            standing = standings[group].after(divergences[place], budgets[group])
            if standing.keeps:
                kept[group] = (_chosen(found, [place]), tried[place], divergences[place])
            if standing.outcome is None and standing.solves >= trials and group in kept:
                standing = replace(standing, outcome="unfinished")
            if standing.outcome is None and (standing.solves >= trials or standing.multiplier > MOST):
                raise _hopeless(group, standing, tried[place], divergences[place], budgets[group])
            standings[group] = standing
        going = [group for group in problem.groups if standings[group].outcome is None]
        if going != problem.groups:
            problem = problem.of(going)
    controllers, betas, divergences = zip(*(kept[group] for group in range(groups)), strict=True)
    leaves = zip(*(vars(controller).values() for controller in controllers), strict=True)
    return Constrained(
        LinearGaussian(*(torch.cat(leaf) for leaf in leaves)),
        previous.k.new_tensor(betas),
        previous.k.new_tensor(divergences),
        tuple(standing.outcome for standing in standings if standing.outcome is not None),
        tuple(standing.solves for standing in standings),
        tuple(standing.failures for standing in standings),
    )


_Model = TypeVar("_Model", Dynamics, QuadraticCost, LinearGaussian)


def _chosen(model: _Model, places: list[int]) -> _Model:
    """The model of some groups."""
    return type(model)(*(leaf[places] for leaf in vars(model).values()))


def _check(problem: _Problem, budgets: list[float], betas: list[float], trials: int) -> None:
    if trials < 1:
        raise ArgumentError(f"trials is {trials}; it must be at least 1")
    for group, (budget, beta) in enumerate(zip(budgets, betas, strict=True)):
        if not 0 < budget < math.inf:
            raise ArgumentError(f"the budget of group {group} is {budget}; it must be positive and finite")
        if not LEAST <= beta <= MOST:
            raise ArgumentError(f"the multiplier of group {group} is {beta}; begin with one from {LEAST} to {MOST}")
    for name, leaf in problem.leaves().items():
        if leaf.dtype != torch.float64:
            raise ArgumentError(f"{name} is {leaf.dtype}; the passes need float64: call .double()")
        wrong = (~leaf.isfinite().reshape(len(leaf), -1).all(1)).nonzero().flatten().tolist()
        if wrong:
            raise ArgumentError(f"{name} is not finite in groups {wrong}; leave diverged trajectories out of its fit")
        if name.endswith(".G") and bool(torch.linalg.cholesky_ex(leaf).info.any()):
            raise ArgumentError(f"{name} is not positive definite at every step; raise its smallest eigenvalues")
    if problem.penalty is not None and bool((problem.penalty < 0).any()):
        raise ArgumentError(f"the smallest penalty is {float(problem.penalty.min())}; none may be negative")


def _hopeless(group: int, standing: Standing, beta: float, divergence: float, budget: float) -> DivergedError:
    tried = f"group {group} after {standing.solves} solves, {standing.failures} of which failed"
    if not math.isfinite(divergence):
        return DivergedError(
            f"{tried}: at a multiplier of {beta:.3g} Q_aa is still not positive definite, or numbers overflow; scale "
            "the cost to unit size, and look at the fit of cost and dynamics"
        )
    return DivergedError(
        f"{tried}: the multiplier {beta:.3g} leads to a divergence of {divergence:.3g} where {budget:.3g} is allowed; "
        "raise the budget, allow more trials, or scale the cost to unit size"
    )
