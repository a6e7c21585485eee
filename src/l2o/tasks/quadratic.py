"""Random quadratics, the synthetic task of Andrychowicz et al. 2016, section 3.1."""

from typing import Literal

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.trees import Tree


class Quadratics(TaskFamily):
    """f(x) = ||W x - y||^2 with W `[dimensions, dimensions]` and y `[dimensions]` drawn anew for each task.

    Args:
        dimensions: number of parameters of one task, at least 1.
        constants: "normal" draws W and y from N(0, 1) (the 2016 paper); "uniform" from U[0, 1) (its public code).
        start_scale: standard deviation of the initial x (1 in the paper, 0.01 in the code).
        divisor: the loss is divided by it. 1 gives independent tasks. The public code averages over its 128 problems,
            so that each sees a gradient 128 times smaller: `Quadratics.published()`.

    Example:
        >>> family = Quadratics(3)
        >>> family.init({}, Stream(0, tasks=range(2)))["x"].shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        dimensions: int = 10,
        *,
        constants: Literal["normal", "uniform"] = "normal",
        start_scale: float = 1.0,
        divisor: float = 1.0,
    ) -> None:
        if dimensions < 1:
            raise ArgumentError(f"dimensions is {dimensions}; a quadratic needs at least 1")
        if constants not in ("normal", "uniform"):
            raise ArgumentError(f"constants is {constants!r}; choose 'normal' or 'uniform'")
        if not start_scale >= 0 or not divisor > 0:
            raise ArgumentError(f"start_scale {start_scale} must not be negative, and divisor {divisor} positive")
        variant = (
            ""
            if (constants, start_scale, divisor) == ("normal", 1.0, 1.0)
            else f"-{constants}-{start_scale:g}-{divisor:g}"
        )
        self.name = f"quadratics-{dimensions}d{variant}"
        self.dimensions = dimensions
        self.constants = constants
        self.start_scale = start_scale
        self.divisor = divisor

    @classmethod
    def published(cls) -> "Quadratics":
        """The public code's variant: uniform constants, small starts, the mean over 128 problems."""
        return cls(10, constants="uniform", start_scale=0.01, divisor=128.0)

    def sample(self, rng: Stream) -> Tree:
        size = self.dimensions
        draw = (lambda r, s: r.normal(s)) if self.constants == "normal" else (lambda r, s: r.uniform(s))
        return {"matrix": draw(rng.child("matrix"), (size, size)), "target": draw(rng.child("target"), (size,))}

    def init(self, instance: Tree, rng: Stream) -> Tree:
        return {"x": self.start_scale * rng.normal((self.dimensions,))}

    def whole(self) -> Tree | None:
        return {}

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        return (instance["matrix"] @ params["x"] - instance["target"]).square().sum() / self.divisor

    def value_and_grad(self, params: Tree, instance: Tree, batch: Tree) -> tuple[Tensor, Tree]:
        """In closed form: the gradient is 2 W'(W x - y) / divisor."""
        matrix = instance["matrix"]  # [tasks, dimensions, dimensions]
        residual = torch.baddbmm(-instance["target"][..., None], matrix, params["x"].detach()[..., None])
        grad = matrix.mT @ residual * (2 / self.divisor)
        return residual.square().sum((1, 2)) / self.divisor, {"x": grad[..., 0]}

    def optimum(self, instance: Tree) -> Tree:
        return {"x": torch.linalg.solve(instance["matrix"], instance["target"])}
