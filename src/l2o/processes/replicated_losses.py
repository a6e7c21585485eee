"""Many runs of a small problem with several losses, as a process that a schedule drives."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from l2o import trees
from l2o.agent import Action
from l2o.errors import ArgumentError
from l2o.optimizers.base import LearnedOptimizer
from l2o.processes.judging import Judgement, Outcome
from l2o.rng import Stream
from l2o.tasks.alternate import AlternateFamily, Choice, Pair
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
        validate_every: steps between validations.
        patience: validations without a better one after which a run is finished, or None.
        collapse_after: the same choice so many times in a row ends a run as collapsed, or None.
        common: all runs of a batch have the same problem, the same start and the same minibatches, those of the first
            task of the stream, and differ by their decisions alone.
        eager: measure every pair at every step, as the public code does, not only those of the choice taken. It costs
            about as much again for each pair.

    Example:
        >>> from l2o.optimizers.handcrafted import Adam
        >>> settings = Settings({"model": Adam(5e-4)}, common=True)
        >>> settings.optimizer_state, settings.validate_every
        ('group', 10)
    """

    optimizers: Mapping[str, LearnedOptimizer]
    optimizer_state: OptimizerState = "group"
    validate_every: int = 10
    patience: int | None = None
    collapse_after: int | None = None
    common: bool = False
    eager: bool = False

    def __post_init__(self) -> None:
        if self.optimizer_state not in ("group", "pair"):
            raise ArgumentError(f"optimizer_state is {self.optimizer_state!r}; choose 'group' or 'pair'")
        for name in ("validate_every", "patience", "collapse_after"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True)
class ReplicatedLosses:
    """A batch of tasks of an `AlternateFamily`, each under its own decisions.

    The action's leaf `choice` `[tasks]` says which of the family's choices each task takes. Every choice draws a fresh
    minibatch, the same whatever is chosen: schedules meet the same data. A task that is not RUNNING shows zeros, and
    its parameters stay as they are: one whose loss, gradient or goal is not finite has DIVERGED, one without a better
    validation for as long as its patience lasts is FINISHED, one that took one choice too often in a row COLLAPSED.

    It shows: `progress` `[tasks]`, the share of the run that is done; `loss/LOSS`, `gradient/LOSS:GROUP`, the norm of
    the gradient divided by the root of the group's size, and `age/LOSS`, steps since the loss was measured; a measure
    is that of the last step that used the pair, and all are taken once at the start. `metric/NAME` are those of the
    last validation, `validated` is 1 at a step that follows one, and `cost` is that of all choices so far.

    Args:
        family: where the tasks come from.
        settings: how choices become updates.
        steps: choices of a run: what `progress` is a share of.
        instance: the tasks' own data.
        params: current parameters, leaves `[tasks, ...]`.
        states: of the optimizers, leaves `OWNER/leaf` with the group, or LOSS:GROUP, as owner.
        measures: what it shows, `progress` aside.
        judgement: what the validations have shown.
        outcome: `[tasks]`, of `Outcome`.
        repeats: `[tasks, 2]`, the last choice and how often in a row it was taken.
        rng: the run's stream.
        step: choices taken so far.

    Example:
        >>> from l2o import Adam, QuadraticRegression
        >>> settings = Settings({"model": Adam(1e-3)})
        >>> process = ReplicatedLosses.start(QuadraticRegression(0.4), settings, Stream(0, tasks=range(2)), steps=10)
        >>> process = process.apply({"choice": torch.tensor([0, 1])})  # one run by the error, one by the penalty
        >>> process.observe()[0]["progress"], process.alive
        (tensor([0.1000, 0.1000]), tensor([True, True]))
    """

    family: AlternateFamily
    settings: Settings
    steps: int
    instance: Tree
    params: Tree
    states: Tree
    measures: Tree
    judgement: Judgement
    outcome: Tensor
    repeats: Tensor
    rng: Stream
    step: int

    @classmethod
    def start(
        cls,
        family: AlternateFamily,
        settings: Settings,
        rng: Stream,
        *,
        steps: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "ReplicatedLosses":
        """Draws the tasks of the stream and their initial parameters, and measures everything once.

        Raises:
            ArgumentError: a group has no optimizer, or the family no metric of its goal's name.
        """
        if steps < 1:
            raise ArgumentError(f"steps is {steps}; a run takes at least 1")
        missing = {group for _, group in family.pairs} - settings.optimizers.keys()
        if missing:
            raise ArgumentError(
                f"no optimizer for {', '.join(sorted(missing))}; there are {', '.join(settings.optimizers) or 'none'}"
            )
        drawn = _drawn(rng, settings)
        instance = trees.to(family.sample(drawn.child("instance")), device, dtype)
        params = trees.to(family.init(instance, drawn.child("init")), device, dtype)
        states: Tree = {}
        for pair in family.pairs:
            owner = _owner(pair, settings)
            group = {name: params[name] for name in family.groups[pair[1]]}
            fresh = settings.optimizers[pair[1]].init_state(group, drawn.child("optimizer"))
            states |= {f"{owner}/{name}": leaf for name, leaf in fresh.items()}
        metrics = family.metrics(params, instance)
        if family.goal.metric not in metrics:
            raise ArgumentError(
                f"{family.name} is judged by {family.goal.metric!r} and has the metrics {', '.join(metrics) or 'none'}"
            )
        everyone = torch.ones(len(rng.tasks), dtype=torch.bool, device=device)
        outcome = torch.where(torch.isfinite(metrics[family.goal.metric]), Outcome.RUNNING, Outcome.DIVERGED)
        process = cls(
            family, settings, steps, instance, params, states, {}, Judgement.of(metrics, family.goal), outcome,
            torch.zeros(len(everyone), 2, dtype=torch.int64, device=device), rng, 0,
        )  # fmt: skip
        measures, _, finite = process._measure(dict.fromkeys(family.pairs, everyone), process._batch(0))
        first = next(iter(params.values()))
        none = torch.zeros(len(everyone), dtype=first.dtype, device=device)
        measures |= {"cost": none, "validated": none + 1, **trees.join(metric=metrics)}
        return replace(process, measures=measures, outcome=_ended(outcome, ~finite, Outcome.DIVERGED))

    @property
    def alive(self) -> Tensor:
        return self.outcome == Outcome.RUNNING

    @property
    def survivors(self) -> Tensor:
        return self.alive

    def observe(self) -> tuple[Tree, Tree]:
        alive = self.alive
        progress = torch.full_like(self.measures["validated"], self.step / self.steps)
        shown = self.measures
        if not bool(alive.all()):
            shown = {name: torch.where(alive, leaf, 0.0) for name, leaf in shown.items()}
        total = torch.stack(list(trees.select(shown, "loss").values())).sum(0)
        return {"progress": progress, **shown}, {"loss": total}

    def metrics(self) -> Tree:
        """The metrics of the last validation, each `[tasks]`, also of runs that have ended."""
        return trees.select(self.measures, "metric")

    def apply(self, action: Action) -> "ReplicatedLosses":
        choice, choices = action["choice"], self.family.choices
        alive = self.alive
        measures = {name: leaf + 1 if name.startswith("age/") else leaf for name, leaf in self.measures.items()}
        measures["cost"] = measures["cost"] + torch.where(alive, _costs(choices).to(measures["cost"])[choice], 0.0)
        after = replace(self, measures=measures)
        for turn in range(max(entry.repeat for entry in choices)):
            after = after._turn(choice, turn)
        same = choice == self.repeats[:, 0]
        repeats = torch.stack([choice, torch.where(same, self.repeats[:, 1] + 1, 1)], dim=1)
        outcome = after.outcome
        if self.settings.collapse_after is not None:
            outcome = _ended(outcome, repeats[:, 1] > self.settings.collapse_after, Outcome.COLLAPSED)
        after = replace(after, outcome=outcome, repeats=repeats, step=self.step + 1)
        if after.step % self.settings.validate_every == 0 or after.step == self.steps:
            return after._validated()
        return replace(after, measures=after.measures | {"validated": torch.zeros_like(measures["validated"])})

    def snapshot(self) -> Tree:
        """What the stream cannot redraw, for a checkpoint."""
        return {
            **trees.join(
                params=self.params, states=self.states, measures=self.measures, judgement=self.judgement.tree()
            ),
            "outcome": self.outcome,
            "repeats": self.repeats,
        }

    def restored(self, snapshot: Tree, step: int) -> "ReplicatedLosses":
        """This run at the step at which `snapshot` was taken; leaves come in the order that they have here."""
        found = {
            kind: {name: snapshot[f"{kind}/{name}"] for name in getattr(self, kind)}
            for kind in ("params", "states", "measures")
        }
        judgement = {name: snapshot[f"judgement/{name}"] for name in self.judgement.tree()}
        return replace(
            self,
            **found,
            judgement=Judgement.from_tree(judgement),
            outcome=snapshot["outcome"],
            repeats=snapshot["repeats"],
            step=step,
        )

    def _turn(self, choice: Tensor, turn: int) -> "ReplicatedLosses":
        """After one update of each task, all at the same parameters; a task whose choice has had its turns rests."""
        choices, alive = self.family.choices, self.alive
        acting = {
            pair: alive & _places(choices, pair, turn).to(choice.device)[choice] for pair in self.family.pairs
        }  # [tasks] each
        used = {pair: mask for pair, mask in acting.items() if bool(mask.any())}
        own = [
            (entry.update, alive & (choice == number))
            for number, entry in enumerate(choices)
            if entry.update is not None and turn < entry.repeat and bool((alive & (choice == number)).any())
        ]
        if not used and not own:
            return self
        batch = self._batch(turn)
        measures, grads, finite = self._measure(acting if self.settings.eager else used, batch)
        params, states = self._stepped({pair: mask & finite for pair, mask in used.items()}, grads)
        for name, mask in own:
            fresh = torch.func.vmap(lambda p, i, b, name=name: self.family.updated(name, p, i, b))(
                self.params, self.instance, batch
            )
            finite = finite & (~mask | trees.finite_tasks(fresh))
            params |= trees.where_tasks(mask & finite, fresh, {leaf: params[leaf] for leaf in fresh})
        outcome = _ended(self.outcome, ~finite, Outcome.DIVERGED)
        return replace(self, params=params, states=states, measures=measures, outcome=outcome)

    def _validated(self) -> "ReplicatedLosses":
        """After a validation."""
        metrics = self.family.metrics(self.params, self.instance)
        outcome = _ended(self.outcome, ~torch.isfinite(metrics[self.family.goal.metric]), Outcome.DIVERGED)
        alive = outcome == Outcome.RUNNING
        judgement = self.judgement.after(metrics, self.family.goal, self.step, alive)
        if self.settings.patience is not None:
            outcome = _ended(outcome, judgement.waited >= self.settings.patience, Outcome.FINISHED)
        shown = {
            f"metric/{name}": torch.where(alive, leaf, self.measures[f"metric/{name}"])
            for name, leaf in metrics.items()
        }
        measures = self.measures | shown | {"validated": torch.ones_like(self.measures["validated"])}
        return replace(self, measures=measures, judgement=judgement, outcome=outcome)

    def _measure(self, used: Mapping[Pair, Tensor], batch: Tree) -> tuple[Tree, dict[Pair, Tree], Tensor]:
        """Measures with those of the pairs in use renewed, the gradients of these pairs, and who is still finite."""
        measures, grads = dict(self.measures), {}
        finite = torch.ones_like(self.outcome, dtype=torch.bool)
        for pair, mask in used.items():
            values, grad = self.family.pair_value_and_grad(pair, self.params, self.instance, batch)
            size = math.sqrt(self.family.group_size(pair[1], self.params))
            finite &= ~mask | (torch.isfinite(values) & trees.finite_tasks(grad))
            everyone = self.settings.eager or bool(mask.all())
            fresh = {
                f"loss/{pair[0]}": values,
                f"gradient/{pair[0]}:{pair[1]}": trees.norms(grad) / size,
                f"age/{pair[0]}": torch.zeros_like(values),
            }
            for name, leaf in fresh.items():
                measures[name] = leaf if everyone else torch.where(mask, leaf, measures.get(name, leaf))
            grads[pair] = grad
        return measures, grads, finite

    def _stepped(self, used: Mapping[Pair, Tensor], grads: Mapping[Pair, Tree]) -> tuple[Tree, Tree]:
        """Parameters and optimizer states after one update, all gradients taken at the same parameters."""
        owners: dict[str, list[Pair]] = {}
        for pair in used:
            owners.setdefault(_owner(pair, self.settings), []).append(pair)
        params, states = dict(self.params), dict(self.states)
        for owner, pairs in owners.items():
            group = pairs[0][1]
            total = grads[pairs[0]]
            if len(pairs) > 1:
                masked = [trees.map_leaves(lambda leaf, m=used[p]: _masked(m, leaf), grads[p]) for p in pairs]
                total = {name: torch.stack([grad[name] for grad in masked]).sum(0) for name in total}
            touched = torch.stack([used[pair] for pair in pairs]).any(0)
            old = trees.select(self.states, owner)
            update, new = self.settings.optimizers[group](trees.join(grad=total), old)
            states |= trees.join(**{owner: trees.where_tasks(touched, new, old)})
            here = {name: params[name] for name in update}
            params |= trees.where_tasks(touched, trees.map_leaves(torch.add, here, update), here)
        return params, states

    def _batch(self, turn: int) -> Tree:
        rng = _drawn(self.rng, self.settings)
        stream = rng.child("batch") if turn == 0 else rng.child(f"batch {turn}")
        leaf = next(iter(self.params.values()))
        indices = self.family.batch_indices(self.instance, stream.at(step=self.step))
        return trees.to(self.family.gather(indices), leaf.device, leaf.dtype)


def _drawn(rng: Stream, settings: Settings) -> Stream:
    """The stream that problems, starts and minibatches come from."""
    return rng.over([rng.tasks[0]] * len(rng.tasks)) if settings.common else rng


def _ended(outcome: Tensor, which: Tensor, how: Outcome) -> Tensor:
    """The outcomes where those of `which` that were running have ended."""
    if not bool(which.any()):
        return outcome
    return torch.where(which & (outcome == Outcome.RUNNING), int(how), outcome)


def _owner(pair: Pair, settings: Settings) -> str:
    return pair[1] if settings.optimizer_state == "group" else ":".join(pair)


@lru_cache(maxsize=64)
def _places(choices: tuple[Choice, ...], pair: Pair, turn: int) -> Tensor:
    """Which choices use a pair at this repetition, `[choices]` bool."""
    return torch.tensor([pair in choice.pairs and turn < choice.repeat for choice in choices])


@lru_cache(maxsize=64)
def _costs(choices: tuple[Choice, ...]) -> Tensor:
    """What each choice costs, its repetitions together, `[choices]`."""
    return torch.tensor([choice.repeat * choice.cost for choice in choices])


def _masked(mask: Tensor, leaf: Tensor) -> Tensor:
    return torch.where(mask.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0.0)
