"""Figures of schedules: they draw what they are given, in files that are equal when drawn twice, and refuse nothing."""

import numpy as np
import pytest
import torch

from l2o.errors import ArgumentError
from l2o.evaluation.dots import plot_bands, plot_dots, plot_images, plot_pairs, tiled
from l2o.evaluation.statistics import Interval

SOME = {"coin": Interval(4.0, 3.9, 4.1, 10), "a learned schedule with a long name": Interval(3.8, 3.7, 3.9, 10)}
DRAWN = {
    "dots": lambda path: plot_dots(
        {"one": SOME, "two": SOME}, path=path, title="Table", xlabel="error", bold="coin", lines={"published": 3.85}
    ),
    "bands": lambda path: plot_bands(
        {"joint": {0.1: SOME["coin"], 1.0: Interval(5.0, -np.inf, np.inf, 1)}, "flat": {0.1: SOME["coin"]}},
        path=path,
        title="Figure",
        xlabel="lambda",
        ylabel="error",
        note="three seeds",
    ),
    "images": lambda path: plot_images({"made": torch.rand(5, 1, 8, 8)}, path=path, title="Samples", columns=3),
    "pairs": lambda path: plot_pairs(
        {"first": (6.0, 7.0), "second": (5.0, 4.0)}, path=path, title="Pairs", ylabel="score", names=("1:1", "guided")
    ),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_a_figure_is_a_picture_and_the_same_one_twice(kind, tmp_path):
    for name in ("first.png", "second.png"):
        torch.manual_seed(0)
        DRAWN[kind](tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("first.png", "second.png"))
    assert first.startswith(b"\x89PNG")
    assert first == second


def test_images_lie_side_by_side_in_rows():
    images = torch.arange(1.0, 4.0)[:, None, None, None].expand(3, 1, 2, 2)
    found = tiled(images, 2)
    assert found.shape == (6, 6)
    assert found[0].tolist() == [1, 1, 0, 2, 2, 0]
    assert found[3].tolist() == [3, 3, 0, 0, 0, 0]
    assert tiled(torch.rand(2, 3, 4, 4), 2).shape == (5, 10, 3)


@pytest.mark.parametrize(
    "fails",
    [
        lambda path: plot_dots({}, path=path, title="", xlabel=""),
        lambda path: plot_bands({"one": {}}, path=path, title="", xlabel="", ylabel=""),
        lambda path: plot_images({}, path=path, title=""),
        lambda path: plot_pairs({}, path=path, title="", ylabel="", names=("a", "b")),
    ],
)
def test_nothing_is_not_drawn(fails, tmp_path):
    with pytest.raises(ArgumentError, match="nothing to draw"):
        fails(tmp_path / "figure.png")
