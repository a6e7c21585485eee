"""Imitation: on some trajectories the learned optimizer is asked for the updates of a hand-designed one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from l2o import trees
from l2o.agent import Action
from l2o.errors import ArgumentError
from l2o.horizons import Horizon
from l2o.kernels.reference import replay
from l2o.kernels.targets import Squared
from l2o.methods.base import Estimate, Evidence, OptimizerMethod, Trajectory
from l2o.methods.meta_loss import MetaLoss, diagnose, watched
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.handcrafted import SGD, Adagrad, Adam
from l2o.processes.optimizee import Optimizee
from l2o.replay import replay_gradient
from l2o.rng import Stream
from l2o.rollout import States, rollout
from l2o.trees import Tree

Order = Literal["uniform", "turn"]

PUBLISHED_TEACHERS = {"adam": Adam(0.01), "sgd": SGD(0.1), "adagrad": Adagrad(0.01)}
"""The teachers of Chen et al. 2020. Adam's learning rate is that of the public code; the others are given nowhere."""


class Imitation(OptimizerMethod):
    """With probability r a whole trajectory is a teacher's; all others are another method's.

    On a teacher's trajectory, L = sum over the window of |teacher's update - own update|^2 / (2 P), mean over tasks,
    where P is the number of coordinates and the own updates come from the gradients along the teacher's path. Each
    teacher's loss has meta-optimizer moments of its own: it is a million times smaller than a sum of losses, and one
    Adam would not see it.

    Args:
        method: what the other trajectories do; `MetaLoss()` by default.
        teachers: optimizers by name, without meta-parameters.
        ratio: r, in [0, 1]; or one for each stage of a curriculum, the last one for all that follow.
        order: "uniform" draws the teacher at random (the paper); "turn" takes them in turn by the number of the
            trajectory.
        corrections: share of these trajectories that the learned optimizer drives itself, while the teacher says what
            it would have done there: so it learns to come back from where its own errors lead (DAgger).

    Example:
        >>> method = Imitation(MetaLoss(objective="log"), teachers={"adam": Adam(0.01)}, ratio=0.3)
        >>> method.name, method.moments
        ('imitation of adam, else meta-loss', ('meta-loss', 'imitation of adam'))

    Source: Chen et al. 2020, section 3.2. The public code takes teachers in turn, counting imitated trajectories alone.
    Corrections: Ross, Gordon and Bagnell 2011; here trajectories are drawn anew, none is kept.
    """

    def __init__(
        self,
        method: OptimizerMethod | None = None,
        *,
        teachers: Mapping[str, LearnedOptimizer] = PUBLISHED_TEACHERS,
        ratio: float | Sequence[float] = 0.3,
        order: Order = "uniform",
        corrections: float = 0.0,
    ) -> None:
        self.method = MetaLoss() if method is None else method
        self.shares = self.method.shares
        self.teachers = checked_teachers(teachers)
        self.ratios = tuple(ratio) if isinstance(ratio, Sequence) else (ratio,)
        if not self.ratios or not all(0 <= r <= 1 for r in self.ratios):
            raise ArgumentError(f"ratio is {ratio}; a share of trajectories lies in [0, 1], one for each stage")
        if order not in ("uniform", "turn"):
            raise ArgumentError(f"order is {order!r}; choose 'uniform' or 'turn'")
        if not 0 <= corrections <= 1:
            raise ArgumentError(f"corrections is {corrections}; a share of trajectories lies in [0, 1]")
        self.order: Order = order
        self.corrections = corrections
        self.name = f"imitation of {', '.join(teachers)}, else {self.method.name}"
        self.moments = (*self.method.moments, *(_moments(name) for name in teachers))

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "method": self.method.describe(),
            "teachers": describe_teachers(self.teachers),
            "ratios": self.ratios,
            "order": self.order,
            **({"corrections": self.corrections} if self.corrections else {}),
        }

    def companions(self) -> Mapping[str, LearnedOptimizer]:
        return {**self.method.companions(), **{f"teacher {name}": rule for name, rule in self.teachers.items()}}

    def check(self, horizon: Horizon) -> None:
        stages = len(horizon.stages)
        if len(self.ratios) > stages:
            raise ArgumentError(
                f"ratio is {self.ratios}, {len(self.ratios)} shares of trajectories, and the horizon has {stages} "
                f"{'stage' if stages == 1 else 'stages'}; pass one share for each stage, or one for all"
            )
        self.method.check(horizon)

    def begin(self, optimizer: LearnedOptimizer, process: Optimizee, rng: Stream, *, stage: int = 0) -> Trajectory:
        draw = float(rng.child("imitate").over(range(1)).uniform())
        if draw >= self.ratios[min(stage, len(self.ratios) - 1)]:
            return self.method.begin(optimizer, process, rng, stage=stage)
        states: States = {
            "agent": optimizer.init_state(process.params, rng.child("agent")),
            "teacher": self._teacher(process)[1].init_state(process.params, rng.child("teacher")),
            "distance": {"sum": torch.zeros_like(process.survivors, dtype=next(iter(process.params.values())).dtype)},
        }
        return Trajectory(process, states)

    def window(self, optimizer: LearnedOptimizer, trajectory: Trajectory, steps: int) -> tuple[Estimate, Trajectory]:
        if "distance" not in trajectory.states:
            return self.method.window(optimizer, trajectory, steps)
        name, teacher = self._teacher(trajectory.process)
        if float(trajectory.process.rng.child("who drives").over(range(1)).uniform()) < self.corrections:
            driver, kept = StudentDrives(teacher, optimizer), optimizer.reads | teacher.reads
            record = rollout(trajectory.process, driver, trajectory.states, steps, record=kept)
            with torch.no_grad():
                wanted, _ = replay(teacher, record.observations[:-1], record.entry["teacher"])
        else:
            driver = TeacherDrives(teacher, optimizer)
            record = rollout(trajectory.process, driver, trajectory.states, steps, record=optimizer.reads)
            wanted = record.actions
        targets = torch.stack([trees.flatten(action) for action in wanted])  # [steps, tasks, coordinates]
        moved = record.alive[:, :-1].T[..., None].to(targets.dtype)  # [steps, tasks, 1]
        tasks, coordinates = targets.shape[1:]
        gradient = replay_gradient(optimizer, record, Squared(targets, moved * (0.5 / (coordinates * tasks))))
        distance = record.exit["distance"]["sum"] - record.entry["distance"]["sum"]  # [tasks]

        def conclude(by_task: Tree, gradient: Tree) -> Estimate:
            began = by_task["alive"][:, 0]
            value = float(by_task["distance"][began].sum() / len(began)) if bool(began.any()) else float("nan")
            return Estimate(gradient, value, _moments(name), diagnose(by_task))

        by_task = {**watched(record), "distance": distance}
        return Evidence(by_task, gradient, conclude).estimate(), Trajectory(record.process, record.exit)

    def _teacher(self, process: Optimizee) -> tuple[str, LearnedOptimizer]:
        """The trajectory's teacher: a function of its stream alone."""
        names, rng = list(self.teachers), process.rng
        if self.order == "turn":
            name = names[rng.trajectory % len(names)]
        else:
            name = names[int(rng.child("which teacher").over(range(1)).integers(len(names)))]
        return name, self.teachers[name]


@dataclass(frozen=True)
class TeacherDrives:
    """A teacher drives; the student sees the same gradients and keeps its state, and how far off it was is added up."""

    teacher: LearnedOptimizer
    student: LearnedOptimizer

    def __call__(self, observation: Tree, states: States, *, owned: bool = False) -> tuple[Action, States]:
        action, _, after = _both(self.teacher, self.student, observation, states, owned=owned)
        return action, after


@dataclass(frozen=True)
class StudentDrives:
    """The student drives; the teacher sees the same gradients, and how far off the student was is added up."""

    teacher: LearnedOptimizer
    student: LearnedOptimizer

    def __call__(self, observation: Tree, states: States, *, owned: bool = False) -> tuple[Action, States]:
        _, own, after = _both(self.teacher, self.student, observation, states, owned=owned)
        return own, after


def _both(
    teacher: LearnedOptimizer, student: LearnedOptimizer, observation: Tree, states: States, *, owned: bool
) -> tuple[Action, Action, States]:
    """What teacher and student would do, and all states after it."""
    action, taught = teacher(observation, states["teacher"])
    own, agent = student.act(observation, states["agent"], owned=owned)
    distance = (trees.flatten(action) - trees.flatten(own)).square().mean(1) / 2  # [tasks]
    total = {"sum": states["distance"]["sum"] + distance}
    return action, own, {**states, "agent": agent, "teacher": taught, "distance": total}


def checked_teachers(teachers: Mapping[str, LearnedOptimizer]) -> dict[str, LearnedOptimizer]:
    """The teachers, or an error that says what is wrong with them."""
    if not teachers:
        raise ArgumentError("there is no teacher; pass at least one, for instance teachers={'adam': Adam(0.01)}")
    for name, teacher in teachers.items():
        if any(True for _ in teacher.parameters()):
            raise ArgumentError(f"teacher {name} has meta-parameters of its own; freeze a copy in a rule without any")
        if "/" in name:
            raise ArgumentError(f"a teacher is called {name!r}; leave out the '/'")
    return dict(teachers)


def describe_teachers(teachers: Mapping[str, LearnedOptimizer]) -> dict[str, Any]:
    """Class and constants of each."""
    return {name: {"optimizer": type(rule).__name__, **rule.config()} for name, rule in teachers.items()}


def _moments(teacher: str) -> str:
    return f"imitation of {teacher}"
