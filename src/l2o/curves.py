"""Runs an optimizer on tasks and collects its curves."""

import time
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Curves:
    """The curves of one optimizer on a batch of tasks.

    Args:
        losses: `[tasks, steps + 1]`, float64: the loss of each iterate on a minibatch drawn for it, before the update
            that sees this minibatch. Not a number from the step at which a task diverged.
        metrics: measures of the last iterate, each `[tasks]`; not a number for a task that diverged.
        evaluations: gradient evaluations of one task up to and including the last iterate.
        seconds_per_step: wall time of one step of one task, gradient included.
        state_bytes: memory of the optimizer's state for one task.
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

    Two optimizers that are given the same stream meet the same tasks, starts and minibatches, so that their curves can
    be compared in pairs.
    """
    if steps < 1:
        raise ArgumentError(f"steps is {steps}; a curve needs at least 1 step")
    begin = time.perf_counter()
    first = Optimizee.start(family, rng.over(rng.tasks[:1]), device=device, dtype=dtype)
    coordinates = trees.flatten(first.params).shape[1]
    at_once = max(1, COORDINATES_AT_ONCE // coordinates)
    losses, metrics = [], []
    for start in range(0, len(rng.tasks), at_once):
        tasks = rng.tasks[start : start + at_once]
        process = Optimizee.start(family, rng.over(tasks), device=device, dtype=dtype)
        curve, end = _descend(optimizer, process, rng.over(tasks), steps)
        losses.append(curve)
        measured = family.metrics(end.params, end.instance)
        metrics.append({name: torch.where(end.survivors, value, torch.nan) for name, value in measured.items()})
    state = optimizer.init_state(first.params, first.rng.child("agent"))
    return Curves(
        losses=torch.cat(losses),
        metrics={name: torch.cat([part[name] for part in metrics]) for name in metrics[0]},
        evaluations=steps + 1,
        seconds_per_step=(time.perf_counter() - begin) / (steps * len(rng.tasks)),
        state_bytes=sum(leaf.numel() * leaf.element_size() for leaf in state.values()),
    )


def _descend(optimizer: LearnedOptimizer, process: Optimizee, rng: Stream, steps: int) -> tuple[Tensor, Optimizee]:
    state = optimizer.init_state(process.params, rng.child("agent"))
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
