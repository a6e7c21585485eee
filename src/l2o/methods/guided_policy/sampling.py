"""Trajectories for the local models: who drives them, and what is kept of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from l2o import trees
from l2o.agent import Action
from l2o.curves import held
from l2o.errors import UnsupportedError
from l2o.kernels.reference import replay
from l2o.methods.guided_policy.features import StateFeatures
from l2o.methods.guided_policy.local_models import LinearGaussian
from l2o.optimizers.base import LearnedOptimizer
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.rollout import Driver, Record, States, rollout
from l2o.tasks.objective import true_value_and_grad
from l2o.trees import Tree

READS = frozenset({"grad", "loss", "params"})

AT_ONCE = 100
"""Steps that a policy is run along at once: 400 of them take 1 GB more at the size of the paper."""


@dataclass(frozen=True)
class ControllerDrives:
    """A local controller drives all coordinates, by its mean action.

    Its state, "features", is what `features` remembers.

    Args:
        controller: of one action, in the dtype of the process.
        features: what it sees.
        groups: the place of each coordinate's group in the controller, `[coordinates]`.
    """

    controller: LinearGaussian
    features: StateFeatures
    groups: Tensor

    def begin(self, process: Optimizee) -> States:
        """Its state before the first step."""
        like = next(iter(process.params.values()))
        return {"features": self.features.begin(like.shape[0], len(self.groups), like)}

    def __call__(self, observation: Tree, states: States, *, owned: bool = False) -> tuple[Action, States]:
        del owned
        grads, step = trees.select(observation, "grad"), int(states["features"]["step"].max())
        x = trees.flatten(trees.select(observation, "params"))
        seen, remembered = self.features.observe(trees.flatten(grads), x, observation["loss"], states["features"])
        gains = self.controller.K[:, step, 0][self.groups]  # [coordinates, states]
        action = torch.einsum("ncs,cs->nc", seen, gains) + self.controller.k[:, step, 0][self.groups]
        return trees.unflatten(action, grads), {**states, "features": remembered}


@dataclass(frozen=True)
class Explored:
    """Another driver's actions with a gain of each trajectory's own, and noise.

    Without the gains, noise that is independent between coordinates shows how a coordinate's gradient answers to its
    own action alone. A controller moves all of them at once, to which the answer can be a thousand times larger.

    Args:
        driver: whose actions.
        gains: log-normal, `[tasks]`.
        deviations: of the noise, `[steps, coordinates]`.
        rng: what the noise is drawn from.
    """

    driver: Driver
    gains: Tensor
    deviations: Tensor
    rng: Stream

    @classmethod
    def of(cls, driver: Driver, deviations: Tensor, rng: Stream, *, jitter: float) -> "Explored":
        """With gains exp(jitter z - jitter^2 / 2), whose mean is 1, for normal z."""
        z = rng.child("gain").normal().to(deviations)
        return cls(driver, (jitter * z - jitter**2 / 2).exp(), deviations, rng.child("noise"))

    def __call__(self, observation: Tree, states: States, *, owned: bool = False) -> tuple[Action, States]:
        action, after = self.driver(observation, states, owned=owned)
        flat, step = trees.flatten(action), int(states["clock"]["step"].max())
        noise = self.rng.at(step=step).normal(flat.shape[1:]).to(flat)
        moved = self.gains[:, None] * flat + self.deviations[step] * noise
        return trees.unflatten(moved, action), {**after, "clock": {"step": states["clock"]["step"] + 1}}


def clock(process: Optimizee) -> States:
    """The state of `Explored` before the first step, beside that of its driver."""
    return {"clock": {"step": torch.zeros(len(process.survivors), dtype=torch.int64)}}


@dataclass(frozen=True)
class Samples:
    """What is kept of a batch of trajectories: all about some coordinates of each group.

    Args:
        groups: the number of each group among those of the policy.
        states: of each group, `[trajectories, steps + 1, coordinates, states]`, float64.
        actions: of each group, `[trajectories, steps, coordinates]`, float64.
        slopes: the objective's gradient, of each group, `[trajectories, steps + 1, coordinates]`, float64.
        observations: what a policy sees of these coordinates, one group after the other: for each of the steps.
        members: where each group's coordinates stand in the observations.
        group_of: the number of the group of each coordinate of the observations, `[coordinates]`.
        alive: `[trajectories, steps + 1]` bool.
        losses: on minibatches, `[trajectories, steps + 1]`.
    """

    groups: Sequence[int]
    states: Sequence[Tensor]
    actions: Sequence[Tensor]
    slopes: Sequence[Tensor]
    observations: list[Tree]
    members: Sequence[slice]
    group_of: Tensor
    alive: Tensor
    losses: Tensor

    @property
    def diverged(self) -> Tensor:
        """`[trajectories]` bool."""
        return ~self.alive[:, -1]

    def split(self, actions: Tensor) -> list[Tensor]:
        """Actions `[trajectories, steps, coordinates]` of all coordinates, by group, float64."""
        return [actions[..., part].double() for part in self.members]

    def start(self, policy: LearnedOptimizer) -> Tree:
        """A policy's state before the first step."""
        params = trees.select(self.observations[0], "params")
        state = policy.init_state(params, Stream(0, tasks=range(len(self.losses))))
        return {**state, "group": self.group_of.repeat(len(self.losses), 1)} if "group" in state else state

    @torch.no_grad()
    def means(self, policy: LearnedOptimizer) -> list[Tensor]:
        """The policy's actions along the trajectories, with a memory of its own: `[trajectories, steps, coordinates]`
        of each group."""
        state, found = self.start(policy), []
        for first in range(0, len(self.observations), AT_ONCE):
            actions, state = replay(policy, self.observations[first : first + AT_ONCE], state)
            found += [trees.flatten(action) for action in actions]
        return self.split(torch.stack(found, dim=1))


def losses_of(record: Record) -> tuple[Tensor, Tensor]:
    """Losses `[tasks, steps + 1]`, and bool of the same shape: all of a trajectory counts, or nothing."""
    losses = torch.stack([hidden["loss"] for hidden in record.privileged], dim=1)
    return losses, ~_diverged(losses, record.alive)[:, None].expand_as(losses)


def sample(
    process: Optimizee,
    driver: Driver,
    states: States,
    *,
    steps: int,
    features: StateFeatures,
    group: Tensor,
    coordinates: int,
    examples: int | None,
    rng: Stream,
) -> Samples:
    """Runs trajectories, and keeps a random choice of coordinates of each group.

    Args:
        process: at its start.
        driver: who drives.
        states: of those who drive.
        steps: of each trajectory.
        features: what local models see.
        group: number of each coordinate's group, `[coordinates of the process]`.
        coordinates: how many of a group are kept, at most.
        examples: the objective's gradient is the mean over so many examples; None for all.
        rng: what coordinates are drawn from.
    """
    record = rollout(process, driver, states, steps, record=READS)
    numbers = sorted(set(group.tolist()))
    generator = rng.torch_generator()
    chosen = []
    for number in numbers:
        place = (group == number).nonzero()[:, 0]
        chosen.append(place[torch.randperm(len(place), generator=generator)[:coordinates].sort().values])
    kept = torch.cat(chosen)
    ends = torch.tensor([0, *(len(place) for place in chosen)]).cumsum(0).tolist()
    members = [slice(start, stop) for start, stop in pairwise(ends)]
    losses, alive = losses_of(record)
    observations = []
    for seen in record.observations:
        grads, x = (trees.flatten(trees.select(seen, kind))[:, kept] for kind in ("grad", "params"))
        observations.append({"grad/coordinates": grads, "params/coordinates": x, "loss": seen["loss"]})
    remembered = features.begin(len(losses), len(kept), observations[0]["grad/coordinates"].double())
    shape = (len(losses), steps + 1, len(kept), features.states)
    every = torch.empty(shape, dtype=torch.float64, device=losses.device)  # 1.5 GB at the size of the paper, once
    for step, seen in enumerate(observations):
        double = {name: leaf.double() for name, leaf in seen.items()}
        every[:, step], remembered = features.observe(
            double["grad/coordinates"], double["params/coordinates"], double["loss"], remembered
        )
    actions = torch.stack([trees.flatten(action)[:, kept] for action in record.actions], dim=1).double()
    slopes = torch.stack([_slopes(process, seen, kept, examples) for seen in record.observations], dim=1)
    return Samples(
        groups=numbers,
        states=[every[:, :, part] for part in members],
        actions=[actions[..., part] for part in members],
        slopes=[slopes[..., part] for part in members],
        observations=observations[:-1],
        members=members,
        group_of=group[kept],
        alive=alive,
        losses=losses,
    )


def _slopes(process: Optimizee, seen: Tree, kept: Tensor, examples: int | None) -> Tensor:
    """The objective's gradient at the observed parameters, `[tasks, kept]`, float64."""
    params = trees.select(seen, "params")
    try:
        _, grads = true_value_and_grad(process.family, params, process.instance, examples=examples)
    except UnsupportedError as error:
        raise UnsupportedError(f"guided policy search needs the true objective: {error}") from error
    return trees.flatten(grads)[:, kept].double()


@torch.no_grad()
def mean_losses(process: Optimizee, driver: Driver, states: States, steps: int) -> tuple[float, float]:
    """The mean loss over all steps and trajectories, infinite if one diverges; and the share that diverged."""
    losses, alive = [], []
    for step in range(steps + 1):
        seen, hidden = process.observe()
        losses.append(hidden["loss"])
        alive.append(process.alive)
        if step < steps:
            action, states = driver(seen, states)
            process = process.apply(action)
    every = torch.stack(losses, dim=1)  # [trajectories, steps + 1]
    diverged = _diverged(every, torch.stack(alive, dim=1))
    return mean_loss(every, diverged), float(diverged.double().mean())


def mean_loss(losses: Tensor, diverged: Tensor) -> float:
    """Over all steps and trajectories `[trajectories, steps + 1]`; infinite if one has diverged, `[trajectories]`."""
    return math.inf if bool(diverged.any()) else float(losses.double().mean())


def _diverged(losses: Tensor, alive: Tensor) -> Tensor:
    """`[trajectories]` bool: who died, or had a loss of more than ten times the first; both given at all steps."""
    return ~alive.all(1) | held(losses)[1]


def at(controller: LinearGaussian, states: Sequence[Tensor]) -> list[Tensor]:
    """A controller's mean actions in sampled states: `[trajectories, steps, coordinates]` of each group."""
    return [
        torch.einsum("ntcs,ts->ntc", state[:, :-1], controller.K[g, :, 0]) + controller.k[g, :, 0][None, :, None]
        for g, state in enumerate(states)
    ]


def in_dtype(controller: LinearGaussian, dtype: torch.dtype) -> LinearGaussian:
    """A controller in another precision."""
    return replace(controller, K=controller.K.to(dtype), k=controller.k.to(dtype), G=controller.G.to(dtype))
