"""The true objective of a task: the mean of its loss over all training examples, not over a minibatch."""

from functools import lru_cache

import torch
from torch import Tensor

from l2o import trees
from l2o.errors import ArgumentError, UnsupportedError
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.tasks.parts import mean_over_parts
from l2o.trees import Tree

EXAMPLES_AT_ONCE = 16_384
"""Examples of all tasks together whose loss is computed at once."""


def true_losses(family: TaskFamily, params: Tree, instance: Tree, *, examples: int | None = None) -> Tensor:
    """The true objective of each task: `[tasks]`.

    Args:
        family: one that has a true objective, see `TaskFamily.whole`; of a mixture, the member that was drawn.
        params: leaves `[tasks, ...]`.
        instance: the tasks' own data, leaves `[tasks, ...]`.
        examples: the mean is over so many examples, a random choice that is always the same, instead of over all.

    Raises:
        UnsupportedError: the family has no true objective.
        ArgumentError: there are not as many examples.

    Example:
        >>> from l2o.tasks.data import blobs
        >>> from l2o.tasks.projected import ProjectedClassification
        >>> family = ProjectedClassification(blobs(), dimensions=16, hidden=16)
        >>> true_losses(family, family.init({}, Stream(0, tasks=range(3))), {}).shape
        torch.Size([3])
    """
    chosen = _examples(family, examples)
    if not chosen:
        return family.losses(params, instance, {})

    def total(part: Tensor) -> Tensor:
        return len(part) * family.losses(params, instance, _batch(family, params, chosen, part)).double()

    mean = mean_over_parts(total, _count(chosen), at_once=_at_once(params))
    return mean.to(next(iter(params.values())).dtype)


def true_value_and_grad(
    family: TaskFamily, params: Tree, instance: Tree, *, examples: int | None = None
) -> tuple[Tensor, Tree]:
    """The true objective of each task, `[tasks]`, and its gradient, shaped as `params`: see `true_losses`."""
    chosen = _examples(family, examples)
    if not chosen:
        return family.value_and_grad(params, instance, {})

    def total(part: Tensor) -> Tensor:
        losses, grads = family.value_and_grad(params, instance, _batch(family, params, chosen, part))
        return len(part) * torch.cat([losses[:, None], trees.flatten(grads)], dim=1).double()

    mean = mean_over_parts(total, _count(chosen), at_once=_at_once(params)).to(next(iter(params.values())).dtype)
    return mean[:, 0], trees.unflatten(mean[:, 1:], params)


def _examples(family: TaskFamily, examples: int | None) -> Tree:
    """Indices of what the mean is over, leaves `[examples]`; none where the loss has no minibatch."""
    whole = family.whole()
    if whole is None:
        raise UnsupportedError(
            f"{family.name} has no true objective: its loss is no mean over examples; look at its minibatch losses"
        )
    if examples is None or not whole:
        return whole
    if not 1 <= examples <= _count(whole):
        raise ArgumentError(f"examples is {examples}; {family.name} has {_count(whole):,}, take 1 to as many of them")
    chosen = _choice(_count(whole), examples)
    return {name: leaf[chosen] for name, leaf in whole.items()}


@lru_cache(maxsize=8)
def _choice(total: int, examples: int) -> Tensor:
    """So many different numbers of 0, ..., total - 1, ascending: those of a smaller choice are in every larger one."""
    order = Stream(0, ("examples of the true objective",)).uniform((total,))[0].argsort(stable=True)
    return order[:examples].sort().values


def _batch(family: TaskFamily, params: Tree, chosen: Tree, part: Tensor) -> Tree:
    """The chosen examples of a part as a minibatch that all tasks share: gathered once, leaves `[tasks, part, ...]`."""
    leaf = next(iter(params.values()))
    batch = family.gather({name: indices[part][None] for name, indices in chosen.items()})
    batch = trees.to(batch, leaf.device, leaf.dtype)
    return {name: shared.expand(len(leaf), *shared.shape[1:]) for name, shared in batch.items()}


def _count(chosen: Tree) -> int:
    return len(next(iter(chosen.values())))


def _at_once(params: Tree) -> int:
    return max(1, EXAMPLES_AT_ONCE // len(next(iter(params.values()))))
