"""Truncated back-propagation through time, first order, by rollout and replay."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from l2o import trees
from l2o.errors import ArgumentError
from l2o.methods.base import Estimate, Method, Trajectory
from l2o.optimizers.base import LearnedOptimizer
from l2o.replay import Linear, replay_gradient
from l2o.rollout import AgentDrives, Record, rollout
from l2o.trees import Tree


class MetaLoss(Method):
    """The gradient of L = sum_j w_j f_j(theta_j) over a window, with every gradient that the optimizer sees held constant.

    Since theta_j = theta_0 + sum of the updates before it, dL = sum_i < G_i , d delta_i > with G_i the weighted sum of
    the later gradients: a replay of the recorded gradients against a linear target. Exact, without a graph through the
    optimizees. The term j = 0 counts in the value and has no gradient.

    Args:
        weights: "all" gives every iterate weight 1 (Andrychowicz et al. 2016, Chen et al. 2020); "last" only the last
            one of each window (Lv et al. 2017).

    Source: Andrychowicz et al. 2016, equation 3.
    """

    name = "meta-loss"
    moments = ("meta-loss",)

    def __init__(self, *, weights: Literal["all", "last"] = "all") -> None:
        if weights not in ("all", "last"):
            raise ArgumentError(f"weights is {weights!r}; choose 'all' or 'last'")
        self.weights: Literal["all", "last"] = weights

    def window(self, optimizer: LearnedOptimizer, trajectory: Trajectory, steps: int) -> tuple[Estimate, Trajectory]:
        record = rollout(
            trajectory.process, AgentDrives(optimizer), trajectory.states, steps, record=optimizer.reads
        )
        weights = iterate_weights(self.weights, steps)
        gradient = replay_gradient(optimizer, record, Linear(later_gradients(record.privileged, weights)))
        losses = torch.stack([hidden["loss"] for hidden in record.privileged], dim=1)  # [tasks, steps + 1]
        estimate = Estimate(gradient, mean_value(losses, record.alive, weights), "meta-loss", diagnose(record))
        return estimate, Trajectory(record.process, record.exit)


def iterate_weights(kind: Literal["all", "last"], steps: int) -> list[float]:
    """The weights w_0 .. w_steps of the iterates of a window."""
    return [1.0] * (steps + 1) if kind == "all" else [0.0] * steps + [1.0]


def later_gradients(privileged: Sequence[Tree], weights: Sequence[float]) -> Tensor:
    """G_i = sum over j > i of w_j dL/dtheta_j, divided by the number of tasks: `[steps, tasks, coordinates]`."""
    grads = [trees.flatten(trees.select(hidden, "metagrad")) for hidden in privileged]
    slopes = torch.empty(len(grads) - 1, *grads[0].shape, dtype=grads[0].dtype, device=grads[0].device)
    total = torch.zeros_like(grads[0])
    for step in reversed(range(len(slopes))):
        total = total + weights[step + 1] * grads[step + 1]
        slopes[step] = total
    return slopes / grads[0].shape[0]


def mean_value(losses: Tensor, alive: Tensor, weights: Sequence[float]) -> float:
    """sum_j w_j of the mean loss of the tasks alive at j; not a number when none is. Both `[tasks, steps + 1]`."""
    means = torch.where(alive, losses, 0).sum(0) / alive.sum(0)
    return float((means * torch.tensor(weights, dtype=means.dtype, device=means.device)).sum())


def diagnose(record: Record) -> dict[str, float]:
    """What a debugger of meta-training asks first: size of the updates, share of diverged tasks."""
    updates = torch.stack([trees.norms(action) for action in record.actions]).mean()
    return {
        "update_norm": float(updates),
        "update_to_parameter": float(updates / trees.norms(record.process.params).mean().clamp(min=1e-30)),
        "diverged": 1 - float(record.alive[:, -1].double().mean()),
    }
