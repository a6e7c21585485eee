"""Figures: curves with their uncertainty, meta-training, tuning. PNG files, equal byte for byte when drawn twice.

Colours are those of Okabe and Ito (2008), told apart with any colour vision; every curve carries its name at its end,
so that none is known by colour alone. Each figure says below its axes what it shows of the runs.
"""

import io
import math
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator
from numpy.typing import ArrayLike

from l2o import checkpoint
from l2o.errors import ArgumentError
from l2o.evaluation import statistics
from l2o.evaluation.statistics import FLOOR, Array
from l2o.evaluation.tuning import Tuning

Scale = Literal["log", "linear"]
Average = Literal["mean", "log-mean"]
"""Over runs: the mean of the losses, or the exponential of the mean of their logarithms."""
Band = Literal["interval", "deviation", "none"]
"""Around the average: its 95 % bootstrap interval, one standard deviation of the runs, or nothing."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#555555")
EXPLOSION = 20.0
"""The axis of a loss ends at this many times the largest first loss: what explodes leaves the frame."""
_DASHES = ("-", (0, (7, 2)), (0, (4, 1.5, 1, 1.5)))
_INK, _FAINT = "#222222", "#666666"
_POINTS = 400
_SIZE = (7.2, 4.4)
_FONT = 11.0
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": _FONT,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "text.color": _INK,
    "text.usetex": False,
    "text.parse_math": True,
    "axes.formatter.useoffset": False,
    "figure.dpi": 100,
    "path.simplify": True,
}


@dataclass(frozen=True)
class _Line:
    """One optimizer's curve, ready to be drawn.

    Args:
        name: shown at its end.
        steps: `[points]`.
        centre: average over the runs that are left, `[points]`, not a number where none is.
        low: lower end of the band, `[points]`.
        high: upper end of the band, `[points]`.
        whole: how many points all runs reach.
        runs: all of them.
        deaths: points before which a run failed, one entry per run.
        diverged: runs that diverged, as the tables count them.
    """

    name: str
    steps: Array
    centre: Array
    low: Array
    high: Array
    whole: int
    runs: int
    deaths: list[int]
    diverged: int


def plot_curves(
    curves: Mapping[str, ArrayLike],
    *,
    path: Path,
    title: str,
    ylabel: str = "loss",
    xlabel: str = "step",
    learned: Collection[str] = (),
    scale: Scale = "log",
    average: Average = "mean",
    band: Band = "interval",
    block: int = 1,
) -> None:
    """Draws the average curve of each optimizer and its uncertainty.

    A run that fails is not dropped in silence: from the first failure on, the curve is dashed and faint, the average of
    the runs that are left, without a band; a cross marks each failure, and the name counts the diverged runs. On a
    logarithmic scale, losses below 1e-12 are drawn there; if an average is negative, the scale is linear around
    zero, within a thousandth of the largest magnitude.

    Args:
        curves: name to losses `[runs, steps + 1]`, not a number from the step at which a run failed.
        path: the PNG file.
        title: one line.
        ylabel: what the losses are.
        xlabel: what the steps are.
        learned: names that are drawn thick, on top, and first in colour.
        scale: of the losses.
        average: over runs.
        band: around the average.
        block: steps that are averaged before anything else; counted from the end, see `block_means`.

    Raises:
        ArgumentError: no curves, a name in `learned` without a curve, or logarithms of negative losses.
    """
    if not curves:
        raise ArgumentError("curves is empty; there is nothing to draw")
    unknown = [name for name in learned if name not in curves]
    if unknown:
        raise ArgumentError(f"learned names {unknown}, which have no curves; there are {', '.join(curves)}")
    names = [name for name in curves if name in learned] + [name for name in curves if name not in learned]
    lines = [_line(name, curves[name], average, band, block) for name in names]
    figure, axes = _figure(title, xlabel, ylabel)
    notes = [_averages(lines, average), *_bands(lines, band), *_blocks(block)]
    notes += _scaled(axes, lines, scale)
    for place, line in enumerate(lines):
        _draw(axes, line, _look(place), thick=line.name in learned, above=2 * (len(lines) - place))
    axes.margins(x=0)
    notes += _framed(axes, lines, [statistics.check_losses(curves[name])[:, 0].mean() for name in names])
    if any(line.deaths for line in lines):
        notes.append("×: a run failed; dashed after it: the runs left")
    _name_ends(axes, [_end(line, _look(place)[0], line.name in learned) for place, line in enumerate(lines)])
    _save(figure, axes, notes, path)


def plot_meta_training(
    meta_losses: ArrayLike,
    validations: Sequence[tuple[int, float]],
    *,
    path: Path,
    title: str,
    ylabel: str = "meta-loss",
    scale: Scale = "log",
) -> None:
    """Draws the meta-loss of each trajectory and the validations, the best of them marked.

    Args:
        meta_losses: `[trajectories]`; not a number where a trajectory diverged, which is marked at the top.
        validations: (trajectories done, validation loss) in order; an infinite one diverged and is marked likewise.
        path: the PNG file.
        title: one line.
        ylabel: what both losses are.
        scale: of both; linear around zero where a loss is not positive.
    """
    values = np.asarray(meta_losses, dtype=np.float64)
    if values.ndim != 1 or len(values) < 1:
        raise ArgumentError(f"meta_losses have shape {values.shape}; pass one per trajectory, [trajectories]")
    checked = np.asarray(validations, dtype=np.float64).reshape(-1, 2)
    trajectories = np.arange(1, len(values) + 1)
    figure, axes = _figure(title, "trajectories", ylabel)
    both = np.concatenate([values, checked[:, 1]])
    notes = _scale_to(axes, both[np.isfinite(both)], scale)
    axes.plot(trajectories, values, color=COLOURS[5], linewidth=0.9, alpha=0.7)
    axes.plot(trajectories, _running_median(values), color=COLOURS[0], linewidth=1.8)
    notes.append("thin: each trajectory; thick: running median")
    ends = [_End(float(trajectories[-1]), _last_finite(_running_median(values)), "meta-training", COLOURS[0], False)]
    if len(checked):
        axes.plot(*checked.T, color=COLOURS[1], linewidth=1.4, marker="o", markersize=4.5)
        ends.append(_End(float(checked[-1, 0]), _last_finite(checked[:, 1]), "validation", COLOURS[1], True))
        if np.isfinite(checked[:, 1]).any():
            best = np.nanargmin(np.where(np.isfinite(checked[:, 1]), checked[:, 1], np.nan))
            axes.plot(*checked[best], color=COLOURS[1], marker="*", markersize=15, markeredgecolor="white", zorder=9)
            notes.append(f"star: best validation, {checked[best, 1]:.3g} after {checked[best, 0]:.0f}")
    bad = np.concatenate([trajectories[~np.isfinite(values)], checked[~np.isfinite(checked[:, 1]), 0]])
    notes += _crosses_at_top(axes, bad, "diverged")
    axes.margins(x=0.02)
    _name_ends(axes, [end for end in ends if math.isfinite(end.y)])
    _save(figure, axes, notes, path)


def plot_tuning(
    tunings: Mapping[str, Tuning],
    *,
    path: Path,
    title: str,
    ylabel: str,
    xlabel: str = "learning rate",
    scale: Scale = "log",
) -> None:
    """Draws the score of every value that was tried, the best of each rule marked; crosses where a run diverged.

    Args:
        tunings: name of the rule to its tuning.
        path: the PNG file.
        title: one line.
        ylabel: what the score is.
        xlabel: what the tuned constant is.
        scale: of the score; linear around zero where a score is not positive, as an area often is.
    """
    if not tunings:
        raise ArgumentError("tunings is empty; there is nothing to draw")
    figure, axes = _figure(title, xlabel, ylabel)
    axes.set_xscale("log", base=2)
    scores = np.array([score for tuning in tunings.values() for score in tuning.scores.values()])
    notes = [*_scale_to(axes, scores[np.isfinite(scores)], scale), "ring: best value"]
    ends, lost = [], []
    for place, (name, tuning) in enumerate(tunings.items()):
        colour, dash = _look(place)
        finite = {value: score for value, score in tuning.scores.items() if math.isfinite(score)}
        lost += [(value, colour) for value, score in tuning.scores.items() if not math.isfinite(score)]
        axes.plot(list(finite), list(finite.values()), color=colour, linestyle=dash, marker="o", markersize=4)
        axes.plot(
            tuning.best,
            tuning.scores[tuning.best],
            color=colour,
            marker="o",
            markersize=11,
            markerfacecolor="none",
            markeredgewidth=2,
        )
        value, score = list(finite.items())[-1]
        text = f"{name}\nbest {tuning.best:.3g}" + (" (edge)" if tuning.on_edge else "")
        ends.append(_End(value, score, text, colour, False))
    for row, colour in enumerate(dict.fromkeys(colour for _, colour in lost)):
        _crosses_at_top(axes, [value for value, other in lost if other == colour], "", colour, row)
    if lost:
        notes.append("× at the top: a run diverged")
    _name_ends(axes, ends)
    _save(figure, axes, notes, path)


def _line(name: str, losses: ArrayLike, average: Average, band: Band, block: int) -> _Line:
    steps, blocks = statistics.block_means(losses, block)
    shown = _thin(blocks.shape[1])
    steps, blocks = steps[shown], blocks[:, shown]
    dead = np.isnan(blocks)
    whole = int((~dead.any(0)).sum())
    forward, back = _transforms(name, blocks, average)
    values = forward(blocks)
    alive = np.maximum((~dead).sum(0), 1)
    with np.errstate(invalid="ignore", over="ignore"):
        centre = np.where(dead.all(0), np.nan, np.where(dead, 0.0, values).sum(0) / alive)
        low, high = _ends(values[:, :whole], centre[:whole], band)
        deaths = [int(np.argmax(row)) for row in dead if row.any()]
        # A band of the runs cannot reach below the lowest run, as mean minus deviation would on skewed losses.
        lowest = values[:, :whole].min(0, initial=np.inf)
        return _Line(
            name=name,
            steps=steps,
            centre=back(centre),
            low=back(np.maximum(low, lowest)),
            high=back(high),
            whole=whole,
            runs=len(blocks),
            deaths=deaths,
            diverged=int(statistics.diverged(losses).sum()),
        )


def _transforms(
    name: str, blocks: Array, average: Average
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    if average == "mean":
        return (lambda x: x), (lambda x: x)
    if average != "log-mean":
        raise ArgumentError(f"average is {average!r}; choose 'mean' or 'log-mean'")
    if bool((blocks < 0).any()):
        raise ArgumentError(f"{name} has negative losses, which have no logarithm; choose average='mean'")
    return (lambda x: np.log(np.maximum(x, FLOOR))), np.exp


def _ends(values: Array, centre: Array, band: Band) -> tuple[Array, Array]:
    if band == "none" or len(values) == 1 or values.shape[1] == 0:
        return centre, centre
    if band == "interval":
        return statistics.mean_band(values)
    if band == "deviation":
        deviation = values.std(0, ddof=1)
        return centre - deviation, centre + deviation
    raise ArgumentError(f"band is {band!r}; choose 'interval', 'deviation' or 'none'")


def _thin(count: int) -> list[int]:
    """Evenly spaced points, the first and the last among them: more than a figure can resolve is not drawn."""
    if count <= _POINTS:
        return list(range(count))
    return sorted({round(place * (count - 1) / (_POINTS - 1)) for place in range(_POINTS)})


def _look(place: int) -> tuple[str, str | tuple[int, tuple[float, ...]]]:
    """Colour and dashes of the curve at a place in the order: dashes change where the colours come round again."""
    return COLOURS[place % len(COLOURS)], _DASHES[place // len(COLOURS) % len(_DASHES)]


def _draw(
    axes: Axes, line: _Line, look: tuple[str, str | tuple[int, tuple[float, ...]]], *, thick: bool, above: float
) -> None:
    colour, dash = look
    width = 2.8 if thick else 1.5
    all_left, some_left = slice(0, line.whole), slice(max(0, line.whole - 1), None)
    axes.fill_between(
        line.steps[all_left],
        line.low,
        line.high,
        color=colour,
        alpha=0.22 if thick else 0.14,
        linewidth=0,
        zorder=above,
    )
    axes.plot(
        line.steps[all_left], line.centre[all_left], color=colour, linestyle=dash, linewidth=width, zorder=above + 1
    )
    if not line.deaths:
        return
    axes.plot(
        line.steps[some_left],
        line.centre[some_left],
        color=colour,
        linestyle=(0, (2, 1.6)),
        linewidth=0.7 * width,
        alpha=0.75,
        zorder=above + 1,
    )
    places = sorted({max(0, death - 1) for death in line.deaths})
    axes.plot(
        line.steps[places],
        line.centre[places],
        color=colour,
        linestyle="none",
        marker="x",
        markersize=7,
        markeredgewidth=2,
        zorder=above + 1,
    )


def _averages(lines: Sequence[_Line], average: Average) -> str:
    counts = sorted({line.runs for line in lines})
    runs = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    over = "1 run" if counts == [1] else f"{runs} runs"
    kinds = {"mean": f"mean of {over}", "log-mean": f"exp of the mean ln loss of {over}"}
    return over if counts == [1] else kinds[average]


def _bands(lines: Sequence[_Line], band: Band) -> list[str]:
    if band == "none" or all(line.runs == 1 for line in lines):
        return []
    return ["band: 95 % bootstrap interval" if band == "interval" else "band: one standard deviation of the runs"]


def _blocks(block: int) -> list[str]:
    return [f"each point: mean of {block} steps"] if block > 1 else []


def _scaled(axes: Axes, lines: Sequence[_Line], scale: Scale) -> list[str]:
    values = np.concatenate([line.centre for line in lines])
    return _scale_to(axes, values[np.isfinite(values)], scale)


def _scale_to(axes: Axes, values: Array, scale: Scale) -> list[str]:
    """Chooses the axis that can show `values`; returns what the reader has to know about it."""
    if scale == "linear":
        return []
    if scale != "log":
        raise ArgumentError(f"scale is {scale!r}; choose 'log' or 'linear'")
    if bool((values < 0).any()):
        linear = 10.0 ** math.floor(math.log10(np.abs(values).max()) - 3)
        axes.set_yscale("symlog", linthresh=linear, linscale=0.5)
        axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear))
        axes.axhline(0, color=_FAINT, linewidth=0.8)
        return [f"scale linear within ±{linear:g}"]
    axes.set_yscale("log", nonpositive="clip")
    if not bool((values < FLOOR).any()):
        return []
    axes.set_ylim(bottom=FLOOR)
    return [f"below {FLOOR:g}: drawn at the bottom"]


def _framed(axes: Axes, lines: Sequence[_Line], starts: Sequence[float]) -> list[str]:
    """Cuts what explodes off the axis; returns a note if something is cut."""
    bottom, top = axes.get_ylim()
    limit = EXPLOSION * max(starts)
    highest = max(np.nanmax(line.centre, initial=-np.inf) for line in lines)
    if not 0 < limit < max(highest, top) or limit <= bottom:
        axes.set_ylim(bottom, top)
        return []
    axes.set_ylim(bottom, limit)
    return [f"axis cut at {EXPLOSION:g} times the first loss"] if highest > limit else []


def _crosses_at_top(axes: Axes, places: ArrayLike, what: str, colour: str = COLOURS[1], row: int = 0) -> list[str]:
    places = np.asarray(places, dtype=np.float64)
    if not len(places):
        return []
    axes.plot(
        places,
        np.full(len(places), 1.0 - 0.045 * row),
        transform=axes.get_xaxis_transform(),
        color=colour,
        linestyle="none",
        marker="x",
        markersize=7,
        markeredgewidth=2,
        clip_on=False,
    )
    return [f"× at the top: {what}"] if what else []


@dataclass(frozen=True)
class _End:
    """Where a curve ends, in data coordinates, and the name that stands there."""

    x: float
    y: float
    text: str
    colour: str
    bold: bool


def _end(line: _Line, colour: str, bold: bool) -> _End:
    points = np.flatnonzero(np.isfinite(line.centre))
    place = points[-1] if len(points) else 0
    count = f"\n{line.diverged} of {line.runs} diverged" if line.diverged else ""
    return _End(float(line.steps[place]), float(line.centre[place]), line.name + count, colour, bold)


def _name_ends(axes: Axes, ends: Sequence[_End]) -> None:
    """Writes each curve's name right of the axes, at the height of its end, moved apart where names would overlap."""
    to_axes = axes.transData + axes.transAxes.inverted()
    line_height = 1.25 * _FONT / 72 / (_SIZE[1] * axes.get_position().height)
    bottom, top = axes.get_ylim()
    placed = []
    for end in ends:
        inside = min(max(end.y, min(bottom, top)), max(bottom, top))
        x, y = to_axes.transform((end.x, inside))
        text = "\n".join(part for given in end.text.split("\n") for part in textwrap.wrap(given, 24) or [""])
        placed.append((float(y), float(x), text, end))
    placed.sort(key=lambda item: item[0])
    heights = [line_height * (1 + item[2].count("\n")) for item in placed]
    for (y, x, text, end), centre in zip(placed, _apart([item[0] for item in placed], heights), strict=True):
        axes.annotate(
            _literal(text),
            xy=(x, y),
            xytext=(1.045, centre),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=end.colour,
            fontweight="bold" if end.bold else "normal",
            verticalalignment="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": end.colour,
                "linewidth": 0.8,
                "alpha": 0.6,
                "shrinkA": 2,
                "shrinkB": 1,
            },
        )


def _apart(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Moves centres, given in ascending order, so that intervals of these heights neither overlap nor pass the top."""
    centres = list(wanted)
    for place in range(1, len(centres)):
        gap = (heights[place - 1] + heights[place]) / 2
        centres[place] = max(centres[place], centres[place - 1] + gap)
    for place in reversed(range(len(centres))):
        above = centres[place + 1] - (heights[place] + heights[place + 1]) / 2 if place + 1 < len(centres) else 1.0
        centres[place] = min(centres[place], above)
    return centres


def _running_median(values: Array) -> Array:
    """Median of about a twentieth of the trajectories around each; those that diverged count as +inf."""
    reach = max(1, len(values) // 40)
    filled = np.where(np.isfinite(values), values, np.inf)
    medians = np.array([np.median(filled[max(0, i - reach) : i + reach + 1]) for i in range(len(values))])
    return np.where(np.isfinite(medians), medians, np.nan)


def _last_finite(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if len(finite) else math.nan


def _literal(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def _figure(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE)
        axes = figure.add_axes((0.11, 0.17, 0.64, 0.7))
        axes.set_title(_literal(title))
        axes.set_xlabel(_literal(xlabel))
        axes.set_ylabel(_literal(ylabel))
        axes.grid(color="#000000", alpha=0.09, linewidth=0.8)
    return figure, axes


def _save(figure: Figure, axes: Axes, notes: Sequence[str], path: Path) -> None:
    with matplotlib.rc_context(_STYLE):
        text = textwrap.fill("; ".join(notes), 92)
        axes.annotate(
            _literal(text), (0, -0.19), xycoords="axes fraction", fontsize=8.5, color=_FAINT, verticalalignment="top"
        )
        buffer = io.BytesIO()
        # No software version and no date in the file, so that it changes only when the drawing does.
        figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", pad_inches=0.15, metadata={"Software": None})
    checkpoint.write_bytes(path, buffer.getvalue())
