"""The two figures of docs/performance.md."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from benchmarks.measurements import (
    ADAM_FUSED,
    CHUNKED,
    COMPILED,
    JAX,
    JAX_CHECKPOINT,
    NATIVE,
    PRODUCT,
    UNCHUNKED,
    Measurements,
    Outcome,
)
from benchmarks.timing import Spread
from l2o.evaluation import figure

_RIVALS = (CHUNKED, UNCHUNKED, COMPILED, JAX, JAX_CHECKPOINT)
_LOOKS = {name: place for place, name in enumerate((NATIVE, *_RIVALS, ADAM_FUSED, PRODUCT))}


def draw_ratios(found: Measurements, path: Path) -> None:
    """How many times as long as native does each other candidate take: bars with the spread of the rounds."""
    outcomes = [(key, outcome) for key, outcome in {**found.windows, **found.steps}.items() if _fit_for_bars(outcome)]
    width = 0.8 / len(_RIVALS)
    with figure.sheet(path, (12.5, 4.4)) as sheet:
        axes = sheet.add_subplot()
        figure.label(axes, "Time of each way, in times of native", "", "times as long as native")
        axes.set_yscale("log")
        for place, name in enumerate(_RIVALS):
            shift = (place - (len(_RIVALS) - 1) / 2) * width
            bars = [(x + shift, o.ratio(name, NATIVE)) for x, (_, o) in enumerate(outcomes) if name in o.milliseconds]
            _bars(axes, bars, name, width)
        axes.axhline(1, color=figure.INK, linewidth=1.2)
        axes.set_xticks(range(len(outcomes)), [_broken(title) for title, _ in outcomes], fontsize=9)
        axes.set_yticks([0.1, 0.2, 0.5, 1, 2, 5, 10, 20], ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20"])
        axes.minorticks_off()
        axes.margins(y=0.12)
        if outcomes:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9.5)


def _fit_for_bars(outcome: Outcome) -> bool:
    return NATIVE in outcome.milliseconds and UNCHUNKED in outcome.milliseconds


def _bars(axes: Axes, bars: Sequence[tuple[float, Spread]], name: str, width: float) -> None:
    """From 1 up or down: a bar below the line is a candidate faster than native."""
    if not bars:
        return
    x = [place for place, _ in bars]
    middles = [ratio.middle for _, ratio in bars]
    ends = [[r.middle - r.low for _, r in bars], [r.high - r.middle for _, r in bars]]
    axes.bar(x, [middle - 1 for middle in middles], width, bottom=1, color=figure.look(_LOOKS[name])[0], label=name)
    axes.errorbar(x, middles, ends, color=figure.INK, linestyle="none", linewidth=1.2)
    for place, ratio in bars:
        above = ratio.middle >= 1
        axes.annotate(
            f"{ratio.middle:.2g}",
            (place, ratio.high if above else ratio.low),
            xytext=(0, 2 if above else -2),
            textcoords="offset points",
            horizontalalignment="center",
            verticalalignment="bottom" if above else "top",
            fontsize=7,
        )


def draw_scaling(found: Measurements, path: Path) -> None:
    """Cost against coordinates, window length and threads."""
    with figure.sheet(path, (14.0, 4.0)) as sheet:
        first, second, third = sheet.subplots(1, 3)
        sheet.subplots_adjust(wspace=0.3)
        _coordinates(first, found.by_coordinates)
        _lengths(second, found.by_length)
        _threads(third, found.by_threads)
        for axes in (first, second, third):
            if axes.get_legend_handles_labels()[0]:
                axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)


def _coordinates(axes: Axes, outcomes: dict[str, Outcome]) -> None:
    figure.label(axes, "Number of coordinates", "coordinates", "ns per coordinate and inner step")
    for kind, dashes in (("window", "-"), ("step", (0, (3, 1.5)))):
        part = {key: outcome for key, outcome in outcomes.items() if key.startswith(kind)}
        for name in (NATIVE, CHUNKED, ADAM_FUSED):
            points = [(o.coordinates, o.nanoseconds(name)) for o in part.values() if name in o.milliseconds]
            _curve(axes, points, name, f"{kind}, {name}", dashes)
    axes.set_xscale("log")
    axes.set_yscale("log")


def _lengths(axes: Axes, outcomes: dict[str, Outcome]) -> None:
    coordinates = {outcome.coordinates for outcome in outcomes.values()}
    xlabel = f"inner steps, {max(coordinates):,} coordinates"
    figure.label(axes, "Length of the window", xlabel, "ms per inner step")
    for name in (NATIVE, CHUNKED):
        there = [o for o in outcomes.values() if name in o.milliseconds]
        _curve(axes, [(o.steps, o.time(name).middle / o.steps) for o in there], name, name)
    axes.set_ylim(bottom=0)


def _threads(axes: Axes, outcomes: dict[str, Outcome]) -> None:
    figure.label(axes, "Threads, MLP-orig", "threads", "times faster than with 1 thread")
    counts: set[int] = set()
    for outcome in outcomes.values():
        for name in (NATIVE, CHUNKED, PRODUCT):
            points = speedups(outcome, name)
            counts |= {threads for threads, _ in points}
            _curve(axes, points, name, name)
    most = max(counts, default=1)
    axes.plot([1, most], [1, most], color=figure.FAINT, linewidth=0.9, linestyle=":", label="ideal")
    axes.set_xticks(sorted(counts))
    axes.set_ylim(bottom=0)


def speedups(outcome: Outcome, name: str) -> list[tuple[int, float]]:
    """(threads, times faster than with one thread) of a candidate; empty where it did not run with one."""
    if f"{name} @ 1" not in outcome.milliseconds:
        return []
    counts = [int(key.rpartition("@ ")[2]) for key in outcome.milliseconds if key.startswith(f"{name} @")]
    return [(threads, outcome.ratio(f"{name} @ 1", f"{name} @ {threads}").middle) for threads in counts]


def _curve(
    axes: Axes, points: Sequence[tuple[float, float]], name: str, label: str, dashes: figure.Dashes = "-"
) -> None:
    if points:
        x, y = zip(*points, strict=True)
        colour = figure.look(_LOOKS[name])[0]
        axes.plot(x, y, color=colour, linestyle=dashes, linewidth=1.8, marker="o", markersize=4, label=label)


def _broken(title: str) -> str:
    """In two lines, if it has more than one word."""
    words = title.split()
    half = (len(words) + 1) // 2
    return "\n".join(filter(None, (" ".join(words[:half]), " ".join(words[half:]))))
