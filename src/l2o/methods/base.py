"""Methods: how a meta-gradient is got from a trajectory."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

from l2o.agent import Agent
from l2o.horizons import Horizon
from l2o.optimizers.base import LearnedOptimizer
from l2o.process import Process
from l2o.processes.optimizee import Optimizee
from l2o.ranks import Ranks
from l2o.rng import Stream
from l2o.rollout import States
from l2o.trees import Tree

AgentT = TypeVar("AgentT", bound=Agent)
ProcessT = TypeVar("ProcessT", bound=Process)


@dataclass(frozen=True)
class Trajectory(Generic[ProcessT]):
    """A batch of tasks on its way, and the states of those who drive it.

    A state named "memory" is handed on to the next trajectory: what a method remembers from one to the next.

    Args:
        process: the tasks.
        states: of those who drive, by name.
        common: names of the states that belong to no task: every process of a run has the same.
    """

    process: ProcessT
    states: States
    common: frozenset[str] = frozenset({"memory"})


@dataclass(frozen=True)
class Estimate:
    """What one window gives.

    Args:
        gradient: the meta-gradient, one tensor for each meta-parameter, by name.
        value: the meta-loss over the window, mean over the tasks alive; not finite if none is.
        moments: name of the kind of loss, whose moments in the meta-optimizer this gradient belongs to.
        diagnostics: further numbers for the event log.
        then: once this one's step is taken, gives another estimate from the same window; or, in the end, how the
            trajectory goes on, where that depends on the steps taken. None if there is neither.
        evidence: what it was concluded from; None for a method that does not share tasks among processes.
    """

    gradient: Tree
    value: float
    moments: str
    diagnostics: dict[str, float] = field(default_factory=dict)
    then: "Callable[[], Estimate | Trajectory[Any]] | None" = None
    evidence: "Evidence | None" = field(default=None, repr=False)

    def over(self, ranks: Ranks, *, tasks: int) -> "Estimate":
        """The estimate from the tasks of all processes, of which this one is from those of this process."""
        if ranks.count == 1:
            return self
        assert self.evidence is not None
        by_task, means = ranks.gather(self.evidence.by_task, self.evidence.means, tasks=tasks)
        return self.evidence.conclude(by_task, ranks.mean(means, tasks=tasks))


@dataclass(frozen=True)
class Evidence:
    """What an estimate is concluded from, in a form that can be put together from shares of the tasks.

    Args:
        by_task: numbers about each task, leaves `[tasks, ...]`: few, for all processes get those of all tasks.
        means: means over the tasks, above all the gradient; empty where it follows from the numbers about each task.
        conclude: from both, for any tasks, to the estimate.
    """

    by_task: Tree
    means: Tree
    conclude: Callable[[Tree, Tree], Estimate]

    def estimate(self) -> Estimate:
        """The estimate from these tasks."""
        return replace(self.conclude(self.by_task, self.means), evidence=self)


class Method(ABC, Generic[AgentT, ProcessT]):
    """One way to get meta-gradients: who drives a rollout, and what is asked of the replay."""

    name: str
    """What reports and cards call it."""

    moments: tuple[str, ...]
    """Names of the kinds of loss whose meta-gradients it gives: those of different size need moments of their own."""

    reads: ClassVar[frozenset[str]] = frozenset({"grad", "loss"})
    """What it asks of a task family itself, in the words of `TaskFamily.offers`: here the meta-loss and its slopes."""

    shares: bool = False
    """Whether the tasks of a trajectory can be shared among processes: all estimates then have their evidence, and
    everything else that it decides is the same whichever of the tasks it sees."""

    def describe(self) -> dict[str, Any]:
        """Its name and settings, in JSON: what a checkpoint and a card are bound to."""
        return {"name": self.name, **vars(self)}

    def companions(self) -> Mapping[str, LearnedOptimizer]:
        """Who sees the tasks beside the learned optimizer, by what errors call them; nobody by default."""
        return {}

    def check(self, horizon: Horizon) -> None:
        """An error if its settings do not fit the horizon. Called before anything runs."""
        del horizon

    @abstractmethod
    def begin(self, agent: AgentT, process: ProcessT, rng: Stream, /, *, stage: int = 0) -> Trajectory[ProcessT]:
        """A trajectory at its start, in a stage of the horizon."""

    @abstractmethod
    def window(
        self, agent: AgentT, trajectory: Trajectory[ProcessT], steps: int, /
    ) -> tuple[Estimate | None, Trajectory[ProcessT]]:
        """Runs the next `steps` steps: the estimate, and the trajectory after them, detached.

        The estimate is None where there is nothing to step on yet.
        """


class OptimizerMethod(Method[LearnedOptimizer, Optimizee], ABC):
    """A method for learned optimizers, with the learned optimizer's own state alone unless it says otherwise."""

    def begin(
        self, agent: LearnedOptimizer, process: Optimizee, rng: Stream, /, *, stage: int = 0
    ) -> Trajectory[Optimizee]:
        del stage
        return Trajectory(process, {"agent": agent.init_state(process.params, rng.child("agent"))})

    @abstractmethod
    def window(
        self, agent: LearnedOptimizer, trajectory: Trajectory[Optimizee], steps: int, /
    ) -> tuple[Estimate, Trajectory[Optimizee]]:
        """Runs the next `steps` inner steps; there is always something to step on."""
