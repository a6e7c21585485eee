"""Figure 1: how much the weight of the penalty matters, in joint training and under a learned schedule.

Source: AutoLoss (Xu et al. 2019), figure 1: the learned schedule's curve is flat. So is that of one constant rate for
each weight, which is drawn beside it: p = lambda / (lambda + best weight) acts as the best weight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from l2o.evaluation.dots import plot_bands
from l2o.evaluation.results import Shown, Tabled
from l2o.evaluation.statistics import Interval
from l2o.evaluation.verdicts import Verdict
from l2o.experiments.autoloss.contest import best_weight, cell, rates
from l2o.experiments.autoloss.problems import Problem, classification, regression
from l2o.experiments.autoloss.trials import Row, Trials
from l2o.experiments.study import Study
from l2o.schedules.fixed import InTurn

KNOWN = (0.1, 0.4, 1.6)
"""Weights at which the regression's best rate is known to be lambda / (lambda + 0.4)."""

JOINT, CONSTANT, LEARNED = "both at once", "constant rate made for the weight", "learned schedule"


@dataclass(frozen=True)
class Settings:
    """Weights of the penalty for both problems."""

    regression: Sequence[float]
    classification: Sequence[float]


PRESETS = {
    "smoke": Settings((0.1, 0.4), (0.01, 0.1)),
    "laptop": Settings((0.1, 0.2, 0.4, 1.6), (0.002, 0.02, 0.2)),
    "paper": Settings((0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2), (0.002, 0.006, 0.01, 0.034, 0.1, 0.2)),
}


def run(preset: str, results: Path, work: Path) -> None:
    """Runs the preset and writes its results."""
    settings, trials = PRESETS[preset], Trials(preset, results, work)
    study = Study.of("autoloss/fig1-lambda", preset, results, work, settings)
    verdicts: list[Verdict] = []
    panels: list[tuple[Callable[[str, float], Problem], Sequence[float], str]] = [
        (regression, settings.regression, "regression"),
        (classification, settings.classification, "classification"),
    ]
    for make, weights, name in panels:
        rows = _curves(make, weights, trials)
        problem = make(preset, weights[0])
        title = f"Figure 1, {name}: validation against the weight of the penalty"
        curves = {kind: {weight: row.interval("validation") for weight, row in by.items()} for kind, by in rows.items()}
        path = study.folder / f"{name}.png"
        plot_bands(curves, path=path, title=title, xlabel="lambda", ylabel=f"{problem.measure}, validation")
        study.figures.append(Shown(path.name, title, f"{title}: joint training, one constant rate, learned schedule."))
        study.tables.append(_table(name, problem, rows))
        verdicts.append(_flat(name, curves))
        if name == "regression":
            verdicts += _shares(rows[LEARNED])
        study.seconds += sum(run.seconds for by in rows.values() for row in by.values() for run in row.runs)
        study.seconds += sum(
            trials.history(make(preset, weight), seed)["seconds"] for weight in weights for seed in problem.seeds
        )
    study.finish(
        verdicts,
        summary="Models trained with both losses at once, under the constant rate that makes up for the weight, and "
        "under schedules trained for each weight; on the parts of the data that schedules are trained with, as "
        "published.",
        seeds=list(regression(preset).seeds),
    )


def _curves(
    make: Callable[[str, float], Problem], weights: Sequence[float], trials: Trials
) -> dict[str, dict[float, Row]]:
    rows: dict[str, dict[float, Row]] = {JOINT: {}, CONSTANT: {}, LEARNED: {}}
    best = best_weight(make(trials.preset, weights[0]), trials, "controller")
    for weight in weights:
        problem = make(trials.preset, weight)
        assert problem.joint is not None
        family = problem.joint("controller", problem.seed, weight)
        both = trials.run(problem, "joint", lambda: InTurn([0], choices=1), purpose="controller", family=family)
        rows[JOINT][weight] = Row(JOINT, [both])
        rate = weight / (weight + best)
        constant = trials.run(problem, "made", lambda rate=rate: rates(2, 0, rate), purpose="controller")
        rows[CONSTANT][weight] = Row(CONSTANT, [constant])
        schedules = {seed: partial(trials.trained, problem, seed) for seed in problem.seeds}
        learned = trials.run_each(problem, "learned", schedules, purpose="controller")
        rows[LEARNED][weight] = Row(LEARNED, learned, problem.budget)
    return rows


def _table(name: str, problem: Problem, rows: dict[str, dict[float, Row]]) -> Tabled:
    found: list[dict[str, str | float | None]] = []
    for weight, learned in rows[LEARNED].items():
        line: dict[str, str | float | None] = {"lambda": f"{weight:g}"}
        for kind, by in rows.items():
            line[kind] = cell(by[weight].interval("validation"), problem.decimals)
        line["share of the error's steps"] = ", ".join(f"{run.shares[:, 0].mean():.2f}" for run in learned.runs)
        line["that of the constant rate"] = f"{rows[CONSTANT][weight].runs[0].shares[:, 0].mean():.2f}"
        found.append(line)
    note = f"{problem.measure} on the validation points of the schedules; shares: of each learned schedule."
    return Tabled(name.capitalize(), found, note)


def _flat(name: str, curves: dict[str, dict[float, Interval]]) -> Verdict:
    spans = {kind: np.ptp([interval.estimate for interval in by.values()]) for kind, by in curves.items()}
    return Verdict(
        claim=f"{name}: under a learned schedule the weight hardly matters",
        criterion="largest less smallest mean of the learned schedule's curve at most a quarter of that of joint "
        "training",
        measured=f"{spans[LEARNED]:.4f} against {spans[JOINT]:.4f}; the constant rate {spans[CONSTANT]:.4f}",
        runs=len(curves[JOINT]),
        passed=bool(spans[LEARNED] <= 0.25 * spans[JOINT]),
    )


def _shares(learned: dict[float, Row]) -> list[Verdict]:
    verdicts = []
    for weight in (known for known in KNOWN if known in learned):
        shares = [float(run.shares[:, 0].mean()) for run in learned[weight].runs]
        wanted = weight / (weight + 0.4)
        verdicts.append(
            Verdict(
                claim=f"regression, lambda {weight:g}: the learned schedule found the rate {wanted:.2f}",
                criterion="mean share of steps on the error, over seeds, within 0.08 of lambda / (lambda + 0.4)",
                measured=", ".join(f"{share:.3f}" for share in shares),
                runs=len(shares),
                passed=abs(float(np.mean(shares)) - wanted) <= 0.08,
            )
        )
    return verdicts
