"""What a controller sees of a training process: features made of its measures."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from l2o.errors import ArgumentError
from l2o.trees import Tree


class Features(nn.Module, ABC):
    """Turns measures into a row of numbers for each task; what it remembers is in its state.

    It has no meta-parameters: what is fixed from training, as a normaliser, is a buffer.
    """

    width: int
    """How many numbers."""

    @abstractmethod
    def begin(self, tasks: int) -> Tree:
        """The state before the first step, leaves `[tasks, ...]`."""

    @abstractmethod
    def forward(self, observation: Tree, state: Tree) -> tuple[Tensor, Tree]:
        """Features `[tasks, width]` and the next state."""


class PaperFeatures(Features):
    """Progress; each pair's gradient and each loss as last measured; the validation, its average, its average change.

    Gradients are norms divided by the root of the group's size. The averages are exponential, of decay `beta` for each
    validation; before the first, they are the validation at the start, and 0.

    Args:
        pairs: (loss, group) of every gradient.
        losses: names of the losses.
        metric: the validation's name.
        beta: decay of the averages, in [0, 1).

    Source: AutoLoss (Xu et al. 2019), section 4, the features of regression and classification. The decay is given
    nowhere.
    """

    def __init__(
        self, pairs: Sequence[tuple[str, str]], losses: Sequence[str], metric: str, *, beta: float = 0.9
    ) -> None:
        super().__init__()
        if not 0 <= beta < 1:
            raise ArgumentError(f"beta is {beta}; it must lie in [0, 1)")
        self.pairs, self.losses, self.metric, self.beta = tuple(pairs), tuple(losses), metric, beta
        self.width = 1 + len(self.pairs) + len(self.losses) + 3

    def begin(self, tasks: int) -> Tree:
        return {"seen": torch.zeros(tasks, 3), "begun": torch.zeros(tasks)}  # validation, its average, average change

    def forward(self, observation: Tree, state: Tree) -> tuple[Tensor, Tree]:
        value = observation[f"metric/{self.metric}"]
        last, average, change = state["seen"].to(value).unbind(1)
        begun = state["begun"].to(value)
        renewed = observation["validated"]
        averaged = torch.where(begun > 0, self.beta * average + (1 - self.beta) * value, value)
        changed = torch.where(begun > 0, self.beta * change + (1 - self.beta) * (value - last), torch.zeros_like(value))
        fresh = torch.stack([value, averaged, changed], dim=1)
        seen = torch.where((renewed > 0)[:, None], fresh, torch.stack([last, average, change], dim=1))
        columns = [
            observation["progress"],
            *(observation[f"gradient/{loss}:{group}"] for loss, group in self.pairs),
            *(observation[f"loss/{name}"] for name in self.losses),
        ]
        row = torch.cat([torch.stack(columns, dim=1), seen], dim=1)
        return row, {"seen": seen, "begun": torch.maximum(begun, renewed)}


class MeasureFeatures(Features):
    """Measures of the process by name, as they are.

    Args:
        names: of the observation's leaves, for instance "progress" or "loss/mse".
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        if not names:
            raise ArgumentError("names is empty; a controller needs at least one feature")
        self.names = tuple(names)
        self.width = len(self.names)

    def begin(self, tasks: int) -> Tree:
        return {"tasks": torch.zeros(tasks)}

    def forward(self, observation: Tree, state: Tree) -> tuple[Tensor, Tree]:
        missing = [name for name in self.names if name not in observation]
        if missing:
            raise ArgumentError(f"no measure {', '.join(missing)}; the process shows {', '.join(observation)}")
        return torch.stack([observation[name] for name in self.names], dim=1), state
