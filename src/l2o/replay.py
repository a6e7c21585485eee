"""The second move: the agent's network runs again over what was recorded, with gradients, against a target."""

from l2o.agent import Agent
from l2o.kernels.interface import PIECE
from l2o.kernels.select import kernel_for
from l2o.kernels.targets import Target
from l2o.rollout import Record
from l2o.trees import Tree


def replay_gradient(agent: Agent, record: Record, target: Target, *, piece: int = PIECE) -> Tree:
    """The gradient of the target over the record with respect to the agent's meta-parameters.

    Args:
        agent: whose network is run again; its kernel does the work.
        record: the window.
        target: what the replayed actions are asked for.
        piece: coordinates at once where the kernel keeps activations in memory; their gradients add up.

    Returns:
        One tensor for each meta-parameter, by name.
    """
    seen = record.observations[0]
    leaf = next(iter(seen.values()))
    kernel = kernel_for(agent, leaf.device, leaf.dtype)
    return kernel.window_vjp(agent, record.observations[:-1], record.entry["agent"], target, piece=piece)
