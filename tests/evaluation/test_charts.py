"""Charts have the lines of the figures, rounded and thinned, and nothing that JSON cannot say."""

import json
import math

import numpy as np
import pytest
import torch

from l2o.curves import Curves
from l2o.errors import ArgumentError, DataError
from l2o.evaluation import statistics
from l2o.evaluation.charts import (
    Chart,
    beside,
    of_comparison,
    of_intervals,
    of_long_runs,
    read_charts,
    trace,
    write_charts,
)
from l2o.evaluation.compare import Comparison
from l2o.evaluation.lines import thin
from l2o.evaluation.long_runs import LongRuns
from l2o.evaluation.statistics import Interval

NOISE = np.exp(np.random.default_rng(0).normal(0, 0.2, (8, 61)))
LOSSES = {name: NOISE * np.exp(-np.linspace(0, slope, 61)) for name, slope in (("Adam", 2), ("SGD", 1), ("learned", 5))}


def comparison(losses: dict[str, np.ndarray]) -> Comparison:
    return Comparison({name: Curves(torch.from_numpy(v), {}, 61, 1e-3, 8) for name, v in losses.items()}, "bowl", 1)


def test_a_comparisons_chart_has_the_mean_of_the_runs_and_its_interval() -> None:
    chart = of_comparison(comparison(LOSSES), bold=["learned"], hidden=["Adam"])
    assert [(each.name, each.bold, each.shown) for each in chart.traces] == [
        ("learned", True, True), ("SGD", False, True), ("Adam", False, False)
    ]  # fmt: skip
    learned = chart.traces[0]
    assert learned.x == list(range(61))
    np.testing.assert_allclose(np.array(learned.y, float), LOSSES["learned"].mean(0), rtol=5e-5)  # five digits
    low, high = statistics.mean_band(LOSSES["learned"])
    np.testing.assert_allclose(np.array(learned.low, float), low, rtol=5e-5)
    np.testing.assert_allclose(np.array(learned.high, float), high, rtol=5e-5)
    assert (learned.whole, learned.crosses, learned.note) == (61, [], "")
    assert chart.notes == ["mean of 8 runs", "band: 95 % bootstrap interval"]
    assert (chart.xlabel, chart.ylabel, chart.xscale, chart.yscale) == ("step", "loss", "linear", "log")
    assert chart.limit == pytest.approx(20 * max(losses[:, 0].mean() for losses in LOSSES.values()), rel=5e-5)


def test_failures_end_the_band_and_are_crossed_and_counted() -> None:
    losses = LOSSES["Adam"].copy()
    losses[0, 30:] = math.nan
    losses[1, 40:] = math.nan
    (line,) = of_comparison(comparison({"Adam": losses})).traces
    assert line.whole == 30
    assert line.crosses == [29, 39]
    assert line.note == "2 of 8 diverged"
    assert None not in line.low[:30]
    assert set(line.low[30:]) == set(line.high[30:]) == {None}
    assert line.y[35] == pytest.approx(losses[1:, 35].mean(), rel=5e-5)  # of the runs that are left
    losses[:, 50:] = math.nan
    chart = of_comparison(comparison({"Adam": losses}))
    assert set(chart.traces[0].y[50:]) == {None}
    assert any("a run failed" in note for note in chart.notes)


def test_negative_losses_have_a_linear_axis_and_zeros_a_note() -> None:
    ends = np.linspace(1, -1, 61)[None]
    assert of_comparison(comparison({"below": ends})).yscale == "linear"
    chart = of_comparison(comparison({"zero": np.maximum(ends, 0)}))
    assert chart.yscale == "log"
    assert any("below 1e-12" in note for note in chart.notes)


def test_one_run_has_no_band_and_an_explosion_is_cut() -> None:
    chart = of_comparison(comparison({"up": np.geomspace(1, 1e6, 61)[None]}))
    assert set(chart.traces[0].low) == {None}
    assert chart.limit == 20
    assert chart.notes == ["one run", "the axis ends at 20 times the first loss"]


def test_long_curves_are_thinned_with_more_early_points_and_the_chart_says_so() -> None:
    chart = of_comparison(comparison({"long": np.linspace(2, 1, 10_001)[None]}))
    x = chart.traces[0].x
    assert 300 <= len(x) <= 400
    assert (x[0], x[-1]) == (0, 10_000)
    assert sum(each < 100 for each in x) > 20  # evenly spaced there would be three
    assert max(np.diff(np.array(x, float))) <= 34
    assert chart.notes[-1] == f"{len(x)} of 10,001 losses are drawn, more of the early ones"


@pytest.mark.parametrize("count", [1, 2, 400, 401, 12_345])
def test_thinning_keeps_order_and_both_ends(count: int) -> None:
    shown = thin(count)
    assert shown == sorted(set(shown))
    assert (shown[0], shown[-1]) == (0, count - 1)
    assert len(shown) == count if count <= 400 else 300 <= len(shown) <= 400


def test_steps_keep_more_digits_than_values() -> None:
    line = trace("a", [123456.5], [0.123456789], [math.inf], [math.nan])
    assert (line.x, line.y, line.low, line.high) == ([123456.5], [0.12346], [None], [None])


def test_panels_of_long_runs_become_a_chart_each() -> None:
    rng = np.random.default_rng(0)
    logs, diverged = rng.normal(0, 0.1, (2, 3, 5)), np.zeros((2, 3), dtype=bool)
    whole = LongRuns(np.exp(logs), logs, diverged, 20, [{}, {}])
    broken, failed = logs.copy(), diverged.copy()
    broken[0, 0, 3:], failed[0, 0] = math.nan, True
    part = LongRuns(np.exp(broken), broken, failed, 20, [{}, {}])
    charts = of_long_runs({"one": {"a": whole, "b": part}, "two": {"a": whole}}, thick="b", levels={"chance": 0.8})
    assert [chart.title for chart in charts] == ["one", "two"]
    first, second = charts[0].traces
    assert first.x == [10, 30, 50, 70, 90]
    np.testing.assert_allclose(np.array(first.y, float), logs.mean((0, 1)), rtol=5e-5)
    low, high = whole.band()
    np.testing.assert_allclose(np.array([first.low, first.high], float), [low, high], rtol=5e-5)
    assert (second.bold, second.note) == (True, "1 of 6 diverged")
    assert second.y[3:] == [None, None]
    assert charts[0].levels == {"chance": 0.8}
    assert charts[0].yscale == "linear"


def test_intervals_against_a_number_become_a_chart() -> None:
    marks = {100.0: Interval(1.0, 0.5, 1.5, 4), 200.0: Interval(2.0, math.inf, math.inf, 4)}
    chart = of_intervals({"a": marks}, xlabel="steps", ylabel="score", xscale="log", note="made up")
    (line,) = chart.traces
    assert (line.x, line.y, line.low, line.high) == ([100, 200], [1, 2], [0.5, None], [1.5, None])
    assert (chart.xscale, chart.notes) == ("log", ["band: 95 % interval", "made up"])


def test_charts_are_read_back_exactly_and_something_else_is_refused(tmp_path) -> None:
    path = beside(tmp_path / "figure.png")
    assert path.name == "figure.charts.json"
    marks = {"a": {1.0: Interval(1, 1, 1, 1)}}
    charts = [of_comparison(comparison(LOSSES)), of_intervals(marks, xlabel="x", ylabel="y")]
    write_charts(path, charts)
    assert read_charts(path) == charts
    for content in ("", "{}", "[1]", json.dumps([{"title": "a"}]), path.read_text()[:-9]):
        path.write_text(content)
        with pytest.raises(DataError, match="holds no charts"):
            read_charts(path)


def test_a_chart_without_curves_is_refused() -> None:
    with pytest.raises(ArgumentError, match="nothing to draw"):
        Chart("empty", "x", "y", [], [])
