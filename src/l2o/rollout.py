"""The first move: an agent drives a process for some steps, without gradients, and everything is recorded."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from l2o import trees
from l2o.agent import Action, Agent
from l2o.errors import ArgumentError
from l2o.process import Process
from l2o.trees import Tree

States = dict[str, Tree]
"""The states of all who take part in a rollout, by name: "agent", later "teacher" and others."""


class Driver(Protocol):
    """Who drives: from an observation and the named states to an action and the next states.

    States that are `owned` may be overwritten by the next ones.
    """

    def __call__(self, observation: Tree, states: States, *, owned: bool = False) -> tuple[Action, States]: ...


@dataclass(frozen=True)
class AgentDrives:
    """The agent itself drives."""

    agent: Agent

    def __call__(self, observation: Tree, states: States, *, owned: bool = False) -> tuple[Action, States]:
        action, state = self.agent.act(observation, states["agent"], owned=owned)
        return action, {**states, "agent": state}


@dataclass(frozen=True)
class Record:
    """What a rollout saw and did.

    Args:
        observations: steps + 1 trees; the last is what the next window begins with.
        privileged: steps + 1 trees that only the method sees (clean loss, meta-gradient).
        actions: steps trees.
        alive: `[tasks, steps + 1]` bool; a task that is not alive is frozen and shows zeros.
        entry: the named states before the first step.
        exit: the named states after the last step.
        process: the process after the last step.
    """

    observations: list[Tree]
    privileged: list[Tree]
    actions: list[Action]
    alive: Tensor
    entry: States
    exit: States
    process: Any

    @property
    def steps(self) -> int:
        return len(self.actions)


@torch.no_grad()
def rollout(process: Process, driver: Driver, states: States, steps: int, *, record: frozenset[str]) -> Record:
    """Lets `driver` drive `process` for `steps` steps, without gradients.

    Args:
        process: where to start.
        driver: who drives.
        states: the named states to start from.
        steps: number of actions, at least 1; the process is observed steps + 1 times.
        record: kinds of observation leaves to keep ("grad", "loss", "params"): usually `agent.reads`.
    """
    if steps < 1:
        raise ArgumentError(f"a rollout of {steps} steps; it needs at least 1")
    entry = states
    observations, privileged, actions, alive = [], [], [], []
    for step in range(steps + 1):
        seen, hidden = process.observe()
        observations.append({name: leaf for name, leaf in seen.items() if name.partition("/")[0] in record})
        privileged.append(hidden)
        alive.append(process.alive)
        if step < steps:
            # From the second step on nobody else has the states; but a dead task's are to stay as they are.
            action, moved = driver(seen, states, owned=step > 0 and bool(process.alive.all()))
            states = {name: trees.where_tasks(process.alive, state, states[name]) for name, state in moved.items()}
            process = process.apply(action)
            actions.append(action)
    return Record(observations, privileged, actions, torch.stack(alive, dim=1), entry, states, process)
