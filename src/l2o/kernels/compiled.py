"""The reference kernel with each rule's `update` compiled by torch: for architectures that no native kernel covers."""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from l2o.agent import Agent
from l2o.kernels.interface import PIECE, CoordinateRule
from l2o.kernels.reference import Reference
from l2o.kernels.targets import Target
from l2o.trees import Tree


class Compiled:
    """Opt-in: the first call of each shape compiles for some ten seconds and needs a C++ compiler or a GPU.

    Rollout, replay and drop-in steps all go through the compiled `update`; an agent that couples coordinates has none
    and runs as it is.
    """

    name = "compiled"

    def __init__(self) -> None:
        self._reference = Reference()
        self._updates: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def step(self, rule: CoordinateRule, grad: Tensor, state: Tree, *, owned: bool = False) -> tuple[Tensor, Tree]:
        del owned
        if rule not in self._updates:
            self._updates[rule] = torch.compile(type(rule).update, dynamic=False)
        return self._updates[rule](rule, grad, state)

    def advance(self, agent: Agent, observation: Tree, state: Tree) -> Tensor:
        return self._reference.advance(agent, observation, state)

    def window_vjp(
        self, agent: Agent, observations: list[Tree], state: Tree, target: Target, *, piece: int = PIECE
    ) -> Tree:
        return self._reference.window_vjp(agent, observations, state, target, piece=piece)
