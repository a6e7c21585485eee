"""The curriculum's stages follow the published rule, on scripted validations."""

import dataclasses
import json
import math

import pytest

from l2o.errors import HorizonError
from l2o.horizons import ConstantHorizon, Curriculum, RandomHorizon, Stage, Standing
from l2o.rng import Stream


def walk(horizon, values):
    """The standings after each value."""
    standings, here = [], horizon.begin()
    for value in values:
        assert not here.finished
        here = horizon.after(here, value)
        standings.append(here)
    return standings


TWO = Curriculum((100, 200), (200, 300))


def test_a_stage_that_finds_nothing_better_than_its_baseline_ends_the_run():
    # Stage 0: 3, 4, 5, the first is the best; base 6 for stage 1, which never gets below it.
    standings = walk(TWO, [3, 4, 5, 6, 7, 8, 9])
    assert [s.stage for s in standings] == [0, 0, 1, 1, 1, 1, 1]
    assert [s.keeps for s in standings] == [True, False, False, False, False, False, False]
    assert [s.restores for s in standings] == [False, False, True, False, False, False, True]
    assert [s.baseline for s in standings] == [False, False, True, False, False, False, False]
    assert standings[-1].finished
    assert not standings[-1].improved


@pytest.mark.parametrize("values", [[3, 2, 2.5], [5, 6, 4, 3, 3.5], [5, 6, 5], [2, 3, 1, 1]], ids=str)
def test_a_stage_goes_on_while_a_period_is_the_best_so_far(values):
    standings = walk(TWO, values)
    assert all(s.stage == 0 and not s.restores for s in standings[:-1])
    assert standings[-1] == Standing(stage=1, baseline=True, restores=True)


def test_an_early_period_that_is_not_the_best_changes_nothing():
    early = walk(TWO, [3, 4])[-1]
    assert not early.keeps
    assert not early.restores
    assert early.best == 3


def test_a_stage_has_an_end_even_if_every_period_is_the_best():
    short = Curriculum((100, 200), (200, 300), longest_stage=4)
    standings = walk(short, [5, 4, 3, 2])
    assert standings[-1] == Standing(stage=1, baseline=True, keeps=True, restores=True)


def test_the_last_stage_ends_the_run():
    standings = walk(TWO, [3, 4, 5, 6, 5, 5, 5])
    assert standings[-1].finished
    assert standings[-1].restores
    assert standings[-1].improved


def test_an_infinite_baseline_can_be_beaten():
    standings = walk(TWO, [3, 4, 5, float("inf"), 1e9])
    assert standings[-1].keeps


@pytest.mark.parametrize("horizon", [ConstantHorizon(), RandomHorizon()], ids=["constant", "random"])
def test_a_horizon_without_stages_keeps_the_best_and_never_ends(horizon):
    assert horizon.begin() == Standing(baseline=True)
    standings = walk(horizon, [3, 2, 4, 2, 1, float("inf")])
    assert [s.keeps for s in standings] == [True, True, False, False, True, False]
    assert not any(s.finished or s.restores or s.stage for s in standings)


def test_validation_lengths_are_those_of_the_next_stage():
    assert Curriculum((20, 40, 100)).stages == (Stage(20, 40), Stage(40, 100), Stage(100, 150))
    assert Curriculum().stages[-1] == Stage(3000, 4500)


def test_a_standing_is_json():
    here = walk(TWO, [3, 4, 5])[-1]
    assert Standing(**json.loads(json.dumps(dataclasses.asdict(here)))) == here


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": ()}, "without stages"),
        ({"steps": (100, 50)}, "fall from 100 to 50"),
        ({"steps": (100, 110)}, "not a whole number of windows of 20; take 100 or 120"),
        ({"steps": (100, 200), "validation_steps": (200,)}, "1 validation lengths for 2 stages"),
        ({"steps": (100,), "validation_steps": (80,)}, "a stage of 100 steps is validated on 80"),
        ({"steps": (100,), "periods": 0}, "need 1 <= periods"),
        ({"steps": (100,), "periods": 5, "longest_stage": 4}, "need 1 <= periods <= longest_stage"),
    ],
)
def test_a_curriculum_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(HorizonError, match=message):
        Curriculum(**arguments)


def drawn(horizon, trajectories):
    """The lengths of the windows of each trajectory."""
    return [horizon.lengths(Standing(), Stream(4, ("train",), trajectory=number)) for number in range(trajectories)]


def test_fixed_horizons_have_windows_of_one_length():
    assert ConstantHorizon(60, 20).lengths(Standing(), Stream(0)) == (20, 20, 20)
    assert Curriculum((40, 100)).lengths(Standing(stage=1), Stream(0)) == (20,) * 5


def test_random_lengths_are_exponential_above_their_least():
    """Rounded, 1 + Exp(m) is 1 with probability 1 - exp(-1 / 2m), and its mean is m up to 1 / 24m."""
    horizon = RandomHorizon(windows=2, extra_windows=3.0, window=7, extra_steps=11.0)
    trajectories = drawn(horizon, 4000)
    windows = [len(lengths) for lengths in trajectories]
    steps = [length for lengths in trajectories for length in lengths]
    assert all(isinstance(length, int) for length in steps)
    assert min(windows) == 2
    assert min(steps) == 7
    assert sum(windows) / len(windows) == pytest.approx(5.0, abs=5 * 3 / 4000**0.5 + 1 / 72)  # five standard errors
    assert sum(steps) / len(steps) == pytest.approx(18.0, abs=5 * 11 / len(steps) ** 0.5 + 1 / 264)
    assert windows.count(2) / 4000 == pytest.approx(1 - math.exp(-1 / 6), abs=0.03)
    assert sum(length - 7 > 33 for length in steps) / len(steps) == pytest.approx(math.exp(-33.5 / 11), rel=0.15)
    assert horizon.stages == (Stage(90, 100),)


def test_random_lengths_depend_on_the_trajectory_alone():
    horizon, stream = RandomHorizon(), Stream(4, ("train",))
    assert drawn(horizon, 20) == drawn(horizon, 20)
    assert len(set(drawn(horizon, 20))) == 20
    assert horizon.lengths(Standing(), stream.over(range(5, 9))) == horizon.lengths(Standing(stage=3), stream)


def test_no_window_is_longer_than_the_bound_and_the_others_stay():
    free, bounded = drawn(RandomHorizon(), 50), drawn(RandomHorizon(longest=30), 50)
    assert bounded == [tuple(min(length, 30) for length in lengths) for lengths in free]
    assert max(max(lengths) for lengths in free) > 30


def test_the_average_trajectory_knows_the_bound():
    horizon = RandomHorizon(windows=2, extra_windows=0.0, window=7, extra_steps=11.0, longest=12)
    found = [sum(lengths) for lengths in drawn(horizon, 4000)]
    assert sum(found) / 4000 == pytest.approx(horizon.stages[0].steps, abs=0.7)  # rounding once here, once a window
    assert horizon.stages[0].steps == round(2 * (7 + 11 * (1 - math.exp(-5 / 11))))
    assert RandomHorizon(longest=20).stages[0].steps == 6 * 20


def test_nothing_extra_is_a_constant_horizon():
    horizon = RandomHorizon(3, 0.0, 20, 0.0, validation_steps=60)
    assert drawn(horizon, 2) == [(20, 20, 20)] * 2
    assert horizon.stages == ConstantHorizon(60, 20).stages


def test_the_published_lengths_have_the_published_mean():
    assert RandomHorizon.published().stages[0].steps == 41 * 250
    assert max(max(lengths) for lengths in drawn(RandomHorizon.published(longest=300), 5)) == 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"windows": 0}, "windows is 0"),
        ({"window": 0}, "window is 0"),
        ({"validation_steps": 0}, "validation_steps is 0"),
        ({"extra_windows": -1.0}, "extra_windows is -1"),
        ({"extra_steps": math.inf}, "extra_steps is inf"),
        ({"longest": 19}, "longest is 19, below the 20 steps"),
    ],
)
def test_a_random_horizon_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(HorizonError, match=message):
        RandomHorizon(**arguments)
