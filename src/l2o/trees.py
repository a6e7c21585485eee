"""Flat trees of tensors: `dict[str, Tensor]`, keyed as `named_parameters()`.

Every leaf that belongs to a batch of tasks is `[tasks, ...]`. Where one tree holds several kinds of leaves
(an observation holds gradients and parameters), a leaf is named `kind/name`, for instance `grad/0.weight`.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Tree = dict[str, Tensor]


def map_leaves(function: Callable[..., Tensor], *trees: Mapping[str, Tensor]) -> Tree:
    """Applies `function` to the leaves of equal name; the first tree gives names and order."""
    return {name: function(*(tree[name] for tree in trees)) for name in trees[0]}


def join(**kinds: Mapping[str, Tensor]) -> Tree:
    """One tree from several: leaf `name` of the tree passed as `kind` becomes `kind/name`."""
    return {f"{kind}/{name}": leaf for kind, tree in kinds.items() for name, leaf in tree.items()}


def select(tree: Mapping[str, Tensor], kind: str) -> Tree:
    """The leaves of one kind, without their prefix: the inverse of `join`."""
    prefix = f"{kind}/"
    return {name.removeprefix(prefix): leaf for name, leaf in tree.items() if name.startswith(prefix)}


def row(leaf: Tensor) -> Tensor:
    """One leaf `[tasks, ...]` as `[tasks, coordinates]`."""
    return leaf.flatten(1) if leaf.ndim > 1 else leaf[:, None]


def flatten(tree: Mapping[str, Tensor]) -> Tensor:
    """All coordinates of each task in one row: leaves `[tasks, ...]` to `[tasks, coordinates]`."""
    leaves = [row(leaf) for leaf in tree.values()]
    return leaves[0] if len(leaves) == 1 else torch.cat(leaves, dim=1)


def unflatten(coordinates: Tensor, like: Mapping[str, Tensor]) -> Tree:
    """The inverse of `flatten`: `[tasks, coordinates]` to leaves shaped as in `like`."""
    parts = coordinates.split([leaf[0].numel() for leaf in like.values()], dim=1)
    return {name: part.reshape(leaf.shape) for (name, leaf), part in zip(like.items(), parts, strict=True)}


def split_tasks(tree: Mapping[str, Tensor]) -> list[Tree]:
    """One tree for each task: leaves `[tasks, ...]` to leaves without the tasks axis."""
    parts = zip(*(leaf.unbind() for leaf in tree.values()), strict=True)
    return [dict(zip(tree, part, strict=True)) for part in parts]


def where_tasks(alive: Tensor, new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> Tree:
    """Takes the leaf of `new` for each task that is alive, and of `old` for the others. `alive` is `[tasks]`."""
    if bool(alive.all()):
        return dict(new)
    return {name: torch.where(_over_tasks(alive, leaf), leaf, old[name]) for name, leaf in new.items()}


def finite_tasks(tree: Mapping[str, Tensor]) -> Tensor:
    """Whether all of a task's numbers are finite: `[tasks]` bool."""
    checks = [torch.isfinite(row(leaf)).all(dim=1) for leaf in tree.values()]
    return torch.stack(checks).all(dim=0)


def norms(tree: Mapping[str, Tensor]) -> Tensor:
    """The Euclidean norm over all of a task's coordinates: `[tasks]`."""
    return flatten(tree).norm(dim=1)


def to(tree: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype) -> Tree:
    """Moves every leaf to `device`; floating leaves also to `dtype`."""
    return {k: v.to(device, dtype) if v.is_floating_point() else v.to(device) for k, v in tree.items()}


def _over_tasks(alive: Tensor, leaf: Tensor) -> Tensor:
    return alive.reshape(-1, *[1] * (leaf.ndim - 1))
