"""Classifiers of images: what perceptrons and convolutional networks share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.tasks.data import Dataset
from l2o.tasks.parts import mean_over_parts
from l2o.trees import Tree


class ImageClassifier(TaskFamily, ABC):
    """Softmax cross-entropy of a network on minibatches drawn with replacement; pixels in [0, 1].

    A subclass gives the network: the shapes of its parameters, and its `logits` for ONE task. Tasks of the family
    differ in their start and in their minibatches. The true objective is the mean over all training images.

    Args:
        name: the family's name in reports and cards.
        train: the images that the optimizee is trained on.
        test: the images that `metrics` measures accuracy on, or None.
        image: the shape in which the network takes one image.
        shapes: of each parameter, without the tasks axis.
        constants: for each parameter that is not drawn, the number that it is filled with.
        batch: images in a minibatch.
        start_scales: for each parameter that is drawn, the standard deviation that it starts with.
        at_once: test images whose accuracy is measured at once, at most.
    """

    def __init__(
        self,
        name: str,
        train: Dataset,
        *,
        test: Dataset | None,
        image: tuple[int, ...],
        shapes: Mapping[str, tuple[int, ...]],
        constants: Mapping[str, float],
        batch: int,
        start_scales: Mapping[str, float],
        at_once: int = 5_000,
    ) -> None:
        if batch < 1:
            raise ArgumentError(f"batch is {batch}; a minibatch needs at least 1 image")
        for start_scale in start_scales.values():
            if not 0 <= start_scale < float("inf"):
                raise ArgumentError(f"start_scale is {start_scale}; it must be finite and not negative")
        if test is not None and (test.inputs.shape[1:], test.classes) != (train.inputs.shape[1:], train.classes):
            raise ArgumentError(
                f"test images {tuple(test.inputs.shape[1:])} in {test.classes} classes do not fit training images "
                f"{tuple(train.inputs.shape[1:])} in {train.classes} classes; pass two splits of one data set"
            )
        self.name = name
        self.train, self.test, self.image, self.at_once = train, test, image, at_once
        self.shapes, self.constants = dict(shapes), dict(constants)
        self.batch, self.start_scales = batch, dict(start_scales)
        self._images = train.inputs.reshape(-1, *image)  # uint8 [examples, *image]

    @abstractmethod
    def logits(self, params: Tree, inputs: Tensor) -> Tensor:
        """The network's output `[batch, classes]` for ONE task and inputs `[batch, *image]`."""

    def logits_of_tasks(self, params: Tree, inputs: Tensor) -> Tensor:
        """The output of every task for the same inputs: `[tasks, batch, classes]`."""
        return torch.func.vmap(self.logits, in_dims=(0, None))(params, inputs)

    def inputs(self, examples: Tensor) -> Tensor:
        """What the network is shown of the training images of these indices `[...]`: `[..., *image]`."""
        return self._images[examples].float() / 255

    def init(self, instance: Tree, rng: Stream) -> Tree:
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = rng.normal((sum(sizes),)).split(sizes, dim=1)
        drawn = {name: part.reshape(-1, *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        constants = {name: torch.full_like(drawn[name], value) for name, value in self.constants.items()}
        return drawn | {name: scale * drawn[name] for name, scale in self.start_scales.items()} | constants

    def batch_indices(self, instance: Tree, rng: Stream) -> Tree:
        return {"examples": rng.integers(len(self._images), (self.batch,))}

    def gather(self, indices: Tree) -> Tree:
        examples = indices["examples"]  # [tasks, batch]
        return {"inputs": self.inputs(examples), "labels": self.train.labels[examples]}

    def whole(self) -> Tree | None:
        return {"examples": torch.arange(len(self._images))}

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        return torch.nn.functional.cross_entropy(self.logits(params, batch["inputs"]), batch["labels"])

    def metrics(self, params: Tree, instance: Tree) -> Tree:
        if self.test is None:
            return {}
        leaf = next(iter(params.values()))
        inputs, labels = self.test.inputs.reshape(-1, *self.image), self.test.labels

        def correct(part: Tensor) -> Tensor:
            images = inputs[part].to(leaf.device, leaf.dtype) / 255
            guesses = self.logits_of_tasks(params, images).argmax(-1)  # [tasks, part]
            return (guesses == labels[part].to(leaf.device)).float().sum(1)

        return {"test_accuracy": mean_over_parts(correct, len(labels), at_once=self.at_once)}

    def data_notes(self) -> list[str]:
        return [data.note for data in (self.train, self.test) if data is not None and data.note]
