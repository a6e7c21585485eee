"""Self-improving: hand-designed optimizers take some of the steps of a trajectory, fewer and fewer of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l2o import trees
from l2o.agent import Action
from l2o.errors import ArgumentError
from l2o.kernels.targets import Linear
from l2o.methods.base import Estimate, Evidence, OptimizerMethod, Trajectory
from l2o.methods.imitation import PUBLISHED_TEACHERS, checked_teachers, describe_teachers
from l2o.methods.meta_loss import MetaLoss, Objective, Weights, diagnose, watched
from l2o.optimizers.base import LearnedOptimizer
from l2o.processes.optimizee import Optimizee
from l2o.replay import replay_gradient
from l2o.rng import Stream
from l2o.rollout import States, rollout
from l2o.trees import Tree


class SelfImproving(OptimizerMethod):
    """At every inner step of every task one of several optimizers is drawn and takes the step.

    The learned one has the probability that the helpers leave; each helper's falls on a line from `start` to 0 over the
    first `fade` trajectories. All optimizers see every gradient and advance their states with it; the loss is that of
    `MetaLoss` over the mixed trajectory, differentiated by the learned optimizer's own steps.

    Args:
        helpers: optimizers by name, without meta-parameters.
        start: probability of each helper at first; by default 1 / (helpers + 1). The paper says both this and 0.33
            for each of three.
        fade: trajectories until helpers take no more steps.
        weights: as in `MetaLoss`.
        objective: as in `MetaLoss`.

    Example:
        >>> from l2o.optimizers.handcrafted import SGD
        >>> method = SelfImproving(helpers={"sgd": SGD(0.1)}, fade=50)
        >>> method.start
        0.5
        >>> method.turns(Stream(0, trajectory=50, tasks=range(2)), range(3)).tolist()  # no helper's
        [[0, 0], [0, 0], [0, 0]]

    Source: Chen et al. 2020, sections 4.2 and 5.3; there is no public code. That states advance with every gradient is
    our reading.
    """

    name = "self-improving"
    moments = ("meta-loss",)
    shares = True

    def __init__(
        self,
        *,
        helpers: Mapping[str, LearnedOptimizer] = PUBLISHED_TEACHERS,
        start: float | None = None,
        fade: int = 100,
        weights: Weights = "all",
        objective: Objective = "loss",
    ) -> None:
        self.helpers = checked_teachers(helpers)
        self.start = 1 / (len(helpers) + 1) if start is None else start
        if not 0 <= self.start * len(helpers) <= 1:
            raise ArgumentError(
                f"start is {start} for each of {len(helpers)} helpers; together they may have a probability of 1"
            )
        if fade < 1:
            raise ArgumentError(f"fade is {fade}; helpers need at least 1 trajectory to fade out")
        self.fade = fade
        self.meta_loss = MetaLoss(weights=weights, objective=objective)

    def describe(self) -> dict[str, Any]:
        return {
            **self.meta_loss.describe(),
            "name": self.name,
            "helpers": describe_teachers(self.helpers),
            "start": self.start,
            "fade": self.fade,
        }

    def companions(self) -> Mapping[str, LearnedOptimizer]:
        return {f"helper {name}": rule for name, rule in self.helpers.items()}

    def begin(self, optimizer: LearnedOptimizer, process: Optimizee, rng: Stream, *, stage: int = 0) -> Trajectory:
        states: States = {
            "agent": optimizer.init_state(process.params, rng.child("agent")),
            "clock": {"step": torch.zeros_like(process.survivors, dtype=torch.int64)},
        }
        for name, helper in self.helpers.items():
            states[f"helper {name}"] = helper.init_state(process.params, rng.child(f"helper {name}"))
        return Trajectory(process, states)

    def window(self, optimizer: LearnedOptimizer, trajectory: Trajectory, steps: int) -> tuple[Estimate, Trajectory]:
        process = trajectory.process
        turns = self.turns(process.rng, range(process.step, process.step + steps)).to(process.survivors.device)
        driver = MixtureDrives(optimizer, self.helpers, turns, process.step)
        record = rollout(process, driver, trajectory.states, steps, record=optimizer.reads)
        slopes = self.meta_loss.slopes(record)
        own = (turns == 0)[..., None].to(slopes.dtype)  # [steps, tasks, 1]
        gradient = replay_gradient(optimizer, record, Linear(slopes * own))

        def conclude(by_task: Tree, gradient: Tree) -> Estimate:
            diagnostics = {**diagnose(by_task), "own_steps": float(by_task["own"].mean())}
            return Estimate(gradient, self.meta_loss.value(by_task), "meta-loss", diagnostics)

        by_task = {**watched(record), "own": own[..., 0].T}  # [tasks, steps]
        return Evidence(by_task, gradient, conclude).estimate(), Trajectory(record.process, record.exit)

    def turns(self, rng: Stream, steps: Sequence[int]) -> Tensor:
        """Who takes each step of a trajectory: `[steps, tasks]`, 0 the learned optimizer, then the helpers in order."""
        probability = self.start * max(0.0, 1 - rng.trajectory / self.fade)
        draws = torch.stack([rng.child("turn").at(step=step).uniform() for step in steps])  # [steps, tasks]
        helper = (draws / probability).floor().long() if probability > 0 else torch.full_like(draws, 1 << 30).long()
        return torch.where(helper < len(self.helpers), helper + 1, 0)


@dataclass(frozen=True)
class MixtureDrives:
    """All optimizers see the gradient; the one whose turn it is moves its task.

    Args:
        agent: the learned optimizer, turn 0.
        helpers: the others, from turn 1 on.
        turns: `[steps, tasks]`.
        first: the inner step of the first row.
    """

    agent: LearnedOptimizer
    helpers: Mapping[str, LearnedOptimizer]
    turns: Tensor
    first: int

    def __call__(self, observation: Tree, states: States, *, owned: bool = False) -> tuple[Action, States]:
        clock = states["clock"]["step"]  # [tasks]; that of a dead task stands still, and does not matter
        turn = self.turns[int(clock.max()) - self.first]
        action, agent = self.agent.act(observation, states["agent"], owned=owned)
        moved: States = {"agent": agent, "clock": {"step": clock + 1}}
        for number, (name, helper) in enumerate(self.helpers.items(), 1):
            update, moved[f"helper {name}"] = helper(observation, states[f"helper {name}"])
            action = trees.where_tasks(turn != number, action, update)
        return action, moved
