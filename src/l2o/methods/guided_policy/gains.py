"""Gains by trial: what linear models of one coordinate cannot tell about controllers, real trajectories do."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.methods.guided_policy.local_models import LinearGaussian


@dataclass(frozen=True)
class Tried:
    """What a round of trials found.

    Args:
        controller: with the gains that were better.
        value: under it.
        factors: for the next round.
        changed: gains that were.
        trials: how many there were.
    """

    controller: LinearGaussian
    value: float
    factors: Tensor
    changed: int
    trials: int


@dataclass(frozen=True)
class Gains:
    """Steps of each group of coordinates are made longer or shorter, around one knot of the horizon after the other.

    At the knot the gains are multiplied by a factor, at the knots beside it by 1, and the logarithm is linear between
    them. A change is tried on tasks, and kept if the mean loss is lower.

    The models that controllers are optimized against take for constant noise what the moves of all other coordinates
    do to a gradient. That grows with the gains, and so does the loss where they are too large: they do not know.

    Args:
        knots: as shares of the horizon.
        factor: that gains are multiplied or divided by in the first round. After a success it is taken to the power
            of 1.3 in the next, after a failure in both directions to that of 0.5.
        least: below which it does not fall.
        most: above which it does not rise.

    Source: ours. That model-based and model-free updates of local controllers go together well is known from robots:
    Chebotar et al. 2017, "Combining model-based and model-free updates for trajectory-centric reinforcement learning".
    """

    knots: tuple[float, ...] = (0.0, 0.05, 0.2, 0.5, 1.0)
    factor: float = 1.25
    least: float = 1.03
    most: float = 1.5

    def __post_init__(self) -> None:
        ordered = all(first < second for first, second in pairwise(self.knots))
        if not (len(self.knots) > 1 and ordered and (self.knots[0], self.knots[-1]) == (0, 1)):
            raise ArgumentError(f"knots are {self.knots}; they must rise from 0 to 1")
        if not 1 < self.least <= self.factor <= self.most:
            raise ArgumentError(
                f"least, factor and most are {self.least}, {self.factor} and {self.most}; they must rise from above 1"
            )

    def begin(self, groups: int) -> Tensor:
        """Logarithms of the factors of the first round, `[groups, knots]`; their signs say what is tried first."""
        return torch.full((groups, len(self.knots)), math.log(self.factor), dtype=torch.float64)

    def shares(self, steps: int) -> Tensor:
        """How much of a factor's logarithm each step gets, `[knots, steps]`; over the knots they add up to 1."""
        places, peaks = np.linspace(0.0, 1.0, steps), np.eye(len(self.knots))
        return torch.from_numpy(np.stack([np.interp(places, self.knots, peak) for peak in peaks]))

    def tried(
        self,
        controller: LinearGaussian,
        value: float,
        factors: Tensor,
        evaluate: Callable[[LinearGaussian], float],
    ) -> Tried:
        """One round: every group and knot once.

        Args:
            controller: of `[groups, steps]`.
            value: mean loss under it.
            factors: from `begin`, or from the round before.
            evaluate: the mean loss under a controller on the same tasks, infinite where it diverges.
        """
        shares, following = self.shares(controller.K.shape[1]), factors.clone()
        changed = trials = 0
        for group, knot in product(range(len(factors)), range(len(self.knots))):
            first, better = float(factors[group, knot]), None
            for tried in (first, -first):
                proposed = _scaled(controller, group, (tried * shares[knot]).exp())
                found, trials = evaluate(proposed), trials + 1
                if found < value:
                    better, value, controller = tried, found, proposed
                    break
            changed += better is not None
            following[group, knot] = self._bounded(1.3 * better if better is not None else first / 2)
        return Tried(controller, value, following, changed, trials)

    def _bounded(self, factor: float) -> float:
        size = min(max(abs(factor), math.log(self.least)), math.log(self.most))
        return math.copysign(size, factor)


def _scaled(controller: LinearGaussian, group: int, factors: Tensor) -> LinearGaussian:
    """With gains of a group multiplied by factors `[steps]`."""
    K, k = controller.K.clone(), controller.k.clone()
    K[group] *= factors.to(K)[:, None, None]
    k[group] *= factors.to(k)[:, None]
    return LinearGaussian(K, k, controller.G)
