"""Figure 0, which the paper does not have: the task of the meta-training itself, and how the search went.

What the policy cannot do where it was trained, it will not do elsewhere: figures 1 to 5 are worth as much as this one.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from l2o.evaluation.dots import plot_bands
from l2o.evaluation.results import Shown, Tabled
from l2o.evaluation.statistics import Interval, crossed_bootstrap
from l2o.evaluation.tables import in_words
from l2o.evaluation.verdicts import Verdict
from l2o.experiments.guided_policy_search.baselines import BASELINES
from l2o.experiments.guided_policy_search.figures import EVERYONE
from l2o.experiments.guided_policy_search.presets import TRAINING, plan, search, training_family
from l2o.experiments.guided_policy_search.shared import POLICY, Panel, Shared, Trials
from l2o.experiments.study import Study, slug
from l2o.methods.guided_policy.alternation import BregmanADMM
from l2o.methods.guided_policy.cost import GradientFeature, Taylor
from l2o.methods.guided_policy.features import StateFeatures
from l2o.methods.guided_policy.search import GuidedPolicySearch, Regression
from l2o.optimizers.handcrafted import Adagrad
from l2o.optimizers.predicted_step import PredictedStep
from l2o.sweeps import run_all

BRIEF, ALONE = Regression(passes=1, steps=1), BregmanADMM(share=1e-12)
"""For what is about controllers alone: nothing pulls them to a policy."""

MODELS = "Newton decrement, jitter 0.3"
"""The search as it is, but that gains are left to the models; so are those of the next ones."""

FUTILE = ("no jitter", "Taylor's cost")
"""Those of which the specification says that they do not improve."""

FROM_ADAGRAD = "from AdaGrad's steps"
"""From the baseline that was best on the task of the meta-training instead of momentum."""

BOTH, BOTH_FROM_ADAGRAD = "gains by trial", "gains by trial, from AdaGrad's steps"
"""The search as it is, from either start."""

GAINS = "gains by trial alone"
"""Without a trust region worth the name: what the models propose is nothing new."""


def run(preset: str, results: Path, work: Path) -> None:
    """Runs the preset and writes its results."""
    shared = Shared(preset, results, work)
    settings = shared.settings
    study = Study.of("guided-policy-search/fig0", preset, results, work, settings)
    panel = Panel(TRAINING[preset][0], steps=settings.tried)
    trials = shared.panel(EVERYONE, panel)
    title = f"{panel.data}, the task of the meta-training"
    plot_bands(
        {name: found.band() for name, found in trials.items()},
        path=study.folder / "figure.png",
        title=title,
        xlabel="step",
        ylabel="true objective",
        xscale="linear",
        yscale="log",
    )
    study.figures.append(Shown("figure.png", title, f"{title}: objective against steps of nine optimizers."))
    histories = {seed: shared.history(f"policy-{seed}") for seed in settings.policies}
    _draw_search(study, histories)
    ablations = _ablations(shared)
    best = min(BASELINES, key=lambda name: float(trials[name].area.mean()))
    study.tables += [_trial_table(trials), _search_table(histories), _ablation_table(ablations)]
    verdicts = [
        _below(trials, "momentum", "expected: the policy is faster than tuned momentum"),
        _below(trials, "Adam", "hoped: the policy is faster than tuned Adam"),
        _below(trials, best, "beyond: the policy is faster than the best of the tuned baselines"),
        *[_improves(name, found) for name, found in ablations.items()],
        _further(ablations, MODELS, "gains by trial go further than the models alone"),
        _further(ablations, GAINS, "the models go further than gains by trial alone"),
    ]
    study.data += training_family(preset).data_notes()
    study.seconds = sum(found.seconds for found in trials.values())
    study.seconds += sum(history["seconds"] for history in [*histories.values(), *ablations.values()])
    study.finish(
        verdicts,
        summary=f"{settings.iterations} iterations of {settings.tasks} trajectories of {settings.steps} steps; trials "
        f"of {settings.tried} steps, from starts that the search has not seen.",
        seeds=settings.policies,
    )


def _below(trials: Mapping[str, Trials], other: str, claim: str) -> Verdict:
    interval = crossed_bootstrap(trials[POLICY].area, trials[other].area)
    return Verdict(
        claim=claim,
        criterion=f"95 % interval of the difference from {other} in the mean true objective over all steps "
        "(meta-training seeds and starts resampled) lies below 0",
        measured=interval.estimate,
        runs=trials[POLICY].area.size,
        passed=interval.high < 0,
        interval=(interval.low, interval.high),
    )


def _ablations(shared: Shared) -> dict[str, dict[str, Any]]:
    """Searches of controllers alone, by name."""
    preset, momentum = shared.preset, shared.momentum
    newest = StateFeatures(shared.settings.history).gradients.start
    alone = partial(search, preset, alternation=ALONE, regression=BRIEF)
    models = partial(alone, widest=10.0, gains=None)  # a narrower trust region holds them back
    adagrad = Adagrad(shared.tuned("AdaGrad").rate)
    methods: dict[str, GuidedPolicySearch] = {
        MODELS: models(momentum),
        "no jitter": models(momentum, jitter=0.0),
        "Taylor's cost": models(momentum, cost=Taylor(0), position=True),
        "gradient's feature as cost": models(momentum, cost=GradientFeature(newest)),
        FROM_ADAGRAD: models(adagrad),
        BOTH: alone(momentum),
        GAINS: alone(momentum, trust=1e-6),
        BOTH_FROM_ADAGRAD: alone(adagrad),
    }
    files = {name: f"ablation-{slug(name)}" for name in methods}
    made = replace(plan(shared.preset, 1), validate_every=shared.settings.iterations)
    calls = {
        name: partial(shared.trained, files[name], PredictedStep(hidden=4, seed=1), method, made)
        for name, method in methods.items()
    }
    run_all(calls, title="ablations")
    return {name: shared.history(file) for name, file in files.items()}


def _values(history: Mapping[str, Any]) -> list[float]:
    """The mean objective under the controllers: of the first one, and after each iteration."""
    judged = [event for event in history["iterations"] if event["kind"] == "window" and "value" in event]
    return [event["value"] for event in judged]


def _improves(name: str, history: Mapping[str, Any]) -> Verdict:
    values, expected = _values(history), name not in FUTILE
    ratio = values[-1] / values[0]
    return Verdict(
        claim=f"controllers {'improve' if expected else 'do not improve'}: {name}",
        criterion="mean loss under the last controller, by that under the first (each on its iteration's tasks), "
        + ("at most 0.95" if expected else "above 0.95"),
        measured=ratio,
        runs=len(values),
        passed=(ratio <= 0.95) == expected,
    )


def _further(ablations: Mapping[str, Mapping[str, Any]], other: str, claim: str) -> Verdict:
    ratio = _values(ablations[BOTH])[-1] / _values(ablations[other])[-1]
    return Verdict(
        claim=claim,
        criterion="mean loss under the last controllers of both, on the same tasks, by that without: at most 0.99",
        measured=ratio,
        runs=2,
        passed=ratio <= 0.99,
    )


def _draw_search(study: Study, histories: Mapping[int, Mapping[str, Any]]) -> None:
    controllers = np.array([_values(history) for history in histories.values()])  # [seeds, iterations + 1]
    policies = np.array([_validations(history) for history in histories.values()])
    divergences = np.array([_divergences(history) for history in histories.values()])

    def band(values: np.ndarray, begin: int) -> dict[float, Interval]:
        return {float(begin + place): crossed_bootstrap(column[:, None]) for place, column in enumerate(values.T)}

    title = "The search: mean loss under controllers and policy"
    plot_bands(
        {"controllers": band(controllers, 0), "policy, on validation tasks": band(policies, 1)},
        path=study.folder / "search.png",
        title=title,
        xlabel="iteration",
        ylabel="mean loss over the horizon",
        xscale="linear",
    )
    study.figures.append(Shown("search.png", title, "Mean loss under controllers and under the policy, by iteration."))
    title = "The search: how far the policy is from the controllers"
    plot_bands(
        {"divergence": band(divergences, 1)},
        path=study.folder / "divergence.png",
        title=title,
        xlabel="iteration",
        ylabel="KL(controller, policy), nats per step and coordinate",
        xscale="linear",
    )
    study.figures.append(Shown("divergence.png", title, "Divergence of the policy from the controllers, by iteration."))


def _validations(history: Mapping[str, Any]) -> list[float]:
    """Of the policy after each iteration; the untrained one is left out."""
    return [event["value"] for event in history["iterations"] if event["kind"] == "validation"][1:]


def _divergences(history: Mapping[str, Any]) -> list[float]:
    judged = [event for event in history["iterations"] if event["kind"] == "window" and "accepted" in event]
    return [event["policy_kl"] for event in judged]


def _trial_table(trials: Mapping[str, Trials]) -> Tabled:
    rows: list[dict[str, str | float | None]] = [
        {
            "optimizer": name,
            "mean over steps": in_words(crossed_bootstrap(found.area)),
            "at the end": in_words(crossed_bootstrap(found.final)),
            "diverged": f"{int(found.diverged.sum())} of {found.diverged.size}",
        }
        for name, found in sorted(trials.items(), key=lambda entry: float(entry[1].area.mean()))
    ]
    return Tabled("Trials on the task of the meta-training", rows, "True objective, with 95 % intervals.")


def _search_table(histories: Mapping[int, Mapping[str, Any]]) -> Tabled:
    rows: list[dict[str, str | float | None]] = []
    for seed, history in histories.items():
        values, policies = _values(history), _validations(history)
        accepted = [event["accepted"] for event in history["iterations"] if "accepted" in event]
        rows.append(
            {
                "seed": str(seed),
                "controllers, first to last": f"{values[0]:.4f} to {values[-1]:.4f}",
                "policy, first to best": f"{policies[0]:.4f} to {min(policies):.4f}",
                "accepted": f"{int(sum(accepted))} of {len(accepted)}",
                "minutes": round(history["seconds"] / 60, 1),
            }
        )
    note = (
        "Mean loss over the horizon, on minibatches. Each iteration has tasks of its own; the policy is validated on "
    )
    return Tabled("The search", rows, note + "always the same ones.")


def _ablation_table(ablations: Mapping[str, Mapping[str, Any]]) -> Tabled:
    rows: list[dict[str, str | float | None]] = [
        {
            "search": name,
            **{f"iteration {place}": f"{value:.4f}" for place, value in enumerate(_values(history))},
            "accepted": f"{int(sum(e['accepted'] for e in history['iterations'] if 'accepted' in e))}",
        }
        for name, history in ablations.items()
    ]
    note = (
        "Mean loss under the controllers; nothing pulls them to a policy. The first five leave gains to the models. "
        "Accepted: iterations whose proposed controllers were better."
    )
    return Tabled("Controllers alone", rows, note)
