"""Four tasks on digits that share a layer: learned schedules against the balancing of losses.

Source: after the translation experiment of AutoLoss (Xu et al. 2019), whose numbers could not be found; with the
baselines that multi-task learning has today.
"""

import time
from pathlib import Path

import numpy as np

from l2o.evaluation.dots import plot_dots
from l2o.evaluation.results import Shown
from l2o.evaluation.verdicts import Verdict
from l2o.experiments.autoloss.contest import CONSTANT, LEARNED, hold, seconds_of
from l2o.experiments.autoloss.problems import Problem, multitask
from l2o.experiments.autoloss.trials import Row, Runs, Trials
from l2o.experiments.study import Study
from l2o.processes.balancing import (
    Balancing,
    DynamicWeightAverage,
    EqualWeights,
    GradNorm,
    PCGrad,
    RandomLossWeighting,
    UncertaintyWeighting,
)
from l2o.processes.judging import Outcome
from l2o.processes.weighted_losses import balanced_run
from l2o.rng import Stream

BALANCINGS: dict[str, Balancing] = {
    "equal weights": EqualWeights(),
    "uncertainty weighting": UncertaintyWeighting(),
    "GradNorm": GradNorm(),
    "PCGrad": PCGrad(),
    "dynamic weight average": DynamicWeightAverage(),
    "random loss weighting": RandomLossWeighting(),
}


def run(preset: str, results: Path, work: Path) -> None:
    """Four tasks on digits: learned schedules against the balancing of losses."""
    problem, trials = multitask(preset), Trials(preset, results, work)
    study = Study.of("autoloss/mtl", preset, results, work, problem.sizes)
    contest = hold(problem, trials)
    tasks = len(problem.families("model", problem.seed).choices)
    for name, balancing in BALANCINGS.items():
        contest.rows[name] = Row(name, [_balanced(problem, balancing, problem.steps // tasks)])
        longer = f"{name}, {tasks} times the gradients"
        contest.rows[longer] = Row(longer, [_balanced(problem, balancing, problem.steps)])
    every = {name: row.interval("validation") for name, row in contest.rows.items()}
    title = f"{problem.title.capitalize()}: every schedule, and balanced losses"
    plot_dots({"": every}, path=study.folder / "figure.png", title=title, xlabel=problem.measure, bold=LEARNED)
    study.figures.append(Shown("figure.png", title, f"{problem.measure} of each with its 95 % interval."))
    note = f"A step of balanced losses takes {tasks} gradients, a choice one: a quarter of the steps costs as much."
    study.tables.append(contest.table("Schedules and balanced losses", note))
    learned = contest.rows[LEARNED].values("validation")
    found, deviation = float(learned.mean()), float(learned.std(ddof=1))
    others = {name: float(contest.rows[name].values("validation").mean()) for name in ("equal rates", "equal weights")}
    verdicts = [
        Verdict(
            claim="the learned schedule beats equal rates and equal weights",
            criterion="mean validation loss of the digit below the smaller of theirs by more than one standard "
            "deviation of its own trials; otherwise a tie",
            measured=f"{found:.3f} against {', '.join(f'{v:.3f} ({k})' for k, v in others.items())}; deviation "
            f"{deviation:.3f}",
            runs=learned.size,
            passed=found < min(others.values()) - deviation,
        ),
        contest.better(LEARNED, CONSTANT, claim="the learned schedule beats the best constant rate"),
        contest.better(LEARNED, "digit alone", claim="the learned schedule beats training the digit alone"),
    ]
    study.seconds = seconds_of(problem, trials, [contest])
    study.data += problem.families("model", problem.seed).data_notes()
    study.finish(
        verdicts,
        summary="Digit, parity, five or more, and reconstruction share a layer; the digit is labelled in 50 of 200 "
        "images and is what counts.",
        seeds=list(problem.seeds),
    )


def _balanced(problem: Problem, balancing: Balancing, steps: int) -> Runs:
    """Joint training with balanced losses, on the trials of the schedules."""
    begin, family = time.perf_counter(), problem.families("model", problem.seed)
    rng = Stream(problem.seed, ("trial",), tasks=range(problem.trials))
    found = balanced_run(family, balancing, problem.rules, rng, steps=steps)
    losses = len(family.choices)
    spent = np.full(problem.trials, float(steps))
    return Runs(
        metrics={name: leaf.double().numpy() for name, leaf in found.judgement.metrics.items()},
        cost=spent * losses,
        steps=spent,
        shares=np.full((problem.trials, 1), np.nan),
        diverged=(found.outcome >= Outcome.DIVERGED).numpy(),
        curve=np.full((problem.trials, 1), np.nan),
        places=np.zeros(1),
        seconds=time.perf_counter() - begin,
    )
