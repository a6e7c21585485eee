"""Long runs in blocks: exact means, failures that count, stacking, files, and the figure of panels."""

import math

import numpy as np
import pytest
import torch

from l2o.curves import Curves
from l2o.errors import ArgumentError, CheckpointError
from l2o.evaluation.long_runs import LongRuns
from l2o.evaluation.panels import plot_marks, plot_panels, plot_stages


def curves(losses):
    return Curves(torch.tensor(losses, dtype=torch.float64), {}, evaluations=1, seconds_per_step=0.5, state_bytes=0)


def row(*finals, block=2, seed=1):
    """One seed whose runs end in blocks of these losses."""
    losses = [[1.0, 1.0, 1.0, final, final] for final in finals]
    return LongRuns.of(curves(losses), block=block, about={"optimizer": f"rule-{seed}"})


def test_blocks_are_means_of_the_losses_after_the_start():
    runs = LongRuns.of(curves([[9.0, 1.0, 3.0, 2.0, 4.0]]), block=2, about={"family": "mine"})
    assert runs.means.tolist() == [[[2.0, 3.0]]]
    assert runs.log_means[0, 0] == pytest.approx([math.log(3) / 2, math.log(8) / 2], abs=1e-15)
    assert runs.places.tolist() == [1.0, 3.0]
    assert (runs.steps, runs.runs) == (4, 1)
    assert runs.about == [{"family": "mine", "seconds_per_step": 0.5}]


def test_a_failed_run_has_no_mean_from_its_block_on_and_ends_infinite():
    nan = math.nan
    runs = LongRuns.of(curves([[2.0, 1.0, 1.0, 1.0, nan], [2.0, 1.0, 1.0, 1.0, 1.0]]), block=2, about={})
    assert np.isnan(runs.means[0]).tolist() == [[False, True], [False, False]]
    assert runs.final().tolist() == [[math.inf, 0.0]]
    assert runs.final_losses().tolist() == [[math.inf, 1.0]]
    assert runs.diverged.tolist() == [[True, False]]
    assert np.isnan(runs.mean_curve()).tolist() == [False, True]


def test_a_run_that_exploded_counts_as_diverged_though_it_is_finite():
    assert row(10.5, 9.5).diverged.tolist() == [[True, False]]


def test_losses_below_the_floor_count_as_it():
    assert row(0.0).final()[0, 0] == pytest.approx(math.log(1e-12))


def test_negative_losses_have_no_logarithm():
    with pytest.raises(ArgumentError, match=r"a loss is -0.5; logarithms need losses >= 0"):
        row(-0.5)


def test_steps_must_fill_blocks():
    with pytest.raises(ArgumentError, match="4 steps are no whole number of blocks of 3"):
        row(1.0, block=3)


def test_rows_of_seeds_are_stacked_in_order():
    both = LongRuns.stack([row(1.0, 2.0, seed=1), row(3.0, 4.0, seed=2)])
    assert both.final_losses().tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert [about["optimizer"] for about in both.about] == ["rule-1", "rule-2"]
    with pytest.raises(ArgumentError, match="stack rows of equal lengths"):
        LongRuns.stack([row(1.0, 2.0), row(1.0)])


def test_the_interval_of_a_difference_is_below_zero_where_every_seed_and_run_is():
    low = LongRuns.stack([row(0.1, 0.2, seed=1), row(0.12, 0.18, seed=2)])
    high = LongRuns.stack([row(1.0, 1.5, seed=1), row(1.1, 1.4, seed=2)])
    interval = low.below(high)
    assert interval.high < 0
    assert interval.estimate == pytest.approx(low.final().mean() - high.final().mean())
    assert high.below(low).low > 0


def test_a_rule_without_seeds_is_compared_with_seeds():
    seeds = LongRuns.stack([row(0.1, 0.2, seed=1), row(0.3, 0.2, seed=2)])
    assert seeds.below(row(1.0, 1.1)).high < 0


def test_a_failure_on_one_side_makes_the_difference_infinite():
    failed = LongRuns.of(curves([[1.0, 1.0, 1.0, 1.0, math.nan], [1.0] * 5]), block=2, about={})
    assert row(0.1, 0.1).below(failed).estimate == -math.inf
    assert failed.below(row(0.1, 0.1)).high == math.inf


def test_what_is_saved_is_read_back_exactly(tmp_path):
    runs = LongRuns.stack([row(0.1, 10.5, seed=1), row(0.3, 0.2, seed=2)])
    runs.save(tmp_path / "runs.l2o")
    found = LongRuns.load(tmp_path / "runs.l2o")
    for name in ("means", "log_means", "diverged"):
        assert np.array_equal(getattr(found, name), getattr(runs, name))
    assert (found.block, found.about) == (runs.block, runs.about)


def test_a_damaged_file_is_refused(tmp_path):
    row(0.5).save(tmp_path / "runs.l2o")
    blob = bytearray((tmp_path / "runs.l2o").read_bytes())
    blob[-3] ^= 1
    (tmp_path / "runs.l2o").write_bytes(blob)
    with pytest.raises(CheckpointError, match="was altered"):
        LongRuns.load(tmp_path / "runs.l2o")


def test_bands_enclose_the_mean_curve_and_end_where_a_run_fails():
    runs = LongRuns.stack([row(0.1, 0.4, seed=1), row(0.3, 0.2, seed=2)])
    low, high = runs.band()
    assert (low <= runs.mean_curve()).all()
    assert (runs.mean_curve() <= high).all()
    assert low[1] < high[1]
    failed = LongRuns.of(curves([[1.0, 1.0, 1.0, 1.0, math.nan], [1.0] * 5]), block=2, about={})
    assert np.isnan(failed.band()[0]).tolist() == [False, True]


def test_panels_are_drawn_alike_twice(tmp_path):
    seeds = LongRuns.stack([row(0.1, 10.5, seed=1), row(0.3, 0.2, seed=2)])
    panels = {"one": {"learned": seeds, "Adam": row(0.5, 0.6)}, "two": {"Adam": row(0.5, 0.6)}}
    for name in ("a.png", "b.png"):
        plot_panels(panels, path=tmp_path / name, title="A title", thick="learned", levels={"chance": 0.8})
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_marks_are_drawn_alike_twice(tmp_path):
    curves = {"short": {100: row(0.1, 0.2), 200: row(0.3, 0.2)}, "long": {100: row(0.1, 0.1), 200: row(0.05, 0.1)}}
    for name in ("a.png", "b.png"):
        plot_marks(curves, path=tmp_path / name, title="A title", xlabel="trajectories", ylabel="ln loss")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(ArgumentError, match="nothing to draw"):
        plot_marks({"short": {}}, path=tmp_path / "c.png", title="", xlabel="", ylabel="")


def test_stages_are_drawn_alike_twice(tmp_path):
    seed = [(20, 0, 200, 2.0), (40, 0, 200, None), (40, 1, 500, 0.5), (60, 1, 500, 0.25)]
    for name in ("a.png", "b.png"):
        plot_stages({"mine": [seed, seed[:1]]}, path=tmp_path / name, title="A title")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(ArgumentError, match="nothing to draw"):
        plot_stages({"mine": [[]]}, path=tmp_path / "c.png", title="")


def test_panels_without_curves_are_refused(tmp_path):
    for panels in ({}, {"one": {}}):
        with pytest.raises(ArgumentError, match="nothing to draw"):
            plot_panels(panels, path=tmp_path / "a.png", title="")
