"""Figures: curves with their uncertainty, meta-training, tuning. Each says below its axes what it shows of the runs."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from l2o.errors import ArgumentError
from l2o.evaluation import figure
from l2o.evaluation.figure import CROSS, End, Scale
from l2o.evaluation.lines import EXPLOSION, Average, Band, Line, ceiling, described, line
from l2o.evaluation.statistics import Array
from l2o.evaluation.tuning import Tuning


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

    A run that fails is not dropped in silence: from the first failure on, the curve is dashed and thin, the average of
    the runs that are left, without a band; a cross marks each failure, and the name counts the diverged runs. On a
    logarithmic axis, averages below 1e-12 are drawn at the bottom; if an average is negative, the axis is linear.

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
    lines = [line(name, curves[name], average=average, band=band, block=block) for name in names]
    centres = np.concatenate([each.centre for each in lines])
    bands = np.concatenate([part for each in lines for part in (each.low, each.high)])
    with figure.drawing(title, xlabel, ylabel, path) as (axes, notes):
        notes += [*described(lines, average, band), *_blocks(block)]
        notes += figure.choose_scale(axes, centres, scale)
        cut = figure.frame(axes, np.concatenate([centres, bands]), limit=ceiling(lines))
        notes += [f"{note} {EXPLOSION:g} times the first loss" for note in cut]
        axes.set_xlim(0, max(np.shape(losses)[1] for losses in curves.values()) - 1)
        for place, each in enumerate(lines):
            _draw(axes, each, place, thick=each.name in learned, above=2 * (len(lines) - place))
        if any(each.deaths for each in lines):
            notes.append(f"{CROSS}: a run failed, and dashed after it: the runs left")
        figure.name_ends(axes, [_end(each, place, each.name in learned) for place, each in enumerate(lines)])


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
        meta_losses: `[trajectories]`; not finite where a trajectory diverged, which is marked at the top.
        validations: (trajectories done, validation loss) in order; one that is not finite is marked likewise.
        path: the PNG file.
        title: one line.
        ylabel: what both losses are.
        scale: of both; linear where one is negative.
    """
    values = np.asarray(meta_losses, dtype=np.float64)
    if values.ndim != 1 or len(values) < 1:
        raise ArgumentError(f"meta_losses have shape {values.shape}; pass one per trajectory, [trajectories]")
    values = np.where(np.isfinite(values), values, np.nan)
    trajectories = np.arange(1.0, len(values) + 1)
    done, checked = np.asarray(validations, dtype=np.float64).reshape(-1, 2).T
    checked = np.where(np.isfinite(checked), checked, np.nan)
    smooth = _running_median(values)
    (blue, _), (orange, _), (pale, _) = figure.look(0), figure.look(1), figure.look(5)
    both = np.concatenate([values, checked])
    with figure.drawing(title, "trajectories", ylabel, path) as (axes, notes):
        notes += figure.choose_scale(axes, both, scale)
        notes += figure.frame(axes, both)
        notes.append("thin: each trajectory; thick: running median")
        axes.plot(trajectories, values, color=pale, linewidth=0.9, alpha=0.7)
        axes.plot(trajectories, smooth, color=blue, linewidth=1.8)
        axes.plot(done, checked, color=orange, linewidth=1.6, marker="o", markersize=4.5)
        if np.isfinite(checked).any():
            best = int(np.nanargmin(checked))
            star = {"marker": "*", "markersize": 16, "markeredgecolor": "white", "zorder": 9}
            axes.plot(done[best], checked[best], color=orange, **star)
            notes.append(f"star: best validation, {checked[best]:.3g} after {done[best]:.0f} trajectories")
        figure.diverged_strip(axes, [(trajectories[np.isnan(values)], blue), (done[np.isnan(checked)], orange)])
        ends = [_last(trajectories, smooth, "meta-training", blue), _last(done, checked, "validation", orange)]
        figure.name_ends(axes, [end for end in ends if math.isfinite(end.y)])


def plot_tuning(
    tunings: Mapping[str, Tuning],
    *,
    path: Path,
    title: str,
    ylabel: str,
    xlabel: str = "learning rate",
    scale: Scale = "log",
) -> None:
    """Draws the score of every value that was tried, the best of each rule ringed, and what diverged.

    Args:
        tunings: name of the rule to its tuning.
        path: the PNG file.
        title: one line.
        ylabel: what the score is.
        xlabel: what the tuned constant is.
        scale: of the score; linear where one is negative, as an area often is.
    """
    if not tunings:
        raise ArgumentError("tunings is empty; there is nothing to draw")
    scores = np.array([score for tuning in tunings.values() for score in tuning.scores.values()])
    with figure.drawing(title, xlabel, ylabel, path) as (axes, notes):
        axes.set_xscale("log", base=2)
        notes += figure.choose_scale(axes, scores[np.isfinite(scores)], scale)
        notes += [*figure.frame(axes, scores), "ring: best value"]
        lost = []
        for place, (name, tuning) in enumerate(tunings.items()):
            colour, dashes = figure.look(place)
            found = {value: score for value, score in tuning.scores.items() if math.isfinite(score)}
            label = f"{name}\nbest {tuning.best:.3g}" + (" (edge)" if tuning.on_edge else "")
            points = {"marker": "o", "markersize": 4.5, "label": figure.literal(label)}
            axes.plot(list(found), list(found.values()), color=colour, linestyle=dashes, **points)
            ring = {"marker": "o", "markersize": 12, "markerfacecolor": "none", "markeredgewidth": 2}
            axes.plot(tuning.best, found[tuning.best], color=colour, **ring)
            lost.append(([value for value in tuning.scores if value not in found], colour))
        figure.diverged_strip(axes, lost)
        axes.legend(loc="center left", bbox_to_anchor=(1.03, 0.45), frameon=False, labelspacing=0.9, handlelength=1.6)


def _draw(axes: Axes, line: Line, place: int, *, thick: bool, above: float) -> None:
    colour, dashes = figure.look(place)
    width = 2.8 if thick else 1.5
    steps, centre = line.steps, line.centre
    alpha = 0.22 if thick else 0.13
    axes.fill_between(steps[: line.whole], line.low, line.high, color=colour, alpha=alpha, linewidth=0, zorder=above)
    style = {"color": colour, "zorder": above + 1}
    axes.plot(steps[: line.whole], centre[: line.whole], linestyle=dashes, linewidth=width, **style)
    if line.deaths:
        rest = slice(max(0, line.whole - 1), None)
        axes.plot(steps[rest], centre[rest], linestyle=(0, (3, 2)), linewidth=0.6 * width, **style)
        last = np.array(line.crosses)
        # A run that explodes fails far above the frame: its cross stands at the edge.
        axes.plot(steps[last], np.clip(centre[last], *axes.get_ylim()), color=colour, zorder=99, **figure.crosses())


def _end(line: Line, place: int, bold: bool) -> End:
    text = "\n".join(filter(None, (line.name, line.count)))
    return _last(line.steps, line.centre, text, figure.look(place)[0], bold)


def _last(x: Array, y: Array, text: str, colour: str, bold: bool = False) -> End:
    """The last finite point of a curve; a curve without one ends above everything."""
    finite = np.flatnonzero(np.isfinite(y))
    return (
        End(float(x[finite[-1]]), float(y[finite[-1]]), text, colour, bold)
        if len(finite)
        else End(0, math.inf, text, colour)
    )


def _blocks(block: int) -> list[str]:
    return [f"each point: mean of {block} steps"] if block > 1 else []


def _running_median(values: Array) -> Array:
    """Median of about a twentieth of the trajectories around each; those that diverged count as +inf."""
    reach = max(1, len(values) // 40)
    filled = np.where(np.isfinite(values), values, np.inf)
    medians = np.array([np.median(filled[max(0, i - reach) : i + reach + 1]) for i in range(len(values))])
    return np.where(np.isfinite(medians), medians, np.nan)
