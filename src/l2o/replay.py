"""The second move: the agent's network runs again over what was recorded, with gradients, against a target."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from l2o import trees
from l2o.agent import Action, Agent, meta_parameters
from l2o.rollout import Record
from l2o.trees import Tree

PIECE = 4096
"""Coordinates replayed at once where the agent allows it: about 110 MB for a window of 20, and the fastest size."""


def replay(
    agent: Agent, observations: list[Tree], state: Tree, *, theta: Mapping[str, Tensor] | None = None
) -> tuple[list[Action], Tree]:
    """Runs the agent over recorded observations, keeping the graph to its meta-parameters.

    Args:
        agent: whose network runs.
        observations: one tree per step.
        state: the agent's state before the first step.
        theta: meta-parameters to use instead of the agent's own.

    Returns:
        One action per step, and the state after the last.
    """
    actions = []
    for observation in observations:
        if theta is None:
            action, state = agent(observation, state)
        else:
            action, state = torch.func.functional_call(agent, dict(theta), (observation, state))
        actions.append(action)
    return actions, state


class Target(Protocol):
    """What a replay is asked for: a sum over steps and coordinates."""

    def value(self, step: int, action: Tensor, coordinates: slice) -> Tensor:
        """This step's share, a scalar, for the coordinates given: `action` is `[tasks, coordinates]`."""
        ...


@dataclass(frozen=True)
class Linear:
    """sum_i < slope_i , action_i >, with `slopes` `[steps, tasks, coordinates]`."""

    slopes: Tensor

    def value(self, step: int, action: Tensor, coordinates: slice) -> Tensor:
        return (self.slopes[step, :, coordinates] * action).sum()


def replay_gradient(agent: Agent, record: Record, target: Target, *, piece: int = PIECE) -> Tree:
    """The gradient of the target over the record with respect to the agent's meta-parameters.

    Worked off in pieces of about `piece` coordinates where the agent allows it; the pieces' gradients add up.

    Returns:
        One tensor for each meta-parameter, by name.
    """
    theta = meta_parameters(agent)
    total = trees.map_leaves(torch.zeros_like, theta)
    for part in agent.pieces(record.observations[:-1], record.entry["agent"], piece):
        with torch.enable_grad():
            actions, _ = replay(agent, part.observations, part.state)
            terms = [target.value(i, trees.flatten(action), part.coordinates) for i, action in enumerate(actions)]
            grads = torch.autograd.grad(torch.stack(terms).sum(), list(theta.values()))
        total = trees.map_leaves(torch.add, total, dict(zip(theta, grads, strict=True)))
    return total
