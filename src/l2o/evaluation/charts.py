"""What a page draws by itself: curves with their bands, as JSON values that `chart.js` reads.

A chart has the lines of the figure that it stands for. Those of a comparison are made from its file of losses; those of
other figures are written to a file beside the figure, which has its name and ends in `.charts.json`.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from l2o import checkpoint
from l2o.errors import ArgumentError, DataError
from l2o.evaluation import long_runs
from l2o.evaluation.compare import Comparison
from l2o.evaluation.figure import CROSS, Scale
from l2o.evaluation.lines import EXPLOSION, Line, ceiling, described, line, thin
from l2o.evaluation.long_runs import LongRuns
from l2o.evaluation.statistics import FLOOR, Array, Interval

Numbers = list[float | None]
"""Rounded, a page has no room for more digits than can be seen; None where there is no number."""

_DIGITS, _DIGITS_OF_STEPS = 5, 9


@dataclass(frozen=True)
class Trace:
    """One curve of a chart.

    Args:
        name: in the legend; the other curves of the page have other colours and marks if they have other names.
        x: `[points]`, ascending.
        y: `[points]`, None where there is no value.
        low: lower end of the band, `[points]`, None where there is none.
        high: upper end of the band, likewise.
        whole: from this point on the curve is of the runs that are left.
        crosses: the points that bear a cross, as a run fails after them.
        note: beside the name.
        bold: whether the page is about it.
        shown: whether it is drawn before the reader asks for it.
    """

    name: str
    x: Numbers
    y: Numbers
    low: Numbers
    high: Numbers
    whole: int
    crosses: list[int]
    note: str = ""
    bold: bool = False
    shown: bool = True


@dataclass(frozen=True)
class Chart:
    """Curves over the same axes.

    Args:
        title: heading, if a picture has several charts.
        xlabel: what the steps are.
        ylabel: what the values are.
        traces: in the order of the legend.
        notes: what lines and bands are.
        xscale: at first.
        yscale: at first; a chart with negative values is linear.
        limit: the axis of y ends here at the latest, until the reader asks for more; None for no limit.
        levels: what a height means, to the height, each a dotted line.
    """

    title: str
    xlabel: str
    ylabel: str
    traces: list[Trace]
    notes: list[str]
    xscale: Scale = "linear"
    yscale: Scale = "log"
    limit: float | None = None
    levels: dict[str, float] | None = None

    def __post_init__(self) -> None:
        if not self.traces:
            raise ArgumentError(f"the chart {self.title!r} has no curves; there is nothing to draw")


def of_comparison(comparison: Comparison, *, bold: Collection[str] = (), hidden: Collection[str] = ()) -> Chart:
    """The losses of a comparison: mean over runs with its 95 % interval, as in `plots.plot_curves`.

    Args:
        comparison: its losses.
        bold: names that the page is about: they come first.
        hidden: names that are only drawn when the reader asks for them: they come last.
    """
    names = sorted(comparison.curves, key=lambda name: (name not in bold, name in hidden))
    lines = [line(name, comparison.losses[name]) for name in names]
    limit = ceiling(lines)
    notes = described(lines, "mean", "interval")
    if any(each.crosses for each in lines):
        notes.append(f"{CROSS}: a run failed, and dashed after it: the runs left")
    lowest = min(float(np.nanmin(each.centre, initial=math.inf)) for each in lines)
    if 0 <= lowest < FLOOR:
        notes.append(f"below {FLOOR:g}: at the bottom of a logarithmic axis")
    if max(float(np.nanmax(each.centre, initial=-math.inf)) for each in lines) > limit:
        notes.append(f"the axis ends at {EXPLOSION:g} times the first loss")
    losses, points = comparison.steps + 1, len(lines[0].steps)
    if points < losses:
        notes.append(f"{points:,} of {losses:,} losses are drawn, more of the early ones")
    traces = [_of_line(each, bold=each.name in bold, shown=each.name not in hidden) for each in lines]
    return Chart(
        "", "step", "loss", traces, notes, yscale="linear" if lowest < 0 else "log",
        limit=None if math.isinf(limit) else _number(limit),
    )  # fmt: skip


def of_long_runs(
    panels: Mapping[str, Mapping[str, LongRuns]], *, thick: str = "", levels: Mapping[str, float] | None = None
) -> list[Chart]:
    """The panels of `panels.plot_panels`: mean ln loss of every block over meta-training seeds and runs, its interval.

    Single seeds, thin lines in the figure, are left out.

    Args:
        panels: heading to optimizer to long runs.
        thick: the optimizer that the figure is about.
        levels: what a height means, to ln loss.
    """
    charts = []
    for heading, runs in panels.items():
        traces = []
        for name, one in runs.items():
            (low, high), diverged = one.band(), int(one.diverged.sum())
            note = f"{diverged} of {one.runs} diverged" if diverged else ""
            traces.append(trace(name, one.places, one.mean_curve(), low, high, note=note, bold=name == thick))
        blocks = sorted({one.block for one in runs.values()})
        notes = [
            f"each point: mean over {' or '.join(map(str, blocks))} steps",
            "line: mean over meta-training seeds and runs, up to the first failure; band: its 95 % interval",
        ]
        limit = _number(long_runs.ceiling(runs.values(), (levels or {}).values()))
        charts.append(
            Chart(heading, "step", "ln loss", traces, notes, yscale="linear", limit=limit, levels=dict(levels or {}))
        )
    return charts


def of_intervals(
    curves: Mapping[str, Mapping[float, Interval]],
    *,
    xlabel: str,
    ylabel: str,
    xscale: Scale = "linear",
    yscale: Scale = "linear",
    note: str = "",
) -> Chart:
    """The curves of `dots.plot_bands`: intervals against a number.

    Args:
        curves: name to number to interval.
        xlabel: what the numbers are.
        ylabel: what is measured.
        xscale: at first.
        yscale: at first.
        note: what there is to know besides.
    """
    traces = []
    for name, marks in curves.items():
        ends = [[getattr(mark, end) for mark in marks.values()] for end in ("estimate", "low", "high")]
        traces.append(trace(name, list(marks), *ends))
    bands = any(mark.low < mark.high for marks in curves.values() for mark in marks.values())
    notes = [*(["band: 95 % interval"] if bands else []), *([note] if note else [])]
    return Chart("", xlabel, ylabel, traces, notes, xscale=xscale, yscale=yscale)


def trace(
    name: str, x: ArrayLike, y: ArrayLike, low: ArrayLike, high: ArrayLike, *, note: str = "", bold: bool = False
) -> Trace:
    """A curve without failures, thinned like others; what is not finite is left out."""
    places, *columns = (np.asarray(values, dtype=np.float64) for values in (x, y, low, high))
    shown = thin(len(places))
    places, columns = places[shown], [values[shown] for values in columns]
    return Trace(
        name, _numbers(places, _DIGITS_OF_STEPS), *map(_numbers, columns), whole=len(places), crosses=[], note=note,
        bold=bold,
    )  # fmt: skip


def beside(figure: Path) -> Path:
    """Where the charts of a figure lie."""
    return figure.with_suffix(".charts.json")


def write_charts(path: Path, charts: Sequence[Chart]) -> None:
    """Writes charts as JSON."""
    content = [asdict(chart) for chart in charts]
    checkpoint.write_bytes(path, f"{json.dumps(content, separators=(',', ':'), allow_nan=False)}\n".encode())


def read_charts(path: Path) -> list[Chart]:
    """Reads what `write_charts` wrote.

    Raises:
        DataError: the file is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        charts = [Chart(**{**entry, "traces": [Trace(**each) for each in entry["traces"]]}) for entry in content]
        if not charts:
            raise ValueError("it is empty")
        return charts
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no charts ({error!r}); make the figure again") from error


def _of_line(line: Line, *, bold: bool, shown: bool) -> Trace:
    rest = [None] * (len(line.steps) - line.whole)
    band = (line.low, line.high) if line.runs > 1 else (np.full(line.whole, math.nan),) * 2
    low, high = (_numbers(end) + rest for end in band)
    return Trace(
        line.name, _numbers(line.steps, _DIGITS_OF_STEPS), _numbers(line.centre), low, high,
        whole=line.whole, crosses=line.crosses, note=line.count, bold=bold, shown=shown,
    )  # fmt: skip


def _numbers(values: Array, digits: int = _DIGITS) -> Numbers:
    return [_number(value, digits) if math.isfinite(value) else None for value in values.tolist()]


def _number(value: float, digits: int = _DIGITS) -> float:
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e9 else rounded
