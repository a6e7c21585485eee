"""Softmax regression on two clouds of points."""

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.trees import Tree


class SoftmaxRegression(TaskFamily):
    """Softmax cross-entropy of a linear classifier on minibatches of two classes, drawn with replacement.

    The data of each task are its own: a point of class k is s_k c + N(0, I), with s_0 = -1, s_1 = 1, and the centre c
    drawn from N(0, I / dimensions). The classes overlap, since the centres are about 2 apart. Half of the points is of
    each class. Parameters are `weight` `[dimensions, 2]`, from N(0, start_scale^2 / dimensions), and `bias` `[2]`, from
    0.

    Args:
        dimensions: of a point, at least 1.
        samples: points of one task, at least 2.
        batch: points in a minibatch, at least 1.
        start_scale: deviation of the initial weights, times the root of `dimensions`.

    Example:
        >>> SoftmaxRegression(3).init({}, Stream(0, tasks=range(2)))["weight"].shape
        torch.Size([2, 3, 2])

    Source: the ensemble of Wichrowska et al. 2017. There, in the public code, the loss of two classes has one logit.
    """

    def __init__(
        self, dimensions: int = 10, *, samples: int = 1_000, batch: int = 100, start_scale: float = 1.2
    ) -> None:
        if dimensions < 1 or samples < 2 or batch < 1:
            raise ArgumentError(
                f"dimensions {dimensions}, samples {samples}, batch {batch}; need at least 1, 2 and 1 of them"
            )
        if not 0 <= start_scale < float("inf"):
            raise ArgumentError(f"start_scale is {start_scale}; it must be finite and not negative")
        self.name = f"softmax-regression-{dimensions}d-{samples}-{batch}-{start_scale:g}"
        self.dimensions, self.samples, self.batch, self.start_scale = dimensions, samples, batch, start_scale

    def sample(self, rng: Stream) -> Tree:
        labels = torch.arange(self.samples) % 2
        centre = rng.child("centre").normal((1, self.dimensions)) / self.dimensions**0.5  # [tasks, 1, dimensions]
        noise = rng.child("points").normal((self.samples, self.dimensions))  # [tasks, samples, dimensions]
        return {"inputs": (2 * labels[:, None] - 1) * centre + noise, "labels": labels.repeat(len(rng.tasks), 1)}

    def init(self, instance: Tree, rng: Stream) -> Tree:
        weight = self.start_scale / self.dimensions**0.5 * rng.normal((self.dimensions, 2))
        return {"weight": weight, "bias": torch.zeros_like(weight[:, 0])}

    def batch_indices(self, instance: Tree, rng: Stream) -> Tree:
        return {"examples": rng.integers(self.samples, (self.batch,))}

    def whole(self) -> Tree | None:
        return {"examples": torch.arange(self.samples)}

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        chosen = batch["examples"]
        logits = instance["inputs"][chosen] @ params["weight"] + params["bias"]  # [batch, 2]
        return torch.nn.functional.cross_entropy(logits, instance["labels"][chosen])
