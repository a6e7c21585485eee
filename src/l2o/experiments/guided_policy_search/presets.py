"""What the presets of guided policy search set: tasks, the meta-training, and how optimizers are tried."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from l2o.curves import TrueObjective
from l2o.horizons import ConstantHorizon
from l2o.meta_optimizer import MetaAdam
from l2o.methods.guided_policy.alternation import Alternation, BregmanADMM
from l2o.methods.guided_policy.cost import NewtonDecrement
from l2o.methods.guided_policy.features import StateFeatures
from l2o.methods.guided_policy.search import Exploration, Fits, GuidedPolicySearch, Regression, Start
from l2o.optimizers.base import LearnedOptimizer
from l2o.outer_loop import Plan
from l2o.tasks.data import Dataset, blobs, grouped_faces, load_dataset, tfd_surrogate
from l2o.tasks.projected import ProjectedClassification

FACES = "AT&T faces, seven groups of persons"
SURROGATE = "TFD surrogate"


def _training_split(name: str) -> Callable[[], Dataset]:
    return lambda: load_dataset(name, "train")


TRAINING: Mapping[str, tuple[str, Callable[[], Dataset]]] = {
    "smoke": ("blobs", blobs),
    "laptop": ("MNIST", _training_split("mnist")),
    "paper": ("MNIST", _training_split("mnist")),
}
"""The data of the meta-training, by preset."""

TESTING: Mapping[str, Callable[[], Dataset]] = {
    FACES: grouped_faces,
    "CIFAR-10": _training_split("cifar-10"),
    "CIFAR-100": _training_split("cifar-100"),
    SURROGATE: tfd_surrogate,
}
"""The data that no optimizer was trained or tuned on. The paper's Toronto Face Database is not public: the first stands
in for it in the claims, the last, drawn at random, is shown beside it."""

CLAIMED = (FACES, "CIFAR-10", "CIFAR-100")
"""The panels that the paper's claims are judged on."""


@dataclass(frozen=True)
class Settings:
    """A preset.

    Args:
        width: units of the hidden layer of the small network, and its inputs.
        large: inputs and hidden units of the large network.
        steps: horizon of the meta-training.
        tasks: trajectories of an iteration.
        iterations: of the search.
        history: features of the controllers' states.
        coordinates: of each group that models are fitted to, at most.
        examples: that the objective's gradient is a mean over, in the meta-training; None for all.
        hidden: units of the policy's networks.
        regression: how the policy learns.
        window: half width of the windows of all fits, in steps.
        share: of the first multiplier, that the pull between controllers and policy is at first.
        factor: of tuned momentum's steps that the first controller takes.
        policies: meta-training seeds.
        fewer_policies: how many of them figures 2 and 4 show, which take longest; None for all.
        runs: fresh starts of each optimizer on each data set.
        tried: inner steps of a trial, and of the tuning.
        every: the true objective is recorded at every so-many-th step of a trial.
        every_large: the same, of a trial on the large network.
        shown: examples that the recorded objective is a mean over; None for all.
        unrolled: trajectories of the meta-training of the optimizer that is trained by gradient descent.
        tuning_runs: fresh starts that constants are tuned on.
        grid_every: learning rates are tuned on every so-many-th value of the grid.
        seed: of reporting and tuning.
    """

    width: int = 48
    large: tuple[int, int] = (100, 200)
    steps: int = 400
    tasks: int = 12
    iterations: int = 8
    history: tuple[int, int, int] = (5, 6, 5)
    coordinates: int = 64
    examples: int | None = 2_048
    hidden: int = 32
    regression: Regression = field(default_factory=lambda: Regression(passes=2, steps=300))
    window: int = 10
    share: float = 0.01
    factor: float = 1.0
    policies: tuple[int, ...] = (1, 2, 3)
    fewer_policies: int | None = 1
    runs: int = 3
    tried: int = 400
    every: int = 5
    every_large: int = 10
    shown: int | None = 10_000
    unrolled: int = 100
    tuning_runs: int = 3
    grid_every: int = 1
    seed: int = 0


PRESETS = {
    "smoke": Settings(
        width=16,
        large=(16, 24),
        steps=30,
        tasks=6,
        iterations=2,
        history=(2, 4, 2),
        examples=256,
        hidden=8,
        regression=Regression(passes=1, steps=10, pairs=64),
        policies=(1,),
        runs=2,
        tried=30,
        every=5,
        every_large=5,
        shown=256,
        unrolled=2,
        tuning_runs=1,
        grid_every=4,
    ),
    "laptop": Settings(),
    "paper": Settings(
        steps=400,
        tasks=20,
        iterations=12,
        history=(25, 26, 25),
        coordinates=128,
        examples=None,
        hidden=128,
        regression=Regression(),
        fewer_policies=None,
        runs=10,
        every=1,
        every_large=1,
        shown=None,
        unrolled=200,
    ),
}


def testing(preset: str) -> Mapping[str, Callable[[], Dataset]]:
    """The data sets of the figures; the preset smoke takes those that are made rather than read."""
    return {"blobs": blobs, SURROGATE: tfd_surrogate} if preset == "smoke" else TESTING


@cache
def family(preset: str, data: str, *, large: bool = False, batch: int = 64) -> ProjectedClassification:
    """The small or the large network on a data set, by name."""
    settings = PRESETS[preset]
    made = dict([TRAINING[preset]]) | dict(testing(preset))
    dimensions, hidden = settings.large if large else (settings.width, settings.width)
    return ProjectedClassification(made[data](), dimensions=dimensions, hidden=hidden, batch=batch)


def training_family(preset: str) -> ProjectedClassification:
    """What is meta-trained and tuned on."""
    return family(preset, TRAINING[preset][0])


def true_objective(preset: str, tried: ProjectedClassification, *, large: bool = False) -> TrueObjective:
    """How trials on a family are recorded; small data sets are taken whole."""
    settings = PRESETS[preset]
    every = settings.every_large if large else settings.every
    whole = settings.shown is None or settings.shown >= len(tried.train.labels)
    return TrueObjective(every, None if whole else settings.shown)


def search(
    preset: str,
    start: LearnedOptimizer,
    *,
    alternation: Alternation | None = None,
    jitter: float = 0.3,
    position: bool = False,
    regression: Regression | None = None,
    **fits: Any,
) -> GuidedPolicySearch:
    """The search of a preset, or of an ablation of it; further arguments are those of `Fits`."""
    settings = PRESETS[preset]
    return GuidedPolicySearch(
        features=StateFeatures(settings.history, position=position),
        alternation=alternation or BregmanADMM(share=settings.share),
        exploration=Exploration(jitter=jitter, coordinates=settings.coordinates, examples=settings.examples),
        fits=Fits(**{"cost": NewtonDecrement(settings.window), "window": settings.window} | fits),
        regression=regression or settings.regression,
        start=Start(start, factor=settings.factor),
    )


def plan(preset: str, seed: int) -> Plan:
    """The plan of the search: a trajectory is an iteration, and all its steps are one window."""
    settings = PRESETS[preset]
    rate = 5e-3 if settings.hidden < 128 else 1e-3
    return Plan(
        trajectories=settings.iterations,
        tasks=settings.tasks,
        horizon=ConstantHorizon(settings.steps, settings.steps),
        meta_optimizer=MetaAdam(rate, rate / 10, clip=1.0),
        validate_every=1,
        validation_tasks=settings.tasks,
        validation_last=settings.steps,
        checkpoint_every=1,
        seed=seed,
    )
