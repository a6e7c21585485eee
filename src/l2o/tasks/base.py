"""A task family: a distribution of optimizees."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from l2o.rng import Stream
from l2o.trees import Tree


class TaskFamily(ABC):
    """A distribution of optimizees that share one loss function.

    Trees that describe a batch of tasks have leaves `[tasks, ...]`; `loss` is written for ONE task and batched by
    `torch.func.vmap`. A subclass must give `init` and `loss`; the rest has defaults for a deterministic loss without
    instance data.

    Example:
        >>> class Parabola(TaskFamily):
        ...     name = "parabola"
        ...
        ...     def init(self, instance, rng):
        ...         return {"x": rng.normal((3,))}
        ...
        ...     def loss(self, params, instance, batch):
        ...         return params["x"].square().sum()
        >>> losses, grads = Parabola().value_and_grad({"x": torch.ones(2, 3)}, {}, {})  # of two tasks
        >>> losses, grads["x"].shape
        (tensor([3., 3.]), torch.Size([2, 3]))
    """

    name: str
    """The family's name in reports and cards."""

    offers: frozenset[str] = frozenset({"grad", "loss", "params"})
    """The kinds of observation leaves that mean something here: a rule or method that reads another one is refused."""

    def members(self) -> "Sequence[TaskFamily]":
        """The families that its tasks can come from: itself alone, unless it is a mixture."""
        return (self,)

    def member(self, rng: Stream) -> "TaskFamily":
        """The one of `members` that the stream's tasks come from; of a mixture, drawn for the first of them."""
        del rng
        return self

    def sample(self, rng: Stream) -> Tree:
        """Draws what distinguishes the tasks from each other: leaves `[tasks, ...]`, none by default."""
        del rng
        return {}

    @abstractmethod
    def init(self, instance: Tree, rng: Stream) -> Tree:
        """Draws initial parameters: leaves `[tasks, ...]`, named as the optimizee names them."""

    def batch_indices(self, instance: Tree, rng: Stream) -> Tree:
        """Draws the indices of the minibatch of the step that `rng` stands at: leaves `[tasks, ...]`."""
        del instance, rng
        return {}

    def gather(self, indices: Tree) -> Tree:
        """The minibatch that the indices name: leaves `[tasks, ...]`."""
        return indices

    def whole(self) -> Tree | None:
        """Everything that the true objective is the mean over, as indices for `gather`: leaves `[examples]`.

        All tasks share them. A minibatch of these indices is a sample without bias: the loss on all of them is the mean
        of the losses on its parts. `{}` where the loss has no minibatch, None (by default) where there is no such mean.
        See `l2o.tasks.objective`.
        """
        return None

    @abstractmethod
    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        """The loss of ONE task, a scalar: leaves without the tasks axis. Pure, and usable under vmap."""

    def losses(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        """The loss of every task: `[tasks]`. One task alone goes without vmap: half the time on a small perceptron."""
        if next(iter(params.values())).shape[0] == 1:
            alone = ({name: leaf[0] for name, leaf in tree.items()} for tree in (params, instance, batch))
            return self.loss(*alone).reshape(1)
        return torch.func.vmap(self.loss)(params, instance, batch)

    def value_and_grad(self, params: Tree, instance: Tree, batch: Tree) -> tuple[Tensor, Tree]:
        """Losses `[tasks]` and gradients shaped as `params`, both detached. By autograd, unless a closed form exists.

        Tasks are independent, so the gradient of the summed losses holds each task's own gradient. A parameter that the
        loss does not use has gradient zero.
        """
        with torch.enable_grad():
            leaves = {name: leaf.detach().requires_grad_() for name, leaf in params.items()}
            losses = self.losses(leaves, instance, batch)
            grads = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
        return losses.detach(), dict(zip(leaves, grads, strict=True))

    def gradient_noise(self, params: Tree, instance: Tree, rng: Stream) -> Tree:
        """What is added to the gradient that an optimizer sees, at the step that `rng` stands at.

        Leaves `[tasks, ...]`, in number type and device of `params`, for some or all of the parameters; none by
        default. It has no part in the gradient that a meta-loss differentiates.
        """
        del params, instance, rng
        return {}

    def optimum(self, instance: Tree) -> Tree | None:
        """A known global minimiser of each task, leaves `[tasks, ...]`, or None where none is known.

        It is computed from the instance alone, so a family that knows one has instance data.
        """
        del instance
        return None

    def metrics(self, params: Tree, instance: Tree) -> Tree:
        """Further measures of the optimizee, each `[tasks]`, for instance `test_accuracy`. None by default."""
        del params, instance
        return {}

    def data_notes(self) -> list[str]:
        """What a result's record has to say about the data: which part of a data set was read, for instance."""
        return []
