"""What is timed: windows of meta-training, drop-in steps, torch's Adam, matrix products. All of it runs in workers.

A window is what meta-training repeats: rollout, replay, meta-update. It begins anew at the same start each time, and
the meta-update is too small to matter, so that all rounds compute the same.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from benchmarks.tasks import LEARNED, Shapes, Size, Workload
from benchmarks.timing import Call
from benchmarks.workers import LeftOutError
from l2o.agent import meta_parameters
from l2o.kernels import backend_name
from l2o.meta_optimizer import MetaAdam, MetaOptimizer
from l2o.methods.base import Trajectory
from l2o.methods.meta_loss import MetaLoss
from l2o.methods.unrolled import stopped_gradients, unroll
from l2o.optimizers.base import Coordinatewise, LearnedOptimizer
from l2o.rng import Stream

Backend = Literal["native", "reference", "compiled"]

META_LEARNING_RATE = 1e-6
_DEVICE, _DTYPE = torch.device("cpu"), torch.float32


def window(rule: str, backend: Backend, workload: Workload, size: Size, steps: int) -> Call:
    """One window by rollout and replay."""
    optimizer, visible = learned(rule, backend)
    start = workload.start(optimizer, size)
    start.process.observe()
    meta = MetaOptimizer(optimizer, MetaAdam(learning_rate=META_LEARNING_RATE), MetaLoss.moments)

    def run() -> Mapping[str, Tensor]:
        estimate, _ = MetaLoss().window(optimizer, _fresh(start), steps)
        meta.step(estimate.gradient, estimate.moments, progress=0.0)
        return estimate.gradient

    return Call(run, visible)


def autograd_window(rule: str, workload: Workload, size: Size, steps: int) -> Call:
    """The same window by plain autograd through the whole unroll: the truth, and eager without pieces."""
    optimizer, visible = learned(rule, "reference")
    start = workload.start(optimizer, size)
    start.process.observe()
    meta = MetaOptimizer(optimizer, MetaAdam(learning_rate=META_LEARNING_RATE), MetaLoss.moments)
    theta = meta_parameters(optimizer)

    def run() -> Mapping[str, Tensor]:
        losses, _ = unroll(optimizer, _fresh(start), steps, gradients=stopped_gradients)
        grads = torch.autograd.grad(losses.sum(1).mean(), list(theta.values()))
        gradient = dict(zip(theta, grads, strict=True))
        meta.step(gradient, MetaLoss.moments[0], progress=0.0)
        return gradient

    return Call(run, visible)


def jax_window(checkpoint: bool, workload: Workload, size: Size, steps: int) -> Call:
    """The same window of L2O-DM in plain JAX."""
    try:
        from benchmarks import jax_window
    except ImportError as error:
        raise LeftOutError(f"jax is not installed ({error})") from error
    return jax_window.window(checkpoint, workload, size, steps)


def step(rule: str, backend: Backend, shapes: Shapes) -> Call:
    """One step of the drop-in."""
    optimizer, visible = learned(rule, backend)
    return Call(optimizer.as_torch(parameters(shapes)).step, visible)


def whole_step(rule: str, shapes: Shapes) -> Call:
    """One step in eager, all coordinates of a tensor at once: the rule without the drop-in's pieces and checks."""
    optimizer, visible = learned(rule, "reference")
    assert isinstance(optimizer, Coordinatewise)
    params = parameters(shapes)
    states = [optimizer.init_coordinates(1, p.numel(), p.detach()) for p in params]

    @torch.no_grad()
    def run() -> None:
        for place, p in enumerate(params):
            update, states[place] = optimizer.update(_gradient(p).reshape(1, -1), states[place])
            p.add_(update.reshape(p.shape))

    return Call(run, visible)


def adam(kind: Literal["foreach", "fused"], shapes: Shapes) -> Call:
    """One step of torch's Adam."""
    adam = torch.optim.Adam(parameters(shapes), foreach=kind == "foreach", fused=kind == "fused")
    return Call(adam.step, "torch")


def product(side: int) -> Call:
    """One product of two square matrices, the rate that the machine reaches at best: 2 side^3 operations."""
    left, right = (Stream(0, (name,)).normal((side, side))[0].float() for name in ("left", "right"))
    out = torch.empty(side, side)

    def run() -> None:
        torch.mm(left, right, out=out)

    return Call(run, "torch")


def learned(rule: str, backend: Backend) -> tuple[LearnedOptimizer, str]:
    """A learned optimizer on a back end, and the back end's visible name.

    Raises:
        LeftOutError: this machine has no such back end.
    """
    optimizer = LEARNED[rule]()
    optimizer.backend = backend
    visible = backend_name(optimizer, _DEVICE, _DTYPE)
    if not visible.startswith(backend):
        raise LeftOutError(f"no {backend} back end here; in its place stands {visible}")
    return optimizer, visible


def parameters(shapes: Shapes) -> list[torch.nn.Parameter]:
    """Parameters with a gradient."""
    made = [torch.nn.Parameter(Stream(0, (str(place),)).normal(shape)[0].float()) for place, shape in enumerate(shapes)]
    for parameter in made:
        parameter.grad = 0.01 * parameter.detach()
    return made


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _fresh(start: Trajectory) -> Trajectory:
    """The start without the observation that it remembers: each window evaluates its optimizees steps + 1 times."""
    return Trajectory(replace(start.process), start.states)
