"""A policy gradient finds the right rate: the regression at lambda = 0.1, from a rate that is far off.

Source: after AutoLoss (Xu et al. 2019), figure 1: there the penalty's weight hardly matters, since the schedule makes
up for it. Under one Adam for both losses, a share p of steps on the error and the weight lambda act as the weight
lambda (1 - p) / p, so the best share is known: lambda / (lambda + 0.4) = 0.2.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from l2o.evaluation.dots import plot_bands
from l2o.evaluation.results import Shown, Tabled
from l2o.evaluation.statistics import Interval
from l2o.evaluation.verdicts import Verdict
from l2o.experiments.autoloss.problems import CAP, Problem, Sizes, regression
from l2o.experiments.autoloss.trials import history, train
from l2o.experiments.study import Study
from l2o.methods.policy_gradient import PolicyGradient
from l2o.sweeps import run_all
from l2o.weights import save

PENALTY, BEST = 0.1, 0.1 / (0.1 + 0.4)
_HALF = CAP * math.atanh(math.log(0.83 / 0.17) / 2 / CAP)
START = (_HALF, -_HALF)
"""Biases under which an untrained controller takes the error's step with probability 0.83, as the prototype did."""


@dataclass(frozen=True)
class Settings:
    """A preset of this experiment.

    Args:
        sizes: of the training.
        seeds: of controllers.
    """

    sizes: Sizes
    seeds: tuple[int, ...]


PRESETS = {
    "smoke": Settings(Sizes(60, 2, 4, 2), (1,)),
    "laptop": Settings(Sizes(3_000, 20, 16, 16), (21, 22, 23)),
    "paper": Settings(Sizes(3_000, 20, 16, 16), tuple(range(21, 31))),
}
"""Recipes that went before, by the shares at the end, all at a meta learning rate of 0.05 or more and without a bound
on the logits: seeds 1 to 3, 0.19, 0.32 and 0.17, two of them after a time at 0; with a bonus on the entropy of 0.01,
the same seeds, 0.29, 0.48 and 0.37, which failed; linear controllers, seed 11, 0.00, which failed. The present one was
chosen on yet other seeds, and is reported on seeds that nothing was chosen by."""


def run(preset: str, results: Path, work: Path) -> None:
    """Runs the preset and writes its results."""
    settings = PRESETS[preset]
    study = Study.of("autoloss/rate", preset, results, work, settings)
    problem = replace(regression(preset, PENALTY), sizes=settings.sizes)
    share, value, seconds = [], [], []
    calls = {f"seed {seed}": partial(_trained, problem, seed, study.folder, study.work) for seed in settings.seeds}
    for found in run_all(calls, title="controllers").values():
        updates = [event for event in found["events"] if event["kind"] == "window"]
        validations = [event for event in found["events"] if event["kind"] == "validation"]
        share.append([event["share of mse"] for event in updates])
        value.append([event["validation"] for event in validations])
        seconds.append(found["seconds"])
    study.seconds = sum(seconds)
    shares = np.array(share)  # [seeds, updates]
    curves = {
        f"controller {seed}": {float(place + 1): _point(value) for place, value in enumerate(row)}
        for seed, row in zip(settings.seeds, share, strict=True)
    }
    curves[f"best, {BEST:g}"] = {float(place + 1): _point(BEST) for place in range(shares.shape[1])}
    title = f"The share of steps on the error, lambda {PENALTY}"
    plot_bands(
        curves,
        path=study.folder / "figure.png",
        title=title,
        xlabel=f"updates of the controller, {settings.sizes.rollouts} runs each",
        ylabel="share of steps on the error",
        xscale="linear",
        note="each line a controller",
    )
    study.figures.append(Shown("figure.png", title, f"{title}, against updates, and the best rate."))
    rows: list[dict[str, str | float | None]] = [
        {
            "seed of the controller": str(seed),
            "share at first": f"{share[place][0]:.3f}",
            "share at last": f"{share[place][-1]:.3f}",
            "validation error before": f"{value[place][0]:.3f}",
            "validation error after": f"{value[place][-1]:.3f}",
            "seconds": f"{seconds[place]:.0f}",
        }
        for place, seed in enumerate(settings.seeds)
    ]
    note = "Shares: of all decisions of an update's runs. Errors: mean best validation error of runs from fresh starts."
    study.tables.append(Tabled("Before and after", rows, note))
    last, after = shares[:, -1], np.array([entry[-1] for entry in value])
    verdicts = [
        Verdict(
            claim="the controller finds the rate",
            criterion="share of steps on the error in the last update between 0.12 and 0.32, for every controller",
            measured=", ".join(f"{entry:.3f}" for entry in last),
            runs=len(settings.seeds),
            passed=bool(((last >= 0.12) & (last <= 0.32)).all()),
        ),
        Verdict(
            claim="models trained under it are good",
            criterion="mean validation error of runs from fresh starts below 4.7 afterwards, for every controller",
            measured=", ".join(f"{entry:.3f}" for entry in after),
            runs=len(settings.seeds),
            passed=bool((after < 4.7).all()),
        ),
    ]
    study.finish(
        verdicts,
        summary=f"A controller that begins with a share of 0.83 of its steps on the error is trained by a policy "
        f"gradient: {settings.sizes.updates} updates of {settings.sizes.rollouts} runs of "
        f"{settings.sizes.steps:,} steps. The best share is known: {BEST:g}.",
        seeds=list(settings.seeds),
    )


def _point(value: float) -> Interval:
    return Interval(value, value, value, 2)


def _trained(problem: Problem, seed: int, folder: Path, work: Path) -> dict[str, Any]:
    """How the training went; resumed if it was stopped, not repeated if it is done."""
    directory = work / f"controller-{seed}"
    found = train(problem, problem.controller(seed, bias=START), PolicyGradient(problem.reward), seed, directory)
    save(found.schedule, folder / "weights" / f"controller-{seed}", found.card)
    return history(directory, found.seconds)
