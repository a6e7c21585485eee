"""Learned optimizers from their weights files."""

from collections.abc import Mapping
from pathlib import Path

from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.dm import L2ODM
from l2o.optimizers.handcrafted import SGD, Adagrad, Adam, Momentum, Nesterov, RMSprop
from l2o.optimizers.hierarchical import L2OScale
from l2o.optimizers.mlp import MLPLOpt
from l2o.optimizers.predicted_step import PredictedStep
from l2o.optimizers.rnnprop import RNNprop
from l2o.optimizers.small_fc import SmallFC
from l2o.weights import rebuild

Architectures = Mapping[str, type[LearnedOptimizer]]

ARCHITECTURES: Architectures = {
    kind.__name__: kind
    for kind in (
        L2ODM,
        RNNprop,
        L2OScale,
        PredictedStep,
        MLPLOpt,
        SmallFC,
        SGD,
        Momentum,
        Nesterov,
        RMSprop,
        Adam,
        Adagrad,
    )
}
"""The classes that a weights file may name."""


def load(
    source: str | Path, *, revision: str | None = None, architectures: Architectures = ARCHITECTURES
) -> LearnedOptimizer:
    """Loads a learned optimizer from a weights file or a repository, or a shipped one by name (`shipped()` lists them).

    Args:
        source: path of a `.safetensors` file, folder of a repository, name of shipped weights, or user/name of a
            repository of the Hugging Face Hub (needs the extra `hub`).
        revision: of a repository of the Hub: a commit, tag or branch; None takes the newest commit, and logs which.
        architectures: classes that the file may name; add your own as `ARCHITECTURES | {"Mine": Mine}`.

    Raises:
        WeightsError: the file or its card is missing, truncated, altered, foreign, or names an unknown class; or the
            repository cannot be had, is not of l2o, or of a newer one.
        UnsupportedError: a repository of the Hub is asked for, and the extra is missing.

    Example:
        >>> import l2o, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = l2o.save(l2o.L2ODM(), f"{folder}/fresh")
        ...     l2o.load(f"{folder}/fresh.safetensors").name
        'L2O-DM'
    """
    return rebuild(source, architectures, revision=revision)
