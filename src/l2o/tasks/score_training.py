"""How score networks are trained: which images, which recipe."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.convolutional import image_shape
from l2o.tasks.data import Dataset, Split, halved, load_dataset
from l2o.tasks.score_network import ScoreNetwork, logits_and_features
from l2o.trees import Tree


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
    rng = Stream(seed, ("score network", name))
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
            loss = cross_entropy(logits_and_features(params, images, kept)[0], train.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    params = {leaf: value.detach() for leaf, value in params.items()}
    notes = (train.note, test.note)
    logs, _ = ScoreNetwork(name, image, params).outputs(test.inputs.reshape(-1, *image).float() / 255)
    accuracy = (logs.argmax(1) == test.labels).double().mean().item()
    return ScoreNetwork(name, image, params, accuracy, notes)


def _known(name: str) -> str:
    if name not in RECIPES:
        raise ArgumentError(f"there is no score network {name!r}; there are {', '.join(RECIPES)}")
    return name
