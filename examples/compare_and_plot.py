"""Compare optimizers on the same tasks, starts and minibatches, honestly tuned, and plot their curves."""

from pathlib import Path

import l2o
from l2o.evaluation.compare import compare
from l2o.evaluation.plots import plot_curves
from l2o.evaluation.tables import markdown
from l2o.evaluation.tuning import log_grid, tune

family = l2o.MLPClassifier.orig(l2o.load_dataset("digits", "train"), test=l2o.load_dataset("digits", "test"))
stream = l2o.Stream(seed=0, tasks=range(5))
tuning = tune(l2o.Adam, family, stream, steps=60, grid=log_grid(2**-8, 2**-3), metric="final")
print(f"Adam's learning rate: {tuning.best:.4g}, after {tuning.evaluations:,} gradient evaluations on other tasks")

comparison = compare(
    {"RNNprop": l2o.load("rnnprop-mnist"), "Adam": l2o.Adam(tuning.best), "Nesterov": l2o.Nesterov(1.0)},
    family,
    stream,
    steps=60,
)
print(markdown(comparison.loss_rows()))
difference = comparison.paired("final", "RNNprop", "Adam")
print(f"RNNprop minus Adam: {difference.estimate:.4f} [{difference.low:.4f}, {difference.high:.4f}]")
plot_curves(comparison.losses, path=Path("curves.png"), title="Digits", learned=["RNNprop"])
print("wrote curves.png")
