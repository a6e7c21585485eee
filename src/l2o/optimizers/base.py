"""Learned optimizers: agents whose action is an update of the parameters."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from l2o import trees
from l2o.agent import Action, Agent, Backend, Piece
from l2o.kernels.layout import empty_leaves
from l2o.kernels.select import kernel_for_step
from l2o.rng import Stream
from l2o.trees import Tree

if TYPE_CHECKING:
    from l2o.optimizers.torch_optim import TorchOptimizer

Config = dict[str, float | int | str | bool]


class LearnedOptimizer(Agent, ABC):
    """An agent whose action is an update: parameters change by `action`, a tree shaped as the parameters.

    Hand-designed rules are the same kind, with no meta-parameters.

    Example:
        >>> from l2o.optimizers.rnnprop import RNNprop
        >>> rule = RNNprop.lv()
        >>> rule.name, sorted(rule.reads), rule.horizon
        ('RNNprop', ['grad'], None)
        >>> state = rule.init_state({"weight": torch.zeros(2, 3, 4)}, Stream(0, tasks=range(2)))
        >>> update, state = rule({"grad/weight": torch.ones(2, 3, 4)}, state)
        >>> update["weight"].shape
        torch.Size([2, 3, 4])
    """

    kind = "optimizer"

    couples_tensors: ClassVar[bool] = False
    """Whether a tensor's update depends on the other tensors: the drop-in then shows it all parameters together."""

    couples_coordinates: ClassVar[bool] = True
    """Whether a coordinate's update depends on the others of its tensor. Where it does not, any slice of a tensor does
    by itself what it does in the whole, its first state included: the drop-in then shows the rule the part of a tensor
    that lies in its process, else all of it."""

    @abstractmethod
    def config(self) -> Config:
        """The constructor's arguments that rebuild it, meta-parameters aside."""

    def tensor_groups(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """The group that each tensor belongs to, for a rule that treats groups differently; else all are alike.

        Such a rule keeps the group of each coordinate in a leaf `group`, `[tasks, coordinates]`, of its state.

        Args:
            shapes: of all parameters of a model, in its order.
        """
        return dict.fromkeys(shapes, 0)

    def coordinate_groups(self, shapes: Mapping[str, Sequence[int]]) -> Tensor:
        """The group of each coordinate of a model, its tensors one after the other: `[coordinates]`, int64."""
        groups = self.tensor_groups(shapes)
        return torch.cat([torch.full((math.prod(shape),), groups[name]) for name, shape in shapes.items()])

    def calibrate(self, observations: Sequence[Tree], actions: Tensor, group: Tensor) -> None:
        """Sets constants by what is to be seen and done, before a meta-training; by default there are none.

        Args:
            observations: one tree for each step.
            actions: that are to be learned at first, `[tasks, steps, coordinates]`.
            group: of each coordinate, `[coordinates]`, see `tensor_groups`.
        """
        del observations, actions, group

    def as_torch(
        self,
        params: Iterable[Tensor] | Iterable[dict] | Iterable[tuple[str, Tensor]],
        *,
        lr: float = 1.0,
        weight_decay: float = 0.0,
        horizon: int | None = None,
        backend: Backend = "auto",
    ) -> "TorchOptimizer":
        """This rule as a `torch.optim.Optimizer` for an ordinary training loop.

        Args:
            params: as for any torch optimizer: tensors, named tensors, or parameter groups.
            lr: multiplies every update; 1.0 is the behaviour that was meta-trained.
            weight_decay: decoupled decay per step, multiplied by lr.
            horizon: inner steps that the rule was meta-trained for (its own by default); running far past it warns
                once.
            backend: who computes a step; "auto" keeps this rule's own `backend`.
        """
        from l2o.optimizers.torch_optim import TorchOptimizer

        horizon = self.horizon if horizon is None else horizon
        return TorchOptimizer(params, self, lr=lr, weight_decay=weight_decay, horizon=horizon, backend=backend)


class Coordinatewise(LearnedOptimizer, ABC):
    """A rule that treats every coordinate alike and alone, with its own state.

    A subclass writes `update` over flat coordinates. State leaves are `[tasks, coordinates, ...]`, or `[tasks]` for
    what a task's coordinates share (a step counter).

    A rule whose network a kernel knows declares it as its `cell`; a subclass with an `update` of its own has none,
    unless it declares one beside it.

    Example:
        >>> class SignDescent(Coordinatewise):
        ...     name = "sign descent"
        ...
        ...     def config(self):
        ...         return {}
        ...
        ...     def init_coordinates(self, tasks, coordinates, like):
        ...         return {}
        ...
        ...     def update(self, grad, state):
        ...         return -0.01 * grad.sign(), state
        >>> parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = SignDescent().as_torch([parameter])
        >>> parameter.grad = torch.tensor([3.0, -4.0])
        >>> optimizer.step()
        >>> parameter.data
        tensor([0.9900, 2.0100])
    """

    couples_coordinates = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "update" in vars(cls) and "cell" not in vars(cls):
            cls.cell = Agent.cell  # pyright: ignore[reportAttributeAccessIssue, reportIncompatibleMethodOverride]

    @abstractmethod
    def init_coordinates(self, tasks: int, coordinates: int, like: Tensor) -> Tree:
        """The state before the first step, on the device and with the dtype of `like`."""

    @abstractmethod
    def update(self, grad: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        """One step: gradient `[tasks, coordinates]` to the update of the same shape, and the next state."""

    def init_state(self, params: Tree, rng: Stream) -> Tree:
        del rng
        leaves = list(params.values())
        coordinates = sum(leaf[0].numel() for leaf in leaves)
        return self.init_coordinates(leaves[0].shape[0], coordinates, leaves[0])

    def forward(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        return self.act(observation, state)

    def act(self, observation: Tree, state: Tree, *, owned: bool = False) -> tuple[Action, Tree]:
        grads = trees.select(observation, "grad")
        flat = trees.flatten(grads)
        update, state = kernel_for_step(self, flat).step(self, flat, state, owned=owned)
        return trees.unflatten(update, grads), state

    def pieces(self, observations: list[Tree], state: Tree, size: int) -> Iterator[Piece]:
        """Any slice of the coordinates can be replayed by itself: memory and cache need stay bounded."""
        flat = [trees.flatten(trees.select(observation, "grad")) for observation in observations]
        tasks, coordinates = flat[0].shape
        width = max(1, size // tasks)
        for start in range(0, max(coordinates, 1), width):  # a tensor without coordinates has its steps counted
            part = slice(start, min(start + width, coordinates))
            yield Piece(
                part,
                [{"grad/coordinates": grad[:, part]} for grad in flat],
                {name: leaf[:, part] if leaf.ndim > 1 else leaf for name, leaf in state.items()},
            )


def zeros(like: Tensor, *shape: int) -> Tensor:
    """Zeros of a shape on the device and with the dtype of `like`; `[tasks, coordinates, hidden]` lies packed."""
    if len(shape) == 3:
        return empty_leaves(like, 1, *shape)[0].zero_()
    return torch.zeros(shape, device=like.device, dtype=like.dtype)
