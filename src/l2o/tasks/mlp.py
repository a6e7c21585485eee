"""Multilayer perceptrons that classify images, the classical optimizees."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.tasks.data import Dataset
from l2o.tasks.images import ImageClassifier
from l2o.trees import Tree

Activation = Literal["sigmoid", "relu", "tanh"]
_ACTIVATIONS = {"sigmoid": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh}


def perceptron_shapes(widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The shapes of a perceptron's parameters: `layers.<i>.weight` `[outputs, inputs]`, `layers.<i>.bias` `[outputs]`.

    Args:
        widths: of the input, of each hidden layer and of the output.
    """
    return {
        f"layers.{layer}.{part}": shape
        for layer, (inputs, outputs) in enumerate(pairwise(widths))
        for part, shape in (("weight", (outputs, inputs)), ("bias", (outputs,)))
    }


def perceptron(params: Tree, inputs: Tensor, *, layers: int, activation: Activation) -> Tensor:
    """The output `[batch, outputs]` of ONE task's perceptron for inputs `[batch, inputs]`; the last layer is linear."""
    for layer in range(layers):
        inputs = torch.nn.functional.linear(inputs, params[f"layers.{layer}.weight"], params[f"layers.{layer}.bias"])
        if layer < layers - 1:
            inputs = _ACTIVATIONS[activation](inputs)
    return inputs


class MLPClassifier(ImageClassifier):
    """Softmax cross-entropy of a perceptron on minibatches drawn with replacement; pixels in [0, 1].

    Parameters are `layers.<i>.weight` `[outputs, inputs]` and `layers.<i>.bias` `[outputs]`, all drawn from
    N(0, start_scale^2). Tasks of the family differ in their start and in their minibatches.

    Args:
        train: the images that the optimizee is trained on.
        test: the images that `metrics` measures accuracy on, or None.
        hidden: units of each hidden layer.
        activation: "sigmoid", "relu" or "tanh".
        batch: images in a minibatch.
        start_scale: standard deviation of the initial parameters.

    Example:
        >>> from l2o import Stream, load_dataset
        >>> family = MLPClassifier.orig(load_dataset("digits", "train"), test=load_dataset("digits", "test"))
        >>> params = family.init({}, Stream(0, tasks=range(2)))
        >>> {name: tuple(leaf.shape) for name, leaf in params.items() if name.endswith("weight")}
        {'layers.0.weight': (2, 20, 64), 'layers.1.weight': (2, 10, 20)}
        >>> list(family.metrics({name: leaf.float() for name, leaf in params.items()}, {}))
        ['test_accuracy']

    Source: Andrychowicz et al. 2016, section 3.2; constants as in Chen et al. 2020.
    """

    def __init__(
        self,
        train: Dataset,
        *,
        test: Dataset | None = None,
        hidden: Sequence[int] = (20,),
        activation: Activation = "sigmoid",
        batch: int = 128,
        start_scale: float = 0.01,
    ) -> None:
        if activation not in _ACTIVATIONS:
            raise ArgumentError(f"activation is {activation!r}; choose one of {', '.join(_ACTIVATIONS)}")
        if any(units < 1 for units in hidden):
            raise ArgumentError(f"hidden is {tuple(hidden)}; every layer needs at least 1 unit")
        self.hidden = tuple(hidden)
        self.activation: Activation = activation
        pixels = train.inputs[0].numel()
        shapes = perceptron_shapes([pixels, *hidden, train.classes])
        super().__init__(
            f"mlp-{'-'.join(map(str, hidden))}-{activation}-{train.name}",
            train,
            test=test,
            image=(pixels,),
            shapes=shapes,
            constants={},
            batch=batch,
            start_scales=dict.fromkeys(shapes, start_scale),
        )

    @classmethod
    def orig(cls, train: Dataset, *, test: Dataset | None = None) -> "MLPClassifier":
        """MLP-orig: 20 sigmoid units; 15,910 parameters on 28x28 images."""
        return cls(train, test=test)

    @classmethod
    def relu(cls, train: Dataset, *, test: Dataset | None = None) -> "MLPClassifier":
        """MLP-ReLU: 20 ReLU units; 15,910 parameters on 28x28 images."""
        return cls(train, test=test, activation="relu")

    @classmethod
    def deeper(cls, train: Dataset, *, test: Dataset | None = None) -> "MLPClassifier":
        """MLP-deeper: two layers of 20 sigmoid units; 16,330 parameters on 28x28 images."""
        return cls(train, test=test, hidden=(20, 20))

    @classmethod
    def wide(cls, train: Dataset, *, test: Dataset | None = None) -> "MLPClassifier":
        """MLP-40: 40 sigmoid units; 31,810 parameters on 28x28 images."""
        return cls(train, test=test, hidden=(40,))

    def logits(self, params: Tree, inputs: Tensor) -> Tensor:
        """The network's output `[batch, classes]` for ONE task and inputs `[batch, pixels]`."""
        return perceptron(params, inputs, layers=len(self.hidden) + 1, activation=self.activation)
