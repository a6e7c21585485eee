"""Multilayer perceptrons that classify images, the classical optimizees."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.tasks.data import Dataset
from l2o.trees import Tree

_ACTIVATIONS = {"sigmoid": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh}
_AT_ONCE = 5_000


class MLPClassifier(TaskFamily):
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

    Source: Andrychowicz et al. 2016, section 3.2; constants as in Chen et al. 2020.
    """

    def __init__(
        self,
        train: Dataset,
        *,
        test: Dataset | None = None,
        hidden: Sequence[int] = (20,),
        activation: Literal["sigmoid", "relu", "tanh"] = "sigmoid",
        batch: int = 128,
        start_scale: float = 0.01,
    ) -> None:
        if activation not in _ACTIVATIONS:
            raise ArgumentError(f"activation is {activation!r}; choose one of {', '.join(_ACTIVATIONS)}")
        if batch < 1 or any(units < 1 for units in hidden):
            raise ArgumentError(f"batch is {batch} and hidden {tuple(hidden)}; every size must be at least 1")
        if test is not None and (test.inputs.shape[1:], test.classes) != (train.inputs.shape[1:], train.classes):
            raise ArgumentError(
                f"test images {tuple(test.inputs.shape[1:])} in {test.classes} classes do not fit training images "
                f"{tuple(train.inputs.shape[1:])} in {train.classes} classes; pass two splits of one data set"
            )
        self.name = f"mlp-{'-'.join(map(str, hidden))}-{activation}-{train.name}"
        self.train, self.test = train, test
        self.hidden, self.activation, self.batch, self.start_scale = tuple(hidden), activation, batch, start_scale
        self._images = train.inputs.flatten(1)  # uint8 [examples, pixels]
        widths = [self._images.shape[1], *hidden, train.classes]
        self.shapes = {
            f"layers.{layer}.{part}": shape
            for layer, (inputs, outputs) in enumerate(pairwise(widths))
            for part, shape in (("weight", (outputs, inputs)), ("bias", (outputs,)))
        }

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

    def init(self, instance: Tree, rng: Stream) -> Tree:
        sizes = [torch.Size(shape).numel() for shape in self.shapes.values()]
        parts = (self.start_scale * rng.normal((sum(sizes),))).split(sizes, dim=1)
        return {name: part.reshape(-1, *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def batch_indices(self, instance: Tree, rng: Stream) -> Tree:
        return {"examples": rng.integers(len(self._images), (self.batch,))}

    def gather(self, indices: Tree) -> Tree:
        examples = indices["examples"]  # [tasks, batch]
        return {"inputs": self._images[examples].float() / 255, "labels": self.train.labels[examples]}

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        return torch.nn.functional.cross_entropy(self.logits(params, batch["inputs"]), batch["labels"])

    def logits(self, params: Tree, inputs: Tensor) -> Tensor:
        """The network's output `[batch, classes]` for ONE task and inputs `[batch, pixels]`."""
        activate = _ACTIVATIONS[self.activation]
        for layer in range(len(self.hidden)):
            inputs = activate(
                torch.nn.functional.linear(inputs, params[f"layers.{layer}.weight"], params[f"layers.{layer}.bias"])
            )
        last = len(self.hidden)
        return torch.nn.functional.linear(inputs, params[f"layers.{last}.weight"], params[f"layers.{last}.bias"])

    def metrics(self, params: Tree, instance: Tree) -> Tree:
        if self.test is None:
            return {}
        leaf = next(iter(params.values()))
        correct = torch.zeros(leaf.shape[0], device=leaf.device)
        for start in range(0, len(self.test.inputs), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            images = self.test.inputs[part].flatten(1).to(leaf.device, leaf.dtype) / 255
            labels = self.test.labels[part].to(leaf.device)
            guesses = torch.func.vmap(self.logits, in_dims=(0, None))(params, images).argmax(-1)  # [tasks, images]
            correct += (guesses == labels).float().sum(1)
        return {"test_accuracy": correct / len(self.test.inputs)}

    def data_notes(self) -> list[str]:
        return [data.note for data in (self.train, self.test) if data is not None and data.note]
