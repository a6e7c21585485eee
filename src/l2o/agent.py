"""What learns: an agent turns an observation and its own state into an action."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from l2o.rng import Stream
from l2o.trees import Tree

Action = Tree


@dataclass(frozen=True)
class Piece:
    """A part of a recorded window that an agent can replay by itself.

    Args:
        coordinates: which columns of the flattened action it yields.
        observations: one tree per step.
        state: the agent's state before the first of them.
    """

    coordinates: slice
    observations: list[Tree]
    state: Tree


class Agent(nn.Module, ABC):
    """An agent. Its meta-parameters are its `nn.Parameter`s; frozen normalisers are buffers.

    Pure: it keeps no hidden state and draws no random numbers in `forward`. Every leaf of observations, states and
    actions is `[tasks, ...]`; tasks never influence each other.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"grad"})
    """The kinds of observation leaves it looks at: of "grad", "loss", "params"."""

    @abstractmethod
    def init_state(self, params: Tree, rng: Stream) -> Tree:
        """The state before the first step, for parameters with leaves `[tasks, ...]`."""

    @abstractmethod
    def forward(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        """One step: the action and the next state."""

    def pieces(self, observations: list[Tree], state: Tree, size: int) -> Iterator[Piece]:
        """Splits a window into parts of about `size` coordinates that can be replayed one after the other.

        The default is the whole window: right for every agent, and the only way for one that couples coordinates.
        """
        del size
        yield Piece(slice(None), observations, state)


def meta_parameters(agent: Agent) -> dict[str, Tensor]:
    """The agent's meta-parameters by name, as `named_parameters` orders them."""
    return dict(agent.named_parameters())
