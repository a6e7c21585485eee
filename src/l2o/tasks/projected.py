"""Perceptrons on randomly projected images, the optimizees of guided policy search."""

import math

import torch
from torch import Tensor

from l2o.errors import ArgumentError, DataError
from l2o.rng import Stream
from l2o.tasks.data import Dataset
from l2o.tasks.images import ImageClassifier
from l2o.tasks.mlp import perceptron, perceptron_shapes
from l2o.trees import Tree

_AT_ONCE = 2_000
"""Images that are projected at once: as float64, 50,000 colour images would take 1.2 GB."""


class ProjectedClassification(ImageClassifier):
    """Softmax cross-entropy of a perceptron with one hidden layer of ReLU on randomly projected images.

    An image's n numbers are projected to z = P x with P `[dimensions, n]` drawn from N(0, 1 / n), equal for all splits
    and parts of one data set; then each dimension is centred and divided by its deviation over the training images.
    Minibatches are drawn with replacement. The tasks have training images only, so no `metrics`.

    Parameters are `layers.<i>.weight` and `layers.<i>.bias` as in `MLPClassifier`; the hidden weights start at
    N(0, 2 / inputs), the last ones at N(0, 1 / inputs), biases at 0. Tasks of the family differ in their start and in
    their minibatches.

    Args:
        train: the images that the optimizee is trained on.
        dimensions: of a projected image.
        hidden: units of the hidden layer.
        batch: images in a minibatch.
        l2: l2 / 2 times the sum of squares of the weights, biases aside, is added to the loss.

    Raises:
        ArgumentError: a number has no meaning.
        DataError: the training images are all alike in a dimension.

    Example:
        >>> from l2o.tasks.data import blobs
        >>> family = ProjectedClassification(blobs(), dimensions=16, hidden=16)
        >>> family.name, sum(leaf[0].numel() for leaf in family.init({}, Stream(0)).values())
        ('projected-16-16-10-blobs-batch-64', 442)

    Source: Li and Malik 2017, section 4. Start, centring and a matrix that does not depend on the split are our choice:
    the paper names neither. Its predecessor (2016) has l2 = 5e-4.
    """

    def __init__(
        self, train: Dataset, *, dimensions: int = 48, hidden: int = 48, batch: int = 64, l2: float = 0.0
    ) -> None:
        if dimensions < 1 or hidden < 1:
            raise ArgumentError(f"dimensions {dimensions} and hidden {hidden}; need at least 1 of each")
        if not 0 <= l2 < math.inf:
            raise ArgumentError(f"l2 is {l2}; it must be finite and not negative")
        self.l2 = l2
        widths = (dimensions, hidden, train.classes)
        penalty = f"-l2-{l2:g}" if l2 else ""
        super().__init__(
            f"projected-{'-'.join(map(str, widths))}-{train.name}-batch-{batch}{penalty}",
            train,
            test=None,
            image=tuple(train.inputs.shape[1:]),
            shapes=perceptron_shapes(widths),
            constants={"layers.0.bias": 0.0, "layers.1.bias": 0.0},
            batch=batch,
            start_scales={"layers.0.weight": math.sqrt(2 / dimensions), "layers.1.weight": math.sqrt(1 / hidden)},
        )
        self.projected = _standardised(_projected(train, dimensions), train.name)
        """The projected training images, float32 `[examples, dimensions]`."""

    @classmethod
    def small(cls, train: Dataset, *, batch: int = 64) -> "ProjectedClassification":
        """48-48-C, on which the paper meta-trains: 2,842 parameters for 10 classes."""
        return cls(train, batch=batch)

    @classmethod
    def large(cls, train: Dataset, *, batch: int = 64) -> "ProjectedClassification":
        """100-200-C, eight times as large: 22,210 parameters for 10 classes."""
        return cls(train, dimensions=100, hidden=200, batch=batch)

    def inputs(self, examples: Tensor) -> Tensor:
        return self.projected[examples]

    def logits(self, params: Tree, inputs: Tensor) -> Tensor:
        """The network's output `[batch, classes]` for ONE task and inputs `[batch, dimensions]`."""
        return perceptron(params, inputs, layers=2, activation="relu")

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        loss = super().loss(params, instance, batch)
        if not self.l2:
            return loss
        squares = [params[f"layers.{layer}.weight"].square().sum() for layer in (0, 1)]
        return loss + self.l2 / 2 * (squares[0] + squares[1])


def _projected(data: Dataset, dimensions: int) -> Tensor:
    """The images through the data set's own random matrix, float64 `[examples, dimensions]`."""
    pixels = data.inputs.flatten(1)  # uint8 [examples, n]
    size = pixels.shape[1]
    matrix = Stream(0, ("projection", data.name)).normal((size, dimensions))[0] / math.sqrt(size)
    return torch.cat([part.double() / 255 @ matrix for part in pixels.split(_AT_ONCE)])


def _standardised(points: Tensor, name: str) -> Tensor:
    """Points `[examples, dimensions]` with mean 0 and variance 1 in each dimension, float32."""
    deviations, means = torch.std_mean(points, dim=0, correction=0)
    if not bool((deviations > 1e-9).all()):
        raise DataError(f"{name} has no variation in some projected dimension; pass images that differ from each other")
    return ((points - means) / deviations).float()
