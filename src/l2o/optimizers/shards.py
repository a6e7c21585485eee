"""Tensors that are spread over processes, as `fully_shard` does with parameters: the part that lies here, the whole.

A tensor that lies whole in this process is its own part, and its own whole.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def mesh_of(tensor: Tensor) -> "DeviceMesh | None":
    """The processes that a tensor is spread over; None for one that lies whole in this process.

    Asked by attribute: importing DTensor takes as long as importing torch, and whoever holds one has imported it.
    """
    return getattr(tensor, "device_mesh", None)


def part(tensor: Tensor) -> Tensor:
    """What of a tensor lies in this process, in the same memory."""
    spread: Any = tensor
    return tensor if mesh_of(tensor) is None else spread.detach().to_local()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Communicates: every process of its mesh has to ask."""
    spread: Any = tensor
    return tensor if mesh_of(tensor) is None else spread.full_tensor()


def aligned(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor spread as another of its leading axes is. Communicates, unless it lies so, or whole in each process."""
    mesh, target = mesh_of(like), like
    if mesh is None:
        return whole(tensor)
    from torch.distributed.tensor import DTensor, Replicate

    spread: Any = tensor
    if mesh_of(tensor) is None:
        spread = DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim)
    placements = target.placements  # pyright: ignore[reportAttributeAccessIssue]
    return spread if spread.placements == placements else spread.redistribute(mesh, placements)


def joined(own: Tensor, like: Tensor) -> Tensor:
    """The tensor whose part in each process is `own`: the shape of `like`, spread as it is, and more axes after it.

    Args:
        own: `[*part(like).shape, ...]`.
        like: says the shape, and how it is spread.
    """
    mesh = mesh_of(like)
    if mesh is None:
        return own
    from torch.distributed.tensor import DTensor

    shape = like.shape + own.shape[like.ndim :]
    return DTensor.from_local(
        own,
        mesh,
        like.placements,  # pyright: ignore[reportAttributeAccessIssue]
        shape=shape,  # parts of unequal size do not tell it
        stride=torch.empty(shape, device="meta").stride(),
    )


def anywhere(here: bool, tensors: Iterable[Tensor]) -> bool:
    """Whether something is so in this process, or in any other that one of the tensors is spread over.

    Communicates where there are such: each of them has to ask.
    """
    for mesh in dict.fromkeys(mesh_of(tensor) for tensor in tensors):
        if mesh is None:
            continue
        from torch.distributed.tensor import DTensor, Partial

        count = torch.tensor([float(here)], device=mesh.device_type)
        here = bool(DTensor.from_local(count, mesh, [Partial()] * mesh.ndim).full_tensor() > 0)
    return here


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a number over all processes of a distributed run; the number itself where there is but one."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()
