"""The optimizers of `optimizers-cubed/mnist`, untouched, on other networks and horizons than they were trained on.

Source: "Optimizers cubed", section 2.4 (20 and 40 units, two hidden layers, ReLU); Andrychowicz et al. 2016, figure 5,
which finds the learned optimizer better than tuned baselines on all but ReLU.
"""

from pathlib import Path

from l2o.evaluation.verdicts import Verdict
from l2o.experiments.optimizers_cubed import mnist
from l2o.experiments.study import Study
from l2o.tasks.data import load_dataset
from l2o.tasks.mlp import MLPClassifier

SETTINGS = (
    ("20 units", MLPClassifier.orig, 1),
    ("20 units, twice the steps", MLPClassifier.orig, 2),
    ("40 units", MLPClassifier.wide, 1),
    ("two layers", MLPClassifier.deeper, 1),
    ("ReLU", MLPClassifier.relu, 1),
)
"""What is tested: a name, the network, and steps as a multiple of the trained horizon."""

GRID_EVERY = 2
"""Learning rates are tuned on every second value of the grid, a factor of two apart: there are 25 rules to tune."""


def run(preset: str, results: Path, work: Path) -> None:
    """Runs the preset and writes its results; meta-trains only if `optimizers-cubed/mnist` has not done so."""
    settings = mnist.PRESETS[preset]
    study = Study.of("optimizers-cubed/generalisation", preset, results, work, settings)
    found = {name: study.trained(results / mnist.EXPERIMENT / preset, name) for name in ("RNNprop", "L2O-DM")}
    learned = {name: optimizer for name, optimizer in found.items() if optimizer is not None}
    if len(learned) < len(found):
        learned = mnist.train(study, settings)
    train, test = load_dataset(settings.data, "train"), load_dataset(settings.data, "test")
    verdicts: list[Verdict] = []
    for place, (name, network, multiple) in enumerate(SETTINGS):
        _, found_here = study.contest(
            mnist.NAMED,
            learned,
            network(train, test=test),
            settings.seed,
            tuning_tasks=settings.tuning_tasks,
            reporting_tasks=settings.reporting_tasks,
            steps=multiple * settings.steps,
            last=settings.last,
            every=max(GRID_EVERY, settings.grid_every),
            title=name,
            metrics=("final",),
            purpose=str(place),
        )
        verdicts += found_here
    study.finish(
        verdicts,
        summary=f"{mnist.NAMED}, meta-trained on MLP-orig with 20 sigmoid units over {settings.steps} steps, on other "
        "networks and twice the steps, against five hand-designed optimizers tuned on each of them.",
        seeds=[settings.seed],
    )
