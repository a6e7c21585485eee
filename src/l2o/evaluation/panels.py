"""Panels of long runs side by side: ln loss against step, every meta-training seed to be seen."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from l2o.errors import ArgumentError
from l2o.evaluation import figure
from l2o.evaluation.charts import beside, of_long_runs, write_charts
from l2o.evaluation.long_runs import LongRuns, ceiling
from l2o.evaluation.statistics import Array

_PANEL = (4.3, 3.5)


def plot_panels(
    panels: Mapping[str, Mapping[str, LongRuns]],
    *,
    path: Path,
    title: str,
    thick: str = "",
    levels: Mapping[str, float] | None = None,
) -> None:
    """Draws one panel for each optimizee: the mean ln loss of every optimizer in blocks of steps.

    Writes the curves beside the figure too, for `charts.read_charts`.

    Thick or not, a line is the mean over meta-training seeds and runs, its band the 95 % interval of both, and the thin
    lines around it are the means of single seeds. A line ends where a run has failed. Every optimizer has one colour
    in all panels, and the legend counts its diverged runs.

    Args:
        panels: heading to optimizer to long runs; an optimizer may be missing in some panels.
        path: the PNG file.
        title: of the whole figure.
        thick: the optimizer that the figure is about.
        levels: what a height means, to ln loss: drawn as a dotted line in every panel.

    Raises:
        ArgumentError: no panels, or one without curves.
    """
    if not panels or not all(panels.values()):
        raise ArgumentError("panels is empty, or one of them is; there is nothing to draw")
    write_charts(beside(path), of_long_runs(panels, thick=thick, levels=levels))
    names = list(dict.fromkeys(name for runs in panels.values() for name in runs))
    columns = len(panels) if len(panels) < 4 else 2 if len(panels) == 4 else 3
    rows = -(-len(panels) // columns)
    width, height = _PANEL[0] * columns, _PANEL[1] * rows
    with figure.sheet(path, (width, height)) as sheet:
        sheet.suptitle(figure.literal(title), x=0.0, y=1 + 0.35 / height, ha="left", fontweight="bold", fontsize=13)
        grid = sheet.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.28, "hspace": 0.42})
        sheet.subplots_adjust(left=0.6 / width, right=1.0, bottom=0.5 / height, top=1 - 0.4 / height)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, (heading, runs) in zip(grid.flat, panels.items(), strict=False):
            _draw(axes, heading, runs, names, thick, levels or {})
        everything = [runs for by_name in panels.values() for runs in by_name.values()]
        blocks = sorted({runs.block for runs in everything})
        note = (
            f"Each point: mean over {' or '.join(map(str, blocks))} steps. Line: mean over meta-training seeds and "
            "runs; band: its 95 % interval; thin: single seeds."
        )
        sheet.text(0.0, -0.15 / height, figure.literal(note), fontsize=9.5, color=figure.FAINT, va="top")
        corner = grid.flat[len(panels)] if len(panels) < rows * columns else None
        sheet.legend(
            handles=[_handle(name, names, panels, thick) for name in names],
            loc="center left",
            bbox_to_anchor=(
                corner.get_position().x0 if corner else 1.01,
                corner.get_position().y1 / 2 if corner else 0.5,
            ),
            frameon=False,
            labelspacing=0.9,
        )


def plot_marks(
    curves: Mapping[str, Mapping[int, LongRuns]], *, path: Path, title: str, xlabel: str, ylabel: str
) -> None:
    """Draws the mean ln loss of the last block against a number, with its 95 % interval.

    Args:
        curves: name to number to the long runs there.
        path: the PNG file.
        title: of the figure.
        xlabel: what the numbers are.
        ylabel: what the ln loss is of.

    Raises:
        ArgumentError: no curves, or one without points.
    """
    if not curves or not all(curves.values()):
        raise ArgumentError("curves is empty, or one of them is; there is nothing to draw")
    with figure.drawing(title, xlabel, ylabel, path) as (axes, notes):
        ends = []
        for place, (name, marks) in enumerate(curves.items()):
            colour, dashes = figure.look(place)
            intervals = [runs.interval() for runs in marks.values()]
            centre, low, high = (
                np.array([getattr(interval, end) for interval in intervals]) for end in ("estimate", "low", "high")
            )
            whole = np.isfinite(low) & np.isfinite(high)
            axes.fill_between(list(marks), low, high, where=list(whole), color=colour, alpha=0.16, linewidth=0)
            axes.plot(list(marks), centre, color=colour, linestyle=dashes, marker="o", markersize=4.5)
            ends.append(figure.End(max(marks), float(centre[-1]), name, colour))
        notes.append("band: 95 % interval over starts")
        figure.name_ends(axes, ends)


def plot_stages(
    panels: Mapping[str, Sequence[Sequence[tuple[int, int, int, float | None]]]], *, path: Path, title: str
) -> None:
    """Draws the validations of meta-trainings with a curriculum, one panel for each optimizer.

    Values of different stages are of different numbers of steps: each stage is a line of its own, from its baseline on,
    in its own colour. A period whose validation diverged has no point.

    Args:
        panels: heading to meta-trainings, one for each seed: (trajectory, stage, steps, value) of each validation; no
            value where it diverged.
        path: the PNG file.
        title: of the whole figure.

    Raises:
        ArgumentError: no panels, or one without validations.
    """
    if not panels or not all(seeds and all(seeds) for seeds in panels.values()):
        raise ArgumentError("panels is empty, or one of them is; there is nothing to draw")
    width, height = _PANEL[0] * len(panels), _PANEL[1]
    with figure.sheet(path, (width, height)) as sheet:
        sheet.suptitle(figure.literal(title), x=0.0, y=1 + 0.35 / height, ha="left", fontweight="bold", fontsize=13)
        grid = sheet.subplots(1, len(panels), squeeze=False, gridspec_kw={"wspace": 0.28})
        sheet.subplots_adjust(left=0.6 / width, right=1.0, bottom=0.5 / height, top=1 - 0.4 / height)
        lengths: dict[int, int] = {}
        for axes, (heading, seeds) in zip(grid.flat, panels.items(), strict=True):
            figure.label(axes, heading, "trajectories", "loss at the end of a validation")
            axes.set_yscale("log")
            for place, validations in enumerate(seeds):
                for stage in dict.fromkeys(entry[1] for entry in validations):
                    found = [entry for entry in validations if entry[1] == stage]
                    lengths[stage] = found[0][2]
                    values = [math.nan if entry[3] is None else entry[3] for entry in found]
                    look: dict[str, Any] = {"color": figure.look(stage)[0], "linestyle": figure.look(8 * place)[1]}
                    axes.plot([entry[0] for entry in found], values, marker="o", markersize=3.5, linewidth=1.2, **look)
        handles = [
            Line2D([], [], color=figure.look(stage)[0], marker="o", label=f"stage {stage + 1},\n{steps:,} steps")
            for stage, steps in sorted(lengths.items())
        ]
        sheet.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelspacing=0.9)
        note = "Each point: a validation. Every stage begins with one of the meta-parameters taken over. Dashes: seeds."
        sheet.text(0.0, -0.15 / height, note, fontsize=9.5, color=figure.FAINT, va="top")


def _draw(
    axes: Axes, heading: str, runs: Mapping[str, LongRuns], names: list[str], thick: str, levels: Mapping[str, float]
) -> None:
    figure.label(axes, heading, "step", "ln loss")
    shown: list[Array] = []
    for name, one in runs.items():
        colour, dashes = figure.look(names.index(name))
        above = 10 if name == thick else 3
        centre, (low, high) = one.mean_curve(), one.band()
        axes.fill_between(one.places, low, high, color=colour, alpha=0.16, linewidth=0, zorder=above - 1)
        for seed in one.log_means.mean(1) if len(one.log_means) > 1 else ():
            axes.plot(one.places, seed, color=colour, linewidth=0.6, alpha=0.7, zorder=above)
        width = 2.6 if name == thick else 1.6
        axes.plot(one.places, centre, color=colour, linestyle=dashes, linewidth=width, zorder=above + 1)
        shown += [centre, low, high]
    for meaning, height in levels.items():
        axes.axhline(height, color=figure.FAINT, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
        place: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "ha": "right"}
        axes.annotate(meaning, (0.99, height), (0, 2), fontsize=8.5, color=figure.FAINT, **place)
    heights = np.concatenate([*shown, list(levels.values())])
    figure.frame(axes, heights, limit=ceiling(runs.values(), levels.values()))
    axes.set_xlim(0, max(one.steps for one in runs.values()))


def _handle(name: str, names: list[str], panels: Mapping[str, Mapping[str, LongRuns]], thick: str) -> Line2D:
    colour, dashes = figure.look(names.index(name))
    look: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 2.6 if name == thick else 1.6}
    found = [runs[name] for runs in panels.values() if name in runs]
    diverged, runs = sum(int(one.diverged.sum()) for one in found), sum(one.runs for one in found)
    label = "\n".join(textwrap.wrap(name, 22)) + (f"\n{diverged} of {runs} diverged" if diverged else "")
    return Line2D([], [], label=figure.literal(label), **look)
