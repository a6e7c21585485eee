"""What every kernel can do."""

from typing import Protocol

from torch import Tensor

from l2o.agent import Agent, CellSpec
from l2o.kernels.targets import Target
from l2o.trees import Tree

PIECE = 4096
"""Coordinates replayed at once where the agent allows it: about 110 MB for a window of 20, and the fastest size."""


class CoordinateRule(Protocol):
    """An agent that treats every coordinate alike and alone: `optimizers.base.Coordinatewise`."""

    @property
    def cell(self) -> CellSpec | None:
        """The network that kernels can run for it."""
        ...

    def update(self, grad: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        """One step in plain PyTorch: gradient `[tasks, coordinates]` to the update and the next state."""
        ...


class Kernel(Protocol):
    """Computes steps and replays. States keep the shapes of the agent's own; `layout` says how they lie in memory."""

    @property
    def name(self) -> str:
        """What records and `l2o doctor` call it."""
        ...

    def step(self, rule: CoordinateRule, grad: Tensor, state: Tree, *, owned: bool = False) -> tuple[Tensor, Tree]:
        """One step: gradient `[tasks, coordinates]` to the update of the same shape, and the next state.

        The next state is a new one, unless the caller owns `state`: then it may be written over it.
        """
        ...

    def advance(self, agent: Agent, observation: Tree, state: Tree) -> Tensor:
        """One step that overwrites `state` (a state can be 80 numbers a coordinate): the update `[tasks, coordinates]`.

        No gradients. Extra memory is bounded at any size if the agent can be split into pieces.
        """
        ...

    def window_vjp(
        self, agent: Agent, observations: list[Tree], state: Tree, target: Target, *, piece: int = PIECE
    ) -> Tree:
        """The gradient of `target` over a recorded window with respect to the meta-parameters, by name.

        Args:
            agent: whose network is run again.
            observations: one tree per step.
            state: the agent's state before the first of them.
            target: what the replayed actions are asked for.
            piece: coordinates at once, for a kernel that keeps activations in memory.
        """
        ...
