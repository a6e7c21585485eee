"""Many runs of a small problem with several losses, as a process that a schedule drives."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from l2o import trees
from l2o.agent import Action
from l2o.errors import ArgumentError
from l2o.optimizers.base import LearnedOptimizer
from l2o.rng import Stream
from l2o.tasks.alternate import AlternateFamily, Pair
from l2o.trees import Tree

OptimizerState = Literal["group", "pair"]
"""Whose optimizer steps: one for each group, shared by all losses; or one for each pair of a loss and a group."""


@dataclass(frozen=True)
class Settings:
    """How a schedule's choices become updates.

    Args:
        optimizers: for each group, a rule that steps it.
        optimizer_state: "group" sums the gradients of a choice's pairs that share a group and lets the group's one
            optimizer step; "pair" gives every pair an optimizer of its own and sums their updates (the paper's equation
            1). They are the same for plain SGD alone; with Adam they are different training methods: L1 steps between
            steps on an error act as a penalty only where both share the moments.
        steps: choices of a run: what `progress` is a share of.
        validate_every: steps between validations.
        eager: measure every pair at every step, as the public code does, not only those of the choice taken. It costs
            about as much again for each pair.
    """

    optimizers: Mapping[str, LearnedOptimizer]
    optimizer_state: OptimizerState = "group"
    steps: int = 1000
    validate_every: int = 10
    eager: bool = False

    def __post_init__(self) -> None:
        if self.optimizer_state not in ("group", "pair"):
            raise ArgumentError(f"optimizer_state is {self.optimizer_state!r}; choose 'group' or 'pair'")
        if min(self.steps, self.validate_every) < 1:
            raise ArgumentError(
                f"steps is {self.steps} and validate_every {self.validate_every}; both must be at least 1"
            )


@dataclass(frozen=True)
class ReplicatedLosses:
    """A batch of tasks of an `AlternateFamily`, each under its own decisions.

    The action's leaf `choice` `[tasks]` says which of the family's choices each task takes. Every choice draws a fresh
    minibatch, the same whatever is chosen: schedules meet the same data. A task whose loss or gradient is not finite is
    dead from then on: it shows zeros, and its parameters stay as they are.

    It shows: `progress` `[tasks]`, the share of the run that is done; `loss/LOSS`, `gradient/LOSS:GROUP`, the norm of
    the gradient divided by the root of the group's size, and `age/LOSS`, steps since the loss was measured; a measure
    is that of the last step that used the pair, and all are taken once at the start. `metric/NAME` are those of the
    last validation, and `validated` is 1 at a step that follows one.

    Args:
        family: where the tasks come from.
        settings: how choices become updates.
        instance: the tasks' own data.
        params: current parameters, leaves `[tasks, ...]`.
        states: of the optimizers, leaves `OWNER/leaf` with the group, or LOSS:GROUP, as owner.
        measures: what it shows, `progress` aside.
        rng: the run's stream.
        step: choices taken so far.
        alive: `[tasks]` bool.
    """

    family: AlternateFamily
    settings: Settings
    instance: Tree
    params: Tree
    states: Tree
    measures: Tree
    rng: Stream
    step: int
    alive: Tensor

    @classmethod
    def start(
        cls, family: AlternateFamily, settings: Settings, rng: Stream, *, dtype: torch.dtype = torch.float32
    ) -> "ReplicatedLosses":
        """Draws the tasks of the stream and their initial parameters, and measures everything once."""
        missing = {group for _, group in family.pairs} - settings.optimizers.keys()
        if missing:
            raise ArgumentError(
                f"no optimizer for {', '.join(sorted(missing))}; there are {', '.join(settings.optimizers) or 'none'}"
            )
        instance = trees.to(family.sample(rng.child("instance")), "cpu", dtype)
        params = trees.to(family.init(instance, rng.child("init")), "cpu", dtype)
        tasks = len(rng.tasks)
        states: Tree = {}
        for pair in family.pairs:
            owner = _owner(pair, settings)
            group = {name: params[name] for name in family.groups[pair[1]]}
            fresh = settings.optimizers[pair[1]].init_state(group, rng.child("optimizer"))
            states |= {f"{owner}/{name}": leaf for name, leaf in fresh.items()}
        alive = torch.ones(tasks, dtype=torch.bool)
        process = cls(family, settings, instance, params, states, {}, rng, 0, alive)
        everyone = dict.fromkeys(family.pairs, alive)
        measured, _, finite = process._measure(everyone, 0)
        return replace(process, measures=measured | process._metrics(), alive=alive & finite)

    def observe(self) -> tuple[Tree, Tree]:
        first = next(iter(self.params.values()))
        progress = torch.full((len(self.alive),), self.step / self.settings.steps, dtype=first.dtype)
        shown = {name: torch.where(self.alive, leaf, 0.0) for name, leaf in self.measures.items()}
        total = torch.stack([shown[f"loss/{name}"] for name in self.family.loss_names]).sum(0)
        return {"progress": progress, **shown}, {"loss": total, "alive": self.alive}

    def apply(self, action: Action) -> "ReplicatedLosses":
        choice = action["choice"]
        choices = self.family.choices
        params, states, alive = self.params, self.states, self.alive
        measures = {name: leaf + 1 if name.startswith("age/") else leaf for name, leaf in self.measures.items()}
        for turn in range(max(entry.repeat for entry in choices)):
            used = {
                pair: alive & torch.isin(choice, _places(choices, pair, turn)) for pair in self.family.pairs
            }  # [tasks] each
            if not any(bool(mask.any()) for mask in used.values()):
                break
            here = replace(self, params=params, states=states, measures=measures, alive=alive)
            measures, grads, finite = here._measure(used, turn)
            alive = alive & finite
            params, states = here._updated({pair: mask & finite for pair, mask in used.items()}, grads)
        after = replace(self, params=params, states=states, measures=measures, alive=alive, step=self.step + 1)
        due = after.step % self.settings.validate_every == 0
        fresh = after._metrics() if due else {"validated": torch.zeros_like(self.measures["validated"])}
        return replace(after, measures=measures | fresh)

    def _measure(self, used: Mapping[Pair, Tensor], turn: int) -> tuple[Tree, dict[Pair, Tree], Tensor]:
        """Measures with those of the pairs in use renewed, the gradients of these pairs, and who is still finite."""
        batch = self._batch(turn)
        measures, grads = dict(self.measures), {}
        finite = torch.ones_like(self.alive)
        for pair, mask in used.items():
            if not (self.settings.eager or bool(mask.any())):
                continue
            values, grad = self.family.pair_value_and_grad(pair, self.params, self.instance, batch)
            size = math.sqrt(self.family.group_size(pair[1], self.params))
            finite &= ~mask | (torch.isfinite(values) & trees.finite_tasks(grad))
            renewed = torch.ones_like(mask) if self.settings.eager else mask
            fresh = {
                f"loss/{pair[0]}": values,
                f"gradient/{pair[0]}:{pair[1]}": trees.norms(grad) / size,
                f"age/{pair[0]}": torch.zeros_like(values),
            }
            for name, leaf in fresh.items():
                measures[name] = torch.where(renewed, leaf, measures.get(name, leaf))
            grads[pair] = grad
        return measures, grads, finite

    def _updated(self, used: Mapping[Pair, Tensor], grads: Mapping[Pair, Tree]) -> tuple[Tree, Tree]:
        """Parameters and optimizer states after one update, all gradients taken at the same parameters."""
        owners: dict[str, list[Pair]] = {}
        for pair, mask in used.items():
            if bool(mask.any()):
                owners.setdefault(_owner(pair, self.settings), []).append(pair)
        params, states = dict(self.params), dict(self.states)
        for owner, pairs in owners.items():
            group = pairs[0][1]
            total = {
                name: torch.stack([_masked(used[pair], grads[pair][name]) for pair in pairs]).sum(0)
                for name in self.family.groups[group]
            }
            touched = torch.stack([used[pair] for pair in pairs]).any(0)
            old = trees.select(self.states, owner)
            update, new = self.settings.optimizers[group](trees.join(grad=total), old)
            states |= trees.join(**{owner: trees.where_tasks(touched, new, old)})
            here = {name: params[name] for name in update}
            params |= trees.where_tasks(touched, trees.map_leaves(torch.add, here, update), here)
        return params, states

    def _batch(self, turn: int) -> Tree:
        stream = self.rng.child("batch") if turn == 0 else self.rng.child(f"batch {turn}")
        leaf = next(iter(self.params.values()))
        indices = self.family.batch_indices(self.instance, stream.at(step=self.step))
        return trees.to(self.family.gather(indices), leaf.device, leaf.dtype)

    def _metrics(self) -> Tree:
        metrics = {f"metric/{name}": leaf for name, leaf in self.family.metrics(self.params, self.instance).items()}
        old = {name: self.measures.get(name, leaf) for name, leaf in metrics.items()}
        first = next(iter(self.params.values()))
        return {
            **{name: torch.where(torch.isfinite(leaf), leaf, old[name]) for name, leaf in metrics.items()},
            "validated": torch.ones(len(self.alive), dtype=first.dtype),
        }


def _owner(pair: Pair, settings: Settings) -> str:
    return pair[1] if settings.optimizer_state == "group" else ":".join(pair)


def _places(choices: tuple, pair: Pair, turn: int) -> Tensor:
    """The numbers of the choices that use a pair at this repetition."""
    return torch.tensor([i for i, choice in enumerate(choices) if pair in choice.pairs and turn < choice.repeat])


def _masked(mask: Tensor, leaf: Tensor) -> Tensor:
    return torch.where(mask.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0.0)
