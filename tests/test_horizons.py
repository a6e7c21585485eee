"""The curriculum's stages follow the published rule, on scripted validations."""

import dataclasses
import json

import pytest

from l2o.errors import HorizonError
from l2o.horizons import ConstantHorizon, Curriculum, Stage, Standing


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


def test_a_constant_horizon_keeps_the_best_and_never_ends():
    standings = walk(ConstantHorizon(), [3, 2, 4, 2, 1, float("inf")])
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
