"""Runs an optimizer on tasks and collects its curves."""

import time
from collections.abc import Iterator, Sequence
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
from l2o.tasks.objective import true_losses
from l2o.trees import Tree

COORDINATES_AT_ONCE = 65_536
"""Coordinates of all tasks together that are run in one batch; more tasks run in turn."""

_TINY = 1e-6
"""Added to losses before their logarithm, as published."""


@dataclass(frozen=True)
class TrueObjective:
    """That a run also records the true objective, and how: see `l2o.tasks.objective`.

    Args:
        every: of iterates 0, every, 2 every, ...
        examples: as the mean over so many examples, a random choice that is always the same, instead of over all.

    Example:
        >>> from l2o import Adam, MLPClassifier, Stream, load_dataset
        >>> family = MLPClassifier.orig(load_dataset("digits", "train"))
        >>> every_fifth = TrueObjective(every=5, examples=100)
        >>> curves = run_curves(Adam(0.1), family, Stream(0), steps=10, true_objective=every_fifth)
        >>> curves.losses.shape, curves.true_losses.shape
        (torch.Size([1, 11]), torch.Size([1, 3]))
    """

    every: int = 1
    examples: int | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ArgumentError(f"every is {self.every}; measure the true objective at every step (1) or more rarely")


class TrueCurve:
    """The true objective along one run of a batch of tasks, and the time that measuring it took.

    Without settings nothing is measured.
    """

    def __init__(self, settings: TrueObjective | None) -> None:
        self.settings, self.seconds = settings, 0.0
        self._points: list[Tensor] = []  # [tasks] each

    def record(self, process: Optimizee, alive: Tensor) -> None:
        """Measures the current iterate, if its turn has come; a task that is not `alive` `[tasks]` is not a number."""
        if self.settings is None or process.step % self.settings.every:
            return
        begin = time.perf_counter()
        losses = true_losses(process.family, process.params, process.instance, examples=self.settings.examples)
        self._points.append(torch.where(alive, losses.double(), torch.nan).cpu())
        self.seconds += time.perf_counter() - begin

    def end(self, steps: int, tasks: int) -> None:
        """Says of all iterates up to `steps` that have not been measured that they are not numbers."""
        if self.settings is not None:
            missing = 1 + steps // self.settings.every - len(self._points)
            self._points += [torch.full((tasks,), torch.nan, dtype=torch.float64)] * missing

    @staticmethod
    def losses(runs: "Sequence[TrueCurve]") -> Tensor | None:
        """Those of all batches of tasks together, float64 `[tasks, points]`; None if nothing was measured."""
        parts = [torch.stack(run._points, dim=1) for run in runs if run._points]
        return torch.cat(parts) if parts else None


@dataclass(frozen=True)
class Curves:
    """The curves of one optimizer on a batch of tasks.

    Args:
        losses: `[tasks, steps + 1]`, float64: the loss of each iterate on a minibatch drawn for it, before the update
            that sees this minibatch. Not a number from the step at which a task diverged.
        metrics: measures of the last iterate that all tasks have, each `[tasks]`; not a number for a task that
            diverged.
        evaluations: gradient evaluations of one task up to and including the last iterate; where tasks differ, the mean
            over tasks, rounded.
        seconds_per_step: wall time of one step of one task, gradient included; steps after all have diverged, which
            are not computed, do not count.
        state_bytes: memory of the optimizer's state for one task, the first.
        loss_evaluations: evaluations of the loss without its gradient, counted likewise; a line search needs them. The
            true objective counts in neither.
        true_losses: `[tasks, 1 + steps // every]`, float64: the true objective of iterates 0, every, 2 every, ..., not
            a number from the step at which a task diverged; None where it was not asked for.
        true_every: `every`; None where it was not asked for.

    Example:
        >>> from l2o import Adam, Quadratics, Stream
        >>> curves = run_curves(Adam(0.1), Quadratics(3), Stream(0, tasks=range(4)), steps=10)
        >>> curves.losses.shape, curves.evaluations, curves.diverged.tolist()
        (torch.Size([4, 11]), 11, [False, False, False, False])
    """

    losses: Tensor
    metrics: Tree
    evaluations: int
    seconds_per_step: float
    state_bytes: int
    loss_evaluations: int = 0
    true_losses: Tensor | None = None
    true_every: int | None = None

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


def held(losses: Tensor) -> tuple[Tensor, Tensor]:
    """Curves that can be averaged although some runs diverged, and which did.

    A run has diverged from the first loss on that is not finite or more than nine times |start| above its start: for a
    positive start, above ten times where it began. From there on the curve is held at that bound, though the run may
    come back. `diverged` is about a run's end; this is about all of it.

    Args:
        losses: `[runs, points]`, each with a finite start.

    Returns:
        `[runs, points]`, finite; and `[runs]` bool.

    Example:
        >>> curves, flags = held(torch.tensor([[2.0, 1.0, 0.5], [2.0, 30.0, 1.0]]))
        >>> curves.tolist(), flags.tolist()
        ([[2.0, 1.0, 0.5], [2.0, 20.0, 20.0]], [False, True])
    """
    start = losses[:, :1]
    if not bool(torch.isfinite(start).all()):
        raise ArgumentError(f"runs start at {start.flatten().tolist()}; a curve is held at ten times a finite start")
    bound = start + 9 * start.abs()
    gone = (~torch.isfinite(losses) | (losses > bound)).cummax(dim=1).values
    return torch.where(gone, bound, losses), gone[:, -1]


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
    true_objective: TrueObjective | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Curves:
    """Runs `optimizer` on the tasks of the stream for `steps` steps from fresh starts.

    Of a mixture, each task has its own member, and neighbours of one member run together.

    Two optimizers that are given the same stream meet the same tasks, starts and minibatches, so that their curves can
    be compared in pairs. With `true_objective` the curve of the true objective is recorded beside that of the
    minibatch losses; the time that it takes is not the optimizer's.

    Example:
        >>> from l2o import Adam, Quadratics, Stream
        >>> stream = Stream(0, ("example",), tasks=range(4))
        >>> slow, fast = (run_curves(Adam(lr), Quadratics(3), stream, steps=50) for lr in (0.001, 0.1))
        >>> bool((slow.losses[:, 0] == fast.losses[:, 0]).all())  # the same tasks and starts
        True
        >>> bool((slow.losses[:, -1] > fast.losses[:, -1]).all())
        True
    """
    if steps < 1:
        raise ArgumentError(f"steps is {steps}; a curve needs at least 1 step")
    begin = time.perf_counter()
    losses, true, metrics, done = [], [], [], 0
    for process in _batches(family, rng, device, dtype):
        true.append(TrueCurve(true_objective))
        curve, end = _descend(optimizer, process, steps, true[-1])
        losses.append(curve)
        done += max(1, end.step) * len(curve)
        measured = end.family.metrics(end.params, end.instance)
        metrics.append({name: torch.where(end.survivors, value, torch.nan) for name, value in measured.items()})
    seconds = time.perf_counter() - begin - sum(part.seconds for part in true)
    first = Optimizee.start(family, rng.over(rng.tasks[:1]), device=device, dtype=dtype)
    state = optimizer.init_state(first.params, first.rng.child("agent"))
    return Curves(
        losses=torch.cat(losses),
        metrics=joined(metrics),
        evaluations=steps + 1,
        seconds_per_step=seconds / done,
        state_bytes=sum(leaf.numel() * leaf.element_size() for leaf in state.values()),
        true_losses=TrueCurve.losses(true),
        true_every=None if true_objective is None else true_objective.every,
    )


def joined(metrics: Sequence[Tree]) -> Tree:
    """The metrics of all batches of tasks together, `[tasks]` each: those that all of them have."""
    shared = [name for name in metrics[0] if all(name in part for part in metrics)]
    return {name: torch.cat([part[name] for part in metrics]) for name in shared}


def _batches(family: TaskFamily, rng: Stream, device: torch.device | str, dtype: torch.dtype) -> Iterator[Optimizee]:
    """The tasks of the stream at their starts: in one batch are tasks of one member, as many as fit."""
    members = [family.member(rng.over((task,))) for task in rng.tasks]
    for _, group in groupby(range(len(members)), key=lambda place: id(members[place])):
        tasks = [rng.tasks[place] for place in group]
        first = Optimizee.start(family, rng.over(tasks[:1]), device=device, dtype=dtype)
        at_once = max(1, COORDINATES_AT_ONCE // trees.flatten(first.params).shape[1])
        for start in range(0, len(tasks), at_once):
            yield Optimizee.start(family, rng.over(tasks[start : start + at_once]), device=device, dtype=dtype)


def _descend(optimizer: LearnedOptimizer, process: Optimizee, steps: int, true: TrueCurve) -> tuple[Tensor, Optimizee]:
    """Steps from a start; once all tasks have diverged, no further. `[tasks, steps + 1]` losses, and where it ended."""
    state = optimizer.init_state(process.params, process.rng.child("agent"))
    losses = []
    for step in range(steps + 1):
        seen, hidden = process.observe()
        losses.append(torch.where(process.alive, hidden["loss"].double(), torch.nan).cpu())
        true.record(process, process.alive)
        if step == steps or not bool(process.alive.any()):
            break
        # Nobody else has the state; but a dead task's is to stay as it is.
        action, moved = optimizer.act(seen, state, owned=bool(process.alive.all()))
        state = trees.where_tasks(process.alive, moved, state)
        process = process.apply(action)
    losses += [torch.full_like(losses[0], torch.nan)] * (steps + 1 - len(losses))
    true.end(steps, len(losses[0]))
    return torch.stack(losses, dim=1), replace(process, survivors=process.alive)
