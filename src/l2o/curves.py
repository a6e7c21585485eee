"""Runs an optimizer on tasks and collects its curves."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from l2o import trees
from l2o.errors import ArgumentError
from l2o.optimizers.base import LearnedOptimizer
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.trees import Tree

COORDINATES_AT_ONCE = 65_536
"""Coordinates of all tasks together that are run in one batch; more tasks run in turn."""

_TINY = 1e-6
"""Added to losses before their logarithm, as published."""


@dataclass(frozen=True)
class Curves:
    """The curves of one optimizer on a batch of tasks.

    Args:
        losses: `[tasks, steps + 1]`, float64: the loss of each iterate on a minibatch drawn for it, before the update
            that sees this minibatch. Not a number from the step at which a task diverged.
        metrics: measures of the last iterate that all tasks have, each `[tasks]`; not a number for a task that
            diverged.
        evaluations: gradient evaluations of one task up to and including the last iterate.
        seconds_per_step: wall time of one step of one task, gradient included.
        state_bytes: memory of the optimizer's state for one task, the first.
    """

    losses: Tensor
    metrics: Tree
    evaluations: int
    seconds_per_step: float
    state_bytes: int

    @property
    def diverged(self) -> Tensor:
        """`[tasks]` bool, see `diverged`."""
        return diverged(self.losses)


def diverged(losses: Tensor) -> Tensor:
    """Which runs became non-finite or ended more than nine times |start| above their start: `[runs]` bool.

    For a positive start that is more than ten times where it began.

    Args:
        losses: `[runs, steps + 1]`.
    """
    start, final = losses[:, 0], losses[:, -1]
    return ~torch.isfinite(final) | (final > start + 9 * start.abs())


def log_ratios(losses: Tensor, *, last: int) -> Tensor:
    """ln of the mean of the last losses, minus ln of the first: `[runs]`, negative where a run went down.

    A ratio can be compared, and its logarithm be averaged, over tasks whose losses differ by orders of magnitude. 1e-6
    is added to both losses, so that a loss of 0 is finite; one below -1e-6 is not a number.

    Args:
        losses: `[runs, steps + 1]`, with a minimum of at least 0.
        last: how many of the last losses.

    Example:
        >>> log_ratios(torch.tensor([[8.0, 9.0, 1.5, 0.5]]), last=2)  # ln(1 / 8)
        tensor([-2.0794])

    Source: the meta-objective of Wichrowska et al. 2017.
    """
    return (losses[:, -last:].mean(1) + _TINY).log() - (losses[:, 0] + _TINY).log()


@torch.no_grad()
def run_curves(
    optimizer: LearnedOptimizer,
    family: TaskFamily,
    rng: Stream,
    *,
    steps: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Curves:
    """Runs `optimizer` on the tasks of the stream for `steps` steps from fresh starts.

    Of a mixture, each task has its own member, and neighbours of one member run together.

    Two optimizers that are given the same stream meet the same tasks, starts and minibatches, so that their curves can
    be compared in pairs.
    """
    if steps < 1:
        raise ArgumentError(f"steps is {steps}; a curve needs at least 1 step")
    begin = time.perf_counter()
    losses, metrics = [], []
    for process in _batches(family, rng, device, dtype):
        curve, end = _descend(optimizer, process, steps)
        losses.append(curve)
        measured = end.family.metrics(end.params, end.instance)
        metrics.append({name: torch.where(end.survivors, value, torch.nan) for name, value in measured.items()})
    shared = [name for name in metrics[0] if all(name in part for part in metrics)]
    first = Optimizee.start(family, rng.over(rng.tasks[:1]), device=device, dtype=dtype)
    state = optimizer.init_state(first.params, first.rng.child("agent"))
    return Curves(
        losses=torch.cat(losses),
        metrics={name: torch.cat([part[name] for part in metrics]) for name in shared},
        evaluations=steps + 1,
        seconds_per_step=(time.perf_counter() - begin) / (steps * len(rng.tasks)),
        state_bytes=sum(leaf.numel() * leaf.element_size() for leaf in state.values()),
    )


def _batches(family: TaskFamily, rng: Stream, device: torch.device | str, dtype: torch.dtype) -> Iterator[Optimizee]:
    """The tasks of the stream at their starts: in one batch are tasks of one member, as many as fit."""
    members = [family.member(rng.over((task,))) for task in rng.tasks]
    for _, group in groupby(range(len(members)), key=lambda place: id(members[place])):
        tasks = [rng.tasks[place] for place in group]
        first = Optimizee.start(family, rng.over(tasks[:1]), device=device, dtype=dtype)
        at_once = max(1, COORDINATES_AT_ONCE // trees.flatten(first.params).shape[1])
        for start in range(0, len(tasks), at_once):
            yield Optimizee.start(family, rng.over(tasks[start : start + at_once]), device=device, dtype=dtype)


def _descend(optimizer: LearnedOptimizer, process: Optimizee, steps: int) -> tuple[Tensor, Optimizee]:
    state = optimizer.init_state(process.params, process.rng.child("agent"))
    losses = []
    for step in range(steps + 1):
        seen, hidden = process.observe()
        losses.append(torch.where(process.alive, hidden["loss"].double(), torch.nan).cpu())
        if step == steps:
            break
        action, moved = optimizer(seen, state)
        state = trees.where_tasks(process.alive, moved, state)
        process = process.apply(action)
    return torch.stack(losses, dim=1), replace(process, survivors=process.alive)
