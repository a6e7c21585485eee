"""The only tables from names on the command line to classes; `module:Name` brings in a user's own."""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from l2o.errors import ArgumentError
from l2o.evaluation.tuning import log_grid
from l2o.experiments import autoloss, guided_policy_search, optimizers_cubed, stronger_baselines
from l2o.experiments.study import BASELINES, Baseline, Experiment
from l2o.methods.base import OptimizerMethod
from l2o.methods.evolution import ES, PES
from l2o.methods.meta_loss import MetaLoss, Objective, Weights
from l2o.methods.self_improving import SelfImproving
from l2o.methods.unrolled import Unrolled
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.dm import L2ODM
from l2o.optimizers.handcrafted import Adagrad
from l2o.optimizers.hierarchical import L2OScale
from l2o.optimizers.mlp import MLPLOpt
from l2o.optimizers.predicted_step import PredictedStep
from l2o.optimizers.rnnprop import RNNprop
from l2o.optimizers.small_fc import SmallFC
from l2o.tasks.base import TaskFamily
from l2o.tasks.conv import ConvClassifier, LeNet, NASCell
from l2o.tasks.data import Dataset, Split, load_dataset
from l2o.tasks.ensembles import scale_core
from l2o.tasks.functions import BenchmarkFunction
from l2o.tasks.mlp import MLPClassifier
from l2o.tasks.projected import ProjectedClassification
from l2o.tasks.quadratic import Quadratics
from l2o.tasks.softmax_regression import SoftmaxRegression
from l2o.tracking import MLflow, TensorBoard, Tracker, WandB

T = TypeVar("T")


def _on_images(network: Callable[..., TaskFamily]) -> Callable[[str, Split], TaskFamily]:
    def family(data: str, split: Split) -> TaskFamily:
        return network(load_dataset(data, split), test=load_dataset(data, "test") if split == "train" else None)

    return family


def _on_training_images(network: Callable[[Dataset], TaskFamily]) -> Callable[[str, Split], TaskFamily]:
    return lambda data, split: network(load_dataset(data, split))


def _without_data(family: Callable[[], TaskFamily]) -> Callable[[str, Split], TaskFamily]:
    return lambda data, split: family()


ON_IMAGES: dict[str, Callable[[str, Split], TaskFamily]] = {
    "mlp": _on_images(MLPClassifier.orig),
    "mlp-relu": _on_images(MLPClassifier.relu),
    "mlp-deeper": _on_images(MLPClassifier.deeper),
    "mlp-40": _on_images(MLPClassifier.wide),
    "conv-mnist": _on_images(ConvClassifier.mnist),
    "conv-cifar": _on_images(ConvClassifier.cifar),
    "lenet": _on_images(LeNet),
    "nas-cifar": _on_images(NASCell),
    "projected": _on_training_images(ProjectedClassification.small),
    "projected-large": _on_training_images(ProjectedClassification.large),
}
"""Tasks on images, from the name of a data set and the split that the optimizee is trained on."""

TASKS: dict[str, Callable[[str, Split], TaskFamily]] = {
    "quadratics": _without_data(Quadratics),
    "quadratics-published": _without_data(Quadratics.published),
    **ON_IMAGES,
    "ackley": _without_data(BenchmarkFunction.ackley),
    "beale": _without_data(BenchmarkFunction.beale),
    "booth": _without_data(BenchmarkFunction.booth),
    "branin": _without_data(BenchmarkFunction.branin),
    "log-sum-exp": _without_data(BenchmarkFunction.log_sum_exp),
    "matyas": _without_data(BenchmarkFunction.matyas),
    "rastrigin": _without_data(BenchmarkFunction.rastrigin),
    "rosenbrock": _without_data(BenchmarkFunction.rosenbrock),
    "styblinski-tang": _without_data(BenchmarkFunction.styblinski_tang),
    "softmax-regression": _without_data(SoftmaxRegression),
    "scale-core": _without_data(scale_core),
}
"""Task families by name; those that are not on images make nothing of the data set and the split."""

LEARNED: dict[str, Callable[[int], LearnedOptimizer]] = {
    "dm": lambda seed: L2ODM.andrychowicz(seed=seed),
    "dm-chen": lambda seed: L2ODM.chen(seed=seed),
    "dm-quadratics": lambda seed: L2ODM.for_quadratics(seed=seed),
    "rnnprop": lambda seed: RNNprop.lv(seed=seed),
    "rnnprop-chen": lambda seed: RNNprop.chen(seed=seed),
    "l2o-scale": lambda seed: L2OScale(seed=seed),
    "predicted-step": lambda seed: PredictedStep(seed=seed),
    "mlp-lopt": lambda seed: MLPLOpt(seed=seed),
    "small-fc": lambda seed: SmallFC(seed=seed),
}
"""Learned optimizers by name, from a seed of their initial meta-parameters."""

METHODS: dict[str, Callable[[Weights, Objective], OptimizerMethod]] = {
    "meta-loss": lambda weights, objective: MetaLoss(weights=weights, objective=objective),
    "unrolled": lambda weights, objective: Unrolled(weights=weights, objective=objective),
    "self-improving": lambda weights, objective: SelfImproving(weights=weights, objective=objective),
    "es": lambda weights, objective: ES(weights=weights, objective=objective),
    "pes": lambda weights, objective: PES(weights=weights, objective=objective),
}
"""Methods by name, from what the meta-loss sums."""

TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": lambda directory, configuration: TensorBoard(directory),
    "mlflow": lambda directory, configuration: MLflow(directory, configuration=configuration),
    "wandb": lambda directory, configuration: WandB(directory, configuration=configuration),
}
"""Trackers by name, from the directory of a run and its options."""

EXPERIMENTS: dict[str, Experiment] = {
    **optimizers_cubed.EXPERIMENTS,
    **stronger_baselines.EXPERIMENTS,
    **autoloss.EXPERIMENTS,
    **guided_policy_search.EXPERIMENTS,
}
"""Experiments by PAPER/EXPERIMENT."""

RULES = {
    **{name.lower(): baseline for name, baseline in BASELINES.items()},
    "adagrad": Baseline(Adagrad, log_grid(2**-9, 2**0, per_octave=2)),
}
"""Hand-designed rules by name, with the grids that they are tuned on."""


def task_family(name: str, data: str, split: Split) -> TaskFamily:
    """A task family by name, or by `module:Name` of a family, or of a class or another callable that makes one."""
    if ":" in name:
        return made(name, TaskFamily)
    return chosen(TASKS, name, "task")(data, split)


def learned_optimizer(name: str, seed: int) -> LearnedOptimizer:
    """A fresh learned optimizer by name, or by `module:Name` of a class whose constructor takes `seed`."""
    if ":" in name:
        return made(name, LearnedOptimizer, seed=seed)
    return chosen(LEARNED, name, "optimizer")(seed)


def chosen(table: Mapping[str, T], name: str, what: str) -> T:
    """The entry of a table; an unknown name is an error that lists the known ones."""
    if name not in table:
        raise ArgumentError(f"there is no {what} {name!r}; choose one of {', '.join(table)}, or module:Name")
    return table[name]


def made(name: str, kind: type[T], **options: int) -> T:
    """What `module:Name` is, where no options are to be given, or what calling it with them gives: an error unless it
    is of the kind."""
    factory = imported(name)
    if not options and isinstance(factory, kind):
        return factory
    try:
        found = factory(**options)
    except TypeError as error:
        raise ArgumentError(f"{name} cannot be called with ({', '.join(options)}): {error}") from error
    if not isinstance(found, kind):
        raise ArgumentError(f"{name} gives a {type(found).__name__}, not a {kind.__name__}")
    return found


def imported(name: str) -> Any:
    """What `module:Name` names; modules in the working directory are found."""
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ArgumentError(f"cannot import {name}: {error}") from error
