"""One split of a labelled image set, in memory."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from l2o.errors import DataError

Split = Literal["train", "test"]


# eq=False: comparing two tensors gives a tensor, not a truth value.
@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a labelled image set.

    Args:
        name: name of the set, for instance `"mnist"`.
        inputs: uint8 in 0..255, `[examples, height, width]` grey or `[examples, channels, height, width]` colour.
        labels: int64 in 0..classes-1, `[examples]`.
        classes: how many classes the set has.
        complete: whether these are all examples of the published split.
        note: exactly which part was read, for the records of results.

    Raises:
        DataError: if the parts do not fit each other.

    Example:
        >>> images, labels = torch.zeros(3, 28, 28, dtype=torch.uint8), torch.tensor([0, 1, 1])
        >>> Dataset("mine", images, labels, classes=2, complete=True, note="three black images").labels.bincount()
        tensor([1, 2])
    """

    name: str
    inputs: Tensor
    labels: Tensor
    classes: int
    complete: bool
    note: str

    def __post_init__(self) -> None:
        if self.inputs.dtype != torch.uint8 or self.labels.dtype != torch.int64:
            found = f"{self.inputs.dtype} and {self.labels.dtype}"
            raise DataError(f"{self.name}: inputs and labels are {found}; convert them to torch.uint8 and torch.int64")
        if self.inputs.ndim < 2 or self.labels.shape != self.inputs.shape[:1] or len(self.labels) == 0:
            found = f"{tuple(self.inputs.shape)} and {tuple(self.labels.shape)}"
            raise DataError(
                f"{self.name}: inputs and labels are {found}; pass [examples, ...] and [examples], not empty"
            )
        smallest, largest = int(self.labels.min()), int(self.labels.max())
        if smallest < 0 or largest >= self.classes:
            found = f"{smallest}..{largest}"
            raise DataError(
                f"{self.name}: labels are {found}; with {self.classes} classes they are 0..{self.classes - 1}"
            )
