"""Quadratic regression with an L1 penalty: the first task of AutoLoss."""

import numpy as np
import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.alternate import AlternateFamily, Choice, Goal, Pair
from l2o.tasks.splits import PARTS, Purpose, parts_for
from l2o.trees import Tree


class QuadraticRegression(AlternateFamily):
    """f(x) = b'x + x'Ax / 10 fitted to y = w'x + noise, which is linear: the L1 penalty has something to do.

        mse = mean over the training points of (f(x) - y)^2;  l1 = penalty (sum |A| + sum |b|)

    Every step sees all training points. The data are one fixed draw, the same for all tasks, which differ in their
    start: b ~ N(0, 0.1^2), A ~ N(0, 0.01^2). Metrics are `validation`, the mean squared error on the validation points,
    and `test`.

    Args:
        penalty: lambda, the weight of the L1 norm; not negative.
        purpose: "controller" trains and validates on the parts that schedules are trained with, "model" on those that
            models are trained with under a schedule that is done. The test part is the same.
        dimensions: of x.
        sizes: points of each of the five parts.
        deviation: of the noise.
        data_seed: of the draw.

    Example:
        >>> family = QuadraticRegression(0.4)
        >>> [choice.name for choice in family.choices], family.goal.metric
        (['mse', 'l1'], 'validation')

    Source: AutoLoss (anonymous 2018 submission; Xu et al. 2019), section 5.1, with the recipe of the public code: its
    draws in its order, noise of standard deviation 2 (the paper's N(0, 2)), the factor 1/10, no constant term; the
    penalty on A as stored.
    """

    def __init__(
        self,
        penalty: float = 0.4,
        *,
        purpose: Purpose = "controller",
        dimensions: int = 16,
        sizes: tuple[int, int, int, int, int] = (200, 200, 200, 200, 1000),
        deviation: float = 2.0,
        data_seed: int = 1,
    ) -> None:
        if not 0 <= penalty < float("inf"):
            raise ArgumentError(f"penalty is {penalty}; it must be finite and not negative")
        used = parts_for(purpose)
        if dimensions < 1 or min(sizes) < 1 or not 0 <= deviation < float("inf"):
            raise ArgumentError(
                f"dimensions {dimensions} and sizes {sizes} must be at least 1, deviation {deviation} not negative"
            )
        super().__init__(
            losses=("mse", "l1"),
            groups={"model": ("b", "A")},
            choices=(Choice("mse", (("mse", "model"),)), Choice("l1", (("l1", "model"),))),
            goal=Goal("validation"),
        )
        self.name = f"quadratic-regression-{dimensions}d-l1-{penalty:g}-{purpose}"
        self.penalty, self.dimensions = penalty, dimensions
        self.weight, data = _published_draw(data_seed, sizes, dimensions, deviation)
        self.parts: dict[str, tuple[Tensor, Tensor]] = dict(zip(PARTS, data, strict=True))
        self._forms = {name: _QuadraticForm(*self.parts[part]) for name, part in used.items()}

    def init(self, instance: Tree, rng: Stream) -> Tree:
        d = self.dimensions
        return {"b": 0.1 * rng.child("b").normal((d,)), "A": 0.01 * rng.child("A").normal((d, d))}

    def loss_named(self, name: str, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        theta = torch.cat([params["b"], params["A"].flatten()])
        if name == "l1":
            return self.penalty * theta.abs().sum()
        return self._forms["train"].value(theta[None])[0]

    def pair_value_and_grad(self, pair: Pair, params: Tree, instance: Tree, batch: Tree) -> tuple[Tensor, Tree]:
        """In closed form: the mean squared error is a quadratic form of the parameters."""
        theta = torch.cat([params["b"], params["A"].flatten(1)], dim=1)  # [tasks, d + d^2]
        if pair[0] == "l1":
            values, grad = self.penalty * theta.abs().sum(1), self.penalty * theta.sign()
        else:
            values, grad = self._forms["train"].value_and_grad(theta)
        b, a = grad.split([self.dimensions, self.dimensions**2], dim=1)
        return values, {"b": b, "A": a.unflatten(1, (self.dimensions, self.dimensions))}

    def metrics(self, params: Tree, instance: Tree) -> Tree:
        theta = torch.cat([params["b"], params["A"].flatten(1)], dim=1)
        return {name: self._forms[name].value(theta) for name in ("validation", "test")}


class _QuadraticForm:
    """mean (F theta - y)^2 = theta'Q theta - 2 c'theta + mean y^2, for features F = [x, xx'/10]."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        features = torch.cat([x, (x[:, :, None] * x[:, None, :]).flatten(1) / 10], dim=1)
        self.matrix = features.T @ features / len(y)
        self.vector = features.T @ y / len(y)
        self.constant = y.square().mean()

    def value(self, theta: Tensor) -> Tensor:
        """`[tasks]` for theta `[tasks, coordinates]`."""
        return (theta * (theta @ self.matrix.to(theta) - 2 * self.vector.to(theta))).sum(1) + self.constant.to(theta)

    def value_and_grad(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        vector = self.vector.to(theta)
        product = theta @ self.matrix.to(theta)
        return (theta * (product - 2 * vector)).sum(1) + self.constant.to(theta), 2 * (product - vector)


def _published_draw(
    seed: int, sizes: tuple[int, ...], dimensions: int, deviation: float
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """w, and the points of each part, drawn one by one in the public code's order from NumPy's legacy generator."""
    rng = np.random.RandomState(seed)
    weight = rng.rand(dimensions) - 0.5
    parts = []
    for size in sizes:
        inputs, targets = np.empty((size, dimensions)), np.empty(size)
        for i in range(size):
            inputs[i] = 10 * (rng.rand(dimensions) - 0.5)
            targets[i] = inputs[i] @ weight + rng.normal(0.0, deviation)
        parts.append((torch.from_numpy(inputs), torch.from_numpy(targets)))
    return torch.from_numpy(weight), parts
