"""Runs optimizers that step with a closure, L-BFGS and conjugate gradient, on tasks, and collects their curves."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from l2o import trees
from l2o.curves import Curves, TrueCurve, TrueObjective, joined
from l2o.errors import ArgumentError
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.trees import Tree

ClosureRule = Callable[[list[Tensor]], torch.optim.Optimizer]
"""Makes an optimizer for the parameters of one task."""


def run_closure_curves(
    rule: ClosureRule,
    family: TaskFamily,
    rng: Stream,
    *,
    steps: int,
    true_objective: TrueObjective | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Curves:
    """Runs an optimizer that steps with a closure on the tasks of the stream, from fresh starts.

    It meets the tasks, starts and minibatches that `run_curves` shows a rule that is given the same stream. A step is
    one call of `step(closure)`; within it, the closure is bound to the step's minibatch. Called with gradients enabled
    it fills them and counts as a gradient evaluation; called with gradients disabled it gives the loss alone and counts
    as a loss evaluation. The optimizer's first call must be at the iterate that it was given, with gradients enabled:
    so do all of `torch.optim` and `ConjugateGradient`. Tasks run one after the other, each with an optimizer of its
    own.

    Args:
        rule: makes the optimizer, for instance `partial(torch.optim.LBFGS, lr=0.1, max_iter=1)`. With `max_iter=1`, a
            step is one iteration, and the pairs of L-BFGS mix gradients of minibatches that follow each other.
        family: where the tasks come from.
        rng: seeds and tasks.
        steps: inner steps of a run.
        true_objective: whether to record the true objective, see `run_curves`.
        device: where the runs happen.
        dtype: of parameters and data.

    Returns:
        The curves. A run ends at the first iterate whose loss or gradient is not finite, as for a rule; what happens at
        the trial points of a line search is the optimizer's own affair.

    Example:
        >>> from functools import partial
        >>> from l2o.tasks.quadratic import Quadratics
        >>> rule = partial(torch.optim.LBFGS, lr=1.0, max_iter=1, line_search_fn="strong_wolfe")
        >>> curves = run_closure_curves(rule, Quadratics(3), Stream(0, tasks=range(2)), steps=20)
        >>> bool((curves.losses[:, -1] < 1e-3 * curves.losses[:, 0]).all()), curves.evaluations > 21
        (True, True)
    """
    if steps < 1:
        raise ArgumentError(f"steps is {steps}; a curve needs at least 1 step")
    begin = time.perf_counter()
    runs: list[_Run] = []
    for task in rng.tasks:
        process = Optimizee.start(family, rng.over((task,)), device=device, dtype=dtype)
        runs.append(_Run(rule, process, TrueCurve(true_objective)))
        runs[-1].descend(steps)
    metrics = [run.metrics() for run in runs]
    seconds = time.perf_counter() - begin - sum(run.true.seconds for run in runs)
    return Curves(
        losses=torch.tensor([run.losses for run in runs], dtype=torch.float64),
        metrics=joined(metrics),
        evaluations=round(sum(run.evaluations for run in runs) / len(runs)),
        seconds_per_step=seconds / (steps * len(runs)),
        state_bytes=runs[0].state_bytes,
        loss_evaluations=round(sum(run.loss_evaluations for run in runs) / len(runs)),
        true_losses=TrueCurve.losses([run.true for run in runs]),
        true_every=None if true_objective is None else true_objective.every,
    )


class _Run:
    """One task on its way down, and the closure that its optimizer steps with."""

    def __init__(self, rule: ClosureRule, process: Optimizee, true: TrueCurve) -> None:
        self.process, self.true = process, true
        self.params = {name: leaf.clone().requires_grad_() for name, leaf in process.params.items()}  # [1, ...]
        self.optimizer = rule(list(self.params.values()))
        self.losses: list[float] = []
        self.evaluations = self.loss_evaluations = 0
        self._batch: Tree = {}
        # At the step's iterate: the loss, and whether it and its gradient are finite.
        self._first: tuple[float, bool] | None = None

    def __call__(self) -> Tensor:
        """The loss at the parameters as they are, on the step's minibatch; with gradients enabled, those too."""
        family, instance = self.process.family, self.process.instance
        params = {name: p.detach() for name, p in self.params.items()}
        if not torch.is_grad_enabled():
            self.loss_evaluations += 1
            return family.losses(params, instance, self._batch)[0]
        self.evaluations += 1
        losses, grads = family.value_and_grad(params, instance, self._batch)
        if self._first is None:
            self._first = float(losses), bool(torch.isfinite(losses) & trees.finite_tasks(grads))
        for name, grad in self.process.shown(grads).items():
            self.params[name].grad = grad
        return losses[0]

    def descend(self, steps: int) -> None:
        loss, alive = math.nan, True
        for step in range(steps + 1):
            iterate = {name: p.detach().clone() for name, p in self.params.items()}
            self.process = replace(self.process, params=iterate, step=step)
            if alive:
                loss, alive = self._step(last=step == steps)
            self.losses.append(loss if alive else math.nan)
            self.true.record(self.process, torch.tensor([alive], device=self.process.survivors.device))
        self.process = replace(self.process, survivors=self.process.survivors & alive)
        self.state_bytes = _bytes(self.optimizer.state_dict()["state"])

    def metrics(self) -> Tree:
        """Of the last iterate, not a number if the run diverged."""
        end = self.process
        measured = end.family.metrics(end.params, end.instance)
        return {name: torch.where(end.survivors, value, torch.nan) for name, value in measured.items()}

    def _step(self, *, last: bool) -> tuple[float, bool]:
        """The loss at the iterate, and whether it and its gradient are finite; at the last one, nothing moves."""
        self._batch, self._first = self.process.batch(), None
        if last:
            self()
        else:
            # torch's stub asks for a closure that gives a float; its own documentation has one that gives a tensor.
            self.optimizer.step(self)  # pyright: ignore[reportArgumentType, reportCallIssue]
        if self._first is None:
            name = type(self.optimizer).__name__
            raise ArgumentError(f"{name} did not call its closure; run it as a rule, or pass an optimizer that does")
        return self._first


def _bytes(state: Any) -> int:
    """Memory of all tensors in an optimizer's state, which may be nested."""
    match state:
        case Tensor():
            return state.numel() * state.element_size()
        case dict():
            return sum(_bytes(part) for part in state.values())
        case list() | tuple():
            return sum(_bytes(part) for part in state)
        case _:
            return 0
