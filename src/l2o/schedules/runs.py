"""Lets a schedule drive runs of a problem with several losses, and keeps what happened."""

from dataclasses import dataclass

import torch
from torch import Tensor

from l2o import trees
from l2o.processes.judging import Outcome
from l2o.processes.replicated_losses import ReplicatedLosses, Settings
from l2o.rng import Stream
from l2o.schedules.base import Execution, Schedule, ScheduleDrives
from l2o.tasks.alternate import AlternateFamily
from l2o.trees import Tree


@dataclass(frozen=True, eq=False)
class ScheduledRun:
    """What a batch of runs under one schedule did.

    Args:
        process: after its last step: `process.judgement` has the metrics that count, `process.outcome` how it ended.
        choices: `[tasks, steps]`, what was chosen, counted from 0; -1 for a run that had ended.
        metrics: each `[tasks, validations]`, the first at the start.
        validated_at: the step of each validation.
    """

    process: ReplicatedLosses
    choices: Tensor
    metrics: Tree
    validated_at: list[int]

    @property
    def judged(self) -> Tree:
        """The metrics that count for each run, each `[tasks]`."""
        return self.process.judgement.metrics

    def shares(self) -> Tensor:
        """How often each run took each choice, `[tasks, choices]`."""
        counts = torch.stack([(self.choices == k).sum(1) for k in range(len(self.process.family.choices))], dim=1)
        return counts / counts.sum(1, keepdim=True).clamp(min=1)


@torch.no_grad()
def run_schedule(
    schedule: Schedule,
    family: AlternateFamily,
    settings: Settings,
    rng: Stream,
    *,
    steps: int,
    execution: Execution = "sample",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ScheduledRun:
    """Runs the tasks of the stream under a schedule, for `steps` choices or until all have ended.

    Two schedules that are given the same stream meet the same starts and minibatches, so that they can be compared in
    pairs.

    Example:
        >>> from l2o import Adam, InTurn, QuadraticRegression
        >>> settings = Settings({"model": Adam(1e-3)})
        >>> stream = Stream(0, tasks=range(2))
        >>> run = run_schedule(InTurn.ratio(1, 3), QuadraticRegression(0.4), settings, stream, steps=8)
        >>> run.shares().tolist(), sorted(run.judged)
        ([[0.25, 0.75], [0.25, 0.75]], ['test', 'validation'])
    """
    process = ReplicatedLosses.start(family, settings, rng, steps=steps, device=device, dtype=dtype)
    driver = ScheduleDrives(schedule, rng, execution)
    states = driver.begin()
    metrics, validated_at, choices = [process.metrics()], [0], []
    for step in range(1, steps + 1):
        alive = process.alive
        if not bool(alive.any()):
            break
        action, moved = driver(process.observe()[0], states)
        states = {name: trees.where_tasks(alive, state, states[name]) for name, state in moved.items()}
        process = process.apply(action)
        choices.append(torch.where(alive, action["choice"], -1))
        if step % settings.validate_every == 0 or step == steps:
            metrics.append(process.metrics())
            validated_at.append(step)
    return ScheduledRun(
        process,
        torch.stack(choices, dim=1) if choices else torch.zeros(len(rng.tasks), 0, dtype=torch.int64),
        {name: torch.stack([entry[name] for entry in metrics], dim=1) for name in metrics[0]},
        validated_at,
    )


def outcomes(process: ReplicatedLosses) -> dict[str, float]:
    """The share of runs that diverged, and of those that collapsed."""
    return {
        kind.name.lower(): float((process.outcome == kind).double().mean())
        for kind in (Outcome.DIVERGED, Outcome.COLLAPSED)
    }
