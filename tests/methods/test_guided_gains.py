"""Gains by trial: each group's steps are made longer or shorter around each knot of the horizon."""

import math

import pytest
import torch

from l2o.errors import ArgumentError
from l2o.methods.guided_policy.gains import Gains
from l2o.methods.guided_policy.local_models import LinearGaussian

STEPS, KNOTS = 21, (0.0, 0.25, 1.0)
WANTED = torch.tensor([[2.0, 1.0, 0.5], [1.0, 1.0, 1.0], [0.2, 1.0, 3.0]], dtype=torch.float64)
"""Best factors of three groups at three knots of the horizon."""


def controller() -> LinearGaussian:
    made = torch.rand(3, STEPS, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    return LinearGaussian(made, made[..., 0].clone(), torch.ones(3, STEPS, 1, 1, dtype=torch.float64))


def gains_of(found: LinearGaussian) -> torch.Tensor:
    """By how much each group's gains were multiplied at each knot, `[groups, knots]`."""
    ratio = (found.K / controller().K)[:, :, 0]  # [groups, steps, states]
    torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio))
    torch.testing.assert_close(found.k / controller().k, ratio[..., :1])
    knots = ratio[:, [0, 5, 20], 0]
    for begin, end, first, last in ((0, 5, 0, 1), (5, 20, 1, 2)):  # the logarithm is linear between knots
        weight = torch.linspace(0, 1, end - begin + 1, dtype=torch.float64)
        expected = (1 - weight) * knots[:, first, None].log() + weight * knots[:, last, None].log()
        torch.testing.assert_close(ratio[:, begin : end + 1, 0].log(), expected)
    return knots


def distance(found: LinearGaussian) -> float:
    return float((gains_of(found) / WANTED).log().square().sum())


def rounds(made: Gains, number: int):
    standing, value, factors = controller(), distance(controller()), made.begin(3)
    for _ in range(number):
        tried = made.tried(standing, value, factors, distance)
        assert tried.value <= value
        standing, value, factors = tried.controller, tried.value, tried.factors
        yield tried


def test_rounds_end_at_the_best_gains():
    *_, last = rounds(Gains(KNOTS), 25)
    assert last.value == pytest.approx(distance(last.controller))
    torch.testing.assert_close(gains_of(last.controller), WANTED, rtol=0.03, atol=0.0)


def test_a_round_tries_both_directions_and_keeps_what_is_better():
    first, second = rounds(Gains(KNOTS, factor=1.25), 2)
    expected = [[1.25, 1.0, 0.8], [1.0, 1.0, 1.0], [0.8, 1.0, 1.25]]
    torch.testing.assert_close(gains_of(first.controller), torch.tensor(expected, dtype=torch.float64))
    assert first.changed == 4
    assert first.trials == 1 + 2 + 2 + 6 + 2 + 2 + 1  # where the first direction helps the second is left out
    step = math.log(1.25)
    up, down, small = 1.3 * step, -1.3 * step, 0.5 * step
    following = [[up, small, down], [small, small, small], [down, small, up]]
    torch.testing.assert_close(first.factors, torch.tensor(following, dtype=torch.float64))
    assert second.trials == 1 + 2 + 1 + 6 + 1 + 2 + 1  # it begins with the direction that helped


def test_factors_stay_within_their_bounds():
    made = Gains(KNOTS, factor=1.25, least=1.2, most=1.4)
    for tried in rounds(made, 12):
        size = tried.factors.abs().exp()
        assert float(size.min()) >= 1.2 - 1e-12
        assert float(size.max()) <= 1.4 + 1e-12


def test_a_trial_that_diverges_is_not_kept_and_a_start_that_does_is_left():
    made = Gains(KNOTS)

    def fragile(found: LinearGaussian) -> float:
        return math.inf if float(gains_of(found)[0, 0]) > 1 else distance(found)

    tried = made.tried(controller(), distance(controller()), made.begin(3), fragile)
    assert float(gains_of(tried.controller)[0, 0]) == 1
    tried = made.tried(
        controller(), math.inf, made.begin(3), lambda found: math.inf if gains_of(found)[2, 0] > 0.9 else 1.0
    )
    assert tried.value == 1
    assert float(gains_of(tried.controller)[2, 0]) == pytest.approx(0.8)


@pytest.mark.parametrize("steps", [1, 2, 3, 400])
def test_a_knots_shares_add_up_to_one_at_every_step(steps):
    shares = Gains().shares(steps)
    assert shares.shape == (5, steps)
    torch.testing.assert_close(shares.sum(0), torch.ones(steps, dtype=torch.float64))
    assert float(shares[0, 0]) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"knots": ()}, "knots are"),
        ({"knots": (0.0,)}, "must rise from 0 to 1"),
        ({"knots": (0.0, 0.5, 0.5, 1.0)}, "must rise from 0 to 1"),
        ({"knots": (0.1, 1.0)}, "must rise from 0 to 1"),
        ({"knots": (0.0, 0.9)}, "must rise from 0 to 1"),
        ({"factor": 1.01}, "must rise from above 1"),
        ({"most": 1.1}, "must rise from above 1"),
        ({"least": 1.0}, "must rise from above 1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ArgumentError, match=message):
        Gains(**settings)
