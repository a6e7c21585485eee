"""Contrast of colours, as the Web Content Accessibility Guidelines define it: what can be seen on what.

Source: WCAG 2.2, success criteria 1.4.3 (text: 4.5) and 1.4.11 (curves and controls: 3).
"""

from matplotlib.colors import to_hex, to_rgb

from l2o.errors import ArgumentError

GRAPHICS, TEXT = 3.0, 4.5
"""The least contrast of a curve, and of letters, with what lies behind them."""


def luminance(colour: str) -> float:
    """The relative luminance, 0 for black to 1 for white."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: str, second: str) -> float:
    """The contrast of two colours, from 1 to 21, the same in either order.

    Example:
        >>> round(contrast("#000000", "#ffffff"), 1)
        21.0
    """
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def visible(colour: str, behind: str, *, least: float = GRAPHICS) -> str:
    """The colour, mixed with as little black or white as gives it this contrast: black where `behind` is light.

    Args:
        colour: any that matplotlib knows.
        behind: what it is drawn on.
        least: the contrast that is needed.

    Raises:
        ArgumentError: not even black or white has it.

    Example:
        >>> visible("#0072B2", "#ffffff"), visible("#E69F00", "#ffffff")
        ('#0072b2', '#c68900')
    """
    end = 0.0 if luminance(behind) > 0.18 else 1.0  # beside 0.18, black and white have the same contrast
    for share in range(101):
        red, green, blue = (part + (end - part) * share / 100 for part in to_rgb(colour))
        mixed = to_hex((red, green, blue))
        if contrast(mixed, behind) >= least:
            return mixed
    raise ArgumentError(f"no mixture of {colour} has contrast {least:g} on {behind}; ask for less")
