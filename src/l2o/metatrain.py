"""Meta-trains a learned optimizer on a task family with any method."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from l2o import outer_loop
from l2o.errors import ArgumentError
from l2o.events import Listener
from l2o.methods.base import OptimizerMethod
from l2o.optimizers.base import LearnedOptimizer
from l2o.outer_loop import Finished, Plan
from l2o.ranks import ALONE, Ranks
from l2o.sources import Optimizees
from l2o.tasks.base import TaskFamily


@dataclass(frozen=True)
class MetaTrained(Finished):
    """What a meta-training gives.

    Args:
        optimizer: the one that was passed in, with the best meta-parameters found; save it with
            `l2o.save(trained.optimizer, path, trained.card)`.

    Example:
        >>> import l2o
        >>> plan = l2o.Plan(trajectories=2, horizon=l2o.ConstantHorizon(10, 5), validation_tasks=2, validation_last=1)
        >>> trained = l2o.metatrain(l2o.RNNprop.lv(), l2o.Quadratics(2), l2o.MetaLoss(), plan)
        >>> trained.best.value <= trained.validations[0].value, trained.optimizer.horizon
        (True, 10)
    """

    optimizer: LearnedOptimizer


def metatrain(
    optimizer: LearnedOptimizer,
    family: TaskFamily,
    method: OptimizerMethod,
    plan: Plan,
    *,
    validation_family: TaskFamily | None = None,
    directory: Path | None = None,
    listeners: Sequence[Listener] = (),
    keep_every: int | None = None,
    accept_changed_environment: bool = False,
    ranks: Ranks = ALONE,
) -> MetaTrained:
    """Meta-trains `optimizer` in place and leaves it with the meta-parameters of the best validation.

    With a `directory`, the run is checkpointed there (`checkpoint.safetensors`) and logged (`events.jsonl`); called
    again with the same arguments it goes on where the checkpoint was taken, and the end is bit for bit that of an
    uninterrupted run. SIGINT and SIGTERM end it cleanly at the next window, with a checkpoint.

    Several processes that call it alike, each with its `ranks`, share the tasks: each runs its part of every trajectory
    and every validation, the meta-gradient is the mean over all tasks, and all end with the same meta-parameters.

    Args:
        optimizer: what is trained; must have meta-parameters.
        family: where tasks come from.
        method: how meta-gradients are got.
        plan: everything else.
        validation_family: where the tasks of validations come from; by default `family`. Pass the family itself where
            training draws from a wrapped one: a validation is to measure what is wanted, not what is practised on.
        directory: where checkpoints and events go; None to keep nothing.
        listeners: who else is told of events.
        keep_every: every so many trajectories are a part of the run, and the best validation of each part, by itself,
            is kept as weights `best-TRAJECTORIES.safetensors` in the directory, named after the part's end; None to
            keep nothing but the best of all. Meant for a horizon of one stage.
        accept_changed_environment: resume although the number of threads or processes, the torch version or the back
            end changed; the result then differs in its last bits, and an event "environment" says what changed.
        ranks: of several processes, from `joined`; one that is alone by default. The first of them alone writes to the
            directory and has listeners.

    Raises:
        ArgumentError: optimizer, family, method and plan do not fit each other; nothing has run yet.
        ArgumentError: a validation meets a negative loss, and `plan.validation_measure` is "log-ratio".
        DivergedError: `plan.patience` windows in a row had no finite meta-gradient.
        CheckpointError: the directory holds the checkpoint of another run, a damaged one, or one of a run that kept
            other parts.
        InUseError: another run is at work in the directory.
        RankError: another process failed or was lost.

    Example:
        >>> import l2o
        >>> horizon = l2o.ConstantHorizon(steps=10, window=5)
        >>> plan = Plan(trajectories=2, tasks=4, horizon=horizon, validation_tasks=2, validation_last=1)
        >>> trained = metatrain(l2o.RNNprop.lv(), l2o.Quadratics(2), l2o.MetaLoss(), plan)
        >>> [validation.trajectory for validation in trained.validations], trained.finished
        ([0, 2], True)
    """
    source = Optimizees(family, validation_family, last=plan.validation_last, measure=plan.validation_measure)
    _check_fit(optimizer, source, method, plan)
    finished = outer_loop.run(
        optimizer,
        source,
        method,
        plan,
        directory=directory,
        listeners=listeners,
        keep_every=keep_every,
        accept_changed_environment=accept_changed_environment,
        ranks=ranks,
    )
    return MetaTrained(**vars(finished), optimizer=optimizer)


def _check_fit(optimizer: LearnedOptimizer, source: Optimizees, method: OptimizerMethod, plan: Plan) -> None:
    """An error if what is put together does not fit."""
    method.check(plan.horizon)
    readers = {f"method {method.name!r}": method.reads, f"learned optimizer {optimizer.name}": optimizer.reads}
    readers |= {who: rule.reads for who, rule in method.companions().items()}
    for who, reads in readers.items():
        _check_offer(source.family, who, reads)
    _check_offer(source.validation_family, f"learned optimizer {optimizer.name}", optimizer.reads)


def _check_offer(family: TaskFamily, who: str, reads: frozenset[str]) -> None:
    if lacking := reads - family.offers:
        raise ArgumentError(
            f"{who} reads {', '.join(sorted(lacking))} of a task, and {family.name} offers "
            f"{', '.join(sorted(family.offers)) or 'nothing'}; take one that reads less, or a family that offers more"
        )
