"""Gains by trial: each group's steps are made longer or shorter in each part of the horizon."""

import math

import pytest
import torch

from l2o.errors import ArgumentError
from l2o.methods.guided_policy.gains import Gains
from l2o.methods.guided_policy.local_models import LinearGaussian

STEPS, PARTS = 20, (0.25, 1.0)
WANTED = torch.tensor([[2.0, 0.5], [1.0, 1.0], [0.2, 3.0]], dtype=torch.float64)
"""Best factors of three groups in two parts of the horizon."""


def controller() -> LinearGaussian:
    made = torch.rand(3, STEPS, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    return LinearGaussian(made, made[..., 0].clone(), torch.ones(3, STEPS, 1, 1, dtype=torch.float64))


def gains_of(found: LinearGaussian) -> torch.Tensor:
    """By how much each group's gains were multiplied in each part, `[groups, parts]`."""
    ratio = (found.K / controller().K)[:, :, 0]  # [groups, steps, states]
    constant = found.k / controller().k  # [groups, steps, 1]
    early, late = ratio[:, :5], ratio[:, 5:]
    for part, k in ((early, constant[:, :5]), (late, constant[:, 5:])):
        torch.testing.assert_close(part, part[:, :1, :1].expand_as(part))
        torch.testing.assert_close(k, part[:, :1, :1].expand_as(k))
    return torch.stack([early[:, 0, 0], late[:, 0, 0]], dim=1)


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
    *_, last = rounds(Gains(PARTS), 25)
    assert last.value == pytest.approx(distance(last.controller))
    torch.testing.assert_close(gains_of(last.controller), WANTED, rtol=0.03, atol=0.0)


def test_a_round_tries_both_directions_and_keeps_what_is_better():
    first, second = rounds(Gains(PARTS, factor=1.25), 2)
    expected = [[1.25, 0.8], [1.0, 1.0], [0.8, 1.25]]
    torch.testing.assert_close(gains_of(first.controller), torch.tensor(expected, dtype=torch.float64))
    assert first.changed == 4
    assert first.trials == 1 + 2 + 2 + 2 + 2 + 1  # where the first direction helps the second is left out
    up, down, small = 1.3 * math.log(1.25), -1.3 * math.log(1.25), 0.5 * math.log(1.25)
    torch.testing.assert_close(
        first.factors, torch.tensor([[up, down], [small, small], [down, up]], dtype=torch.float64)
    )
    assert second.trials == 1 + 1 + 2 + 2 + 1 + 1  # it begins with the direction that helped


def test_factors_stay_within_their_bounds():
    made = Gains(PARTS, factor=1.25, least=1.2, most=1.4)
    for tried in rounds(made, 12):
        size = tried.factors.abs().exp()
        assert float(size.min()) >= 1.2 - 1e-12
        assert float(size.max()) <= 1.4 + 1e-12


def test_a_trial_that_diverges_is_not_kept_and_a_start_that_does_is_left():
    made = Gains(PARTS)

    def fragile(found: LinearGaussian) -> float:
        return math.inf if float(gains_of(found)[0, 0]) > 1 else distance(found)

    tried = made.tried(controller(), distance(controller()), made.begin(3), fragile)
    assert float(gains_of(tried.controller)[0, 0]) == 1
    tried = made.tried(
        controller(), math.inf, made.begin(3), lambda found: math.inf if gains_of(found)[2, 0] > 0.9 else 1.0
    )
    assert tried.value == 1
    assert float(gains_of(tried.controller)[2, 0]) == pytest.approx(0.8)


def test_parts_without_a_step_are_left_out():
    made, short = Gains((0.01, 1.0)), controller()
    tried = made.tried(short, distance(short), made.begin(3), lambda found: 1e9)
    assert tried.trials == 6
    assert tried.changed == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parts": ()}, "parts are"),
        ({"parts": (0.5, 0.5, 1.0)}, "must rise from above 0 to 1"),
        ({"parts": (0.0, 1.0)}, "must rise from above 0 to 1"),
        ({"parts": (0.5, 0.9)}, "must rise from above 0 to 1"),
        ({"factor": 1.01}, "must rise from above 1"),
        ({"most": 1.1}, "must rise from above 1"),
        ({"least": 1.0}, "must rise from above 1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ArgumentError, match=message):
        Gains(**settings)
