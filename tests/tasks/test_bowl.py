"""Bowls have the axes and the condition that they are named by."""

import math

import pytest
import torch

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.bowl import Bowl


def value(bowl: Bowl, x: float, y: float) -> float:
    return float(bowl.loss({"x": torch.tensor([x, y], dtype=torch.float64)}, {"matrix": bowl.matrix}, {}))


def test_a_bowl_without_a_rotation_is_a_sum_of_squares() -> None:
    assert value(Bowl(0.1), 3.0, 2.0) == pytest.approx((9 + 0.04) / 2, rel=1e-15)
    assert value(Bowl(5.0), -1.0, 1.0) == 13


@pytest.mark.parametrize(("x", "y", "expected"), [(1.0, 1.0, 25.0), (1.0, -1.0, 1.0), (1.0, 0.0, 6.5)])
def test_a_bowl_rotated_by_45_degrees_has_its_axes_on_the_diagonals(x: float, y: float, expected: float) -> None:
    assert value(Bowl(5.0, angle=45.0), x, y) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("angle", [0.0, 30.0, 45.0])
def test_the_matrix_has_the_condition(angle: float) -> None:
    matrix = Bowl(5.0, angle=angle).sample(Stream(0, tasks=range(2)))["matrix"]
    torch.testing.assert_close(torch.linalg.cond(matrix), torch.full((2,), 5.0, dtype=torch.float64))


@pytest.mark.parametrize("wrong", [{"condition": 0.0}, {"condition": math.inf}, {"condition": 1.0, "angle": math.nan}])
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match="condition"):
        Bowl(**wrong)
