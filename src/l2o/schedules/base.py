"""A schedule: an agent whose action is a distribution over choices; and how a decision is made of it."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from l2o.agent import Action, Agent
from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.rollout import States
from l2o.trees import Tree

Execution = Literal["sample", "greedy", "dither"]
"""How a distribution becomes a decision: drawn; the likeliest; or the choice that is most in arrears, which keeps the
rates without chance."""

_BLOCK = 256
"""Steps whose random numbers are drawn at once: a generator for each task and step would cost more than a decision."""


class Schedule(Agent, ABC):
    """Decides which choice is taken: from measures of the process to a probability of each choice.

    Fixed schedules have no meta-parameters and are the same class, as hand-designed rules are learned optimizers
    without any. A schedule is pure: what it remembers is in its state.

    Args:
        choices: how many there are, at least 1.

    Example:
        >>> from l2o.schedules.fixed import certain
        >>> class FirstHalf(Schedule):
        ...     name = "first half"
        ...
        ...     def config(self):
        ...         return {}
        ...
        ...     def begin(self, tasks):
        ...         return {"tasks": torch.zeros(tasks)}
        ...
        ...     def forward(self, observation, state):
        ...         return certain((observation["progress"] >= 0.5).long(), 2), state
        >>> action, _ = FirstHalf(2)({"progress": torch.tensor([0.25, 0.75])}, {})
        >>> action["log_probability"]
        tensor([[0., -inf],
                [-inf, 0.]])
    """

    kind = "schedule"
    reads = frozenset({"loss", "gradient", "age", "metric", "progress", "validated", "cost"})

    def __init__(self, choices: int) -> None:
        super().__init__()
        if choices < 1:
            raise ArgumentError(f"choices is {choices}; a schedule needs at least 1")
        self.choices = choices

    def init_state(self, params: Tree, rng: Stream) -> Tree:
        del params
        return self.begin(len(rng.tasks))

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the measures that it decides by, as far as it declares them: a process is to show these."""
        return ()

    @abstractmethod
    def begin(self, tasks: int) -> Tree:
        """The state before the first step, leaves `[tasks, ...]`."""

    @abstractmethod
    def forward(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        """`log_probability` `[tasks, choices]`, -inf for what is never taken, and the next state.

        A schedule that learns also gives the `features` `[tasks, width]` that it decided by, for the replay.
        """


@dataclass(frozen=True)
class ScheduleDrives:
    """A schedule drives: its distribution becomes a decision for each task.

    The action is `choice` `[tasks]`, counted from 0, its `log_probability` `[tasks]`, and the `features` that a
    learning schedule decided by. What is drawn depends on the stream and the step alone.

    Args:
        schedule: who decides.
        rng: the run's stream.
        execution: how.
    """

    schedule: Schedule
    rng: Stream
    execution: Execution = "sample"
    _drawn: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.execution not in ("sample", "greedy", "dither"):
            raise ArgumentError(f"execution is {self.execution!r}; choose 'sample', 'greedy' or 'dither'")

    def begin(self) -> States:
        """The named states before the first step."""
        tasks = len(self.rng.tasks)
        return {
            "agent": self.schedule.begin(tasks),
            "decisions": {
                "step": torch.zeros(tasks, dtype=torch.int64),
                "arrears": torch.zeros(tasks, self.schedule.choices),
            },
        }

    def __call__(self, observation: Tree, states: States, *, owned: bool = False) -> tuple[Action, States]:
        del owned
        found, agent = self.schedule(observation, states["agent"])
        logs = found["log_probability"]  # [tasks, choices]
        step, arrears = states["decisions"]["step"], states["decisions"]["arrears"]
        if len(logs) == 1 and self.execution == "sample":
            number = self._decide_one(logs.tolist()[0], int(step))
            choice, taken = torch.tensor([number]), logs[:, number]
        else:
            choice, arrears = self._decide(logs, int(step.max()), arrears)
            taken = logs.gather(1, choice[:, None])[:, 0]
        decisions = {"step": step + 1, "arrears": arrears}
        return {**found, "choice": choice, "log_probability": taken}, {**states, "agent": agent, "decisions": decisions}

    def _decide(self, logs: Tensor, step: int, arrears: Tensor) -> tuple[Tensor, Tensor]:
        if self.execution == "greedy":
            return logs.argmax(1), arrears
        probabilities = logs.exp()
        if self.execution == "dither":
            due = arrears + probabilities
            choice = due.argmax(1)
            return choice, due - torch.nn.functional.one_hot(choice, logs.shape[1])
        draw = self._draw(step).to(probabilities)  # [tasks]
        passed = probabilities.cumsum(1) <= draw[:, None] * probabilities.sum(1, keepdim=True)
        last = (probabilities > 0).long().cumsum(1).argmax(1)  # rounding must not lead past what is possible
        return torch.minimum(passed.sum(1), last), arrears

    def _decide_one(self, logs: list[float], step: int) -> int:
        """A single run's sample, as `_decide` takes it: without twenty calls of torch, which is what it costs there."""
        probabilities = [math.exp(log) for log in logs]
        if max(probabilities) == 1.0:  # nothing to draw: draws are keyed by the step, none is missed
            return probabilities.index(1.0)
        bound = float(self._draw(step)) * sum(probabilities)
        total, last = 0.0, 0
        for place, probability in enumerate(probabilities):
            total += probability
            last = place if probability > 0 else last
            if total > bound:
                return place
        return last

    def _draw(self, step: int) -> Tensor:
        """The step's uniform numbers, `[tasks]`."""
        block, place = divmod(step, _BLOCK)
        if block not in self._drawn:
            self._drawn.clear()
            self._drawn[block] = self.rng.child("decision").at(step=block).uniform((_BLOCK,))
        return self._drawn[block][:, place]
