"""What all figures share: look, scale, frame, the names of curves, and files that are equal when drawn twice.

Colours are those of Okabe and Ito (2008), told apart with any colour vision; every curve carries its name, so that none
is known by colour alone. Nothing here touches pyplot or its global state.
"""

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from l2o import checkpoint
from l2o.errors import ArgumentError
from l2o.evaluation.statistics import FLOOR, Array

Scale = Literal["log", "linear"]
Dashes = str | tuple[int, tuple[float, ...]]

CROSS = "\N{MULTIPLICATION SIGN}"
INK, FAINT = "#222222", "#666666"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#555555")
_DASHES: tuple[Dashes, ...] = ("-", (0, (6, 1.5, 1, 1.5)), (0, (1, 1)))
_SIZE = (6.8, 4.4)
_FONT = 11.5
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": _FONT,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "text.color": INK,
    "text.usetex": False,
}


@dataclass(frozen=True)
class End:
    """Where a curve ends, in data coordinates, and the name that stands there."""

    x: float
    y: float
    text: str
    colour: str
    bold: bool = False


@contextmanager
def sheet(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """An empty figure of this size in inches, written to `path` as a PNG file of 150 dpi when all went well."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size)
        yield figure
        buffer = io.BytesIO()
        # No software version and no date in the file, so that it changes only when the drawing does.
        figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", pad_inches=0.15, metadata={"Software": None})
    checkpoint.write_bytes(path, buffer.getvalue())


@contextmanager
def drawing(title: str, xlabel: str, ylabel: str, path: Path) -> Iterator[tuple[Axes, list[str]]]:
    """A sheet with one pair of axes to draw into.

    Yields:
        The axes, and a list of notes that stand below them.
    """
    notes: list[str] = []
    with sheet(path, _SIZE) as figure:
        axes = figure.add_axes((0.12, 0.18, 0.62, 0.7))
        label(axes, title, xlabel, ylabel)
        yield axes, notes
        text = textwrap.fill("; ".join(notes), 88)
        place: dict[str, Any] = {"xycoords": "axes fraction", "verticalalignment": "top"}
        axes.annotate(literal(text), (-0.13, -0.2), fontsize=9.5, color=FAINT, **place)


def label(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Title, names of the axes, and a faint grid."""
    axes.set_title(literal(textwrap.fill(title, 56)))
    axes.set_xlabel(literal(xlabel))
    axes.set_ylabel(literal(textwrap.fill(ylabel, 40)))
    axes.grid(color="#000000", alpha=0.09, linewidth=0.8)


def look(place: int) -> tuple[str, Dashes]:
    """Colour and dashes of the curve at a place in the order: dashes change where the colours come round again."""
    return COLOURS[place % len(COLOURS)], _DASHES[place // len(COLOURS) % len(_DASHES)]


def literal(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def choose_scale(axes: Axes, values: Array, scale: Scale) -> list[str]:
    """Sets the scale of y that can show `values`, of any shape; returns notes for the reader.

    A negative value has no place on a logarithmic axis: the axis is then linear. What lies in [0, `FLOOR`) is drawn at
    the bottom.
    """
    if scale not in ("log", "linear"):
        raise ArgumentError(f"scale is {scale!r}; choose 'log' or 'linear'")
    if scale == "linear":
        return []
    if bool((values < 0).any()):
        return ["linear axis, as there are negative values"]
    axes.set_yscale("log", nonpositive="clip")
    return [f"below {FLOOR:g}: drawn at the bottom"] if bool((values < FLOOR).any()) else []


def frame(axes: Axes, values: Array, *, limit: float = np.inf) -> list[str]:
    """Fits y to the finite of `values`, but no further up than `limit`; returns notes for the reader."""
    finite = values[np.isfinite(values)]
    if axes.get_yscale() == "log":
        finite = np.maximum(finite, FLOOR)
    if not len(finite):
        return []
    ends = np.array([finite.min(), min(finite.max(), limit)])
    low, high = axes.transScale.transform(np.stack([ends, ends], axis=1))[:, 1]
    margin = 0.05 * (high - low) if high > low else 0.5
    inverse = axes.transScale.inverted()
    (_, bottom), (_, top) = inverse.transform([(0.0, low - margin), (0.0, high + margin)])
    axes.set_ylim(bottom, top)
    return ["axis cut above"] if finite.max() > limit else []


def name_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Writes each curve's name right of the axes, near the height of its end, apart from its neighbours."""
    to_axes = axes.transData + axes.transAxes.inverted()
    bottom, top = axes.get_ylim()
    places = to_axes.transform([(end.x, min(max(end.y, bottom), top)) for end in ends])  # [ends, 2]
    order = np.argsort(places[:, 1], kind="stable")
    line_height = 1.25 * _FONT / 72 / (_SIZE[1] * axes.get_position().height)
    texts = [_wrap(ends[i].text) for i in order]
    heights = [line_height * (1 + text.count("\n")) for text in texts]
    for i, text, centre in zip(order, texts, apart(places[order, 1], heights), strict=True):
        colour = ends[i].colour
        axes.annotate(
            literal(text),
            xy=(places[i, 0], places[i, 1]),
            xytext=(1.05, centre),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=_readable(colour),
            fontweight="bold" if ends[i].bold else "normal",
            verticalalignment="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 1.0,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 1,
            },
        )


def apart(wanted: ArrayLike, heights: Sequence[float]) -> Array:
    """The centres closest to those wanted, in least squares, at which blocks of these heights do not overlap.

    Args:
        wanted: ascending, in [0, 1].
        heights: of the blocks; all blocks stay within [0, 1] where there is room.
    """
    sizes = np.asarray(heights)
    offsets = np.cumsum(sizes) - sizes / 2  # a stack from 0 upwards
    bases = isotonic_regression(np.asarray(wanted) - offsets).x
    return np.clip(bases, 0.0, max(0.0, 1.0 - float(sizes.sum()))) + offsets


def diverged_strip(axes: Axes, groups: Sequence[tuple[ArrayLike, str]]) -> None:
    """Reserves a grey strip at the top with a cross per x in `groups` of (places, colour), one row per group."""
    rows = [(np.asarray(places, dtype=np.float64), colour) for places, colour in groups if len(np.asarray(places))]
    if not rows:
        return
    height = 0.03 + 0.05 * len(rows)
    bottom, top = axes.transScale.transform([(1.0, end) for end in axes.get_ylim()])[:, 1]
    raised = bottom + (top - bottom) / (1 - height)
    axes.set_ylim(top=axes.transScale.inverted().transform((0.0, raised))[1])
    axes.add_patch(
        Rectangle((0, 1 - height), 1, height, transform=axes.transAxes, color="#000000", alpha=0.06, linewidth=0)
    )
    middle = {"transform": axes.transAxes, "verticalalignment": "center"}
    axes.text(1.02, 1 - height / 2, "diverged", color=FAINT, fontsize=9, **middle)
    for row, (places, colour) in enumerate(rows):
        heights = np.full(len(places), 1 - 0.04 - 0.05 * row)
        axes.plot(places, heights, transform=axes.get_xaxis_transform(), color=colour, **crosses())


def crosses() -> dict[str, Any]:
    """The look of marks for failures."""
    return {"linestyle": "none", "marker": "x", "markersize": 7, "markeredgewidth": 2, "clip_on": False}


def _wrap(text: str) -> str:
    return "\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, 24) or [""])


def _readable(colour: str) -> tuple[float, float, float]:
    """The colour, darkened: as text on white, the light ones of the palette are too pale."""
    red, green, blue = (0.68 * part for part in to_rgb(colour))
    return red, green, blue
