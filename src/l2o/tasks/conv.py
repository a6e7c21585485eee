"""The convolutional optimizees of Chen et al. 2020: Conv-MNIST, Conv-CIFAR, LeNet and NAS-CIFAR."""

from math import prod

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from l2o.errors import ArgumentError
from l2o.tasks.convolutional import (
    ConvolutionalClassifier,
    Shapes,
    biases,
    image_shape,
    layer_shapes,
    left_over,
    linear_layer,
    normalised,
    normalised_conv,
)
from l2o.tasks.data import Dataset
from l2o.trees import Tree


class ConvClassifier(ConvolutionalClassifier):
    """Two convolutions and one linear layer: Conv-MNIST and Conv-CIFAR.

    3x3 convolution to 16 channels, batch normalisation, ReLU, maximum over 2x2; the same with 5x5 and 32 channels; a
    linear layer. Convolutions are not padded. Weights start at N(0, start_scale^2), biases at 0.

    Args:
        train: the images that the optimizee is trained on, at least 14x14 with stride 1 and 29x29 with stride 2.
        test: the images that `metrics` measures accuracy on, or None.
        stride: of both convolutions.
        logits_relu: see `ConvolutionalClassifier`.
        batch: images in a minibatch, at least 2.
        start_scale: standard deviation of the initial weights.

    Example:
        >>> from l2o import Stream
        >>> black = torch.zeros(2, 28, 28, dtype=torch.uint8)
        >>> images = Dataset("black", black, torch.tensor([0, 9]), classes=10, complete=True, note="two black images")
        >>> params = ConvClassifier.mnist(images).init({}, Stream(0, tasks=range(3)))
        >>> sum(leaf[0].numel() for leaf in params.values())
        18218

    Source: Chen et al. 2020, section 4, and its public code.
    """

    def __init__(
        self,
        train: Dataset,
        *,
        test: Dataset | None = None,
        stride: int = 1,
        logits_relu: bool = True,
        batch: int = 128,
        start_scale: float = 0.01,
    ) -> None:
        if stride < 1:
            raise ArgumentError(f"stride is {stride}; it must be at least 1")
        self.stride = stride
        places = prod(left_over(train, (3, 5), stride))
        shapes = {
            **layer_shapes("conv.0", 16, image_shape(train)[0], 3, 3),
            **layer_shapes("norm.0", 16),
            **layer_shapes("conv.1", 32, 16, 5, 5),
            **layer_shapes("norm.1", 32),
            **layer_shapes("linear.0", train.classes, 32 * places),
        }
        super().__init__(
            f"conv-stride{stride}",
            train,
            test=test,
            shapes=shapes,
            zeros=biases(shapes),
            logits_relu=logits_relu,
            batch=batch,
            start_scale=start_scale,
        )

    @classmethod
    def mnist(cls, train: Dataset, *, test: Dataset | None = None) -> "ConvClassifier":
        """Conv-MNIST: stride 1; 18,218 parameters on grey 28x28 images."""
        return cls(train, test=test)

    @classmethod
    def cifar(cls, train: Dataset, *, test: Dataset | None = None) -> "ConvClassifier":
        """Conv-CIFAR: stride 2; 13,706 parameters on colour 32x32 images."""
        return cls(train, test=test, stride=2)

    def last_layer(self, params: Tree, inputs: Tensor) -> Tensor:
        for layer in range(2):
            # The maximum before the ReLU: the same numbers for a quarter of the work.
            inputs = torch.relu(max_pool2d(normalised_conv(params, layer, inputs, stride=self.stride), 2))
        return linear_layer(params, 0, inputs.flatten(1))


class LeNet(ConvolutionalClassifier):
    """LeNet-5 with batch normalisation: 62,232 parameters on colour 32x32 images.

    5x5 convolution to 6 channels, batch normalisation, sigmoid, maximum over 2x2; the same with 16 channels; linear
    layers of 120, 84 and `classes` units, the first two with batch normalisation and sigmoid. Convolutions are not
    padded. Batch normalisation has an offset beta, which starts at 0, and no factor gamma; all other weights and biases
    start at N(0, start_scale^2).

    Args:
        train: the images that the optimizee is trained on, at least 16x16.
        test: the images that `metrics` measures accuracy on, or None.
        logits_relu: see `ConvolutionalClassifier`.
        batch: images in a minibatch, at least 2.
        start_scale: standard deviation of the initial parameters.

    Example:
        >>> from l2o import Stream
        >>> black = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        >>> images = Dataset("black", black, torch.tensor([0, 9]), classes=10, complete=True, note="two black images")
        >>> sum(leaf[0].numel() for leaf in LeNet(images).init({}, Stream(0)).values())
        62232

    Source: Chen et al. 2020, section 4, and its public code, whose definition is taken for its intent: it calls for
    batch normalisation without saying in which mode.
    """

    def __init__(
        self,
        train: Dataset,
        *,
        test: Dataset | None = None,
        logits_relu: bool = False,
        batch: int = 128,
        start_scale: float = 0.01,
    ) -> None:
        places = prod(left_over(train, (5, 5), 1))
        offsets = {f"norm.{layer}.bias": (units,) for layer, units in enumerate((6, 16, 120, 84))}
        shapes = {
            **layer_shapes("conv.0", 6, image_shape(train)[0], 5, 5),
            **layer_shapes("conv.1", 16, 6, 5, 5),
            **layer_shapes("linear.0", 120, 16 * places),
            **layer_shapes("linear.1", 84, 120),
            **layer_shapes("linear.2", train.classes, 84),
            **offsets,
        }
        super().__init__(
            "lenet",
            train,
            test=test,
            shapes=shapes,
            zeros=list(offsets),
            logits_relu=logits_relu,
            batch=batch,
            start_scale=start_scale,
        )

    def last_layer(self, params: Tree, inputs: Tensor) -> Tensor:
        for layer in range(2):
            inputs = torch.sigmoid(max_pool2d(normalised_conv(params, layer, inputs), 2))
        inputs = inputs.flatten(1)
        for layer in range(2):
            inputs = torch.sigmoid(normalised(params, 2 + layer, linear_layer(params, layer, inputs)))
        return linear_layer(params, 2, inputs)


class NASCell(ConvolutionalClassifier):
    """One cell of a network that was found by search: NAS-CIFAR, 7,706 parameters on colour 32x32 images.

    With C a 3x3 convolution to 16 channels, padded to the same size, batch normalisation and ReLU, each C with
    parameters of its own:

        node0 = C(images)                               conv.0
        node1 = C(node0)                                conv.1
        node2 = average over 3x3 (node1) + C(node0)     conv.2
        node3 = node0 + C(node1) + node2                conv.3

    then the mean over all pixels and a linear layer. The average over 3x3 at an edge is that of the pixels that there
    are. Weights start at N(0, start_scale^2), biases at 0.

    Args:
        train: the images that the optimizee is trained on, of any size.
        test: the images that `metrics` measures accuracy on, or None.
        logits_relu: see `ConvolutionalClassifier`.
        batch: images in a minibatch, at least 2.
        start_scale: standard deviation of the initial weights.

    Example:
        >>> from l2o import Stream
        >>> black = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        >>> images = Dataset("black", black, torch.tensor([0, 9]), classes=10, complete=True, note="two black images")
        >>> sum(leaf[0].numel() for leaf in NASCell(images).init({}, Stream(0)).values())
        7706

    Source: Chen et al. 2020, section 4, and its public code; the cell
    `|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|` is in the space of
    Dong and Yang 2020, where C is ReLU, convolution, normalisation, in this order.
    """

    def __init__(
        self,
        train: Dataset,
        *,
        test: Dataset | None = None,
        logits_relu: bool = True,
        batch: int = 128,
        start_scale: float = 0.01,
    ) -> None:
        shapes: Shapes = {}
        for layer in range(4):
            shapes |= layer_shapes(f"conv.{layer}", 16, 16 if layer else image_shape(train)[0], 3, 3)
            shapes |= layer_shapes(f"norm.{layer}", 16)
        shapes |= layer_shapes("linear.0", train.classes, 16)
        super().__init__(
            "nas-cell",
            train,
            test=test,
            shapes=shapes,
            zeros=biases(shapes),
            logits_relu=logits_relu,
            batch=batch,
            start_scale=start_scale,
        )

    def last_layer(self, params: Tree, inputs: Tensor) -> Tensor:
        def convolved(layer: int, node: Tensor) -> Tensor:
            return torch.relu(normalised_conv(params, layer, node, padding=1))

        node0 = convolved(0, inputs)
        node1 = convolved(1, node0)
        averaged = avg_pool2d(node1, 3, stride=1, padding=1, count_include_pad=False)
        node2 = averaged + convolved(2, node0)
        node3 = node0 + convolved(3, node1) + node2
        return linear_layer(params, 0, node3.mean((2, 3)))
