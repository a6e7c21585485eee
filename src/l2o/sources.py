"""Where the processes of a meta-training come from, and how an agent is validated on them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from l2o import checkpoint, trees
from l2o.agent import Agent
from l2o.curves import log_ratios, run_curves
from l2o.errors import ArgumentError
from l2o.optimizers.base import LearnedOptimizer
from l2o.process import Process
from l2o.processes.judging import Outcome
from l2o.processes.optimizee import Optimizee
from l2o.processes.replicated_losses import ReplicatedLosses, Settings
from l2o.ranks import Ranks
from l2o.rng import Stream
from l2o.schedules.base import Execution, Schedule
from l2o.schedules.rewards import Reward, describe, rewards
from l2o.schedules.runs import run_schedule
from l2o.tasks.alternate import AlternateFamily
from l2o.tasks.base import TaskFamily
from l2o.trees import Tree

AgentT = TypeVar("AgentT", bound=Agent, contravariant=True)
ProcessT = TypeVar("ProcessT", bound=Process, covariant=True)

Measure = Literal["loss", "log-ratio"]


@dataclass(frozen=True)
class Validated:
    """What a validation found.

    Args:
        values: what is to be low, of each task, `[tasks]`; infinite or not a number where it failed.
        diverged: `[tasks]` bool.
        diagnostics: further numbers, whose means are for the event log, each `[tasks]`.
    """

    values: Tensor
    diverged: Tensor
    diagnostics: Tree = field(default_factory=dict)

    def over(self, ranks: Ranks, *, tasks: int) -> "Validated":
        """What all processes found, of which this is what this process found on its share of the tasks."""
        mine = {"values": self.values, "diverged": self.diverged, **trees.join(diagnostics=self.diagnostics)}
        found, _ = ranks.gather(mine, tasks=tasks)
        return Validated(found["values"], found["diverged"], trees.select(found, "diagnostics"))


class Source(Protocol, Generic[AgentT, ProcessT]):
    """Gives processes to train on, and measures an agent on fresh ones."""

    @property
    def name(self) -> str:
        """What cards call it."""
        ...

    def start(self, rng: Stream, *, steps: int, device: torch.device | str, dtype: torch.dtype) -> ProcessT:
        """A process of the stream's tasks at its start, which is to take so many steps."""
        ...

    def validate(
        self, agent: AgentT, rng: Stream, *, steps: int, device: torch.device | str, dtype: torch.dtype
    ) -> Validated:
        """Lets the agent drive the stream's tasks for so many steps, and says how good it was."""
        ...

    def describe(self, rng: Stream) -> dict[str, Any]:
        """What makes it this source, in JSON: names, settings, and digests of tasks drawn from the stream."""
        ...

    def data_notes(self) -> list[str]:
        """What a result's record has to say about the data."""
        ...


class Optimizees:
    """Tasks being optimized, for a learned optimizer.

    Args:
        family: where tasks come from.
        validation_family: where those of validations come from; None for the same.
        last: a validation's value is that of so many last iterates.
        measure: "loss" takes the mean of them; "log-ratio" the logarithm of its ratio to the task's first loss.
    """

    def __init__(
        self, family: TaskFamily, validation_family: TaskFamily | None = None, *, last: int, measure: Measure = "loss"
    ) -> None:
        self.family = family
        self.validation_family = family if validation_family is None else validation_family
        self.last, self.measure = last, measure

    @property
    def name(self) -> str:
        return self.family.name

    def start(self, rng: Stream, *, steps: int, device: torch.device | str, dtype: torch.dtype) -> Optimizee:
        del steps
        family = self.family.member(rng.over((0,)))  # of the trajectory, whichever of its tasks are here
        return Optimizee.start(family, rng, device=device, dtype=dtype)

    def validate(
        self, agent: LearnedOptimizer, rng: Stream, *, steps: int, device: torch.device | str, dtype: torch.dtype
    ) -> Validated:
        curves = run_curves(agent, self.validation_family, rng, steps=steps, device=device, dtype=dtype)
        if self.measure == "loss":
            return Validated(curves.losses[:, -self.last :].mean(1), curves.diverged)
        ratios = log_ratios(curves.losses, last=self.last)
        if bool((ratios.isnan() & curves.losses.isfinite().all(1)).any()):
            raise ArgumentError(
                f"a loss of {self.validation_family.name} is {float(curves.losses.nan_to_num().min()):.4g} in a "
                "validation, and ratios need losses that are not negative; take validation_measure='loss'"
            )
        return Validated(ratios, curves.diverged)

    def describe(self, rng: Stream) -> dict[str, Any]:
        return _families(self.family, self.validation_family, rng)

    def data_notes(self) -> list[str]:
        return self.family.data_notes()


class ScheduledRuns:
    """Runs of a problem with several losses, for a schedule.

    Args:
        family: where the problems come from.
        settings: how choices become updates. With `common`, the runs of a training batch have one start; those of a
            validation never do.
        reward: what a run is worth; the value of a validation is minus it.
        execution: how a schedule's distribution becomes decisions in a validation.
        validation_family: where the problems of validations come from; None for the same.
    """

    def __init__(
        self,
        family: AlternateFamily,
        settings: Settings,
        *,
        reward: Reward,
        execution: Execution = "sample",
        validation_family: AlternateFamily | None = None,
    ) -> None:
        self.family, self.settings, self.reward = family, settings, reward
        self.execution: Execution = execution
        self.validation_family = family if validation_family is None else validation_family

    @property
    def name(self) -> str:
        return self.family.name

    def start(self, rng: Stream, *, steps: int, device: torch.device | str, dtype: torch.dtype) -> ReplicatedLosses:
        return ReplicatedLosses.start(self.family, self.settings, rng, steps=steps, device=device, dtype=dtype)

    def validate(
        self, agent: Schedule, rng: Stream, *, steps: int, device: torch.device | str, dtype: torch.dtype
    ) -> Validated:
        process = run_schedule(
            agent,
            self.validation_family,
            replace(self.settings, common=False),
            rng,
            steps=steps,
            execution=self.execution,
            device=device,
            dtype=dtype,
        ).process
        judged = process.judgement.metrics[process.family.goal.metric]
        diagnostics = {process.family.goal.metric: judged}
        return Validated(-rewards(process, self.reward), process.outcome == Outcome.DIVERGED, diagnostics)

    def describe(self, rng: Stream) -> dict[str, Any]:
        settings = {**vars(self.settings), "optimizers": describe_rules(self.settings.optimizers)}
        return {
            **_families(self.family, self.validation_family, rng),
            "choices": [asdict(choice) for choice in self.family.choices],
            "goal": asdict(self.family.goal),
            "settings": settings,
            "reward": describe(self.reward),
            "execution": self.execution,
        }

    def data_notes(self) -> list[str]:
        return self.family.data_notes()


def _families(family: TaskFamily, validation_family: TaskFamily, rng: Stream) -> dict[str, Any]:
    """Names and digests."""
    described = {"family": family.name, "task": digest(family, rng)}
    if validation_family is not family:
        described |= {
            "validation family": validation_family.name,
            "validation task": digest(validation_family, rng),
        }
    return described


def describe_rules(rules: Mapping[str, LearnedOptimizer]) -> dict[str, Any]:
    """Class and constants of each."""
    return {name: {"optimizer": type(rule).__name__, **rule.config()} for name, rule in rules.items()}


def digest(family: TaskFamily, rng: Stream) -> str:
    """A digest of one task of each member of the family, its start and its first minibatch."""
    return checkpoint.digest(trees.join(**{member.name: _one_task(member, rng) for member in family.members()}))


def _one_task(family: TaskFamily, rng: Stream) -> Tree:
    """A task with its start and a minibatch."""
    instance = family.sample(rng)
    batch = family.gather(family.batch_indices(instance, rng))
    return trees.join(instance=instance, start=family.init(instance, rng), batch=batch)
