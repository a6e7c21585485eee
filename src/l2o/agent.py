"""What learns: an agent turns an observation and its own state into an action."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from l2o.rng import Stream
from l2o.trees import Tree

Action = Tree

Backend = Literal["auto", "reference", "native", "compiled"]
"""Who computes an agent's steps and replays; "auto" takes the native kernel wherever it covers the case."""


@dataclass(frozen=True)
class CellSpec:
    """A coordinate-wise network that a kernel can run in place of the agent's own PyTorch code.

    delta = scale (W h2 + b), or scale tanh(W h2 + b) if `bounded`, where h2 is the output of a two-layer LSTM over the
    features of the gradient. An agent that declares one has its meta-parameters under the names `weights` and its
    state under `leaves`.

    Args:
        features: "identity" is the gradient; "log_and_sign" Andrychowicz's two features; "moments" Adam's two, through
            a layer with an ELU.
        hidden: units of each LSTM layer.
        scale: factor on the output.
        bounded: whether the output passes through tanh.
        k: constant of "log_and_sign".
        beta1: decay of the first moment of "moments".
        beta2: decay of the second.
        epsilon: added to the root of the second moment.
    """

    features: Literal["identity", "log_and_sign", "moments"]
    hidden: int
    scale: float
    bounded: bool = False
    k: float = 1.0
    beta1: float = 0.0
    beta2: float = 0.0
    epsilon: float = 0.0

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the meta-parameters, in the order of the network."""
        layers = ("input", "cell1", "cell2", "output") if self.features == "moments" else ("cell1", "cell2", "output")
        return tuple(f"{layer}.{part}" for layer in layers for part in ("weight", "bias"))

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of the state's leaves: `[tasks, coordinates, hidden]`, and the moments `[tasks, coordinates]`."""
        return ("h1", "c1", "h2", "c2", *(("m", "v") if self.features == "moments" else ()))


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

    kind: ClassVar[str]
    """What it is: "optimizer" or "schedule"."""

    name: str
    """What reports and cards call it."""

    horizon: int | None = None
    """Steps of the longest trajectory it was meta-trained on, or of an average one where lengths were random; None if
    unknown, or without meta-training."""

    reads: ClassVar[frozenset[str]] = frozenset({"grad"})
    """The kinds of observation leaves it looks at: of "grad", "loss", "params"."""

    backend: Backend = "auto"
    """Who computes: set it to override the environment variable `L2O_BACKEND`, which overrides "auto"."""

    @property
    def cell(self) -> CellSpec | None:
        """The network that kernels can run for it; None: only its own PyTorch code can."""
        return None

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The constructor's arguments that rebuild it, meta-parameters aside, in JSON."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """An agent of the configuration, its meta-parameters fresh."""
        return cls(**config)

    @abstractmethod
    def init_state(self, params: Tree, rng: Stream) -> Tree:
        """The state before the first step, for parameters with leaves `[tasks, ...]`."""

    @abstractmethod
    def forward(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        """One step: the action and the next state."""

    def act(self, observation: Tree, state: Tree, *, owned: bool = False) -> tuple[Action, Tree]:
        """One step, as `forward` does it; a state that is `owned` by the caller may be overwritten by the next one."""
        del owned
        return self(observation, state)

    def run(self, observations: list[Tree], state: Tree) -> tuple[list[Action], Tree]:
        """A recorded window: one action for each observation, and the state after the last.

        The default takes one step after another; an agent overrides it that is faster on all observations at once.
        """
        actions = []
        for observation in observations:
            action, state = self(observation, state)
            actions.append(action)
        return actions, state

    def pieces(self, observations: list[Tree], state: Tree, size: int) -> Iterator[Piece]:
        """Splits a window into parts of about `size` coordinates that can be replayed one after the other.

        The default is the whole window: right for every agent, and the only way for one that couples coordinates.
        """
        del size
        yield Piece(slice(None), observations, state)


def meta_parameters(agent: Agent) -> dict[str, Tensor]:
    """The agent's meta-parameters by name, as `named_parameters` orders them."""
    return dict(agent.named_parameters())
