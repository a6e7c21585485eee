"""How controllers and policy are brought together: mirror descent, and the Bregman form of ADMM."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.methods.guided_policy.local_models import LinearGaussian

LEAST_PENALTY = 1e-8


@dataclass(frozen=True)
class Duals:
    """What an alternation remembers.

    Args:
        dual: lambda, `[groups, steps, actions]`.
        penalty: nu, `[groups, steps]`; 0 until the first control step has set it.
        first_penalty: what it was set to, `[groups]`.
        divergence: E KL(psi || pi) of the last iteration, mean over groups and steps; 0 before the first.
    """

    dual: Tensor
    penalty: Tensor
    first_penalty: Tensor
    divergence: Tensor

    @classmethod
    def none(cls, groups: int, steps: int) -> "Duals":
        zeros = torch.zeros(groups, steps, dtype=torch.float64)
        return cls(zeros[..., None].clone(), zeros, zeros[:, 0].clone(), torch.zeros((), dtype=torch.float64))


@dataclass(frozen=True)
class Control:
    """What the control step is given beside dynamics and cost: see `dual_search.constrained`."""

    previous: LinearGaussian
    policy: LinearGaussian | None = None
    penalty: Tensor | None = None
    dual: Tensor | None = None


class Alternation(Protocol):
    """Who pulls whom, and how strongly."""

    @property
    def on_policy_from(self) -> int | None:
        """The iteration from which on the policy itself drives; None if controllers always do."""
        ...

    def control(self, controller: LinearGaussian, policy: LinearGaussian, duals: Duals) -> Control:
        """What the next controller is asked for, from the last one and the linearised policy."""
        ...

    def weights(self, controller: LinearGaussian, duals: Duals) -> tuple[Tensor, Tensor]:
        """The weight of each step in the policy's regression, and what is added to the controller's action there: both
        `[groups, steps]`."""
        ...

    def penalised(self, duals: Duals, multiplier: Tensor) -> Duals:
        """After a control step with the multiplier `[groups]`."""
        ...

    def stepped(self, duals: Duals, controller: LinearGaussian, excess: Tensor) -> Duals:
        """After the dual step; `excess` is E[mu_pi - mu_psi], `[groups, steps]`."""
        ...

    def adapted(self, duals: Duals, divergence: Tensor) -> Duals:
        """After an iteration that found E KL(psi || pi) `[groups, steps]`."""
        ...

    def describe(self) -> dict[str, Any]:
        """Name and settings, in JSON."""
        ...


@dataclass(frozen=True)
class MirrorDescent:
    """The controller may differ from the policy by so much; the policy is regressed on the controller.

    Args:
        on_policy_from: the iteration from which on the policy itself drives, counted from 0; None for never.

    Source: Montgomery and Levine 2016.
    """

    on_policy_from: int | None = 2

    def control(self, controller: LinearGaussian, policy: LinearGaussian, duals: Duals) -> Control:
        del controller, duals
        return Control(previous=policy)

    def weights(self, controller: LinearGaussian, duals: Duals) -> tuple[Tensor, Tensor]:
        del duals
        precision = 1 / controller.G[..., 0, 0]
        return precision, torch.zeros_like(precision)

    def penalised(self, duals: Duals, multiplier: Tensor) -> Duals:
        del multiplier
        return duals

    def stepped(self, duals: Duals, controller: LinearGaussian, excess: Tensor) -> Duals:
        del controller, excess
        return duals

    def adapted(self, duals: Duals, divergence: Tensor) -> Duals:
        return Duals(duals.dual, duals.penalty, duals.first_penalty, divergence.mean())

    def describe(self) -> dict[str, Any]:
        return {"name": "mirror descent", "on_policy_from": self.on_policy_from}


@dataclass(frozen=True)
class BregmanADMM:
    """The controller is pulled to the policy and the policy to the controller, with dual variables for their means.

        lam_t <- lam_t + alpha nu_t G_t^-1 E[mu_pi - mu_psi]

    The policy's targets are mu_psi - (G_t / nu_t) lam_t with weights nu_t / G_t. nu is `share` of the multiplier of the
    first control step at first; then it halves at steps where the two agree better than usual, and doubles where they
    agree worse.

    Args:
        alpha: step of the dual variables.
        share: of the multiplier, that nu is set to at first.

    Source: Li and Malik 2017, section 3.1. Their line for lam has no G^-1, without which units do not fit; public code
    of the method has it, and targets mu_psi - nu_t G_t lam_t, with which two tasks of different nu end in the wrong
    place.
    """

    alpha: float = 0.1
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1 or not self.share > 0:
            raise ArgumentError(f"alpha is {self.alpha} and share {self.share}; alpha lies in (0, 1], share above 0")

    @property
    def on_policy_from(self) -> None:
        return None

    def control(self, controller: LinearGaussian, policy: LinearGaussian, duals: Duals) -> Control:
        if not bool(duals.penalty.any()):
            return Control(previous=controller)
        return Control(previous=controller, policy=policy, penalty=duals.penalty, dual=duals.dual)

    def weights(self, controller: LinearGaussian, duals: Duals) -> tuple[Tensor, Tensor]:
        G = controller.G[..., 0, 0]
        if not bool(duals.penalty.any()):
            return 1 / G, torch.zeros_like(G)
        penalty = duals.penalty.clamp(min=LEAST_PENALTY)
        return penalty / G, -G / penalty * duals.dual[..., 0]

    def penalised(self, duals: Duals, multiplier: Tensor) -> Duals:
        if bool(duals.penalty.any()):
            return duals
        first = self.share * multiplier
        return Duals(duals.dual, first[:, None].expand_as(duals.penalty).clone(), first, duals.divergence)

    def stepped(self, duals: Duals, controller: LinearGaussian, excess: Tensor) -> Duals:
        G = controller.G[..., 0, 0]
        bound = 10 * duals.penalty / G.sqrt()
        dual = duals.dual[..., 0] + self.alpha * duals.penalty / G * excess
        return Duals(dual.clamp(-bound, bound)[..., None], duals.penalty, duals.first_penalty, duals.divergence)

    def adapted(self, duals: Duals, divergence: Tensor) -> Duals:
        mean, deviation = divergence.mean(1, keepdim=True), divergence.std(1, keepdim=True)
        factor = torch.ones_like(divergence)
        factor[divergence < mean - deviation] = 0.5
        factor[divergence >= mean + 0.5 * deviation] = 2.0
        rose = bool(duals.divergence > 0) and bool(divergence.mean() > 1.2 * duals.divergence)
        penalty = duals.penalty * factor * (1.5 if rose else 1.0)
        bounds = (1e-3 * duals.first_penalty[:, None], 1e3 * duals.first_penalty[:, None])
        return Duals(duals.dual, penalty.clamp(*bounds), duals.first_penalty, divergence.mean())

    def describe(self) -> dict[str, Any]:
        return {"name": "Bregman ADMM", "alpha": self.alpha, "share": self.share}


def policy_variance(controller: LinearGaussian, weights: Tensor, *, entropy: float = 0.0) -> Tensor:
    """The policy's variance of least divergence from the controllers: `[groups]`.

        V = sum_t w_t / (sum_t w_t / G_t + 2 (entropy / mean G) sum_t w_t)

    minimises sum_t w_t (V / G_t - ln V) / 2 + (entropy / mean G) V sum_t w_t; without the last term it is the harmonic
    mean of G.

    Args:
        controller: of one action.
        weights: w_t, `[groups, steps]`.
        entropy: how strongly it is drawn to 0.
    """
    G, total = controller.G[..., 0, 0], weights.sum(1)
    return total / ((weights / G).sum(1) + 2 * entropy / G.mean(1) * total)
