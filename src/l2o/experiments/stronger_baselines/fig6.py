"""Figure 6: imitation against self-improving, on L2O-Scale and Conv-MNIST.

Source: Chen et al. 2020, figure 6, and section 5.3.
"""

from pathlib import Path

from l2o.experiments.stronger_baselines.page import Page

OPTIMIZEE = "Conv-MNIST"


def run(preset: str, results: Path, work: Path) -> None:
    """Runs the preset and writes its results."""
    page = Page("fig6", preset, results, work)
    page.panel(OPTIMIZEE, ["L2O-Scale-IL", "L2O-Scale-SI", "L2O-Scale"])
    page.below(OPTIMIZEE, "L2O-Scale-IL", "L2O-Scale-SI")
    page.below(OPTIMIZEE, "L2O-Scale-SI", "L2O-Scale")
    page.below(OPTIMIZEE, "L2O-Scale-IL", "L2O-Scale")
    page.finish(
        title="Figure 6: L2O-Scale with imitation (IL), with self-improving (SI), and plain",
        summary="L2O-Scale meta-trained plainly, with hand-designed optimizers that take some of its steps at first "
        "(self-improving), and with hand-designed teachers (imitation).",
        thick="L2O-Scale-IL",
    )
