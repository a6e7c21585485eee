"""Trains a schedule on a problem with several losses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from l2o import outer_loop
from l2o.errors import ArgumentError
from l2o.events import Listener
from l2o.methods.base import Method
from l2o.outer_loop import Finished, Plan
from l2o.processes.replicated_losses import ReplicatedLosses, Settings
from l2o.ranks import ALONE, Ranks
from l2o.schedules.base import Execution
from l2o.schedules.controllers import Controller
from l2o.schedules.rewards import LogReward, Reward
from l2o.sources import ScheduledRuns
from l2o.tasks.alternate import AlternateFamily


@dataclass(frozen=True)
class TrainedSchedule(Finished):
    """What the training of a schedule gives.

    Args:
        schedule: the one that was passed in, with the best meta-parameters found; save it with
            `l2o.save(trained.schedule, path, trained.card)`.

    Example:
        >>> import l2o
        >>> family = l2o.QuadraticRegression(0.4)
        >>> controller = Controller(l2o.MeasureFeatures(["progress"]), choices=2)
        >>> settings, horizon = Settings({"model": l2o.Adam(1e-3)}), l2o.ConstantHorizon(6, 6)
        >>> plan = Plan(trajectories=1, tasks=2, horizon=horizon, validation_tasks=1, validation_last=1)
        >>> trained = train_schedule(controller, family, settings, l2o.PolicyGradient(), plan)
        >>> trained.schedule.name, trained.best.value <= trained.validations[0].value
        ('controller', True)
    """

    schedule: Controller


def train_schedule(
    schedule: Controller,
    family: AlternateFamily,
    settings: Settings,
    method: Method[Controller, ReplicatedLosses],
    plan: Plan,
    *,
    reward: Reward | None = None,
    execution: Execution = "sample",
    validation_family: AlternateFamily | None = None,
    directory: Path | None = None,
    listeners: Sequence[Listener] = (),
    keep_every: int | None = None,
    accept_changed_environment: bool = False,
    ranks: Ranks = ALONE,
) -> TrainedSchedule:
    """Trains `schedule` in place and leaves it with the meta-parameters of the best validation.

    It is the meta-training of `metatrain`, with the same checkpoints, events and exact resumption, where a trajectory
    is an episode: `plan.tasks` runs of `plan.horizon` choices each. The value of a validation is minus the mean reward
    of its runs.

    Args:
        schedule: what is trained.
        family: where the problems come from.
        settings: how choices become updates. `Settings(common=True)` is worth it: rewards then differ by decisions
            alone, and the policy gradient has that much less noise.
        method: how meta-gradients are got: `PolicyGradient` or `PPO`.
        plan: everything else.
        reward: what a validation's run is worth; `LogReward()` by default.
        execution: how the schedule's distribution becomes decisions in validations.
        validation_family: where the problems of validations come from; by default `family`.
        directory: where checkpoints and events go; None to keep nothing.
        listeners: who else is told of events.
        keep_every: every so many episodes the best weights of a part of the run are kept, as `metatrain` keeps them.
        accept_changed_environment: resume although the number of threads or the torch version changed.
        ranks: of several processes: refused, for no method for schedules shares its runs.

    Raises:
        ArgumentError: schedule, family, method and plan do not fit each other; nothing has run yet.
        DivergedError: `plan.patience` windows in a row had no finite meta-gradient.
        CheckpointError: the directory holds the checkpoint of another run, or a damaged one.
        InUseError: another run is at work in the directory.

    Example:
        >>> import l2o
        >>> family = l2o.QuadraticRegression(0.4)
        >>> features = l2o.RobustFeatures(family.pairs, family.loss_names, family.goal.metric)
        >>> horizon = l2o.ConstantHorizon(6, 6)
        >>> plan = Plan(trajectories=2, tasks=2, horizon=horizon, validation_tasks=1, validation_last=1)
        >>> settings = Settings({"model": l2o.Adam(1e-3)}, common=True)
        >>> trained = train_schedule(Controller(features, choices=2), family, settings, l2o.PolicyGradient(), plan)
        >>> [validation.trajectory for validation in trained.validations]
        [0, 2]
    """
    if schedule.choices != len(family.choices):
        raise ArgumentError(
            f"the schedule decides among {schedule.choices} choices, and {family.name} has {len(family.choices)}: "
            f"{', '.join(choice.name for choice in family.choices)}"
        )
    method.check(plan.horizon)
    source = ScheduledRuns(
        family,
        settings,
        reward=LogReward() if reward is None else reward,
        execution=execution,
        validation_family=validation_family,
    )
    finished = outer_loop.run(
        schedule,
        source,
        method,
        plan,
        directory=directory,
        listeners=listeners,
        keep_every=keep_every,
        accept_changed_environment=accept_changed_environment,
        ranks=ranks,
    )
    return TrainedSchedule(**vars(finished), schedule=schedule)
