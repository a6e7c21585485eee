"""The optimizer of the meta-parameters: Adam with optional clipping, one set of moments for each kind of loss."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from l2o import trees
from l2o.agent import Agent, meta_parameters
from l2o.errors import ArgumentError
from l2o.trees import Tree


@dataclass(frozen=True)
class MetaAdam:
    """Settings of the meta-optimizer.

    Args:
        learning_rate: step size, positive.
        final_learning_rate: the step size falls to it along half a cosine over the run; None keeps it constant, as the
            papers do.
        clip: largest norm of a meta-gradient, longer ones are scaled down to it; None for no clipping.
    """

    learning_rate: float = 1e-3
    final_learning_rate: float | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ArgumentError(f"meta learning rate is {self.learning_rate}; it must be positive")
        if self.final_learning_rate is not None and not 0 < self.final_learning_rate <= self.learning_rate:
            raise ArgumentError(
                f"final meta learning rate is {self.final_learning_rate}; it must be positive and at most "
                f"{self.learning_rate}, or None for a constant one"
            )
        if self.clip is not None and not self.clip > 0:
            raise ArgumentError(f"clip is {self.clip}; it must be positive, or None for no clipping")

    def at(self, progress: float) -> float:
        """The step size when this share of the run is done, 0 to 1."""
        if self.final_learning_rate is None:
            return self.learning_rate
        above = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * above


class MetaOptimizer:
    """Steps an agent's meta-parameters along meta-gradients."""

    def __init__(self, agent: Agent, settings: MetaAdam, moments: Iterable[str]) -> None:
        self._parameters = meta_parameters(agent)
        if not self._parameters:
            raise ArgumentError(f"{type(agent).__name__} has no meta-parameters: there is nothing to meta-train")
        self._settings = settings
        self._adams = {
            name: torch.optim.Adam(self._parameters.values(), lr=settings.learning_rate, foreach=False)
            for name in moments
        }

    def step(self, gradient: Mapping[str, Tensor], moments: str, *, progress: float) -> None:
        """One Adam step with the moments of that name, when the share `progress` of the run is done."""
        for name, parameter in self._parameters.items():
            parameter.grad = gradient[name].detach().clone()
        if self._settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._settings.clip)
        adam = self._adams[moments]
        adam.param_groups[0]["lr"] = self._settings.at(progress)
        adam.step()
        adam.zero_grad(set_to_none=True)

    def tree(self) -> Tree:
        """All moments, for a checkpoint."""
        return {
            f"{moments}/{leaf}/{name}": value
            for moments, adam in self._adams.items()
            for name, parameter in self._parameters.items()
            for leaf, value in adam.state.get(parameter, {}).items()
        }

    def load(self, tree: Tree) -> None:
        """Takes up the moments that `tree` gave, in place of those it has."""
        for moments, adam in self._adams.items():
            adam.state.clear()
            for name, parameter in self._parameters.items():
                found = {
                    leaf: tree[f"{moments}/{leaf}/{name}"].clone()
                    for leaf in ("step", "exp_avg", "exp_avg_sq")
                    if f"{moments}/{leaf}/{name}" in tree
                }
                if found:
                    adam.state[parameter] = {**found, "step": found["step"].cpu()}


def global_norm(gradient: Mapping[str, Tensor]) -> float:
    """The Euclidean norm over all meta-parameters."""
    return float(torch.stack([leaf.norm() for leaf in gradient.values()]).norm())


def snapshot(agent: Agent) -> Tree:
    """A copy of the agent's meta-parameters and buffers."""
    return trees.map_leaves(lambda leaf: leaf.detach().clone(), agent.state_dict())


def is_finite(gradient: Mapping[str, Tensor]) -> bool:
    """Whether every number of a meta-gradient is finite."""
    return all(bool(torch.isfinite(leaf).all()) for leaf in gradient.values())
