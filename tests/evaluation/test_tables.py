import math

import pytest

from l2o.errors import ArgumentError
from l2o.evaluation.statistics import Interval
from l2o.evaluation.tables import cell_parts, markdown, number


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.012345, "0.0123"), (1.5e-7, "1.5e-7"), (1234567, "1,234,567"), (-2.0, "-2"), (123456.7, "1.23e5")],
)
def test_numbers_have_three_digits_and_counts_have_all(value: float, text: str) -> None:
    assert number(value) == text


def test_what_is_not_finite_has_a_name() -> None:
    assert [number(value) for value in (math.inf, -math.inf, math.nan)] == ["∞", "-∞", "undefined"]


def test_an_interval_is_its_estimate_and_its_ends() -> None:
    assert cell_parts(Interval(0.5, 0.25, 1.0, 10)) == ("0.5", "[0.25, 1]")
    assert cell_parts(Interval(0.5, -math.inf, math.inf, 1)) == ("0.5", "one run")
    assert cell_parts(Interval(math.inf, math.inf, math.inf, 9)) == ("∞", "")


def test_other_cells_are_plain_text() -> None:
    assert [cell_parts(cell)[0] for cell in (None, "as is", True, False, 7)] == ["", "as is", "yes", "no", "7"]


def test_markdown_keeps_a_bar_inside_its_cell() -> None:
    text = markdown([{"a|b": "c|d", "x": Interval(1.0, 0.0, 2.0, 5)}])
    assert text.splitlines() == [r"| a\|b | x |", "| --- | --- |", r"| c\|d | 1 [0, 2] |"]


def test_rows_with_other_headings_are_refused() -> None:
    with pytest.raises(ArgumentError, match="different headings"):
        markdown([{"a": 1}, {"b": 1}])
    with pytest.raises(ArgumentError, match="at least one row"):
        markdown([])
