"""Figure 7: L2O-DM with curriculum and imitation against tuned hand-designed optimizers, and on larger networks.

Source: Chen et al. 2020, figures 7a (MLP-orig), 7b (Conv-MNIST), 7c (NAS-CIFAR) and 7d (LeNet).
"""

from pathlib import Path

from l2o.experiments.stronger_baselines.page import Page
from l2o.experiments.stronger_baselines.shared import RULES

NAMED, PLAIN = "L2O-DM-CL-IL", "L2O-DM"


def run(preset: str, results: Path, work: Path) -> None:
    """Runs the preset and writes its results."""
    page = Page("fig7", preset, results, work)
    for optimizee in ("MLP-orig", "Conv-MNIST"):
        page.panel(optimizee, [NAMED, PLAIN], list(RULES))
        for rule in RULES:
            page.below(optimizee, NAMED, rule)
    for optimizee in ("NAS-CIFAR", "LeNet"):
        page.panel(optimizee, [NAMED, PLAIN])
        page.trains(optimizee, NAMED, expected=True)
        page.trains(optimizee, PLAIN, expected=False)
    page.finish(
        title="Figure 7: against tuned optimizers (a, b), and on larger networks (c, d)",
        summary="L2O-DM meta-trained with curriculum and imitation, against the same network trained plainly and, on "
        "MLP-orig and Conv-MNIST, against tuned Adam, RMSprop and SGD.",
        thick=NAMED,
    )
