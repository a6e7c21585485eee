"""How long the trajectories of a meta-training are."""

from dataclasses import dataclass

from l2o.errors import HorizonError


@dataclass(frozen=True)
class ConstantHorizon:
    """Every trajectory has the same number of inner steps, in training and in validation.

    Args:
        steps: inner steps of a trajectory.
        window: inner steps between meta-updates; the horizon is a whole number of windows.
    """

    steps: int = 100
    window: int = 20

    def __post_init__(self) -> None:
        if self.window < 1 or self.steps < self.window:
            raise HorizonError(f"horizon {self.steps}, window {self.window}: need horizon >= window >= 1")
        if self.steps % self.window:
            nearest = self.steps - self.steps % self.window
            raise HorizonError(
                f"horizon {self.steps} is not a whole number of windows of {self.window}; "
                f"take {nearest} or {nearest + self.window} steps"
            )

    @property
    def windows(self) -> int:
        """Meta-updates in one trajectory."""
        return self.steps // self.window
