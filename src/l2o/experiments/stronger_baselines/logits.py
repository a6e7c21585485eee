"""What the ReLU on the logits of the convolutional networks does to the comparison. Not in the paper.

The public code of Chen et al. 2020 puts a ReLU on the logits of Conv-MNIST, Conv-CIFAR and NAS-CIFAR. Once all logits
of all images are below zero, the loss is ln 10 and the gradient zero for ever: a curve that is flat at chance shows the
network's death, not an optimizer's. Here are the same networks without it.
"""

from pathlib import Path

from l2o.experiments.stronger_baselines.page import Page
from l2o.experiments.stronger_baselines.shared import RULES

OPTIMIZEES = ("Conv-MNIST", "Conv-CIFAR")
TUNED = {"Conv-MNIST": list(RULES)}
"""Where hand-designed rules are shown too, tuned on each network by itself, with the ReLU and without it."""


def run(preset: str, results: Path, work: Path) -> None:
    """Runs the preset and writes its results."""
    page = Page("logits", preset, results, work)
    for name in OPTIMIZEES:
        for optimizee in (name, f"{name}, linear logits"):
            page.panel(optimizee, ["L2O-DM-CL-IL", "L2O-DM", "RNNprop-CL-IL", "RNNprop"], TUNED.get(name, []))
            page.below(optimizee, "L2O-DM-CL-IL", "L2O-DM")
            page.below(optimizee, "RNNprop-CL-IL", "RNNprop")
            for rule in TUNED.get(name, []):
                page.below(optimizee, "L2O-DM-CL-IL", rule)
    page.finish(
        title="A ReLU on the logits, and none",
        summary="The same optimizers on Conv-MNIST and Conv-CIFAR with the public code's ReLU on the logits and "
        "without it.",
        thick="L2O-DM-CL-IL",
    )
