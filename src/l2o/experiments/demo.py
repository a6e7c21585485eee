"""The main job in a few minutes on embedded data: meta-train on digits, compare with tuned rules on fresh starts."""

from dataclasses import dataclass, field
from pathlib import Path

from l2o.evaluation import statistics
from l2o.evaluation.compare import Comparison
from l2o.evaluation.verdicts import Verdict
from l2o.experiments.study import Study, as_configuration, baseline_name
from l2o.meta_optimizer import MetaAdam
from l2o.methods.meta_loss import MetaLoss
from l2o.optimizers.rnnprop import RNNprop
from l2o.outer_loop import Plan
from l2o.tasks.data import load_dataset
from l2o.tasks.mlp import MLPClassifier

NAMED = "RNNprop"

ALPHA = 0.05
"""RNNprop's largest update: of 0.03, 0.05 and 0.1 the best on other starts; 0.1 ends some runs in spikes."""


def _plan() -> Plan:
    return Plan(
        trajectories=150,
        tasks=2,
        meta_optimizer=MetaAdam(4e-3, 3e-5),
        validate_every=20,
        validation_tasks=10,
    )


@dataclass(frozen=True)
class Settings:
    """What the demonstration does.

    Args:
        plan: of the meta-training.
        steps: inner steps of a reporting run.
        tuning_tasks: fresh starts that learning rates are tuned on.
        reporting_tasks: fresh starts that are reported on.
        grid_every: learning rates are tuned on every so-many-th value of the grid.
        seed: of tuning and reporting.
    """

    plan: Plan = field(default_factory=_plan)
    steps: int = 100
    tuning_tasks: int = 10
    reporting_tasks: int = 20
    grid_every: int = 1
    seed: int = 1


def run(folder: Path, work: Path, settings: Settings | None = None) -> Comparison:
    """Runs the demonstration, writes its results to `folder`, and returns the comparison."""
    settings = settings or Settings()
    study = Study("demo", "", folder, work / "demo", as_configuration(settings), command="l2o demo")
    family = MLPClassifier.orig(load_dataset("digits", "train"), test=load_dataset("digits", "test"))
    learned = {NAMED: study.train(NAMED, RNNprop(alpha=ALPHA), family, MetaLoss(objective="log"), settings.plan)}
    comparison, verdicts = study.contest(
        NAMED,
        learned,
        family,
        settings.seed,
        tuning_tasks=settings.tuning_tasks,
        reporting_tasks=settings.reporting_tasks,
        steps=settings.steps,
        last=1,
        every=settings.grid_every,
        title="Digits, 64-20-10 network",
        metrics=("final",),
    )
    verdicts = [_median_below_adam(comparison), *verdicts]
    study.finish(
        verdicts,
        summary=f"{NAMED}, meta-trained in a minute or two on a small network that learns digits, against five "
        f"hand-designed optimizers from {comparison.runs} unseen starts. Every learning rate is tuned.",
        seeds=[settings.seed],
    )
    return comparison


def _median_below_adam(comparison: Comparison) -> Verdict:
    adam = baseline_name("Adam", "final")
    interval = comparison.paired("final", NAMED, adam, statistics.median)
    medians = [float(statistics.median(comparison.measures(name, "final"))) for name in (NAMED, adam)]
    return Verdict(
        claim=f"{NAMED}'s median loss is below tuned Adam's on unseen starts",
        criterion="the median loss at the last step is lower, and the 95 % bootstrap interval of the median paired "
        "difference lies below 0",
        measured=interval.estimate,
        runs=comparison.runs,
        passed=medians[0] < medians[1] and interval.high < 0,
        interval=(interval.low, interval.high),
        note=f"medians {medians[0]:.4g} and {medians[1]:.4g}",
    )
