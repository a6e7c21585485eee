"""Figure 2: better training makes the simplest learned optimizer the best one, on five optimizees.

Source: Chen et al. 2020, figure 2. It also says that plain L2O-DM diverges on the perceptrons, is at chance on the
convolutional networks, and varies more from run to run.
"""

from pathlib import Path

from l2o.experiments.stronger_baselines.optimizees import CNNS, FIVE, MLPS
from l2o.experiments.stronger_baselines.page import Page

NAMED = "L2O-DM-CL-IL"
OTHERS = ("L2O-DM", "RNNprop", "L2O-Scale", "L2O-Scale-Meta")


def run(preset: str, results: Path, work: Path) -> None:
    """Runs the preset and writes its results."""
    page = Page("fig2", preset, results, work)
    for optimizee in FIVE:
        page.panel(optimizee, [NAMED, *OTHERS])
    for other in OTHERS:
        for optimizee in FIVE:
            page.below(optimizee, NAMED, other)
    for optimizee in MLPS:
        page.rises(optimizee, "L2O-DM")
    for optimizee in CNNS:
        page.trains(optimizee, "L2O-DM", expected=False)
    page.steadier(NAMED, "L2O-DM", needed=4)
    page.finish(
        title="Figure 2: L2O-DM with curriculum and imitation against other learned optimizers",
        summary="L2O-DM, meta-trained with a curriculum of growing trajectories and with imitation, against the same "
        "network trained plainly and against larger learned optimizers.",
        thick=NAMED,
    )
