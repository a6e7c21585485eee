"""What a replay is asked for: a sum over steps and coordinates."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Target(Protocol):
    """A sum over steps and coordinates of a function of the replayed actions."""

    def value(self, step: int, action: Tensor, coordinates: slice) -> Tensor:
        """This step's share, a scalar, for the coordinates given: `action` is `[tasks, coordinates]`."""
        ...

    def arrays(self) -> tuple[Tensor, Tensor | None] | None:
        """What the native kernel is given, each `[steps, tasks, coordinates]`; None for a target it does not know.

        Slopes and None stand for a linear target, targets and weights for a squared one.
        """
        ...


@dataclass(frozen=True)
class Linear:
    """sum_i < slope_i , action_i >, with `slopes` `[steps, tasks, coordinates]`."""

    slopes: Tensor

    def value(self, step: int, action: Tensor, coordinates: slice) -> Tensor:
        return (self.slopes[step, :, coordinates] * action).sum()

    def arrays(self) -> tuple[Tensor, Tensor | None]:
        return self.slopes, None


@dataclass(frozen=True)
class Squared:
    """sum_i < weight_i , (action_i - target_i)^2 >.

    Args:
        targets: `[steps, tasks, coordinates]`.
        weights: the same shape, or one that broadcasts to it.
    """

    targets: Tensor
    weights: Tensor

    def value(self, step: int, action: Tensor, coordinates: slice) -> Tensor:
        weights = self.weights.expand_as(self.targets)
        return (weights[step, :, coordinates] * (action - self.targets[step, :, coordinates]).square()).sum()

    def arrays(self) -> tuple[Tensor, Tensor | None]:
        return self.targets, self.weights.expand_as(self.targets)
