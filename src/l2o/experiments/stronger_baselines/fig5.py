"""Figure 5: what curriculum, imitation and longer training each contribute to L2O-DM.

Source: Chen et al. 2020, figure 5. L2O-DM-AUG is plain training on more and longer trajectories; the paper says that
the curriculum beats it with less than a fourteenth of its inner steps, that imitation is the best of the three on
convolutional networks and the curriculum on perceptrons.
"""

from pathlib import Path

from l2o.evaluation.verdicts import Verdict
from l2o.experiments.stronger_baselines.optimizees import CNNS, FIVE, MLPS
from l2o.experiments.stronger_baselines.page import Page


def run(preset: str, results: Path, work: Path) -> None:
    """Runs the preset and writes its results."""
    page = Page("fig5", preset, results, work)
    for optimizee in FIVE:
        page.panel(optimizee, ["L2O-DM-CL", "L2O-DM-IL", "L2O-DM-AUG", "L2O-DM"])
    for name in ("L2O-DM-CL", "L2O-DM-IL"):
        for optimizee in FIVE:
            page.below(optimizee, name, "L2O-DM")
    for optimizee in FIVE:
        page.below(optimizee, "L2O-DM-CL", "L2O-DM-AUG")
    for optimizee in MLPS:
        page.below(optimizee, "L2O-DM-CL", "L2O-DM-IL")
    for optimizee in CNNS:
        page.below(optimizee, "L2O-DM-IL", "L2O-DM-CL")
    page.verdicts.append(_cheaper(page))
    page.finish(
        title="Figure 5: curriculum, imitation and longer training, one at a time",
        summary="L2O-DM meta-trained plainly, with imitation alone, with the curriculum alone, and plainly on more and "
        "longer trajectories (AUG).",
        thick="L2O-DM-CL",
    )


def _cheaper(page: Page) -> Verdict:
    seeds = page.shared.settings.seeds
    longer, curriculum = (
        sum(page.shared.record(name, seed).training_steps for seed in seeds) for name in ("L2O-DM-AUG", "L2O-DM-CL")
    )
    return Verdict(
        claim="the curriculum needs less than a fourteenth of the inner steps of longer training",
        criterion="inner steps of L2O-DM-AUG divided by those of L2O-DM-CL, all seeds together, above 14",
        measured=longer / curriculum,
        runs=len(seeds),
        passed=longer > 14 * curriculum,
        note="cannot pass in the preset laptop: AUG takes 200,000 inner steps there, two stages of the curriculum at "
        "least 45,000",
    )
