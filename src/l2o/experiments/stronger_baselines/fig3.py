"""Figure 3: curriculum and imitation also improve RNNprop and L2O-Scale.

Source: Chen et al. 2020, figure 3.
"""

from pathlib import Path

from l2o.experiments.stronger_baselines.optimizees import FIVE
from l2o.experiments.stronger_baselines.page import Page


def run(preset: str, results: Path, work: Path) -> None:
    """Runs the preset and writes its results."""
    page = Page("fig3", preset, results, work)
    for optimizee in FIVE:
        page.panel(optimizee, ["RNNprop-CL-IL", "RNNprop", "L2O-Scale-CL-IL", "L2O-Scale"])
    for base in ("RNNprop", "L2O-Scale"):
        single = [page.below(optimizee, f"{base}-CL-IL", base) for optimizee in FIVE]
        page.count(f"{base}-CL-IL ends below {base} on at least four of five optimizees", single, 4)
    page.finish(
        title="Figure 3: RNNprop and L2O-Scale with curriculum and imitation",
        summary="RNNprop and L2O-Scale, each meta-trained plainly and with curriculum and imitation.",
        thick="RNNprop-CL-IL",
    )
