"""The optimizers that guided policy search is compared with: their constants are tuned on the meta-training task."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from l2o.closure_curves import run_closure_curves
from l2o.curves import Curves, TrueObjective, held, run_curves
from l2o.errors import ArgumentError
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.conjugate_gradient import ConjugateGradient
from l2o.optimizers.handcrafted import SGD, Adagrad, Adam, Momentum, RMSprop
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily

WIDENINGS = 4
"""Learning rates that may be added where the best one is the grid's smallest or largest."""

Runner = Callable[..., Curves]
"""Runs an optimizer on a family's tasks: as `run_curves`, its first argument given."""


def rule(optimizer: LearnedOptimizer) -> Runner:
    """Of an optimizer that sees one gradient a step."""
    return partial(run_curves, optimizer)


def _lbfgs(lr: float, history: int, line_search: Literal["strong_wolfe"] | None) -> Runner:
    made = partial(torch.optim.LBFGS, lr=lr, max_iter=1, history_size=history, line_search_fn=line_search)
    return partial(run_closure_curves, made)


def _conjugate(lr: float, line_search: Literal["armijo"] | None) -> Runner:
    return partial(run_closure_curves, partial(ConjugateGradient, lr=lr, line_search=line_search))


@dataclass(frozen=True)
class Baseline:
    """An optimizer with its variants, each with the learning rates that it is tried with.

    Args:
        variants: name to what makes it from a learning rate.
        grid: ascending.
    """

    variants: Mapping[str, Callable[[float], Runner]]
    grid: Sequence[float]


def _decades(low: float, high: float) -> list[float]:
    """Half decades."""
    return [low * 10 ** (i / 2) for i in range(round(2 * math.log10(high / low)) + 1)]


BASELINES: Mapping[str, Baseline] = {
    "SGD": Baseline({"": lambda lr: rule(SGD(lr))}, _decades(1e-3, 1e1)),
    "momentum": Baseline(
        {f"momentum {m}": lambda lr, m=m: rule(Momentum(lr, momentum=m)) for m in (0.5, 0.9, 0.95, 0.99)},
        _decades(1e-3, 1e1),
    ),
    "conjugate gradient": Baseline(
        {
            "fixed step": lambda lr: _conjugate(lr, None),
            "line search": lambda lr: _conjugate(lr, "armijo"),
        },
        _decades(1e-3, 1e0),
    ),
    "L-BFGS": Baseline(
        {
            f"history {h}, {'line search' if s else 'fixed step'}": lambda lr, h=h, s=s: _lbfgs(lr, h, s)
            for h in (5, 20)
            for s in (None, "strong_wolfe")
        },
        _decades(1e-3, 1e0),
    ),
    "Adam": Baseline(
        {f"beta2 {b}": lambda lr, b=b: rule(Adam(lr, beta2=b)) for b in (0.99, 0.999)}, _decades(1e-4, 1e0)
    ),
    "AdaGrad": Baseline({"": lambda lr: rule(Adagrad(lr))}, _decades(1e-3, 1e1)),
    "RMSprop": Baseline(
        {f"alpha {a}": lambda lr, a=a: rule(RMSprop(lr, alpha=a)) for a in (0.9, 0.99)}, _decades(1e-4, 1e0)
    ),
}


@dataclass(frozen=True)
class Tuned:
    """What tuning found.

    Args:
        variant: its name.
        rate: its learning rate.
        score: mean of the true objective over all recorded steps and runs, held where a run diverges.
        scores: of everything that was tried, `{variant: {rate: score}}`.
        evaluations: gradient and loss evaluations of all of it.
        on_edge: whether the rate is still the smallest or largest tried of its variant.
    """

    variant: str
    rate: float
    score: float
    scores: Mapping[str, Mapping[str, float]]
    evaluations: int
    on_edge: bool


def mean_objective(curves: Curves) -> float:
    """J / (T + 1): the mean of the true objective over recorded steps and runs, held where a run diverges."""
    assert curves.true_losses is not None
    return float(held(curves.true_losses)[0].mean())


def tune(baseline: Baseline, family: TaskFamily, rng: Stream, *, steps: int, true_objective: TrueObjective) -> Tuned:
    """The variant and the learning rate of the lowest mean objective; the grid grows while its edge is best."""
    scores: dict[str, dict[float, float]] = {}
    evaluations = 0

    def measure(variant: str, rate: float) -> None:
        nonlocal evaluations
        curves = baseline.variants[variant](rate)(family, rng, steps=steps, true_objective=true_objective)
        evaluations += len(rng.tasks) * (curves.evaluations + curves.loss_evaluations)
        scores[variant][rate] = mean_objective(curves)

    for variant in baseline.variants:
        scores[variant] = {}
        for rate in baseline.grid:
            measure(variant, rate)
        for _ in range(WIDENINGS):
            rates = sorted(scores[variant])
            best = min(rates, key=lambda rate: scores[variant][rate])
            if best not in (rates[0], rates[-1]):
                break
            measure(variant, best * (rates[1] / rates[0]) ** (1 if best == rates[-1] else -1))
    variant, rate = min(
        ((variant, rate) for variant, tried in scores.items() for rate in tried), key=lambda at: scores[at[0]][at[1]]
    )
    if not math.isfinite(scores[variant][rate]):
        raise ArgumentError(f"every learning rate tried diverges on {family.name}: {scores}")
    return Tuned(
        variant,
        rate,
        scores[variant][rate],
        {name: {f"{value:.6g}": score for value, score in tried.items()} for name, tried in scores.items()},
        evaluations,
        rate in (min(scores[variant]), max(scores[variant])),
    )
