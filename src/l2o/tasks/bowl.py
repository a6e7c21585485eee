"""Quadratic bowls in two dimensions, stretched and rotated."""

import math

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.trees import Tree


class Bowl(TaskFamily):
    """f(x) = |A x|^2 / 2 with A = diag(1, condition) R and R the rotation by an angle; start N(0, 1); f(0) = 0.

    Tasks differ in their start alone. At an angle that is no multiple of 90 degrees both coordinates are in both axes
    of the bowl, so that a rate for each coordinate cannot undo the condition.

    Args:
        condition: the second axis of the bowl by the first, positive.
        angle: of the rotation, in degrees.

    Example:
        >>> bowl = Bowl(5.0)
        >>> bowl.loss({"x": torch.ones(2, dtype=torch.float64)}, {"matrix": bowl.matrix}, {})
        tensor(13., dtype=torch.float64)

    Source: the ensemble of Wichrowska et al. 2017.
    """

    def __init__(self, condition: float, *, angle: float = 0.0) -> None:
        if not 0 < condition < math.inf or not math.isfinite(angle):
            raise ArgumentError(f"condition {condition} must be positive and finite, and angle {angle} finite")
        self.name = f"bowl-{condition:g}" + (f"-rotated-{angle:g}" if angle else "")
        turn = math.radians(angle)
        rotation = [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
        stretch = torch.tensor([[1.0], [condition]], dtype=torch.float64)
        self.matrix = stretch * torch.tensor(rotation, dtype=torch.float64)  # [2, 2]

    def sample(self, rng: Stream) -> Tree:
        """The matrix A `[tasks, 2, 2]`, equal for all tasks."""
        return {"matrix": self.matrix.repeat(len(rng.tasks), 1, 1)}

    def init(self, instance: Tree, rng: Stream) -> Tree:
        return {"x": rng.normal((2,))}

    def whole(self) -> Tree | None:
        return {}

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        return (instance["matrix"] @ params["x"]).square().sum() / 2

    def optimum(self, instance: Tree) -> Tree:
        return {"x": torch.zeros_like(instance["matrix"][:, 0])}
