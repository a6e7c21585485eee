"""The classifiers that generated images are scored with: small networks, trained by the project itself and shipped."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor
from torch.nn.functional import conv2d, cross_entropy, linear, max_pool2d

from l2o import checkpoint
from l2o.errors import ArgumentError, CheckpointError, WeightsError
from l2o.provenance import source_commit
from l2o.rng import Stream
from l2o.tasks.convolutional import image_shape
from l2o.tasks.data import Dataset, Split, halved, load_dataset
from l2o.trees import Tree

_KIND = "score network"
_AT_ONCE = 2_000
"""Images in one pass: bounds the memory."""


@dataclass(frozen=True)
class Recipe:
    """How a score network is built and trained.

    Args:
        channels: of each stage: a 3x3 convolution, maximum over 2x2, ReLU.
        features: units of the hidden layer after the stages.
        epochs: passes over the training images, each in an order of its own.
        batch: images in a minibatch.
        learning_rate: of Adam at the first step; it falls linearly to 0.
        dropout: share of the hidden units that a training step leaves out.
    """

    channels: tuple[int, ...]
    features: int = 64
    epochs: int = 4
    batch: int = 100
    learning_rate: float = 2e-3
    dropout: float = 0.2


RECIPES: Mapping[str, Recipe] = {
    "digits": Recipe((16, 32), epochs=60, batch=50),
    "mnist": Recipe((16, 32, 64), epochs=5),
    "mnist-grey-14x14": Recipe((32, 64), epochs=6),
    "cifar-10-grey-16x16": Recipe((32, 64, 96), epochs=15, dropout=0.5),
    "cifar-10": Recipe((32, 64, 96), epochs=15, dropout=0.5),
}
"""For each image set that a score network can be trained on. All but that of colour CIFAR-10 are shipped."""

_IMAGE_SETS: Mapping[str, Callable[[Split], Dataset]] = {
    "digits": lambda split: load_dataset("digits", split),
    "mnist": lambda split: load_dataset("mnist", split),
    "mnist-grey-14x14": lambda split: halved(load_dataset("mnist", split)),
    "cifar-10-grey-16x16": lambda split: halved(load_dataset("cifar-10", split)),
    "cifar-10": lambda split: load_dataset("cifar-10", split),
}


@dataclass(frozen=True, eq=False)
class ScoreNetwork:
    """A classifier of images with its weights: log-probabilities for an inception score, features for a distance.

    Args:
        data: name of the image set that it was trained on.
        image: channels, height and width of the images that it takes.
        params: `conv.<i>.weight` and `.bias` of its stages, `linear.0` of the features, `linear.1` of the classes.
        test_accuracy: on the set's test split; NaN where it was not measured.
        data_notes: which data was read.

    Example:
        >>> network = load_score_network("digits")
        >>> logs, features = network.outputs(torch.zeros(3, 1, 8, 8))
        >>> logs.shape, features.shape
        (torch.Size([3, 10]), torch.Size([3, 64]))
    """

    data: str
    image: tuple[int, int, int]
    params: Tree
    test_accuracy: float = math.nan
    data_notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What every result with a score of this network names."""
        return f"score network {self.data}, test accuracy {self.test_accuracy:.4f}"

    @property
    def classes(self) -> int:
        return len(self.params["linear.1.bias"])

    @torch.no_grad()
    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What it makes of images.

        Args:
            images: `[samples, channels, height, width]` in [0, 1], of any number type; computed in float32.

        Returns:
            Log-probabilities `[samples, classes]` and features `[samples, features]`.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image:
            raise ArgumentError(
                f"images have shape {tuple(images.shape)}; the {self.name} takes [samples, "
                f"{', '.join(map(str, self.image))}]; use the network of this image set"
            )
        params = {name: leaf.to(images.device) for name, leaf in self.params.items()}
        parts = [_forward(params, part) for part in images.float().split(_AT_ONCE)]
        logits, features = (torch.cat(leaves) for leaves in zip(*parts, strict=True))
        return logits.log_softmax(1), features


def score_data(name: str, split: Split) -> Dataset:
    """One split of an image set that has a score network.

    Raises:
        ArgumentError: if there is no recipe of that name.
    """
    return _IMAGE_SETS[_known(name)](split)


def fresh_params(image: tuple[int, int, int], classes: int, recipe: Recipe, rng: Stream) -> Tree:
    """Weights to start from: N(0, 2 / inputs), and biases 0; float32."""
    channels, *size = image
    shapes: dict[str, tuple[int, ...]] = {}
    for stage, outputs in enumerate(recipe.channels):
        shapes[f"conv.{stage}"] = (outputs, channels, 3, 3)
        channels, size = outputs, [side // 2 for side in size]
    shapes["linear.0"] = (recipe.features, channels * math.prod(size))
    shapes["linear.1"] = (classes, recipe.features)
    params: Tree = {}
    for name, shape in shapes.items():
        drawn = rng.child(name).normal(shape)[0].float()
        params[f"{name}.weight"] = drawn * math.sqrt(2 / math.prod(shape[1:]))
        params[f"{name}.bias"] = torch.zeros(shape[0])
    return params


def train_score_network(name: str, seed: int, *, recipe: Recipe | None = None) -> ScoreNetwork:
    """Trains a score network, the same on every call: Adam on the cross-entropy, learning rate falling linearly to 0.

    Args:
        name: one of `RECIPES`.
        seed: of the start, the order of the images and what is left out.
        recipe: another one than that of the name.

    Raises:
        ArgumentError: if there is no recipe of that name.
    """
    train, test = score_data(name, "train"), score_data(name, "test")
    recipe = recipe or RECIPES[name]
    rng = Stream(seed, (_KIND, name))
    image = image_shape(train)
    params = fresh_params(image, train.classes, recipe, rng.child("init"))
    leaves = [leaf.requires_grad_() for leaf in params.values()]
    optimizer = torch.optim.Adam(leaves, lr=recipe.learning_rate)
    steps = recipe.epochs * math.ceil(len(train.labels) / recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    chance = rng.child("dropout").torch_generator()
    for epoch in range(recipe.epochs):
        order = rng.child("order").at(step=epoch).uniform((len(train.labels),))[0].argsort()
        for chosen in order.split(recipe.batch):
            images = train.inputs[chosen].reshape(-1, *image).float() / 255
            kept = (torch.rand(len(chosen), recipe.features, generator=chance) >= recipe.dropout) / (1 - recipe.dropout)
            loss = cross_entropy(_forward(params, images, kept)[0], train.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    params = {leaf: value.detach() for leaf, value in params.items()}
    notes = (train.note, test.note)
    logs, _ = ScoreNetwork(name, image, params).outputs(test.inputs.reshape(-1, *image).float() / 255)
    accuracy = (logs.argmax(1) == test.labels).double().mean().item()
    return ScoreNetwork(name, image, params, accuracy, notes)


def save_score_network(network: ScoreNetwork, path: Path, *, seed: int, recipe: Recipe) -> None:
    """Writes a network to `path` (`.safetensors`), and beside it a card for people (`.toml`)."""
    card = {
        "data": network.data,
        "image": list(network.image),
        "test_accuracy": network.test_accuracy,
        "data_notes": list(network.data_notes),
        "seed": seed,
        "recipe": {**asdict(recipe), "channels": list(recipe.channels)},
        "commit": source_commit(),
    }
    checkpoint.write(path, network.params, card, kind=_KIND)
    checkpoint.write_bytes(path.with_suffix(".toml"), tomli_w.dumps(card).encode())


def load_score_network(source: str | Path) -> ScoreNetwork:
    """Loads a shipped network by the name of its image set, or any by the path of its `.safetensors` file.

    Raises:
        ArgumentError: if there is no recipe of that name.
        WeightsError: the file is missing, truncated, altered or something else.
    """
    path = Path(source)
    if path.suffix != ".safetensors":
        path = Path(str(resources.files("l2o") / "pretrained" / "scores" / f"{_known(str(source))}.safetensors"))
        if not path.exists():
            raise WeightsError(
                f"no score network {source!r} is shipped; train it with train_score_network({source!r}, seed=0)"
            )
    try:
        params, card = checkpoint.read(path, kind=_KIND)
    except CheckpointError as error:
        raise WeightsError(str(error)) from error
    return _network(params, card)


def _network(params: Tree, card: Mapping[str, Any]) -> ScoreNetwork:
    channels, height, width = card["image"]
    return ScoreNetwork(
        card["data"], (channels, height, width), params, card["test_accuracy"], tuple(card["data_notes"])
    )


def _known(name: str) -> str:
    if name not in RECIPES:
        raise ArgumentError(f"there is no score network {name!r}; there are {', '.join(RECIPES)}")
    return name


def _forward(params: Tree, images: Tensor, kept: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits `[samples, classes]` and features `[samples, features]`; the logits see the features times `kept`."""
    values, stage = 2 * images - 1, 0
    while (weight := params.get(f"conv.{stage}.weight")) is not None:
        # The maximum before the ReLU: the same numbers for a quarter of the work.
        values = torch.relu(max_pool2d(conv2d(values, weight, params[f"conv.{stage}.bias"], padding=1), 2))
        stage += 1
    features = torch.relu(linear(values.flatten(1), params["linear.0.weight"], params["linear.0.bias"]))
    return linear(features * kept, params["linear.1.weight"], params["linear.1.bias"]), features
