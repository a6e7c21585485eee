"""Exact second-order meta-gradients: plain autograd through the whole window, the optimizees' gradients included."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from l2o import trees
from l2o.agent import meta_parameters
from l2o.methods.base import Estimate, Evidence, OptimizerMethod, Trajectory
from l2o.methods.meta_loss import Objective, Weights, checked, iterate_weights, mean_value, objective_value
from l2o.optimizers.base import LearnedOptimizer
from l2o.processes.optimizee import Optimizee
from l2o.trees import Tree


class Unrolled(OptimizerMethod):
    """The gradient of the same loss as `MetaLoss`, with nothing held constant.

    Costs a graph over the window and second derivatives of the optimizees. Where a task diverges, the meta-gradient of
    this window and of the rest of the trajectory is not a number, so that they are skipped.

    Args:
        weights: "all" or "last", as in `MetaLoss`.
        objective: "loss" or "log", as in `MetaLoss`.

    Example:
        >>> import l2o
        >>> from l2o.processes.optimizee import Optimizee
        >>> rule, stream, method = l2o.RNNprop.lv(), l2o.Stream(0, tasks=range(2)), Unrolled()
        >>> trajectory = method.begin(rule, Optimizee.start(l2o.Quadratics(3), stream), stream)
        >>> estimate, _ = method.window(rule, trajectory, 5)
        >>> first_order, _ = l2o.MetaLoss().window(rule, trajectory, 5)
        >>> abs(estimate.value - first_order.value) < 1e-4 * estimate.value  # one loss, two gradients
        True
    """

    name = "unrolled"
    moments = ("meta-loss",)
    shares = True

    def __init__(self, *, weights: Weights = "all", objective: Objective = "loss") -> None:
        self.weights: Weights
        self.objective: Objective
        self.weights, self.objective = checked(weights, objective)

    def window(self, optimizer: LearnedOptimizer, trajectory: Trajectory, steps: int) -> tuple[Estimate, Trajectory]:
        losses, end = unroll(optimizer, trajectory, steps, gradients=exact_gradients)
        weights = iterate_weights(self.weights, steps)
        theta = meta_parameters(optimizer)
        values = objective_value(losses, self.objective)
        meta_loss = (values * torch.tensor(weights, dtype=losses.dtype, device=losses.device)).sum(1).mean()
        grads = torch.autograd.grad(meta_loss, list(theta.values()), materialize_grads=True)
        gradient = dict(zip(theta, grads, strict=True))
        alive = torch.isfinite(losses)
        process = replace(end.process, survivors=trajectory.process.survivors & alive.all(1))
        if not bool(process.survivors.all()):
            gradient = {name: torch.full_like(leaf, torch.nan) for name, leaf in gradient.items()}
        by_task = {
            "value": values.detach(),
            "alive": alive & trajectory.process.survivors[:, None],
            "survivor": process.survivors,
        }

        def conclude(by_task: Tree, gradient: Tree) -> Estimate:
            value = mean_value(by_task["value"], by_task["alive"], weights)
            diverged = 1 - float(by_task["survivor"].double().mean())
            return Estimate(gradient, value, "meta-loss", {"diverged": diverged})

        return Evidence(by_task, gradient, conclude).estimate(), Trajectory(process, end.states)


Gradients = Callable[[Tensor, Tree], Tree]
"""From losses `[tasks]` and the parameters they were computed from to their gradients."""


def exact_gradients(losses: Tensor, params: Tree) -> Tree:
    """The gradients with their graph: differentiating them again gives second derivatives."""
    grads = torch.autograd.grad(losses.sum(), list(params.values()), create_graph=True, materialize_grads=True)
    return dict(zip(params, grads, strict=True))


def stopped_gradients(losses: Tensor, params: Tree) -> Tree:
    """The gradients as constants: the first-order approximation. The truth that `MetaLoss` is tested against."""
    grads = torch.autograd.grad(losses.sum(), list(params.values()), retain_graph=True, materialize_grads=True)
    return dict(zip(params, grads, strict=True))


def unroll(
    optimizer: LearnedOptimizer, trajectory: Trajectory, steps: int, *, gradients: Gradients
) -> tuple[Tensor, Trajectory]:
    """Runs a window with its graph.

    Returns:
        Losses `[tasks, steps + 1]` with their graph to the meta-parameters, and the trajectory after the window,
        detached.
    """
    process: Optimizee = trajectory.process
    params = {name: leaf.detach().requires_grad_() for name, leaf in process.params.items()}
    state = trajectory.states["agent"]
    recorded: list[Tensor] = []
    with torch.enable_grad():
        for step in range(steps + 1):
            here = replace(process, params=params, step=process.step + step)
            losses = process.family.losses(params, process.instance, here.batch())
            recorded.append(losses)
            if step < steps:
                grads = here.shown(gradients(losses, params))
                observation = {**trees.join(grad=grads, params=params), "loss": losses}
                action, state = optimizer(observation, state)
                params = trees.map_leaves(torch.add, params, action)
    end = replace(process, params=_detached(params), step=process.step + steps)
    return torch.stack(recorded, dim=1), Trajectory(end, {**trajectory.states, "agent": _detached(state)})


def _detached(tree: Tree) -> Tree:
    return trees.map_leaves(Tensor.detach, tree)
