"""Means over more examples than fit into memory at once."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def mean_over_parts(total: Callable[[Tensor], Tensor], examples: int, *, at_once: int = 5_000) -> Tensor:
    """The mean of a measure over examples 0, ..., examples - 1: `[tasks]`.

    The parts are equal but for one example: normalisation over a batch refuses a remainder of a single one.

    Args:
        total: from the indices of a part, `[part]`, to the sum of the measure over it, `[tasks]`.
        examples: how many there are, at least 1.
        at_once: examples in a part, at most.

    Example:
        >>> mean_over_parts(lambda part: part.double().sum()[None], 9, at_once=4)
        tensor([4.], dtype=torch.float64)
    """
    parts = torch.arange(examples).tensor_split(math.ceil(examples / at_once))
    return sum((total(part) for part in parts), torch.zeros(())) / examples
