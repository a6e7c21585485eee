import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from l2o.curves import Curves
from l2o.errors import ArgumentError
from l2o.evaluation import statistics
from l2o.evaluation.statistics import Interval

NAN, INF = math.nan, math.inf
FAILING = [[4.0, 2.0, 1.0], [4.0, NAN, NAN]]


def test_interquartile_mean_of_1_to_8_is_that_of_3_to_6() -> None:
    assert statistics.interquartile_mean([8, 1, 7, 2, 6, 3, 5, 4]) == 4.5


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=23))
def test_interquartile_mean_equals_scipys_trimmed_mean(values: list[float]) -> None:
    assert statistics.interquartile_mean(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25), abs=1e-6)


def test_a_failed_run_makes_the_mean_infinite_and_leaves_the_median_and_the_quartiles_finite() -> None:
    values = [1.0, 2.0, 3.0, INF]
    assert statistics.mean(values) == INF
    assert statistics.median(values) == 2.5
    assert statistics.interquartile_mean(values) == 2.5


def test_a_priced_failure_enters_the_mean_at_its_price() -> None:
    assert statistics.mean(statistics.price_failures([1.0, INF], 9.0)) == 5.0


def test_a_failed_run_is_infinite_in_every_metric() -> None:
    np.testing.assert_array_equal(statistics.final_losses(FAILING), [1.0, INF])
    np.testing.assert_array_equal(statistics.log_final_losses(FAILING), [0.0, INF])
    np.testing.assert_allclose(statistics.areas(FAILING), [math.log(8) / 3, INF])
    np.testing.assert_array_equal(statistics.failed(FAILING), [False, True])


def test_final_loss_is_the_mean_of_the_last_losses() -> None:
    np.testing.assert_array_equal(statistics.final_losses([[9.0, 2.0, 4.0]], last=2), [3.0])


def test_log_final_loss_is_the_mean_of_logarithms_not_the_logarithm_of_the_mean() -> None:
    np.testing.assert_allclose(statistics.log_final_losses([[9.0, 1.0, math.e**2]], last=2), [1.0])


def test_area_of_a_constant_curve_is_its_logarithm() -> None:
    np.testing.assert_allclose(statistics.areas(np.full((2, 7), math.e)), [1.0, 1.0])


def test_area_takes_zero_losses_at_the_floor() -> None:
    np.testing.assert_allclose(statistics.areas([[0.0, 1.0]], floor=1e-6), [math.log(1e-6) / 2])


def test_measure_names_the_three_metrics() -> None:
    losses = [[5.0, 3.0, 1.0]]
    assert statistics.measure(losses, "final", last=2) == 2.0
    assert statistics.measure(losses, "log-final", last=2) == pytest.approx(math.log(3) / 2)
    assert statistics.measure(losses, "area") == pytest.approx(math.log(15) / 3)


def test_steps_to_target_counts_from_zero_and_is_infinite_where_not_reached() -> None:
    losses = [[4.0, 2.0, 1.0], [0.5, 2.0, 2.0], [4.0, 4.0, 4.0], [4.0, NAN, NAN]]
    np.testing.assert_array_equal(statistics.steps_to_target(losses, 2.0), [1, 0, INF, INF])


def test_steps_to_target_of_averaged_losses_ignores_a_lucky_minibatch() -> None:
    lucky = [[4.0, 0.0, 4.0, 1.0, 1.0]]
    np.testing.assert_array_equal(statistics.steps_to_target(lucky, 1.0), [1])
    np.testing.assert_array_equal(statistics.steps_to_target(lucky, 1.0, last=2), [4])


def test_median_of_steps_to_target_is_censored_where_half_the_runs_miss_it() -> None:
    steps = statistics.steps_to_target([[4.0, 1.0], [4.0, 1.0], [4.0, 4.0], [4.0, NAN]], 1.0)
    assert statistics.median(steps) == INF
    assert statistics.median(steps[:3]) == 1.0


def test_diverged_agrees_with_the_curves_own_definition() -> None:
    losses = torch.tensor([[1.0, 9.9], [1.0, 10.1], [1.0, NAN], [-1.0, -0.5], [-1.0, 0.5]], dtype=torch.float64)
    curves = Curves(losses, {}, 2, 0.0, 0)
    np.testing.assert_array_equal(statistics.diverged(losses), curves.diverged.numpy())


def test_blocks_are_counted_from_the_end_and_the_first_holds_the_rest() -> None:
    steps, means = statistics.block_means([[7.0, 1.0, 3.0, 5.0, 9.0]], 2)
    np.testing.assert_array_equal(steps, [0.0, 1.5, 3.5])
    np.testing.assert_array_equal(means, [[7.0, 2.0, 7.0]])
    steps, means = statistics.block_means([[1.0, 3.0, 5.0, NAN]], 2)
    np.testing.assert_array_equal(means, [[2.0, NAN]])


def test_paired_difference_of_constants_is_exact() -> None:
    interval = statistics.paired_bootstrap([3.0] * 6, [1.0] * 6)
    assert interval == Interval(2.0, 2.0, 2.0, 6)


def test_pairing_takes_out_what_the_runs_share() -> None:
    shared = np.random.default_rng(0).normal(size=30) * 100
    assert statistics.paired_bootstrap(shared + 1, shared).low == pytest.approx(1)
    assert statistics.bootstrap(shared + 1).low < statistics.bootstrap(shared).high


def test_failures_in_pairs_favour_the_survivor_and_a_shared_failure_is_a_tie() -> None:
    np.testing.assert_array_equal(statistics.differences([INF, 1.0, INF, 3.0], [1.0, INF, INF, 1.0]), [INF, -INF, 0, 2])


def test_mean_difference_is_undefined_where_both_sides_fail_and_the_interval_says_nothing() -> None:
    interval = statistics.paired_bootstrap([INF, 1.0, 1.0, 1.0], [1.0, INF, 1.0, 1.0])
    assert math.isnan(interval.estimate)
    assert (interval.low, interval.high) == (-INF, INF)
    assert statistics.paired_bootstrap([INF, 1.0, 1.0], [1.0, INF, 1.0], statistics.median).estimate == 0


def test_bootstrap_agrees_with_scipy() -> None:
    # Two bootstraps of 20,000 resamples differ by about 0.02 standard errors at each end; the standard error is 0.14.
    values = np.random.default_rng(3).gamma(2.0, size=50)
    ours = statistics.bootstrap(values, statistics.mean, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", vectorized=True, random_state=0
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)


@pytest.mark.parametrize("statistic", [statistics.mean, statistics.median, statistics.interquartile_mean])
def test_bootstrap_interval_covers_the_truth_as_often_as_it_says(statistic: statistics.Statistic) -> None:
    # 40 normal runs: the percentile interval's own coverage is 0.94 to 0.95. Binomial standard deviation of 400
    # intervals: 0.011; the bounds are four of them around 0.945.
    samples = np.random.default_rng(1).normal(5.0, 2.0, size=(400, 40))
    intervals = [statistics.bootstrap(row, statistic, resamples=500, seed=i) for i, row in enumerate(samples)]
    coverage = np.mean([not interval.excludes(5.0) for interval in intervals])
    assert 0.90 <= coverage <= 0.989


def test_bootstrap_is_a_function_of_its_seed() -> None:
    values = np.arange(9.0)
    assert statistics.bootstrap(values, seed=4) == statistics.bootstrap(values, seed=4)
    assert statistics.bootstrap(values**3, seed=4) != statistics.bootstrap(values**3, seed=5)


def test_bootstrap_in_parts_covers_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_NUMBERS_AT_ONCE", 100)
    interval = statistics.bootstrap(np.arange(30.0), resamples=1_000)
    assert interval.low == pytest.approx(11.4, abs=0.6)
    assert interval.high == pytest.approx(17.6, abs=0.6)


def test_one_run_says_nothing_about_the_others() -> None:
    assert statistics.bootstrap([2.0]) == Interval(2.0, -INF, INF, 1)


def test_a_wider_level_gives_a_wider_interval() -> None:
    values = np.random.default_rng(0).normal(size=20)
    narrow, wide = (statistics.bootstrap(values, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high


def test_mean_band_equals_the_bootstrap_at_each_step() -> None:
    # 4,000 resamples on either side move an end by about 0.03 standard errors of 0.2.
    values = np.random.default_rng(2).normal(size=(25, 3))
    low, high = statistics.mean_band(values, resamples=4_000)
    for step in range(3):
        interval = statistics.bootstrap(values[:, step], resamples=4_000)
        assert low[step] == pytest.approx(interval.low, abs=0.03)
        assert high[step] == pytest.approx(interval.high, abs=0.03)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.mean([1.0, NAN]), "not a number"),
        (lambda: statistics.median([]), "at least one run"),
        (lambda: statistics.bootstrap([NAN]), "not a number"),
        (lambda: statistics.bootstrap([[1.0]]), "one number per run"),
        (lambda: statistics.bootstrap([1.0], level=1.0), r"level 1.0 must lie"),
        (lambda: statistics.bootstrap([1.0], resamples=0), "resamples 0"),
        (lambda: statistics.differences([1.0], [1.0, 2.0]), "one stream"),
        (lambda: statistics.price_failures([1.0], INF), "penalty is inf"),
        (lambda: statistics.areas([[1.0, -1.0]]), "a loss is -1.0"),
        (lambda: statistics.final_losses([1.0]), r"pass \[runs, steps \+ 1\]"),
        (lambda: statistics.final_losses([[1.0]], last=2), "last is 2"),
        (lambda: statistics.steps_to_target([[1.0]], 1.0, last=0), "last is 0"),
        (lambda: statistics.final_losses([[1.0, NAN, 1.0]]), "must stay failed"),
        (lambda: statistics.block_means([[1.0]], 2), "blocks of 2"),
        (lambda: statistics.measure([[1.0]], "best"), "metric is 'best'"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_what_has_no_meaning_is_refused(call, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()


def test_a_crossed_bootstrap_of_equal_measures_has_no_width():
    interval = statistics.crossed_bootstrap([[2.0, 2.0], [2.0, 2.0]], [[0.5, 0.5]])
    assert (interval.estimate, interval.low, interval.high) == (1.5, 1.5, 1.5)


def test_a_crossed_bootstrap_of_runs_alone_is_the_bootstrap_of_runs():
    values = np.random.default_rng(3).normal(size=12)
    crossed, plain = statistics.crossed_bootstrap(values[None]), statistics.bootstrap(values)
    assert crossed.estimate == pytest.approx(plain.estimate)
    assert crossed.low == pytest.approx(plain.low, abs=0.03)
    assert crossed.high == pytest.approx(plain.high, abs=0.03)


def test_a_crossed_bootstrap_knows_that_runs_of_one_seed_are_not_independent():
    seeds = np.repeat(np.arange(3.0)[:, None], 100, axis=1)  # [seeds, runs]: all the spread is between seeds
    interval = statistics.crossed_bootstrap(seeds)
    assert (interval.low, interval.high) == (0.0, 2.0)
    assert statistics.bootstrap(seeds.ravel()).high < 1.2


def test_a_crossed_bootstrap_subtracts_what_runs_share():
    runs = np.array([0.0, 100.0, -50.0])
    interval = statistics.crossed_bootstrap([runs + 1.0, runs + 1.5], [runs])
    assert (interval.low, interval.high) == pytest.approx((1.0, 1.5))


def test_a_crossed_bootstrap_counts_failures_against_both_ends():
    failed = [[1.0, math.inf]]
    assert statistics.crossed_bootstrap(failed).high == math.inf
    both = statistics.crossed_bootstrap(failed, failed)
    assert (both.low, both.high) == (-math.inf, math.inf)


@pytest.mark.parametrize("measures", [([1.0, 2.0],), ([[1.0, 2.0]], [[1.0]])])
def test_a_crossed_bootstrap_needs_seeds_and_the_same_runs(measures):
    with pytest.raises(ArgumentError, match=r"pass \[seeds, runs\], of the same runs"):
        statistics.crossed_bootstrap(*measures)


def test_one_seed_and_run_say_nothing_about_their_spread():
    interval = statistics.crossed_bootstrap([[1.0]], [[3.0]])
    assert (interval.estimate, interval.low, interval.high) == (-2.0, -math.inf, math.inf)
