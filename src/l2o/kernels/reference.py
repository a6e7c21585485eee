"""The reference kernel: the agent's own PyTorch code, any agent on any device in any precision."""

from collections.abc import Mapping

import torch
from torch import Tensor

from l2o import trees
from l2o.agent import Action, Agent, meta_parameters
from l2o.kernels.interface import PIECE, CoordinateRule
from l2o.kernels.targets import Target
from l2o.trees import Tree

_ADVANCE_CPU = 8192
"""The fastest of 2,048 to 65,536 on two cores: 2.8 times faster than a million coordinates at once."""

_ADVANCE_ELSEWHERE = 1 << 18
"""On a GPU each piece costs launches."""


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
    if theta is None:
        return agent.run(observations, state)
    actions = []
    for observation in observations:
        action, state = torch.func.functional_call(agent, dict(theta), (observation, state))
        actions.append(action)
    return actions, state


class Reference:
    """Runs `update` and `forward` as they are written, in pieces of coordinates where memory and cache ask for it."""

    name = "reference"

    def step(self, rule: CoordinateRule, grad: Tensor, state: Tree, *, owned: bool = False) -> tuple[Tensor, Tree]:
        del owned
        return rule.update(grad, state)

    def advance(self, agent: Agent, observation: Tree, state: Tree) -> Tensor:
        grad = trees.flatten(trees.select(observation, "grad"))
        update = torch.empty_like(grad)
        storages = {leaf.untyped_storage().data_ptr() for leaf in state.values()}
        shared: Tree = {}
        size = _ADVANCE_CPU if grad.device.type == "cpu" else _ADVANCE_ELSEWHERE
        for piece in agent.pieces([observation], state, size):
            action, after = agent(piece.observations[0], piece.state)
            update[:, piece.coordinates] = trees.flatten(action)
            # A delay line hands an old leaf on under another name: it must not be overwritten before it is read.
            after = {k: v.clone() if v.untyped_storage().data_ptr() in storages else v for k, v in after.items()}
            for name, leaf in after.items():
                if leaf.ndim > 1:
                    state[name][:, piece.coordinates] = leaf
                else:
                    shared[name] = leaf  # the next piece must see the old one
        for name, leaf in shared.items():
            state[name].copy_(leaf)
        return update

    def window_vjp(
        self, agent: Agent, observations: list[Tree], state: Tree, target: Target, *, piece: int = PIECE
    ) -> Tree:
        theta = meta_parameters(agent)
        total = trees.map_leaves(torch.zeros_like, theta)
        for part in agent.pieces(observations, state, piece):
            with torch.enable_grad():
                actions, _ = replay(agent, part.observations, part.state)
                terms = [target.value(i, trees.flatten(action), part.coordinates) for i, action in enumerate(actions)]
                # What only the next step, or only a trajectory's first, depends on has a gradient of zero.
                grads = torch.autograd.grad(torch.stack(terms).sum(), list(theta.values()), materialize_grads=True)
            total = trees.map_leaves(torch.add, total, dict(zip(theta, grads, strict=True)))
        return total
