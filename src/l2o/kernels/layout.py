"""How a recurrent state lies in memory: neighbouring coordinates side by side, whatever the kernel.

A state leaf is `[tasks, coordinates, hidden]` for everyone who indexes it. Packed, it is a view of a matrix
`[hidden, tasks * coordinates]`, so that a vector register loads one unit of neighbouring coordinates.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from l2o.trees import Tree

_LINE = 16
_PERIOD = 1024


def pack(state: Mapping[str, Tensor]) -> Tree:
    """A copy of the state, packed. Leaves without a hidden axis become contiguous."""
    return {
        name: _packed(leaf).copy_(leaf) if leaf.ndim == 3 else leaf.clone(memory_format=torch.contiguous_format)
        for name, leaf in state.items()
    }


def unpack(state: Mapping[str, Tensor]) -> Tree:
    """The state with every leaf contiguous in the order of its axes, as files hold it; packed or not, equal numbers."""
    return {name: leaf.contiguous() for name, leaf in state.items()}


def is_packed(leaf: Tensor) -> bool:
    """Whether a leaf `[tasks, coordinates, ...]` can be read as rows over all tasks' coordinates."""
    tasks, coordinates = leaf.shape[:2]
    return (coordinates == 1 or leaf.stride(1) == 1) and (tasks == 1 or leaf.stride(0) == coordinates)


def row_stride(leaf: Tensor) -> int:
    """Elements from one row of a packed leaf to the next; 0 for a leaf without a hidden axis."""
    return leaf.stride(2) if leaf.ndim == 3 else 0


def empty_leaves(like: Tensor, leaves: int, tasks: int, coordinates: int, hidden: int) -> list[Tensor]:
    """So many uninitialised leaves `[tasks, coordinates, hidden]`, packed, in one piece of memory.

    Rows begin on cache lines. A power of two between rows would put a coordinate's units on the same few places of the
    cache: 1.6 times slower.
    """
    stride = -(-tasks * coordinates // _LINE) * _LINE
    stride += _LINE if stride % _PERIOD == 0 else 0
    memory = torch.empty(leaves * hidden * stride, device=like.device, dtype=like.dtype)
    shape, strides = (tasks, coordinates, hidden), (coordinates, 1, stride)
    return [memory.as_strided(shape, strides, leaf * hidden * stride) for leaf in range(leaves)]


def _packed(leaf: Tensor) -> Tensor:
    tasks, coordinates, hidden = leaf.shape
    return empty_leaves(leaf, 1, tasks, coordinates, hidden)[0]
