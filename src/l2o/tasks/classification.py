"""A sparse classification problem with an L1 penalty: the second task of AutoLoss."""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.alternate import AlternateFamily, Choice, Goal, Pair
from l2o.tasks.parts import mean_over_parts
from l2o.tasks.splits import PARTS, Purpose, parts_for
from l2o.trees import Tree

Recipe = Literal["code", "paper text"]
"""Where the numbers of features come from: see `RECIPES`."""

RECIPES: dict[Recipe, tuple[int, int, int]] = {"code": (32, 2, 2), "paper text": (30, 15, 15)}
"""Features, informative ones, and linear combinations of these; the others are noise."""

_CLASSES, _CLUSTERS, _FLIPPED = 2, 4, 0.01


class SparseClassification(AlternateFamily):
    """A perceptron of one hidden layer tells two classes apart by few of its inputs: the rest is what L1 is for.

        ce = mean over the training points of the softmax cross-entropy;  l1 = penalty (sum of |theta| over everything)

    Every step sees all training points. The data are one fixed draw, the same for all tasks, which differ in their
    start: weights from N(0, 0.1^2) cut off at two deviations, biases 0.1. Parameters are `layers.<i>.weight`
    `[outputs, inputs]` and `layers.<i>.bias` `[outputs]`. Metrics are `validation` and `test`, the shares of points
    that are misclassified, and `validation_cross_entropy` and `test_cross_entropy`.

    Args:
        penalty: lambda, the weight of the L1 norm; not negative.
        purpose: "controller" trains and validates on the parts that schedules are trained with, "model" on those that
            models are trained with under a schedule that is done. The test part is the same.
        recipe: of the inputs. "paper text" is dense: there the penalty does harm.
        hidden: units of the hidden layer.
        sizes: points of each of the five parts.
        test_size: points to report on, if more than the last of `sizes`: the others are those of the same seed, and
            further ones come from the same clusters. Of 1,000 points, a share of 9 % has the standard error 0.9 %.
        data_seed: of the draw, clusters and all. Other seeds are the paper's transfer sets.

    Example:
        >>> family = SparseClassification(0.02)
        >>> [choice.name for choice in family.choices], family.goal.metric
        (['ce', 'l1'], 'validation')

    Source: AutoLoss (anonymous 2018 submission; Xu et al. 2019), section 5.1, with the recipe of the public code: its
    draw (`make_classification` of scikit-learn under NumPy's legacy seed 1), parts in its order, 32 inputs of which 2
    are informative and 2 combinations of them. The paper writes 30 inputs, 15 informative, the rest combinations.
    """

    def __init__(
        self,
        penalty: float = 0.02,
        *,
        purpose: Purpose = "controller",
        recipe: Recipe = "code",
        hidden: int = 32,
        sizes: tuple[int, int, int, int, int] = (200, 1000, 200, 1000, 1000),
        test_size: int | None = None,
        data_seed: int = 1,
    ) -> None:
        if not 0 <= penalty < float("inf"):
            raise ArgumentError(f"penalty is {penalty}; it must be finite and not negative")
        if recipe not in RECIPES:
            raise ArgumentError(f"recipe is {recipe!r}; choose one of {', '.join(RECIPES)}")
        if hidden < 1 or min(sizes) < 1:
            raise ArgumentError(f"hidden {hidden} and sizes {sizes} must be at least 1")
        if test_size is not None and test_size < sizes[-1]:
            raise ArgumentError(f"test_size is {test_size}; it must be at least {sizes[-1]}, the last of sizes")
        used = parts_for(purpose)
        super().__init__(
            losses=("ce", "l1"),
            groups={"model": ("layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias")},
            choices=(Choice("ce", (("ce", "model"),)), Choice("l1", (("l1", "model"),))),
            goal=Goal("validation"),
        )
        self.name = f"sparse-classification-{recipe.replace(' ', '-')}-{data_seed}-l1-{penalty:g}-{purpose}"
        self.penalty, self.hidden, self.features = penalty, hidden, RECIPES[recipe][0]
        self.parts = _published_draw(data_seed, recipe, sizes, sizes[-1] if test_size is None else test_size)
        self._used = {role: self.parts[part] for role, part in used.items()}

    def init(self, instance: Tree, rng: Stream) -> Tree:
        first = _cut_normal(rng.child("layers.0"), (self.hidden, self.features))
        second = _cut_normal(rng.child("layers.1"), (_CLASSES, self.hidden))
        return {
            "layers.0.weight": first,
            "layers.0.bias": torch.full_like(first[:, :, 0], 0.1),
            "layers.1.weight": second,
            "layers.1.bias": torch.full_like(second[:, :, 0], 0.1),
        }

    def loss_named(self, name: str, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        if name == "l1":
            return self.penalty * torch.stack([leaf.abs().sum() for leaf in params.values()]).sum()
        inputs, labels = self._points("train", params)
        units = torch.relu(torch.nn.functional.linear(inputs, params["layers.0.weight"], params["layers.0.bias"]))
        logits = torch.nn.functional.linear(units, params["layers.1.weight"], params["layers.1.bias"])
        return torch.nn.functional.cross_entropy(logits, labels)

    def pair_value_and_grad(self, pair: Pair, params: Tree, instance: Tree, batch: Tree) -> tuple[Tensor, Tree]:
        """In closed form; all tasks see the same inputs, so the first layer is one product of matrices."""
        if pair[0] == "l1":
            values = torch.stack([leaf.flatten(1).abs().sum(1) for leaf in params.values()]).sum(0)
            return self.penalty * values, {name: self.penalty * leaf.sign() for name, leaf in params.items()}
        inputs, labels = self._points("train", params)
        signs = 1 - 2 * labels.to(inputs)  # [points]; the loss is softplus(sign * margin)
        units = self._units(params, inputs)  # [tasks, hidden, points]
        across = params["layers.1.weight"][:, 1:] - params["layers.1.weight"][:, :1]  # [tasks, 1, hidden]
        margins = self._margins(params, units)  # [tasks, points]
        slopes = signs * torch.sigmoid(signs * margins) / len(labels)  # d loss / d margin
        by_bias = slopes.sum(1)
        by_across = (units * slopes[:, None]).sum(2)  # [tasks, hidden]; a sixth of the time of a batched product
        by_units = units.sign_().mul_(slopes[:, None]).mul_(across.mT)  # [tasks, hidden, points]; units are >= 0
        return torch.nn.functional.softplus(signs * margins).mean(1), {
            "layers.0.weight": (by_units.flatten(0, 1) @ inputs).reshape(params["layers.0.weight"].shape),
            "layers.0.bias": by_units.sum(2),
            "layers.1.weight": torch.stack([-by_across, by_across], dim=1),
            "layers.1.bias": torch.stack([-by_bias, by_bias], dim=1),
        }

    def metrics(self, params: Tree, instance: Tree) -> Tree:
        found: Tree = {}
        for role in ("validation", "test"):
            inputs, labels = self._points(role, params)

            def measured(part: Tensor, inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
                margins = self._margins(params, self._units(params, inputs[part]))  # [tasks, part]
                errors = ((margins > 0) != labels[part]).to(margins).sum(1) + 0 * margins.sum(1)  # NaN stays NaN
                entropies = torch.nn.functional.softplus((1 - 2 * labels[part]) * margins)
                return torch.stack([errors, entropies.sum(1)], dim=1)

            share, entropy = mean_over_parts(measured, len(labels)).unbind(1)
            found |= {role: share, f"{role}_cross_entropy": entropy}
        return found

    def _points(self, role: str, params: Tree) -> tuple[Tensor, Tensor]:
        """Inputs `[points, features]` and labels `[points]` of a part."""
        leaf = params["layers.0.weight"]
        inputs, labels = self._used[role]
        return inputs.to(leaf), labels.to(leaf.device)

    def _units(self, params: Tree, inputs: Tensor) -> Tensor:
        """The hidden layer of every task, `[tasks, hidden, points]`."""
        weight, bias = params["layers.0.weight"], params["layers.0.bias"]
        return torch.addmm(bias.reshape(-1, 1), weight.flatten(0, 1), inputs.T).relu_().unflatten(0, bias.shape)

    def _margins(self, params: Tree, units: Tensor) -> Tensor:
        """The logit of class 1 minus that of class 0, `[tasks, points]`."""
        weight, bias = params["layers.1.weight"], params["layers.1.bias"]
        return ((weight[:, 1:] - weight[:, :1]) @ units)[:, 0] + (bias[:, 1:] - bias[:, :1])


def _cut_normal(rng: Stream, shape: tuple[int, ...]) -> Tensor:
    """N(0, 0.1^2) cut off at two deviations, `[tasks, *shape]`."""
    edge = math.erf(2 / math.sqrt(2))
    return 0.1 * math.sqrt(2) * torch.erfinv(rng.uniform(shape, low=-edge, high=edge))


def _published_draw(
    seed: int, recipe: Recipe, sizes: tuple[int, ...], test_size: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs and labels of each part: those that scikit-learn's `make_classification` draws, and more to test on.

    Drawn here, as scikit-learn draws them, since it does not tell the clusters from which further points come.
    """
    from sklearn.utils.random import sample_without_replacement  # takes a second to import, and only this needs it

    features, informative, combined = RECIPES[recipe]
    rng, total = np.random.RandomState(seed), sum(sizes)
    corners = sample_without_replacement(2**informative, _CLUSTERS, random_state=rng)
    centres = 2.0 * (corners[:, None] >> np.arange(informative)[::-1] & 1) - 1  # [clusters, informative]
    counts = [total // _CLUSTERS + (cluster < total % _CLUSTERS) for cluster in range(_CLUSTERS)]
    clusters = np.repeat(np.arange(_CLUSTERS), counts)
    known = rng.standard_normal((total, informative))
    mixing = np.stack([2 * rng.uniform(size=(informative, informative)) - 1 for _ in range(_CLUSTERS)])
    combining = 2 * rng.uniform(size=(informative, combined)) - 1

    def points(known: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        known = np.concatenate(
            [known[clusters == cluster] @ mixing[cluster] + centres[cluster] for cluster in range(_CLUSTERS)]
        )
        noise = rng.standard_normal((len(known), features - informative - combined))
        labels = clusters % _CLASSES
        flipped = rng.uniform(size=len(known)) < _FLIPPED
        labels[flipped] = rng.randint(_CLASSES, size=flipped.sum())
        return np.concatenate([known, known @ combining, noise], axis=1), labels

    inputs, labels = points(known, clusters)
    order, columns = np.arange(total), np.arange(features)
    rng.shuffle(order)
    rng.shuffle(columns)
    inputs, labels = inputs[order][:, columns], labels[order]
    if test_size > sizes[-1]:
        fresh = np.sort(rng.randint(_CLUSTERS, size=test_size - sizes[-1]))
        more, classes = points(rng.standard_normal((len(fresh), informative)), fresh)
        inputs, labels = np.concatenate([inputs, more[:, columns]]), np.concatenate([labels, classes])
    lengths = [*sizes[:-1], test_size]
    parts = zip(torch.from_numpy(inputs).split(lengths), torch.from_numpy(labels).split(lengths), strict=True)
    return dict(zip(PARTS, parts, strict=True))
