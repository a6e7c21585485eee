"""What convolutional networks share: batch normalisation, the size of what is left of an image, their layers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, linear

from l2o import trees
from l2o.errors import ArgumentError
from l2o.tasks.data import Dataset
from l2o.tasks.images import ImageClassifier
from l2o.trees import Tree

_EPSILON = 1e-3
"""Added to the variance by batch normalisation: TensorFlow's and Sonnet's default, not PyTorch's 1e-5."""

Shapes = dict[str, tuple[int, ...]]


class ConvolutionalClassifier(ImageClassifier, ABC):
    """A convolutional network whose layers are normalised with the statistics of the batch, always.

    Batch normalisation is (x - mean) / sqrt(var + 1e-3) gamma + beta, mean and variance those of the images that are
    passed together: of the minibatch in the loss, of at most 1,000 test images in the accuracy. There are no running
    statistics. A bias in front of it has no influence (its gradient is rounding) and is counted among the parameters
    all the same, as in the source.

    A ReLU on the logits makes a network hard to train. Conv-MNIST after 200 steps of Adam at 0.01 from three starts has
    the test accuracies 0.30, 0.40 and 0.10 with it (the third is dead), and 0.98, 0.98 and 0.97 without.

    The optimizee is trained on the split that is passed as `train`. The source meta-trains on the training split, and
    its figures show optimizees that are trained on the 10,000 images of the test split: pass that one as `train` to
    compare with them. Its CIFAR-10 minibatches come from a shuffle buffer of about 1,000 images; ours are drawn with
    replacement from all images.

    Args:
        kind: the network's part of the family's name.
        train: the images that the optimizee is trained on, grey or colour, of any size that the network can take.
        test: the images that `metrics` measures accuracy on, at least 2, or None.
        shapes: of each parameter, without the tasks axis.
        zeros: the parameters that start at 0. Those of name `norm.*.weight` start at 1, all others at
            N(0, start_scale^2).
        logits_relu: whether the output goes through max(0, .). An image with all classes below 0 has the loss
            ln(classes) and the gradient 0; an optimizee that is there with all images gets no gradient any more.
        batch: images in a minibatch, at least 2.
        start_scale: standard deviation of the initial parameters.

    Source: Chen et al. 2020, section 4, and its public code.
    """

    def __init__(
        self,
        kind: str,
        train: Dataset,
        *,
        test: Dataset | None,
        shapes: Shapes,
        zeros: Sequence[str],
        logits_relu: bool,
        batch: int,
        start_scale: float,
    ) -> None:
        if batch < 2:
            raise ArgumentError(f"batch is {batch}; the statistics of a batch need at least 2 images")
        if test is not None and len(test.inputs) < 2:
            raise ArgumentError(f"test has {len(test.inputs)} image; the statistics of a batch need at least 2")
        ones = [name for name in shapes if name.startswith("norm.") and name.endswith(".weight")]
        super().__init__(
            f"{kind}-{'relu' if logits_relu else 'plain'}-logits-{train.name}",
            train,
            test=test,
            image=image_shape(train),
            shapes=shapes,
            constants=dict.fromkeys(zeros, 0.0) | dict.fromkeys(ones, 1.0),
            batch=batch,
            start_scales=dict.fromkeys(shapes, start_scale),
            at_once=1_000,
        )
        self.logits_relu = logits_relu

    @abstractmethod
    def last_layer(self, params: Tree, inputs: Tensor) -> Tensor:
        """What the last layer gives, `[batch, classes]`, for ONE task and inputs `[batch, channels, height, width]`."""

    def logits(self, params: Tree, inputs: Tensor) -> Tensor:
        """The network's output `[batch, classes]` for ONE task and inputs `[batch, channels, height, width]`."""
        outputs = self.last_layer(params, inputs)
        return torch.relu(outputs) if self.logits_relu else outputs

    def logits_of_tasks(self, params: Tree, inputs: Tensor) -> Tensor:
        return torch.stack([self.logits(own, inputs) for own in trees.split_tasks(params)])

    def whole(self) -> Tree | None:
        """None: an image's loss depends on the images that it is normalised with, so there is no mean over images."""
        return None

    def losses(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        """One task after the other: vmap makes grouped convolutions of them, and takes 1.6 to 2 times as long for four
        tasks and 1.2 to 1.4 times for one, on one core. The channels of a pixel lie side by side, so that
        normalisation and maximum are vectorised: Conv-MNIST, Conv-CIFAR and NAS-CIFAR take 0.7 to 0.8 of the time.
        """
        tasks = zip(trees.split_tasks(params), trees.split_tasks(batch), strict=True)
        return torch.stack([self.loss(own, {}, _channels_last(drawn)) for own, drawn in tasks])


def _channels_last(batch: Tree) -> Tree:
    """A minibatch of one task. A clone, since `contiguous` leaves images of one channel as they are."""
    return {**batch, "inputs": batch["inputs"].clone(memory_format=torch.channels_last)}


def image_shape(data: Dataset) -> tuple[int, int, int]:
    """Channels, height and width of one image."""
    shape = tuple(data.inputs.shape[1:])
    if len(shape) not in (2, 3):
        raise ArgumentError(
            f"{data.name} has examples of shape {shape}; a convolution needs [height, width] or "
            "[channels, height, width]"
        )
    channels, height, width = (1, *shape)[-3:]
    return channels, height, width


def left_over(data: Dataset, kernels: Sequence[int], stride: int) -> tuple[int, int]:
    """Height and width that are left after convolutions without padding, each followed by a maximum over 2x2."""

    def left(size: int) -> int:
        for kernel in kernels:
            size = ((size - kernel) // stride + 1) // 2
        return size

    _, height, width = image_shape(data)
    if min(left(height), left(width)) < 1:
        least = next(size for size in count(1) if left(size) >= 1)
        raise ArgumentError(
            f"{data.name} has images of {height}x{width}, of which the convolutions leave nothing; "
            f"pass images of at least {least}x{least}, padded ones for instance"
        )
    return left(height), left(width)


def layer_shapes(name: str, outputs: int, *inputs: int) -> Shapes:
    """A layer's weight `[outputs, *inputs]` and bias `[outputs]`."""
    return {f"{name}.weight": (outputs, *inputs), f"{name}.bias": (outputs,)}


def biases(shapes: Shapes) -> list[str]:
    """The names of all biases, offsets of normalisations among them."""
    return [name for name in shapes if name.endswith(".bias")]


def normalised_conv(params: Tree, layer: int, inputs: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """The convolution `conv.<layer>` and the normalisation after it: `[batch, channels, height, width]` for both."""
    weight, bias = params[f"conv.{layer}.weight"], params[f"conv.{layer}.bias"]
    return normalised(params, layer, conv2d(inputs, weight, bias, stride=stride, padding=padding))


def normalised(params: Tree, layer: int, inputs: Tensor) -> Tensor:
    """The normalisation `norm.<layer>` of inputs `[batch, channels, ...]`; without a gamma, that is 1."""
    beta = params[f"norm.{layer}.bias"]
    # Ones, not None: PyTorch's second derivative fails where there is a beta without a gamma.
    gamma = params.get(f"norm.{layer}.weight", torch.ones_like(beta))
    return batch_norm(inputs, None, None, gamma, beta, training=True, eps=_EPSILON)


def linear_layer(params: Tree, layer: int, inputs: Tensor) -> Tensor:
    """`linear.<layer>` of inputs `[batch, inputs]`."""
    return linear(inputs, params[f"linear.{layer}.weight"], params[f"linear.{layer}.bias"])
