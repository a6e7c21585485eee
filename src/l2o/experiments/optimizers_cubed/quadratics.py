"""Random 10-dimensional quadratics: learned optimizers against five tuned ones, over 100 steps.

Source: "Optimizers cubed" (Brown, Gao, Hayhurst, Young 2020), section 3, first figure, and Andrychowicz et al. 2016,
section 3.1. The constants are N(0, 1), which the first leaves open; each task is its own problem.
"""

from dataclasses import dataclass
from pathlib import Path

from l2o.experiments.study import Study
from l2o.horizons import ConstantHorizon
from l2o.meta_optimizer import MetaAdam
from l2o.methods.meta_loss import MetaLoss, Objective
from l2o.optimizers.dm import L2ODM
from l2o.optimizers.rnnprop import RNNprop
from l2o.outer_loop import Plan
from l2o.tasks.quadratic import Quadratics

NAMED = "L2O-DM"
"""The learned optimizer that the verdicts are about, named before the run."""


@dataclass(frozen=True)
class Settings:
    """A preset of this experiment.

    Args:
        plan: of every meta-training.
        steps: inner steps of a reporting run.
        last: iterates at the end of a run whose mean loss is its final loss; 1 is the last step alone.
        tuning_tasks: tasks that learning rates are tuned on.
        grid_every: learning rates are tuned on every so-many-th value of the grid.
        reporting_tasks: tasks that are reported on.
        objective: of the meta-loss.
        seed: of tuning and reporting; meta-training has its own in `plan`.
    """

    plan: Plan
    steps: int = 100
    last: int = 1
    tuning_tasks: int = 256
    grid_every: int = 1
    reporting_tasks: int = 256
    objective: Objective = "log"
    seed: int = 1


def _plan(trajectories: int, learning_rate: float, final: float | None) -> Plan:
    return Plan(
        trajectories=trajectories,
        tasks=128,
        meta_optimizer=MetaAdam(learning_rate=learning_rate, final_learning_rate=final),
        validate_every=max(1, trajectories // 50),
        validation_tasks=256,
        seed=1,
    )


PRESETS = {
    "smoke": Settings(
        Plan(trajectories=6, tasks=16, horizon=ConstantHorizon(40, 20), validate_every=3, validation_tasks=8),
        steps=40,
        tuning_tasks=8,
        grid_every=6,
        reporting_tasks=8,
    ),
    "laptop": Settings(_plan(1200, 3e-3, 1e-4)),
    "paper": Settings(_plan(10_000, 1e-3, None), objective="loss"),
}
"""The paper preset has the published constants. The laptop preset trains less, lets the meta learning rate fall, and
sums logarithms: the losses of a trajectory span three orders of magnitude, and their sum sees little but the first
steps. Chosen in pilot runs on other seeds."""


def run(preset: str, results: Path, work: Path) -> None:
    """Runs the preset and writes its results."""
    settings = PRESETS[preset]
    study = Study.of("optimizers-cubed/quadratics", preset, results, work, settings)
    family = Quadratics()
    learned = {
        "L2O-DM": study.train(
            "L2O-DM", L2ODM.for_quadratics(seed=1), family, MetaLoss(objective=settings.objective), settings.plan
        ),
        "RNNprop": study.train(
            "RNNprop", RNNprop.lv(seed=1), family, MetaLoss(objective=settings.objective), settings.plan
        ),
    }
    comparison, verdicts = study.contest(
        NAMED,
        learned,
        family,
        settings.seed,
        tuning_tasks=settings.tuning_tasks,
        reporting_tasks=settings.reporting_tasks,
        steps=settings.steps,
        last=settings.last,
        every=settings.grid_every,
        title="Random quadratics",
    )
    study.finish(
        verdicts,
        summary=f"{NAMED}, meta-trained on random 10-dimensional quadratics, against five hand-designed optimizers "
        f"on {comparison.runs} unseen ones, {comparison.steps} steps. Every learning rate is tuned for the measure "
        "that is compared.",
        seeds=[settings.seed],
    )
