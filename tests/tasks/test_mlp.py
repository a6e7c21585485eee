"""Perceptrons against `nn.Sequential` and the published sizes."""

import math

import pytest
import torch
from torch import nn

from l2o import trees
from l2o.errors import ArgumentError
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.tasks.data import Dataset
from l2o.tasks.mlp import MLPClassifier


def noise(examples: int, *, name: str = "noise", note: str = "") -> Dataset:
    rng = Stream(0, (name,))
    pixels = rng.child("pixels").integers(256, (examples, 28, 28))[0].to(torch.uint8)
    labels = rng.child("labels").integers(10, (examples,))[0]
    return Dataset(name, pixels, labels, classes=10, complete=True, note=note)


TRAIN = noise(300)
SMALL = Dataset("small", torch.zeros(1, 2, 2, dtype=torch.uint8), torch.zeros(1).long(), 10, True, "one small image")


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (MLPClassifier.orig, 15_910),
        (MLPClassifier.relu, 15_910),
        (MLPClassifier.deeper, 16_330),
        (MLPClassifier.wide, 31_810),
    ],
)
def test_published_variants_have_their_parameter_counts(make, parameters: int) -> None:
    params = make(TRAIN).init({}, Stream(0, tasks=range(2)))
    assert trees.flatten(params).shape == (2, parameters)


def test_published_variants_have_names_of_their_own() -> None:
    makers = (MLPClassifier.orig, MLPClassifier.relu, MLPClassifier.deeper, MLPClassifier.wide)
    assert len({make(TRAIN).name for make in makers}) == 4


@pytest.mark.parametrize(("activation", "module"), [("sigmoid", nn.Sigmoid), ("relu", nn.ReLU), ("tanh", nn.Tanh)])
@pytest.mark.parametrize("hidden", [(), (6,), (6, 5, 4)])
def test_loss_and_gradient_equal_a_sequential_of_the_same_weights(activation, module, hidden) -> None:
    family = MLPClassifier(TRAIN, hidden=hidden, activation=activation, batch=32, start_scale=0.3)
    process = Optimizee.start(family, Stream(1, tasks=range(2)), dtype=torch.float64)
    batch = process.batch()
    losses, grads = family.value_and_grad(process.params, process.instance, batch)
    for task in range(2):
        layers: list[nn.Module] = []
        for width, outputs in zip((784, *hidden), (*hidden, 10), strict=True):
            layers += [nn.Linear(width, outputs, dtype=torch.float64), module()]
        model = nn.Sequential(*layers[:-1])
        ours = [leaf[task] for leaf in process.params.values()]
        with torch.no_grad():
            for theirs, leaf in zip(model.parameters(), ours, strict=True):
                theirs.copy_(leaf)
        loss = nn.functional.cross_entropy(model(batch["inputs"][task]), batch["labels"][task])
        loss.backward()
        torch.testing.assert_close(losses[task], loss.detach(), rtol=1e-12, atol=0)
        for name, theirs in zip(grads, model.parameters(), strict=True):
            torch.testing.assert_close(grads[name][task], theirs.grad, rtol=1e-10, atol=1e-14)


def test_minibatches_hold_the_images_and_labels_that_their_indices_name() -> None:
    family = MLPClassifier(TRAIN, batch=50)
    indices = family.batch_indices({}, Stream(2, tasks=range(3)))
    batch = family.gather(indices)
    examples = indices["examples"]
    assert examples.shape == (3, 50)
    assert batch["inputs"].shape == (3, 50, 784)
    assert torch.equal(batch["inputs"][1, 7], TRAIN.inputs[examples[1, 7]].flatten() / 255)
    assert torch.equal(batch["labels"], TRAIN.labels[examples])
    assert batch["inputs"].min() >= 0
    assert batch["inputs"].max() <= 1


def test_minibatches_are_drawn_with_replacement_and_evenly() -> None:
    """20 images, 1,000 batches of 50: some batch repeats an image; each image is near its expected 2,500 (5 sigma)."""
    family = MLPClassifier(noise(20), batch=50)
    examples = family.batch_indices({}, Stream(3, tasks=range(1000)))["examples"]
    counts = examples.flatten().bincount(minlength=20)
    assert counts.shape == (20,)
    assert ((counts - 2500).abs() < 5 * math.sqrt(2500)).all()


def test_minibatches_of_other_steps_and_tasks_differ() -> None:
    family = MLPClassifier(TRAIN)
    stream = Stream(3, tasks=range(2))
    here, later = (family.batch_indices({}, stream.at(step=step))["examples"] for step in (0, 1))
    assert not torch.equal(here, later)
    assert not torch.equal(here[0], here[1])


@pytest.mark.parametrize("make", [MLPClassifier.orig, MLPClassifier.relu, MLPClassifier.deeper, MLPClassifier.wide])
def test_initial_loss_is_about_ln_10(make) -> None:
    """Starts of deviation 0.01 give nearly equal logits: every published curve begins at ln 10."""
    process = Optimizee.start(make(TRAIN), Stream(4, tasks=range(5)))
    _, hidden = process.observe()
    assert ((hidden["loss"] - math.log(10)).abs() < 0.1).all()


def test_starts_have_the_stated_deviation() -> None:
    for scale in (0.01, 0.5):
        params = MLPClassifier(TRAIN, start_scale=scale).init({}, Stream(5, tasks=range(2)))
        for leaf in (params["layers.0.weight"], params["layers.1.weight"]):
            assert float(leaf.std()) == pytest.approx(scale, rel=0.2)
        assert float(trees.flatten(params).std()) == pytest.approx(scale, rel=0.02)
        assert (params["layers.0.bias"] != 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_is_of_the_dtype_asked_for(dtype: torch.dtype) -> None:
    process = Optimizee.start(MLPClassifier(TRAIN, test=noise(10)), Stream(6), dtype=dtype)
    seen, hidden = process.observe()
    assert {leaf.dtype for leaf in (*seen.values(), *hidden.values())} == {dtype}
    assert process.batch()["labels"].dtype == torch.int64


def test_accuracy_counts_the_test_images_that_are_guessed_right() -> None:
    test = noise(5_123, name="test")  # more than are measured at once
    family = MLPClassifier(TRAIN, test=test, hidden=(6,), start_scale=0.5)
    params = family.init({}, Stream(7, tasks=range(3)))
    images = test.inputs.flatten(1).double() / 255
    for task, accuracy in enumerate(family.metrics(params, {})["test_accuracy"]):
        guesses = family.logits({name: leaf[task] for name, leaf in params.items()}, images).argmax(1)
        assert float(accuracy) == pytest.approx(float((guesses == test.labels).double().mean()), abs=1e-6)


def test_without_test_images_there_are_no_metrics() -> None:
    family = MLPClassifier(TRAIN)
    assert family.metrics(family.init({}, Stream(8)), {}) == {}


def test_data_notes_are_those_of_the_images_read() -> None:
    train, test = noise(5, note="five images"), noise(6, note="six images")
    assert MLPClassifier(train, test=test).data_notes() == ["five images", "six images"]
    assert MLPClassifier(TRAIN).data_notes() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "gelu"}, "activation is 'gelu'"),
        ({"batch": 0}, "batch is 0"),
        ({"hidden": (3, 0)}, "hidden"),
        ({"start_scale": -1.0}, "start_scale is -1"),
        ({"test": SMALL}, "two splits of one data set"),
    ],
)
def test_meaningless_arguments_are_refused(arguments, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        MLPClassifier(TRAIN, **arguments)
