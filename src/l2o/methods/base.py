"""Methods: how a meta-gradient is got from a trajectory."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from l2o.optimizers.base import LearnedOptimizer
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.rollout import States
from l2o.trees import Tree


@dataclass(frozen=True)
class Trajectory:
    """A batch of tasks on its way, and the states of those who drive it."""

    process: Optimizee
    states: States


@dataclass(frozen=True)
class Estimate:
    """What one window gives.

    Args:
        gradient: the meta-gradient, one tensor for each meta-parameter, by name.
        value: the meta-loss over the window, mean over the tasks alive; not finite if none is.
        moments: name of the kind of loss, whose moments in the meta-optimizer this gradient belongs to.
        diagnostics: further numbers for the event log.
    """

    gradient: Tree
    value: float
    moments: str
    diagnostics: dict[str, float] = field(default_factory=dict)


class Method(ABC):
    """One way to get meta-gradients: who drives a rollout, and what is asked of the replay."""

    name: str
    """What reports and cards call it."""

    moments: tuple[str, ...]
    """Names of the kinds of loss whose meta-gradients it gives: those of different size need moments of their own."""

    reads: ClassVar[frozenset[str]] = frozenset({"grad", "loss"})
    """What it asks of a task family itself, in the words of `TaskFamily.offers`: here the meta-loss and its slopes."""

    def describe(self) -> dict[str, Any]:
        """Its name and settings, in JSON: what a checkpoint and a card are bound to."""
        return {"name": self.name, **vars(self)}

    def companions(self) -> Mapping[str, LearnedOptimizer]:
        """Who sees the tasks beside the learned optimizer, by what errors call them; nobody by default."""
        return {}

    def check(self, stages: int) -> None:
        """An error if its settings do not fit a horizon of so many stages. Called before anything runs."""
        del stages

    def begin(self, optimizer: LearnedOptimizer, process: Optimizee, rng: Stream, *, stage: int = 0) -> Trajectory:
        """A trajectory at its start, in a stage of the horizon."""
        del stage
        return Trajectory(process, {"agent": optimizer.init_state(process.params, rng.child("agent"))})

    @abstractmethod
    def window(self, optimizer: LearnedOptimizer, trajectory: Trajectory, steps: int) -> tuple[Estimate, Trajectory]:
        """Runs the next `steps` inner steps: the estimate, and the trajectory after them, detached."""
