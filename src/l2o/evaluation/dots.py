"""Figures of schedules: one dot a contestant, bands against a number, rates in time, grids of images."""

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import LogFormatter
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.evaluation import figure
from l2o.evaluation.charts import beside, of_intervals, write_charts
from l2o.evaluation.figure import Scale
from l2o.evaluation.statistics import Interval


def plot_dots(
    panels: Mapping[str, Mapping[str, Interval]],
    *,
    path: Path,
    title: str,
    xlabel: str,
    bold: str = "",
    lines: Mapping[str, float] | None = None,
    linear_within: float | None = None,
    across: int | None = None,
) -> None:
    """Draws one dot for each contestant with its interval, panels side by side with the same contestants.

    Args:
        panels: heading to contestants to intervals.
        path: the PNG file.
        title: of the figure.
        xlabel: what is measured.
        bold: the contestant whose name stands out.
        lines: name to a value that a vertical line marks in the first panel: a published number.
        linear_within: the axis is linear up to this distance from 0 and logarithmic beyond; None for all linear.
        across: panels in a row; None for all in one.
    """
    if not panels or not all(panels.values()):
        raise ArgumentError("panels is empty, or one of them is; there is nothing to draw")
    names = list(next(iter(panels.values())))
    left = max(3.2, 0.085 * max(map(len, names)))
    columns = across or len(panels)
    rows_of_panels = math.ceil(len(panels) / columns)
    each = 0.34 * len(names) - 0.2 / rows_of_panels
    width, height = left + 3.4 * columns, 0.7 + rows_of_panels * (each + 1.0)
    with figure.sheet(path, (width, height)) as sheet:
        sheet.suptitle(figure.literal(title), x=0.0, y=1.0, ha="left", fontweight="bold", fontsize=13)
        spaces = {"wspace": 0.12, "hspace": 1.0 / each}
        grid = sheet.subplots(rows_of_panels, columns, squeeze=False, sharey=True, gridspec_kw=spaces)
        sheet.subplots_adjust(left=left / width, right=1.0, bottom=0.75 / height, top=1 - 0.95 / height)
        middle = (left / width + 1.0) / 2
        sheet.text(middle, 0.2 / height, figure.literal(xlabel), ha="center", va="bottom", color=figure.INK)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (heading, rows) in zip(grid.flat[: len(panels)], panels.items(), strict=True):
            figure.label(axes, textwrap.fill(heading, 27), "", "")
            if linear_within is None:
                axes.locator_params(axis="x", nbins=5)
            else:
                axes.set_xscale("symlog", linthresh=linear_within)
                axes.xaxis.set_major_formatter("{x:g}")
                axes.axvline(0.0, color=figure.FAINT, linewidth=1.0)
            for place, name in enumerate(names):
                interval, colour = rows[name], figure.look(1 if name == bold else 0)[0]
                if all(map(math.isfinite, (interval.low, interval.high))):
                    axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2.2, alpha=0.55)
                if math.isfinite(interval.estimate):
                    axes.plot([interval.estimate], [place], color=colour, marker="o", markersize=6)
            axes.set_yticks(range(len(names)), [figure.literal(name) for name in names])
            axes.set_ylim(len(names) - 0.5, -0.5)
        for first in grid[:, 0]:
            for text, name in zip(first.get_yticklabels(), names, strict=True):
                text.set_fontweight("bold" if name == bold else "normal")
        for name, value in (lines or {}).items():
            axes = grid.flat[0]
            axes.axvline(value, color=figure.FAINT, linewidth=1.0, linestyle=(0, (4, 3)))
            axes.annotate(name, (value, -0.45), fontsize=8.5, color=figure.FAINT, ha="left", va="bottom")


def plot_bands(
    curves: Mapping[str, Mapping[float, Interval]],
    *,
    path: Path,
    title: str,
    xlabel: str,
    ylabel: str,
    xscale: Scale = "log",
    yscale: Scale = "linear",
    note: str = "",
) -> None:
    """Draws intervals against a number, one band a name; writes them beside the figure too, for `charts.read_charts`.

    Args:
        curves: name to number to interval.
        path: the PNG file.
        title: of the figure.
        xlabel: what the numbers are.
        ylabel: what is measured.
        xscale: "log" or "linear".
        yscale: the same.
        note: below the axes.
    """
    if not curves or not all(curves.values()):
        raise ArgumentError("curves is empty, or one of them is; there is nothing to draw")
    chart = of_intervals(curves, xlabel=xlabel, ylabel=ylabel, xscale=xscale, yscale=yscale, note=note)
    write_charts(beside(path), [chart])
    with figure.drawing(title, xlabel, ylabel, path) as (axes, notes):
        axes.set_xscale(xscale)
        axes.set_yscale(yscale)
        if yscale == "log":
            axes.yaxis.set_major_formatter(_Plain())
            axes.yaxis.set_minor_formatter(_Plain())
        ends = []
        for place, (name, marks) in enumerate(curves.items()):
            colour, dashes = figure.look(place)
            centre, low, high = (
                np.array([getattr(interval, end) for interval in marks.values()]) for end in ("estimate", "low", "high")
            )
            whole = np.isfinite(low) & np.isfinite(high)
            points = len(marks) <= 20
            axes.fill_between(list(marks), low, high, where=list(whole), color=colour, alpha=0.16, linewidth=0)
            axes.plot(
                list(marks), centre, color=colour, linestyle=dashes, marker="o" if points else None, markersize=4.5
            )
            ends.append(figure.End(max(marks), float(centre[-1]), name, colour))
        bands = any(interval.low < interval.high for marks in curves.values() for interval in marks.values())
        notes += [*(["band: 95 % interval"] if bands else []), *([note] if note else [])]
        figure.name_ends(axes, ends)


class _Plain(LogFormatter):
    """0.4, not 4 x 10^-1, at the ticks of a logarithmic axis that have room for a label."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def plot_images(panels: Mapping[str, Tensor], *, path: Path, title: str, columns: int = 16) -> None:
    """Draws grids of images, one a panel.

    Args:
        panels: heading to images `[images, channels, height, width]` in [0, 1].
        path: the PNG file.
        title: of the figure.
        columns: images in a row.
    """
    if not panels or not all(len(images) for images in panels.values()):
        raise ArgumentError("panels is empty, or one of them is; there is nothing to draw")
    rows = max(-(-len(images) // columns) for images in panels.values())
    width, height = 0.45 * columns * len(panels), 0.8 + 0.45 * rows
    with figure.sheet(path, (width, height)) as sheet:
        sheet.suptitle(figure.literal(title), x=0.0, y=1.0, ha="left", va="top", fontweight="bold", fontsize=13)
        grid = sheet.subplots(1, len(panels), squeeze=False, gridspec_kw={"wspace": 0.06})
        sheet.subplots_adjust(left=0.0, right=1.0, bottom=0.0, top=1 - 0.75 / height)
        for axes, (heading, images) in zip(grid.flat, panels.items(), strict=True):
            axes.set_title(figure.literal(heading))
            axes.set_axis_off()
            options: dict[str, Any] = {"interpolation": "nearest", "vmin": 0.0, "vmax": 1.0}
            axes.imshow(tiled(images, columns), cmap="gray_r", **options)


def tiled(images: Tensor, columns: int) -> np.ndarray:
    """Images side by side with a line of white between: `[rows, columns]`, or `[rows, columns, 3]` in colour."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    canvas = np.zeros((rows * (height + 1), columns * (width + 1), channels))
    for number, image in enumerate(images.cpu().double().numpy()):
        row, column = divmod(number, columns)
        top, left = row * (height + 1), column * (width + 1)
        canvas[top : top + height, left : left + width] = np.moveaxis(image, 0, -1)
    return canvas[..., 0] if channels == 1 else canvas


def plot_pairs(
    pairs: Mapping[str, tuple[float, float]], *, path: Path, title: str, ylabel: str, names: tuple[str, str]
) -> None:
    """Draws two bars side by side for each case.

    Args:
        pairs: heading of a case to its two numbers.
        path: the PNG file.
        title: of the figure.
        ylabel: what is measured.
        names: of the two.
    """
    if not pairs:
        raise ArgumentError("pairs is empty; there is nothing to draw")
    width = 2.5 + 0.5 * len(pairs)
    with figure.sheet(path, (width, 4.2)) as sheet:
        axes = sheet.add_axes((0.8 / width, 0.3, 1 - 0.9 / width, 0.55))
        figure.label(axes, title, "", ylabel)
        for which, name in enumerate(names):
            places = np.arange(len(pairs)) + 0.4 * which - 0.2
            heights = [pair[which] for pair in pairs.values()]
            axes.bar(places, heights, width=0.36, color=figure.look(which)[0], label=name, alpha=0.85)
        axes.set_xticks(range(len(pairs)), [figure.literal(name) for name in pairs], rotation=75, fontsize=8)
        axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1.0, 1.16), ncols=2)
