"""Schedules that nobody trained: in turn, at a constant rate, by a threshold, as recorded."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l2o.agent import Action
from l2o.errors import ArgumentError
from l2o.schedules.base import Schedule
from l2o.trees import Tree


class InTurn(Schedule):
    """Goes through a list of choices again and again: round robin, or any ratio.

    Args:
        order: numbers of choices; (0, 1) alternates, (0, 1, 1, 1) is 1:3.
        choices: how many there are; by default as many as the order names.

    Example:
        >>> InTurn.ratio(1, 3).order
        (0, 1, 1, 1)
    """

    def __init__(self, order: Sequence[int], *, choices: int | None = None) -> None:
        if not order or min(order) < 0:
            raise ArgumentError(f"order is {tuple(order)}; name at least one choice, counted from 0")
        super().__init__(max(order) + 1 if choices is None else choices)
        if max(order) >= self.choices:
            raise ArgumentError(f"order {tuple(order)} names choice {max(order)}; there are {self.choices}, from 0")
        self.order, self._numbers = tuple(order), torch.tensor(order)
        self.name = "in turn " + " ".join(map(str, self.order))

    def config(self) -> dict[str, Any]:
        return {"order": list(self.order), "choices": self.choices}

    @classmethod
    def ratio(cls, *counts: int) -> "InTurn":
        """The first choice so many times, then the second so many times, and so on."""
        return cls([number for number, count in enumerate(counts) for _ in range(count)], choices=len(counts))

    def begin(self, tasks: int) -> Tree:
        return {"place": torch.zeros(tasks, dtype=torch.int64)}

    def forward(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        place = {"place": (state["place"] + 1) % len(self.order)}
        return certain(self._numbers[state["place"]], self.choices), place


class ConstantRates(Schedule):
    """Each choice has a probability that never changes.

    Args:
        probabilities: one for each choice, not negative, of sum 1.

    Example:
        >>> ConstantRates.coin(0.2).probabilities
        (0.2, 0.8)
    """

    def __init__(self, probabilities: Sequence[float]) -> None:
        super().__init__(len(probabilities))
        if min(probabilities) < 0 or abs(sum(probabilities) - 1) > 1e-6:
            raise ArgumentError(f"probabilities are {tuple(probabilities)}; they must be >= 0 and add up to 1")
        self.probabilities = tuple(probabilities)
        self.name = "rates " + " ".join(f"{value:g}" for value in self.probabilities)

    def config(self) -> dict[str, Any]:
        return {"probabilities": list(self.probabilities)}

    @classmethod
    def coin(cls, first: float) -> "ConstantRates":
        """Two choices, the first with this probability."""
        return cls((first, 1 - first))

    def begin(self, tasks: int) -> Tree:
        return {"tasks": torch.zeros(tasks)}

    def forward(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        logs = torch.tensor(self.probabilities).log()
        return {"log_probability": logs.expand(len(state["tasks"]), -1)}, state


class Threshold(Schedule):
    """Takes the second of two choices where one loss exceeds another by a share: (second - first) / first > threshold.

    Args:
        first: name of the loss of choice 0.
        second: name of the loss of choice 1.
        threshold: of the relative excess.

    Example:
        >>> rule = Threshold("generator", "discriminator", 1.0)
        >>> rule.measures
        ('loss/generator', 'loss/discriminator')
        >>> losses = {"loss/generator": torch.tensor([1.0, 1.0]), "loss/discriminator": torch.tensor([1.5, 2.5])}
        >>> rule(losses, rule.begin(2))[0]["log_probability"].argmax(1)
        tensor([0, 1])

    Source: the rule "S1" of the reproducibility challenge on AutoLoss, with its thresholds 1 and 500.
    """

    def __init__(self, first: str, second: str, threshold: float) -> None:
        super().__init__(2)
        self.first, self.second, self.threshold = first, second, threshold
        self.name = f"threshold {threshold:g}"

    def config(self) -> dict[str, Any]:
        return {"first": self.first, "second": self.second, "threshold": self.threshold}

    @property
    def measures(self) -> tuple[str, ...]:
        return (f"loss/{self.first}", f"loss/{self.second}")

    def begin(self, tasks: int) -> Tree:
        return {"tasks": torch.zeros(tasks)}

    def forward(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        first, second = observation[f"loss/{self.first}"], observation[f"loss/{self.second}"]
        return certain((second - first > self.threshold * first).long(), 2), state


class Recorded(Schedule):
    """Repeats recorded decisions, step by step.

    Args:
        decisions: numbers of choices, one for each step; or for each step one for each task.
        choices: how many there are.

    Raises:
        ArgumentError: at a step beyond the record.

    Example:
        >>> rule = Recorded([0, 1, 1], choices=2)
        >>> action, _ = rule({}, rule.begin(2))
        >>> action["log_probability"].argmax(1)
        tensor([0, 0])
    """

    name = "recorded"

    def __init__(self, decisions: Sequence[int] | Sequence[Sequence[int]] | Tensor, choices: int) -> None:
        super().__init__(choices)
        record = torch.as_tensor(decisions)
        if record.ndim not in (1, 2) or not record.numel() or int(record.min()) < 0:
            raise ArgumentError(f"decisions have shape {tuple(record.shape)}; pass [steps, tasks], counted from 0")
        if int(record.max()) >= choices:
            raise ArgumentError(f"decisions name choice {int(record.max())}; there are {choices}, counted from 0")
        self.decisions = record if record.ndim == 2 else record[:, None]

    def config(self) -> dict[str, Any]:
        return {"decisions": self.decisions.tolist(), "choices": self.choices}

    def begin(self, tasks: int) -> Tree:
        if self.decisions.shape[1] not in (1, tasks):
            raise ArgumentError(f"the record is of {self.decisions.shape[1]} runs; {tasks} cannot follow it")
        return {"place": torch.zeros(tasks, dtype=torch.int64)}

    def forward(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        place = int(state["place"].max())
        if place >= len(self.decisions):
            raise ArgumentError(f"the record ends after {len(self.decisions)} decisions; record more, or run fewer")
        return certain(self.decisions[place].expand(len(state["place"])), self.choices), {"place": state["place"] + 1}


class RatesInTime(Schedule):
    """Each choice has a probability that depends on the share of the run that is done, and on nothing else.

    Args:
        rates: one row of probabilities for each part of the run; the parts are equally long.

    Example:
        >>> RatesInTime([[0.5, 0.5], [0.1, 0.9]]).choices
        2
    """

    def __init__(self, rates: Sequence[Sequence[float]]) -> None:
        super().__init__(len(rates[0]) if rates else 0)
        for row in rates:
            if len(row) != self.choices or min(row) < 0 or abs(sum(row) - 1) > 1e-4:
                raise ArgumentError(f"a row of rates is {tuple(row)}; {self.choices} numbers >= 0 that add up to 1")
        self.rates = [list(row) for row in rates]
        self.name = f"rates in {len(rates)} parts of a run"

    def config(self) -> dict[str, Any]:
        return {"rates": self.rates}

    @property
    def measures(self) -> tuple[str, ...]:
        return ("progress",)

    def begin(self, tasks: int) -> Tree:
        return {"tasks": torch.zeros(tasks)}

    def forward(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        progress = observation["progress"]
        part = (progress * len(self.rates)).long().clamp(0, len(self.rates) - 1)
        return {"log_probability": torch.tensor(self.rates).to(progress).log()[part]}, state


def certain(choice: Tensor, choices: int) -> Action:
    """The distribution that takes `choice` `[tasks]` for sure."""
    one = choice[:, None] == torch.arange(choices)  # one_hot checks its argument, at the cost of all the rest
    return {"log_probability": torch.where(one, 0.0, -torch.inf)}
