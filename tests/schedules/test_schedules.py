"""Schedules and decisions: rates, turns, thresholds, and drawing from any distribution, equal ones among them."""

import pytest
import scipy.stats
import torch

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.schedules.base import Schedule, ScheduleDrives
from l2o.schedules.fixed import ConstantRates, InTurn, RatesInTime, Recorded, Threshold, certain


def decisions(schedule, steps, tasks=4, execution="sample", observation=None):
    """`[steps, tasks]`."""
    driver = ScheduleDrives(schedule, Stream(5, ("test",), tasks=range(tasks)), execution)
    states, taken = driver.begin(), []
    for _ in range(steps):
        action, states = driver(observation or {}, states)
        taken.append(action["choice"])
    return torch.stack(taken)


def test_choices_in_turn():
    assert decisions(InTurn.ratio(1, 3), 9, tasks=2).T.tolist() == [[0, 1, 1, 1, 0, 1, 1, 1, 0]] * 2
    assert decisions(InTurn((2, 0)), 3, tasks=1)[:, 0].tolist() == [2, 0, 2]


@pytest.mark.parametrize("probabilities", [(0.5, 0.5), (0.25,) * 4, (0.7, 0.1, 0.2), (0.0, 1.0)])
def test_decisions_are_drawn_with_their_probabilities(probabilities):
    drawn = decisions(ConstantRates(probabilities), 2500, tasks=40).flatten()
    counts = torch.bincount(drawn, minlength=len(probabilities)).numpy()
    expected = torch.tensor(probabilities, dtype=torch.float64).numpy() * len(drawn)
    assert (counts[expected == 0] == 0).all()
    possible = expected > 0
    if possible.sum() > 1:
        assert scipy.stats.chisquare(counts[possible], expected[possible]).pvalue > 1e-3


def test_tasks_draw_on_their_own_and_repeatably():
    drawn = decisions(ConstantRates.coin(0.5), 200, tasks=2)
    assert 40 < int((drawn[:, 0] != drawn[:, 1]).sum()) < 160
    assert torch.equal(drawn, decisions(ConstantRates.coin(0.5), 200, tasks=2))
    assert torch.equal(drawn[:, :1], decisions(ConstantRates.coin(0.5), 200, tasks=1))


@pytest.mark.parametrize("rate", [0.5, 0.2, 0.8375, 1 / 3])
def test_dithered_decisions_keep_the_rate_within_one_decision(rate):
    drawn = decisions(ConstantRates.coin(rate), 1000, execution="dither")
    shares = (drawn == 0).double().cumsum(0) - rate * torch.arange(1, 1001)[:, None]
    assert shares.abs().max() <= 1.0


def test_greedy_decisions_are_the_likeliest():
    assert decisions(ConstantRates((0.2, 0.5, 0.3)), 5, execution="greedy").unique().tolist() == [1]


def test_a_threshold_compares_losses():
    rule = Threshold("mse", "l1", 1.0)
    losses = {"loss/mse": torch.tensor([1.0, 1.0, 2.0, 0.5]), "loss/l1": torch.tensor([1.5, 2.5, 4.0, 1.5])}
    assert decisions(rule, 1, observation=losses)[0].tolist() == [0, 1, 0, 1]


def test_rates_in_time_follow_the_progress_of_the_run():
    schedule = RatesInTime([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    seen = {"progress": torch.tensor([0.0, 0.3, 0.34, 0.67, 1.0])}
    found = schedule(seen, schedule.begin(5))[0]["log_probability"].exp()
    assert found.tolist() == [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]]


def test_a_record_ends():
    record = Recorded(torch.tensor([1, 0]), 2)
    assert decisions(record, 2, tasks=2).tolist() == [[1, 1], [0, 0]]
    with pytest.raises(ArgumentError, match="the record ends after 2 decisions"):
        decisions(record, 3)


def test_the_log_probability_of_a_decision_is_that_of_what_was_taken():
    driver = ScheduleDrives(ConstantRates((0.25, 0.75)), Stream(0, tasks=range(50)))
    action, _ = driver({}, driver.begin())
    wanted = torch.tensor([0.25, 0.75]).log()[action["choice"]]
    assert torch.equal(action["log_probability"], wanted)
    assert set(action["choice"].tolist()) == {0, 1}


@pytest.mark.parametrize("probabilities", [(0.5, 0.5), (0.7, 0.1, 0.2), (0.0, 0.3, 0.0, 0.7, 0.0), (1.0, 0.0)])
def test_a_single_run_draws_as_a_batch_does(probabilities):
    driver = ScheduleDrives(ConstantRates(probabilities), Stream(7, ("one",)))
    logs = torch.tensor([probabilities]).log()
    for step in range(600):
        together, _ = driver._decide(logs, step, torch.zeros(1, len(probabilities)))
        assert driver._decide_one(logs[0].tolist(), step) == int(together)


def test_rounding_never_draws_what_is_impossible():
    class Nearly(Schedule):
        name = "nearly"

        def config(self):
            return {"choices": self.choices}

        def begin(self, tasks):
            return {"tasks": torch.zeros(tasks)}

        def forward(self, observation, state):
            logs = torch.tensor([[1 / 3, 1 / 3, 1 / 3 - 1e-7, 0.0]]).log()
            return {"log_probability": logs.expand(len(state["tasks"]), -1)}, state

    assert int(decisions(Nearly(4), 500, tasks=20).max()) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InTurn(()), "name at least one choice"),
        (lambda: InTurn((0, 3), choices=2), "names choice 3; there are 2"),
        (lambda: ConstantRates((0.5, 0.6)), "add up to 1"),
        (lambda: ConstantRates((-0.5, 1.5)), "must be >= 0"),
        (lambda: Recorded(torch.tensor([0, 2]), 2), "name choice 2; there are 2"),
        (lambda: Recorded(torch.zeros(0), 2), "decisions have shape"),
        (lambda: Recorded([[0, 1]], 2).begin(3), "the record is of 2 runs; 3 cannot follow"),
        (lambda: RatesInTime([[0.5, 0.5], [1.0, 0.5]]), "a row of rates is"),
        (lambda: ScheduleDrives(InTurn((0,)), Stream(0), "often"), "execution is 'often'"),  # pyright: ignore
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_certain_is_a_distribution():
    logs = certain(torch.tensor([1, 0]), 3)["log_probability"]
    assert torch.equal(logs.exp(), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
