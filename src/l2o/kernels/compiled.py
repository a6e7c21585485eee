"""The reference kernel with each rule's `update` compiled by torch: for architectures that no native kernel covers."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from l2o.agent import Agent
from l2o.kernels.interface import PIECE, CoordinateRule
from l2o.kernels.reference import Reference
from l2o.kernels.targets import Target
from l2o.trees import Tree

P = ParamSpec("P")
T = TypeVar("T")


class Compiled:
    """Opt-in: the first call of each shape compiles for some ten seconds and needs a C++ compiler or a GPU.

    Rollout, replay and drop-in steps all go through the compiled `update`; an agent that couples coordinates hands in a
    method of its own, see `select.as_chosen`.
    """

    name = "compiled"

    def __init__(self) -> None:
        self._reference = Reference()
        self._methods: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def step(self, rule: CoordinateRule, grad: Tensor, state: Tree, *, owned: bool = False) -> tuple[Tensor, Tree]:
        del owned
        return self.form(rule, type(rule).update)(rule, grad, state)

    def form(self, agent: Agent | CoordinateRule, method: Callable[P, T]) -> Callable[P, T]:
        """A method of an agent's class, compiled: the first call with arguments of other shapes compiles anew.

        After some shapes (8 in torch 2.13) torch compiles no more and runs further ones as they are written.
        """
        forms = self._methods.setdefault(agent, {})
        if method not in forms:
            forms[method] = torch.compile(method, dynamic=False)
        return forms[method]

    def advance(self, agent: Agent, observation: Tree, state: Tree) -> Tensor:
        return self._reference.advance(agent, observation, state)

    def window_vjp(
        self, agent: Agent, observations: list[Tree], state: Tree, target: Target, *, piece: int = PIECE
    ) -> Tree:
        return self._reference.window_vjp(agent, observations, state, target, piece=piece)
