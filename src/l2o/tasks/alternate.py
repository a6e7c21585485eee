"""Task families with several losses and several groups of parameters: what a schedule alternates between."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.tasks.base import TaskFamily
from l2o.trees import Tree

Pair = tuple[str, str]
"""A loss and a group of parameters: the group is updated with respect to the loss."""


@dataclass(frozen=True)
class Choice:
    """One admissible action of a schedule: losses that update groups, all at the same parameters.

    Args:
        name: for people.
        pairs: (loss, group), each once.
        repeat: so many updates in a row, each on a minibatch of its own; at least 1.
        update: name of an update of the family's own, made at the same parameters as the pairs, or None: a step in
            closed form, for instance.
        cost: what one of these updates costs, in any unit; the run adds it up.

    Example:
        >>> Choice("generator", (("adversarial", "generator"),), repeat=4).repeat
        4
    """

    name: str
    pairs: tuple[Pair, ...] = ()
    repeat: int = 1
    update: str | None = None
    cost: float = 1.0

    def __post_init__(self) -> None:
        if not (self.pairs or self.update) or len(set(self.pairs)) < len(self.pairs):
            raise ArgumentError(
                f"choice {self.name!r} has pairs {self.pairs} and update {self.update}; give at least one pair, each "
                "once, or an update"
            )
        if self.repeat < 1:
            raise ArgumentError(f"choice {self.name!r} repeats {self.repeat} times; it must be at least 1")
        if not 0 <= self.cost < float("inf"):
            raise ArgumentError(f"choice {self.name!r} costs {self.cost}; it must be finite and not negative")


def every_subset(pairs: Sequence[Pair]) -> tuple[Choice, ...]:
    """A choice for each way to take some of the pairs, but not none: the whole decision matrix.

    Pair i is in choice j where bit i of j + 1 is set, as `Controller(decisions="independent")` counts them.

    Args:
        pairs: 1 to 10 of them.

    Example:
        >>> [choice.name for choice in every_subset([("mse", "model"), ("l1", "model")])]
        ['mse:model', 'l1:model', 'mse:model + l1:model']

    Source: AutoLoss (Xu et al. 2019), equation 1.
    """
    if not 1 <= len(pairs) <= 10:
        raise ArgumentError(f"{len(pairs)} pairs have {2 ** len(pairs) - 1} subsets; pass 1 to 10 pairs")
    subsets = [
        tuple(pair for place, pair in enumerate(pairs) if number >> place & 1) for number in range(1, 2 ** len(pairs))
    ]
    return tuple(Choice(" + ".join(map(":".join, subset)), subset) for subset in subsets)


@dataclass(frozen=True)
class Goal:
    """What a run is judged by: one of its family's metrics.

    Args:
        metric: its name.
        better: "lower" or "higher".
        at: "best" judges a run by its best validation, the one whose parameters would be kept; "last" by its last.

    Example:
        >>> Goal("accuracy", better="higher")
        Goal(metric='accuracy', better='higher', at='best')

    Source: AutoLoss (Xu et al. 2019) writes the last parameters; its public code takes the best.
    """

    metric: str
    better: Literal["lower", "higher"] = "lower"
    at: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        if self.better not in ("lower", "higher") or self.at not in ("best", "last"):
            raise ArgumentError(
                f"better is {self.better!r} and at {self.at!r}; choose 'lower' or 'higher', and 'best' or 'last'"
            )


class AlternateFamily(TaskFamily, ABC):
    """A distribution of small problems with losses l_1, l_2, ... and groups of parameters.

    A subclass gives `loss_named` for ONE task beside `init`. As a plain `TaskFamily` its loss is the sum of all: joint
    training.

    Args:
        losses: names of the losses.
        groups: name of each group to the names of its parameters; groups may overlap.
        choices: the admissible actions, in the order in which schedules count them.
        goal: what a run is judged by.
        updates: names of the family's own updates.

    Example:
        >>> class Tug(AlternateFamily):
        ...     name = "tug"
        ...
        ...     def __init__(self):
        ...         choices = [Choice(loss, ((loss, "model"),)) for loss in ("left", "right")]
        ...         super().__init__(
        ...             losses=("left", "right"), groups={"model": ["x"]}, choices=choices, goal=Goal("distance")
        ...         )
        ...
        ...     def init(self, instance, rng):
        ...         return {"x": rng.normal((1,))}
        ...
        ...     def loss_named(self, name, params, instance, batch):
        ...         return (params["x"] - {"left": -1.0, "right": 1.0}[name]).square().sum()
        ...
        ...     def metrics(self, params, instance):
        ...         return {"distance": params["x"].abs().sum(1)}
        >>> Tug().pairs
        (('left', 'model'), ('right', 'model'))
        >>> Tug().pair_value_and_grad(("right", "model"), {"x": torch.tensor([[3.0]])}, {}, {})
        (tensor([4.]), {'x': tensor([[4.]])})
    """

    def __init__(
        self,
        *,
        losses: Sequence[str],
        groups: Mapping[str, Sequence[str]],
        choices: Sequence[Choice],
        goal: Goal,
        updates: Sequence[str] = (),
    ) -> None:
        self.loss_names = tuple(losses)
        self.groups = {name: tuple(parameters) for name, parameters in groups.items()}
        self.goal, self.updates = goal, tuple(updates)
        self.choices = self._checked(choices)

    def with_choices(self, choices: Sequence[Choice]) -> Self:
        """The same family with other admissible actions: joint training, for instance."""
        other = copy.copy(self)
        other.choices = self._checked(choices)
        return other

    def _checked(self, choices: Sequence[Choice]) -> tuple[Choice, ...]:
        """The choices, or an error that says what is wrong with them."""
        if not choices:
            raise ArgumentError("choices is empty; a schedule needs at least one")
        for choice in choices:
            for loss, group in choice.pairs:
                if loss not in self.loss_names:
                    known = ", ".join(self.loss_names)
                    raise ArgumentError(f"choice {choice.name!r} names the loss {loss!r}; there are {known}")
                if group not in self.groups:
                    known = ", ".join(self.groups)
                    raise ArgumentError(f"choice {choice.name!r} names the group {group!r}; there are {known}")
            if choice.update is not None and choice.update not in self.updates:
                known = ", ".join(self.updates) or "none"
                raise ArgumentError(f"choice {choice.name!r} names the update {choice.update!r}; there are {known}")
        return tuple(choices)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every pair of every choice, each once."""
        return tuple(dict.fromkeys(pair for choice in self.choices for pair in choice.pairs))

    @abstractmethod
    def loss_named(self, name: str, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        """One of the losses of ONE task, a scalar: leaves without the tasks axis. Pure, and usable under vmap."""

    def losses_named(self, name: str, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        """One of the losses of every task: `[tasks]`."""
        return torch.func.vmap(lambda p, i, b: self.loss_named(name, p, i, b))(params, instance, batch)

    def updated(self, name: str, params: Tree, instance: Tree, batch: Tree) -> Tree:
        """New values of some parameters of ONE task, by one of the family's own updates. Pure, and usable under vmap.

        A family that names updates gives this.
        """
        del params, instance, batch
        raise ArgumentError(f"{type(self).__name__} names the update {name!r} and does not give `updated`")

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        """The sum of all losses."""
        return torch.stack([self.loss_named(name, params, instance, batch) for name in self.loss_names]).sum()

    def pair_value_and_grad(self, pair: Pair, params: Tree, instance: Tree, batch: Tree) -> tuple[Tensor, Tree]:
        """One loss of every task `[tasks]`, and its gradient to the parameters of one group, both detached.

        Raises:
            ArgumentError: the loss does not depend on the group.
        """
        loss, group = pair
        with torch.enable_grad():
            fixed = {name: leaf.detach() for name, leaf in params.items()}
            leaves = {name: fixed[name].requires_grad_() for name in self.groups[group]}
            values = self.losses_named(loss, {**fixed, **leaves}, instance, batch)
            if not values.requires_grad:
                raise ArgumentError(f"the loss {loss!r} does not reach the group {group!r}; name another pair")
            grads = torch.autograd.grad(values.sum(), list(leaves.values()), materialize_grads=True)
        return values.detach(), dict(zip(leaves, grads, strict=True))

    def group_size(self, group: str, params: Tree) -> int:
        """Coordinates of one task in a group."""
        return sum(math.prod(params[name].shape[1:]) for name in self.groups[group])
