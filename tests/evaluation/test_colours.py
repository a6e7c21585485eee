"""Contrast as WCAG defines it, and colours that are changed until they have it."""

import pytest

from l2o.errors import ArgumentError
from l2o.evaluation import figure
from l2o.evaluation.colours import contrast, luminance, visible


def test_known_contrasts() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # the well-known grey that just fails
    assert contrast("#ffffff", "#767676") == pytest.approx(4.54, abs=0.005)
    assert luminance("#ff0000") == pytest.approx(0.2126)


@pytest.mark.parametrize("behind", ["#ffffff", "#1a2029"])
@pytest.mark.parametrize("least", [3.0, 4.5])
def test_a_colour_is_changed_until_it_can_be_seen_and_no_further(behind: str, least: float) -> None:
    for colour in figure.COLOURS:
        shown = visible(colour, behind, least=least)
        assert contrast(shown, behind) >= least
        if contrast(colour, behind) >= least:
            assert shown == colour.lower()
        else:
            assert contrast(shown, behind) < least + 0.2


def test_a_contrast_that_nothing_has_is_refused() -> None:
    with pytest.raises(ArgumentError, match="ask for less"):
        visible("#0072B2", "#777777", least=10)
