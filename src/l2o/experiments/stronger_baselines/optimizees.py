"""The networks that "Training stronger baselines" tests its optimizers on, as its public code does: on test images.

Source: Chen et al. 2020, section 5, and its public code, which trains every network that a figure shows on the 10,000
images of the TEST split. Only so are the losses of its figures within reach: 20 units can memorise 10,000 images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from l2o.tasks.base import TaskFamily
from l2o.tasks.conv import ConvClassifier, LeNet, NASCell
from l2o.tasks.data import Dataset, load_dataset
from l2o.tasks.mlp import MLPClassifier

MLPS = ("MLP-orig", "MLP-ReLU", "MLP-deeper")
CNNS = ("Conv-MNIST", "Conv-CIFAR")
FIVE = (*MLPS, *CNNS)
"""The optimizees of figures 2, 3 and 5."""


@dataclass(frozen=True)
class Tested:
    """One network on one data set.

    Args:
        network: makes the family from the images that the optimizee is trained on.
        data: "mnist" or "cifar-10".
        steps: inner steps of a run, in the presets "smoke", "laptop" and "paper".
    """

    network: Callable[[Dataset], TaskFamily]
    data: str
    steps: Mapping[str, int]

    def family(self, preset: str) -> TaskFamily:
        """The family, on the test split; in the preset "smoke" on digits, made as large as the network needs."""
        if preset == "smoke":
            return self.network(_enlarged(load_dataset("digits", "test"), {"mnist": 2, "cifar-10": 4}[self.data]))
        return self.network(load_dataset(self.data, "test"))


def training_family(preset: str) -> TaskFamily:
    """MLP-orig on the training split: what every learned optimizer is meta-trained on."""
    return MLPClassifier.orig(load_dataset("digits" if preset == "smoke" else "mnist", "train"))


def _enlarged(images: Dataset, factor: int) -> Dataset:
    """Every pixel `factor` times as wide and high."""
    inputs = images.inputs.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    return replace(images, inputs=inputs, note=f"{images.note}, {factor} times as wide and high")


def _steps(laptop: int, *, smoke: int = 10) -> Mapping[str, int]:
    return {"smoke": smoke, "laptop": laptop, "paper": 10_000}


def _linear_mnist(images: Dataset) -> TaskFamily:
    return ConvClassifier(images, logits_relu=False)


def _linear_cifar(images: Dataset) -> TaskFamily:
    return ConvClassifier(images, stride=2, logits_relu=False)


def _linear_nas(images: Dataset) -> TaskFamily:
    return NASCell(images, logits_relu=False)


OPTIMIZEES: dict[str, Tested] = {
    "MLP-orig": Tested(MLPClassifier.orig, "mnist", _steps(10_000, smoke=20)),
    "MLP-ReLU": Tested(MLPClassifier.relu, "mnist", _steps(10_000)),
    "MLP-deeper": Tested(MLPClassifier.deeper, "mnist", _steps(10_000)),
    "Conv-MNIST": Tested(ConvClassifier, "mnist", _steps(2_000)),
    "Conv-CIFAR": Tested(ConvClassifier.cifar, "cifar-10", _steps(2_000)),
    "LeNet": Tested(LeNet, "cifar-10", _steps(2_000)),
    "NAS-CIFAR": Tested(NASCell, "cifar-10", _steps(500)),
    "Conv-MNIST, linear logits": Tested(_linear_mnist, "mnist", _steps(2_000)),
    "Conv-CIFAR, linear logits": Tested(_linear_cifar, "cifar-10", _steps(2_000)),
    "NAS-CIFAR, linear logits": Tested(_linear_nas, "cifar-10", _steps(500)),
}
"""By the name in the figures. The first seven are the paper's: Conv-MNIST, Conv-CIFAR and NAS-CIFAR have a ReLU on the
logits, as in the public code; "linear logits" are the same networks without it."""
