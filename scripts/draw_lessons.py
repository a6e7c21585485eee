"""Draws the four pictures of docs/curriculum_and_imitation.md from the results of `stronger-baselines`.

    python scripts/draw_lessons.py [--preset laptop]

What a figure of the paper has already computed is read; what is missing would be meta-trained and run now.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from l2o.evaluation.charts import beside
from l2o.evaluation.dots import plot_bands, plot_dots
from l2o.evaluation.long_runs import LongRuns
from l2o.evaluation.panels import plot_stages
from l2o.evaluation.statistics import Interval, crossed_bootstrap
from l2o.experiments.stronger_baselines.optimizees import FIVE
from l2o.experiments.stronger_baselines.shared import Shared, Trained

ROOT = Path(__file__).resolve().parents[1]
LESSONS = {
    "plain": "L2O-DM",
    "longer plain": "L2O-DM-AUG",
    "curriculum": "L2O-DM-CL",
    "imitation": "L2O-DM-IL",
    "curriculum and imitation": "L2O-DM-CL-IL",
}
"""What the page calls the ways to meta-train, and their recipes."""


def long_run(shared: Shared, path: Path) -> None:
    """Picture 1: what both together change in a run a hundred times as long as the plain trajectories."""
    curves = {
        f"{rule}, {lesson}": _curve(shared.learned(name, "MLP-orig"))
        for rule in ("RNNprop", "L2O-DM")
        for lesson, name in (("plain", rule), ("both", f"{rule}-CL-IL"))
    }
    plain = shared.plan("L2O-DM").horizon.stages[0].steps
    plot_bands(
        curves,
        path=path,
        title="A long run on MLP-orig",
        xlabel="step",
        ylabel="mean ln loss of 100 steps",
        note=f"plain is trained on runs of {plain} steps; both: with a curriculum and with imitation",
    )


def stages(shared: Shared, path: Path) -> None:
    """Picture 2: how a curriculum goes."""
    name = LESSONS["curriculum"]
    plot_stages(
        {name: [record.validations for record in _records(shared, name)]}, path=path, title="The curriculum's stages"
    )


def steadiness(shared: Shared, path: Path) -> None:
    """Picture 3: what a teacher changes in the course of a meta-training."""
    curves = {lesson: _validations(_records(shared, LESSONS[lesson])) for lesson in ("plain", "imitation")}
    plot_bands(
        curves,
        path=path,
        title="Meta-training with a teacher and without",
        xlabel="trajectories of the meta-training",
        ylabel="ln loss at the end of a validation",
        xscale="linear",
    )


def everything(shared: Shared, path: Path) -> None:
    """Picture 4: where each way of meta-training ends, on five optimizees."""
    panels = {
        optimizee: {lesson: shared.learned(name, optimizee).interval() for lesson, name in LESSONS.items()}
        for optimizee in FIVE
    }
    plot_dots(
        panels,
        path=path,
        title="Five ways to meta-train the same network",
        xlabel="mean ln loss of the last 100 steps; lower is better",
        bold="curriculum and imitation",
        across=2,
    )


def _curve(runs: LongRuns) -> dict[float, Interval]:
    low, high = runs.band()
    places = zip(runs.places, runs.mean_curve(), low, high, strict=True)
    return {float(step): Interval(float(mean), float(a), float(b), runs.runs) for step, mean, a, b in places}


def _records(shared: Shared, name: str) -> list[Trained]:
    return [shared.record(name, seed) for seed in shared.settings.seeds]


def _validations(records: Sequence[Trained]) -> Mapping[float, Interval]:
    """Mean ln value of each validation over meta-training seeds; a diverged one counts as infinite."""
    values = np.array([[math.inf if entry[3] is None else entry[3] for entry in own.validations] for own in records])
    places = [entry[0] for entry in records[0].validations]
    return {place: crossed_bootstrap(np.log(values[:, [at]])) for at, place in enumerate(places)}


def table(shared: Shared) -> None:
    """Prints what the page says of single optimizers: mean ln loss at the end, and what meta-training has cost."""
    for rule in ("RNNprop", "L2O-DM"):
        for name in (rule, f"{rule}-CL-IL"):
            steps = ", ".join(f"{record.training_steps:,}" for record in _records(shared, name))
            print(f"{name}: meta-trained on {steps} inner steps")
            for optimizee in FIVE:
                seeds = shared.learned(name, optimizee).final().mean(1)
                print(f"  {optimizee}: {seeds.mean():.2f}; seeds: {', '.join(f'{seed:.2f}' for seed in seeds)}")


PICTURES = {"long-run": long_run, "stages": stages, "steadiness": steadiness, "everything": everything}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="laptop", help="smoke, laptop or paper")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of all results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the pictures")
    options = parser.parse_args()
    shared = Shared(options.preset, options.results, Path("runs"))
    for name, draw in PICTURES.items():
        path = options.out / f"lessons-{name}.png"
        draw(shared, path)
        beside(path).unlink(missing_ok=True)  # the numbers are in the results
        print(f"drawn: {path}")
    table(shared)


if __name__ == "__main__":
    main()
