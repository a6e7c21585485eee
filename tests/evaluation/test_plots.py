import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from l2o.errors import ArgumentError
from l2o.evaluation import figure
from l2o.evaluation.plots import plot_curves, plot_meta_training, plot_tuning
from l2o.evaluation.tuning import Tuning

NOISE = np.exp(np.random.default_rng(0).normal(0, 0.2, (8, 61)))
CURVES = {"Adam": NOISE * np.exp(-np.linspace(0, 2, 61)), "learned": NOISE * np.exp(-np.linspace(0, 5, 61))}
SCORES = {0.25: 2.0, 0.5: 1.0, 1.0: 3.0, 2.0: math.inf}


def pixels(path: Path, place: int) -> np.ndarray:
    """Which pixels have the colour of the curve at a place in the order: `[height, width]`."""
    image = imread(path)[:, :, :3]
    return (np.abs(image - np.array(to_rgb(figure.look(place)[0]))) < 0.02).all(-1)


def draw_curves(path: Path, **options) -> None:
    plot_curves(CURVES, path=path, title="Descent", learned=["learned"], **options)


def draw_meta_training(path: Path) -> None:
    losses = np.exp(-np.linspace(0, 3, 100))
    losses[[3, 50]] = math.nan
    plot_meta_training(losses, [(0, 1.0), (50, math.inf), (100, 0.1)], path=path, title="Meta-training")


def draw_tuning(path: Path) -> None:
    plot_tuning({"SGD": Tuning("final", 0.5, SCORES, 60, 12, 0, False)}, path=path, title="Tuning", ylabel="final loss")


@pytest.mark.parametrize("draw", [draw_curves, draw_meta_training, draw_tuning])
def test_a_figure_is_drawn_and_is_the_same_file_when_drawn_twice(tmp_path: Path, draw) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    image = imread(tmp_path / "a.png")
    assert image.shape[0] > 500
    assert image.shape[1] > 800
    assert pixels(tmp_path / "a.png", 0).sum() > 300


def test_a_figure_carries_no_date_and_no_software(tmp_path: Path) -> None:
    draw_curves(tmp_path / "a.png")
    blob = (tmp_path / "a.png").read_bytes()
    assert b"tEXt" not in blob
    assert b"tIME" not in blob


def test_the_learned_optimizer_comes_first_in_colour_and_is_thicker(tmp_path: Path) -> None:
    draw_curves(tmp_path / "a.png", band="none")
    learned, other = pixels(tmp_path / "a.png", 0), pixels(tmp_path / "a.png", 1)
    # Of the two colours, the learned one's lies lower in the picture, as its loss does.
    assert np.nonzero(learned)[0].mean() > np.nonzero(other)[0].mean()
    assert learned.sum() > 1.3 * other.sum()


def test_a_failing_run_changes_the_curve_to_dashes_and_none_left_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure, "name_ends", lambda axes, ends: None)  # only the curve itself is counted
    some, every = CURVES["Adam"].copy(), CURVES["Adam"].copy()
    some[0, 30:] = math.nan
    every[:, 30:] = math.nan
    counts = []
    for name, losses in (("whole", CURVES["Adam"]), ("some", some), ("every", every)):
        plot_curves({"Adam": losses}, path=tmp_path / f"{name}.png", title="", band="none")
        found = pixels(tmp_path / f"{name}.png", 0)
        height, width = found.shape
        counts.append(found[: int(0.75 * height), int(0.65 * width) : int(0.9 * width)].sum())
    whole, dashed, none = counts
    assert none == 0 < dashed < 0.7 * whole


def test_a_run_that_fails_at_once_is_drawn(tmp_path: Path) -> None:
    plot_curves({"a": np.full((2, 5), math.nan), "b": np.ones((2, 5))}, path=tmp_path / "a.png", title="")
    assert pixels(tmp_path / "a.png", 1).any()


def test_an_explosion_leaves_the_frame_and_does_not_flatten_the_others(tmp_path: Path) -> None:
    exploding = {**CURVES, "exploding": np.exp(np.linspace(0, 200, 61))[None]}
    draw_curves(tmp_path / "a.png", band="none")
    plot_curves(exploding, path=tmp_path / "b.png", title="Descent", learned=["learned"], band="none")
    extents = [np.ptp(np.nonzero(pixels(tmp_path / name, 0))[0]) for name in ("a.png", "b.png")]
    assert extents[1] > 0.4 * extents[0]


@pytest.mark.parametrize("average", ["mean", "log-mean"])
@pytest.mark.parametrize("band", ["interval", "deviation", "none"])
@pytest.mark.parametrize("scale", ["log", "linear"])
def test_every_combination_of_choices_is_drawn(tmp_path: Path, average, band, scale) -> None:
    draw_curves(tmp_path / "a.png", average=average, band=band, scale=scale, block=7)
    assert pixels(tmp_path / "a.png", 0).any()


def test_zero_and_negative_losses_are_drawn(tmp_path: Path) -> None:
    zero = np.maximum(np.linspace(1, -1, 40), 0)[None]
    plot_curves({"zero": zero, "one": np.ones((1, 40))}, path=tmp_path / "zero.png", title="")
    plot_curves({"negative": np.linspace(1, -5, 40)[None]}, path=tmp_path / "negative.png", title="")
    assert pixels(tmp_path / "zero.png", 0).sum() > 300
    assert pixels(tmp_path / "negative.png", 0).sum() > 300


def test_a_long_curve_is_thinned_to_what_a_figure_resolves(tmp_path: Path) -> None:
    plot_curves({"long": np.linspace(1, 2, 10_001)[None]}, path=tmp_path / "a.png", title="", scale="linear")
    columns = np.nonzero(pixels(tmp_path / "a.png", 0).any(0))[0]
    assert np.ptp(columns) > 500


def test_text_with_dollars_is_no_formula(tmp_path: Path) -> None:
    plot_curves({"cost $x_$": np.ones((1, 3))}, path=tmp_path / "a.png", title=r"$\frac{", ylabel="$")
    assert pixels(tmp_path / "a.png", 0).any()


def test_names_are_moved_apart_as_little_as_possible() -> None:
    np.testing.assert_allclose(figure.apart([0.2, 0.8], [0.1, 0.1]), [0.2, 0.8])
    np.testing.assert_allclose(figure.apart([0.5, 0.5], [0.1, 0.1]), [0.45, 0.55])
    np.testing.assert_allclose(figure.apart([0.0, 0.99], [0.1, 0.2]), [0.05, 0.9])
    np.testing.assert_allclose(figure.apart([0.5, 0.5], [1.0, 1.0]), [0.5, 1.5])


def test_what_cannot_be_drawn_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(ArgumentError, match="nothing to draw"):
        plot_curves({}, path=path, title="")
    with pytest.raises(ArgumentError, match="nothing to draw"):
        plot_tuning({}, path=path, title="", ylabel="")
    with pytest.raises(ArgumentError, match="learned names"):
        plot_curves(CURVES, path=path, title="", learned=["SGD"])
    with pytest.raises(ArgumentError, match="no logarithm"):
        plot_curves({"a": -np.ones((1, 3))}, path=path, title="", average="log-mean")
    with pytest.raises(ArgumentError, match="one per trajectory"):
        plot_meta_training([], [], path=path, title="")
    for choice in ("scale", "average", "band"):
        with pytest.raises(ArgumentError, match=f"{choice} is 'other'"):
            draw_curves(path, **{choice: "other"})
    assert not path.exists()
