"""Data sets that are drawn, and the faces in groups: their sizes, classes and statistics."""

import os
from functools import cache
from pathlib import Path

import pytest
import torch

from l2o.tasks.data import Dataset, blobs, grouped_faces, load_dataset, tfd_surrogate

FACES = Path(os.environ.get("L2O_DATA", "unset")) / "att_faces"


def within(data: Dataset) -> torch.Tensor:
    """Every image minus the mean of its class, float64 `[examples, pixels]`."""
    images = data.inputs.flatten(1).double()
    means = torch.stack([images[data.labels == label].mean(0) for label in range(data.classes)])
    return images - means[data.labels]


@cache
def principal_directions() -> tuple[torch.Tensor, torch.Tensor]:
    """The surrogate within its classes: variances `[examples]`, the largest first, and 40 directions `[pixels, 40]`.

    Of the first 1,050 images, 150 of each class; from the products of images, of which there are fewer than of pixels.
    """
    images = within(tfd_surrogate())[:1_050]
    squares, vectors = torch.linalg.eigh(images @ images.T)
    squares, vectors = squares.flip(0), vectors.flip(1)
    return squares / len(images), images.T @ vectors[:, :40] / squares[:40].sqrt()


@pytest.mark.parametrize("make", [blobs, tfd_surrogate])
def test_drawn_sets_are_the_same_each_time(make) -> None:
    first, second = make(), make()
    assert torch.equal(first.inputs, second.inputs)
    assert torch.equal(first.labels, second.labels)


def test_surrogate_has_the_sizes_and_the_name_that_it_should() -> None:
    data = tfd_surrogate()
    assert data.inputs.shape == (3_300, 48, 48)
    assert data.classes == 7
    assert data.labels.bincount().tolist() == [472, 472, 472, 471, 471, 471, 471]
    assert data.name == "tfd-surrogate"
    assert data.note.startswith("TFD surrogate: 3,300 drawn images in 7 classes")


def test_surrogate_varies_in_40_directions_with_a_falling_spectrum() -> None:
    """s_1^2 / s_40^2 = 40; so few images pull the spectrum's ends apart, by about a fifth. The rest is rounding."""
    variances, _ = principal_directions()
    assert float(variances[0] / variances[39]) == pytest.approx(40, rel=0.3)
    assert (variances[:40] > 1_000).all()
    assert (variances[40:] < 1).all()


def test_surrogates_class_offsets_are_half_the_deviation_within_a_class() -> None:
    """In units of the deviation within a class, 7 x 40 offsets from N(0, 1/4) have a deviation of 0.5 (5 sigma: 20 %).

    A class's mean of 471 images adds 1/471 to its square.
    """
    data = tfd_surrogate()
    variances, directions = principal_directions()
    scores = data.inputs.flatten(1).double() @ directions / variances[:40].sqrt()
    means = torch.stack([scores[data.labels == label].mean(0) for label in range(7)])
    offsets = means - means.mean(0)
    deviation = float((offsets.square().sum(0) / 6).mean().sqrt())
    assert deviation == pytest.approx(0.5, rel=0.2)


def test_surrogate_is_hardly_cut_off() -> None:
    pixels = tfd_surrogate().inputs
    assert float(((pixels == 0) | (pixels == 255)).double().mean()) < 1e-5
    assert float(pixels.double().mean()) == pytest.approx(128, abs=2)


def test_blobs_are_ten_clouds_of_unit_size() -> None:
    """In units of 24 grey values: deviation 1 within a class, rounding adding 1e-4; centres of deviation 0.8."""
    data = blobs()
    assert data.inputs.shape == (1_500, 16)
    assert data.labels.bincount().tolist() == [150] * 10
    assert float((within(data) / 24).square().mean().sqrt()) == pytest.approx(1, rel=0.02)
    points = data.inputs.double() / 24
    centres = torch.stack([points[data.labels == label].mean(0) for label in range(10)])
    assert float((centres - centres.mean()).std()) == pytest.approx(0.8, rel=0.2)


@pytest.mark.skipif(not FACES.is_dir(), reason="L2O_DATA names no folder with att_faces/")
def test_faces_are_in_seven_groups_by_the_number_of_the_person() -> None:
    data, train, test = grouped_faces(), load_dataset("att-faces", "train"), load_dataset("att-faces", "test")
    assert data.inputs.shape == (400, 46, 46)
    assert data.classes == 7
    assert data.labels.bincount().tolist() == [60] * 5 + [50] * 2
    assert data.name == "att-faces-seven-groups-grey-46x46"
    assert data.note.startswith("AT&T faces, seven groups of persons: all 400 images")
    # The third image of person 9, class (9 - 1) mod 7 = 1, is training image 8 * 5 + 2; its first test image follows.
    for place, source in ((42, train.inputs[42]), (240, test.inputs[40])):
        middle = source[10:102].double().reshape(46, 2, 46, 2).mean((1, 3))
        assert int(data.labels[place]) == 1
        torch.testing.assert_close(data.inputs[place].double(), middle, rtol=0, atol=0.5)
