"""Perceptrons on projected images: sizes as in the paper, standardised inputs, their start and their loss."""

import math

import pytest
import torch
from torch import nn

from l2o import trees
from l2o.errors import ArgumentError, DataError
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.tasks.data import Dataset, blobs
from l2o.tasks.projected import ProjectedClassification

small, large = ProjectedClassification.small, ProjectedClassification.large


def images(
    examples: int = 400, *, classes: int = 10, shape: tuple[int, ...] = (3, 12, 12), name: str = "images"
) -> Dataset:
    rng = Stream(0, ("projected images",))
    pixels = rng.child("pixels").integers(256, (examples, *shape))[0].to(torch.uint8)
    labels = torch.arange(examples) % classes
    return Dataset(name, pixels, labels, classes=classes, complete=True, note="noise")


@pytest.mark.parametrize(
    ("make", "classes", "parameters"),
    [
        (small, 10, 2_842),
        (large, 10, 22_210),
        (small, 7, 2_695),
        (large, 7, 21_607),
        (small, 100, 7_252),
        (large, 100, 40_300),
    ],
)
def test_the_papers_tasks_have_their_parameter_counts(make, classes: int, parameters: int) -> None:
    params = make(images(classes=classes)).init({}, Stream(0, tasks=range(2)))
    assert list(params) == ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]
    assert trees.flatten(params).shape == (2, parameters)


@pytest.mark.parametrize("dimensions", [16, 48, 100])
@pytest.mark.parametrize("shape", [(3, 12, 12), (20, 20)])
def test_projected_dimensions_have_mean_0_and_variance_1(dimensions: int, shape: tuple[int, ...]) -> None:
    projected = ProjectedClassification(images(shape=shape), dimensions=dimensions).projected.double()
    assert projected.shape == (400, dimensions)
    assert projected.mean(0).abs().max() < 1e-5
    assert (projected.var(0, correction=0) - 1).abs().max() < 1e-5


def test_projection_is_linear_and_the_same_for_every_part_of_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part has the whole's matrix: its points are the whole's, up to a shift and a factor in each dimension."""
    data = images()
    part = Dataset("images", data.inputs[:50], data.labels[:50], classes=10, complete=False, note="some")
    whole, some = small(data).projected.double(), small(part).projected.double()
    shift, scale = whole[:50].mean(0), whole[:50].std(0, correction=0)
    torch.testing.assert_close((whole[:50] - shift) / scale, some, rtol=0, atol=1e-5)
    assert not torch.allclose(small(images(name="others")).projected.double(), whole, atol=0.1)
    monkeypatch.setattr("l2o.tasks.projected._AT_ONCE", 7)
    torch.testing.assert_close(small(data).projected.double(), whole, rtol=0, atol=1e-6)


def test_projection_keeps_the_angles_between_images() -> None:
    """P has entries N(0, 1/n): with as many as 100 dimensions, distances are kept up to about 1/sqrt(200) in ratio."""
    data = images(60, shape=(40, 40))
    pixels = data.inputs.flatten(1).double()
    expected = torch.pdist(pixels - pixels.mean(0))
    ratio = torch.pdist(large(data).projected.double()) / expected
    assert float(ratio.std() / ratio.mean()) == pytest.approx(1 / math.sqrt(200), rel=0.5)


def test_starts_have_the_stated_variances() -> None:
    params = large(images()).init({}, Stream(1, tasks=range(4)))
    assert float(params["layers.0.weight"].std()) == pytest.approx(math.sqrt(2 / 100), rel=0.02)
    assert float(params["layers.1.weight"].std()) == pytest.approx(math.sqrt(1 / 200), rel=0.02)
    assert not params["layers.0.bias"].any()
    assert not params["layers.1.bias"].any()


def test_minibatches_hold_the_projected_images_and_labels_that_their_indices_name() -> None:
    family = small(images(), batch=10)
    indices = family.batch_indices({}, Stream(2, tasks=range(3)))
    batch = family.gather(indices)
    assert batch["inputs"].shape == (3, 10, 48)
    assert torch.equal(batch["inputs"], family.projected[indices["examples"]])
    assert torch.equal(batch["labels"], family.train.labels[indices["examples"]])
    assert small(images()).batch_indices({}, Stream(2))["examples"].shape == (1, 64)


@pytest.mark.parametrize("l2", [0.0, 5e-4])
def test_loss_and_gradient_are_those_of_a_sequential_with_weight_decay_on_weights(l2: float) -> None:
    family = ProjectedClassification(images(), dimensions=9, hidden=8, l2=l2)
    process = Optimizee.start(family, Stream(3, tasks=range(2)), dtype=torch.float64)
    batch = process.batch()
    losses, grads = family.value_and_grad(process.params, process.instance, batch)
    for task in range(2):
        model = nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 10)).double()
        with torch.no_grad():
            for theirs, leaf in zip(model.parameters(), process.params.values(), strict=True):
                theirs.copy_(leaf[task])
        loss = nn.functional.cross_entropy(model(batch["inputs"][task]), batch["labels"][task])
        loss.backward()
        penalty = l2 / 2 * sum(float(p.detach().square().sum()) for p in model.parameters() if p.ndim == 2)
        torch.testing.assert_close(losses[task], loss.detach() + penalty, rtol=1e-12, atol=0)
        for leaf, theirs in zip(grads.values(), model.parameters(), strict=True):
            assert theirs.grad is not None
            decay = l2 * theirs.detach() if theirs.ndim == 2 else 0
            torch.testing.assert_close(leaf[task], theirs.grad + decay, rtol=1e-10, atol=1e-14)


def test_a_name_tells_size_data_minibatch_and_penalty() -> None:
    assert small(images()).name == "projected-48-48-10-images-batch-64"
    assert large(images(classes=7), batch=10).name == "projected-100-200-7-images-batch-10"
    assert ProjectedClassification(images(), l2=5e-4).name == "projected-48-48-10-images-batch-64-l2-0.0005"


def test_there_are_notes_on_the_data_and_no_metrics() -> None:
    family = ProjectedClassification(blobs(), dimensions=16, hidden=16)
    assert family.data_notes() == ["blobs: 1,500 drawn points of 16 dimensions in 10 classes"]
    assert family.metrics(family.init({}, Stream(0)), {}) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dimensions": 0}, "dimensions 0"),
        ({"hidden": 0}, "hidden 0"),
        ({"batch": 0}, "batch is 0"),
        ({"l2": -1.0}, "l2 is -1"),
        ({"l2": math.nan}, "l2 is nan"),
    ],
)
def test_meaningless_arguments_are_refused(arguments, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ProjectedClassification(images(20), **arguments)


def test_images_that_are_all_alike_are_refused() -> None:
    grey = Dataset("grey", torch.full((5, 4, 4), 7, dtype=torch.uint8), torch.arange(5), 5, True, "")
    with pytest.raises(DataError, match="grey has no variation"):
        small(grey)
