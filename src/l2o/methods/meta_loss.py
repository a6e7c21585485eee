"""Truncated back-propagation through time, first order, by rollout and replay."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from l2o import trees
from l2o.errors import ArgumentError
from l2o.kernels.targets import Linear
from l2o.methods.base import Estimate, Evidence, OptimizerMethod, Trajectory
from l2o.optimizers.base import LearnedOptimizer
from l2o.replay import replay_gradient
from l2o.rollout import AgentDrives, Record, rollout
from l2o.trees import Tree

Weights = Literal["all", "last"]
Objective = Literal["loss", "log"]

_TINY = 1e-12
"""Added to a loss before its logarithm: a loss of exactly 0 stays finite."""


class MetaLoss(OptimizerMethod):
    """The gradient of L = sum_j w_j f_j(theta_j) over a window, every gradient that the optimizer sees held constant.

    Since theta_j = theta_0 + sum of the updates before it, dL = sum_i < G_i , d delta_i > with G_i the weighted sum of
    the later gradients: a replay of the recorded gradients against a linear target. Exact, without a graph through the
    optimizees. The term j = 0 counts in the value and has no gradient.

    Args:
        weights: "all" gives every iterate weight 1 (Andrychowicz et al. 2016, Chen et al. 2020); "last" only the last
            one of each window (Lv et al. 2017).
        objective: "loss" sums f_j; "log" sums ln f_j (Wichrowska et al. 2017), which asks for a lower loss late in a
            trajectory as much as early; the losses must be positive.

    Example:
        >>> import l2o
        >>> from l2o.processes.optimizee import Optimizee
        >>> rule, stream, method = l2o.RNNprop.lv(), l2o.Stream(0, tasks=range(2)), MetaLoss(objective="log")
        >>> trajectory = method.begin(rule, Optimizee.start(l2o.Quadratics(3), stream), stream)
        >>> estimate, trajectory = method.window(rule, trajectory, 5)
        >>> trajectory.process.step, sorted(estimate.diagnostics)
        (5, ['diverged', 'update_norm', 'update_to_parameter'])

    Source: Andrychowicz et al. 2016, equation 3.
    """

    name = "meta-loss"
    moments = ("meta-loss",)
    shares = True

    def __init__(self, *, weights: Weights = "all", objective: Objective = "loss") -> None:
        self.weights: Weights
        self.objective: Objective
        self.weights, self.objective = checked(weights, objective)

    def window(self, optimizer: LearnedOptimizer, trajectory: Trajectory, steps: int) -> tuple[Estimate, Trajectory]:
        record = rollout(trajectory.process, AgentDrives(optimizer), trajectory.states, steps, record=optimizer.reads)
        gradient = replay_gradient(optimizer, record, Linear(self.slopes(record)))

        def conclude(by_task: Tree, gradient: Tree) -> Estimate:
            return Estimate(gradient, self.value(by_task), "meta-loss", diagnose(by_task))

        return Evidence(watched(record), gradient, conclude).estimate(), Trajectory(record.process, record.exit)

    def slopes(self, record: Record) -> Tensor:
        """The slope of the meta-loss by every update of a window, `[steps, tasks, coordinates]`."""
        weights = iterate_weights(self.weights, record.steps)
        losses = [hidden["loss"] for hidden in record.privileged]
        return later_gradients(
            record.privileged, [w * objective_slope(f, self.objective) for w, f in zip(weights, losses, strict=True)]
        )

    def value(self, by_task: Tree) -> float:
        """The meta-loss of a window, from what was `watched`."""
        losses = by_task["loss"]
        weights = iterate_weights(self.weights, losses.shape[1] - 1)
        return mean_value(objective_value(losses, self.objective), by_task["alive"], weights)


def checked(weights: Weights, objective: Objective) -> tuple[Weights, Objective]:
    """Both settings, or an error that names the choices."""
    if weights not in ("all", "last"):
        raise ArgumentError(f"weights is {weights!r}; choose 'all' or 'last'")
    if objective not in ("loss", "log"):
        raise ArgumentError(f"objective is {objective!r}; choose 'loss' or 'log'")
    return weights, objective


def objective_value(losses: Tensor, objective: Objective) -> Tensor:
    """f, or ln f: not a number where f is negative. Any shape."""
    return losses if objective == "loss" else (losses + _TINY).log()


def objective_slope(losses: Tensor, objective: Objective) -> Tensor:
    """The derivative of `objective_value` by the loss. Any shape."""
    return torch.ones_like(losses) if objective == "loss" else 1 / (losses + _TINY)


def iterate_weights(kind: Weights, steps: int) -> list[float]:
    """The weights w_0 .. w_steps of the iterates of a window."""
    return [1.0] * (steps + 1) if kind == "all" else [0.0] * steps + [1.0]


def later_gradients(privileged: Sequence[Tree], weights: Sequence[Tensor]) -> Tensor:
    """G_i = sum over j > i of w_j df_j/dtheta_j, divided by the number of tasks: `[steps, tasks, coordinates]`.

    `weights` has a weight for each task, `[tasks]`, for each iterate.
    """
    grads = [trees.flatten(trees.select(hidden, "metagrad")) for hidden in privileged]
    slopes = torch.empty(len(grads) - 1, *grads[0].shape, dtype=grads[0].dtype, device=grads[0].device)
    total = torch.zeros_like(grads[0])
    for step in reversed(range(len(slopes))):
        total = total + weights[step + 1][:, None] * grads[step + 1]
        slopes[step] = total
    return slopes / grads[0].shape[0]


def mean_value(losses: Tensor, alive: Tensor, weights: Sequence[float]) -> float:
    """sum_j w_j of the mean loss of the tasks alive at j; not a number when none is. Both `[tasks, steps + 1]`."""
    return value_of_sums(torch.where(alive, losses, 0), alive, weights)


def value_of_sums(sums: Tensor, counts: Tensor, weights: Sequence[float]) -> float:
    """The same from sums over some runs of each task, and how many were alive. Both `[tasks, steps + 1]`."""
    means = sums.sum(0) / counts.sum(0)
    return float((means * torch.tensor(weights, dtype=means.dtype, device=means.device)).sum())


def watched(record: Record) -> Tree:
    """What the value and the diagnostics of a window are made from, leaves `[tasks, ...]`.

    `loss` and `alive` `[tasks, steps + 1]`, `update_norm` `[tasks, steps]`, and `parameter_norm` at the end.
    """
    return {
        "loss": torch.stack([hidden["loss"] for hidden in record.privileged], dim=1),
        "alive": record.alive,
        "update_norm": torch.stack([trees.norms(action) for action in record.actions], dim=1),
        "parameter_norm": trees.norms(record.process.params),
    }


def diagnose(by_task: Tree) -> dict[str, float]:
    """What a debugger of meta-training asks first, of what was `watched`: size of updates, share of diverged tasks."""
    alive = by_task["alive"][:, -1]  # the others' last parameters may hold anything
    updates = by_task["update_norm"][alive].mean()
    return {
        "update_norm": float(updates),
        "update_to_parameter": float(updates / by_task["parameter_norm"][alive].mean().clamp(min=1e-30)),
        "diverged": 1 - float(alive.double().mean()),
    }
