"""Schedules trained and tried, each once, and kept for all figures and tables that show them."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from l2o import checkpoint
from l2o.errors import CheckpointError, InterruptedRunError
from l2o.evaluation.statistics import Array, Interval, crossed_bootstrap
from l2o.experiments.autoloss.problems import Problem
from l2o.methods.policy_gradient import PolicyGradient
from l2o.processes.judging import Outcome
from l2o.progress import ProgressBar
from l2o.rng import Stream
from l2o.schedules.architectures import load_schedule
from l2o.schedules.base import Schedule
from l2o.schedules.controllers import Controller
from l2o.schedules.runs import ScheduledRun, run_schedule
from l2o.sweeps import run_all
from l2o.tasks.alternate import AlternateFamily
from l2o.tasks.splits import Purpose
from l2o.train_schedule import TrainedSchedule, train_schedule
from l2o.weights import save

_KIND = "scheduled runs"


@dataclass(frozen=True, eq=False)
class Runs:
    """What one schedule did in a problem's trials.

    Args:
        metrics: at the validation that counts, each `[trials]`.
        cost: of each run, `[trials]`.
        steps: choices of each run until it ended, `[trials]`.
        shares: of each choice, `[trials, choices]`.
        diverged: `[trials]` bool; a run that collapsed counts.
        curve: the goal's metric at each validation, `[trials, validations]`.
        places: the step of each validation.
        seconds: wall time.
        decisions: of a controller, `[trials, steps]` int8, -1 after the end of a run; None for any other schedule.
    """

    metrics: Mapping[str, Array]
    cost: Array
    steps: Array
    shares: Array
    diverged: Array
    curve: Array
    places: Array
    seconds: float
    decisions: Array | None = None

    @classmethod
    def of(cls, ran: ScheduledRun, seconds: float, *, decisions: bool) -> "Runs":
        """The part of a run that is kept, its decisions if they are wanted."""
        goal = ran.process.family.goal.metric
        return cls(
            metrics={name: leaf.double().numpy() for name, leaf in ran.judged.items()},
            cost=ran.process.measures["cost"].double().numpy(),
            steps=(ran.choices >= 0).sum(1).double().numpy(),
            shares=ran.shares().double().numpy(),
            diverged=(ran.process.outcome >= Outcome.DIVERGED).numpy(),
            curve=ran.metrics[goal].double().numpy(),
            places=np.array(ran.validated_at, dtype=np.float64),
            seconds=seconds,
            decisions=ran.choices.to(torch.int8).numpy() if decisions else None,
        )

    def save(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Writes everything to one file."""
        arrays = {f"metrics/{name}": values for name, values in self.metrics.items()}
        arrays |= {name: getattr(self, name) for name in ("cost", "steps", "shares", "diverged", "curve", "places")}
        if self.decisions is not None:
            arrays["decisions"] = self.decisions
        leaves = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}
        checkpoint.write(path, leaves, {"identity": identity, "seconds": self.seconds}, kind=_KIND)

    @classmethod
    def load(cls, path: Path, identity: Mapping[str, Any]) -> "Runs | None":
        """Reads what `save` wrote; None if it is of other runs, or not there."""
        if not path.exists():
            return None
        leaves, about = checkpoint.read(path, kind=_KIND)
        if about["identity"] != json.loads(json.dumps(identity)):
            return None
        arrays = {name: leaf.numpy() for name, leaf in leaves.items()}
        metrics = {name.removeprefix("metrics/"): values for name, values in arrays.items() if "/" in name}
        plain = {name: values for name, values in arrays.items() if "/" not in name}
        return cls(metrics=metrics, seconds=about["seconds"], **plain)


@dataclass(frozen=True)
class Row:
    """A line of a contest: what one schedule did, from one or several seeds of it.

    Args:
        name: in tables.
        runs: for each seed; one for schedules that have none.
        spent: runs that went into finding it.
    """

    name: str
    runs: Sequence[Runs]
    spent: int = 0

    def values(self, metric: str, *, price: float = 0.0) -> Array:
        """A metric, with the price of what was spent, `[seeds, trials]`."""
        return np.stack([run.metrics[metric] + price * run.cost for run in self.runs])

    def stacked(self, name: str) -> Array:
        """Any of the arrays, `[seeds, trials, ...]`."""
        return np.stack([getattr(run, name) for run in self.runs])

    def interval(self, metric: str, *, price: float = 0.0) -> Interval:
        """The mean over seeds and trials, with its 95 % interval."""
        return crossed_bootstrap(self.values(metric, price=price))

    def above(self, other: "Row", metric: str, *, price: float = 0.0) -> Interval:
        """The mean difference from another schedule, trial by trial, with its 95 % interval."""
        return crossed_bootstrap(self.values(metric, price=price), other.values(metric, price=price))


class Trials:
    """The trained schedules and the trials of one preset.

    Args:
        preset: "smoke", "laptop" or "paper".
        results: folder of all results.
        work: folder of all checkpoints.
    """

    def __init__(self, preset: str, results: Path, work: Path, *, console: Console | None = None) -> None:
        self.preset = preset
        self._results, self._work = results, work
        self.folder = results / "autoloss" / "shared" / preset
        self.work = work / "autoloss" / "shared" / preset
        self.console = console or Console()

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to a worker, it makes a console of its own there."""
        return Trials, (self.preset, self._results, self._work)

    @cached_property
    def untrained_seeds(self) -> Sequence[int]:
        """Seeds of untrained controllers."""
        return range(1, 3) if self.preset == "smoke" else range(1, 6)

    def trained(self, problem: Problem, seed: int, *, features: str = "state") -> Schedule:
        """A controller of the problem, trained now if nobody has yet.

        Raises:
            InterruptedRunError: a signal stopped it; everything so far is checkpointed.
        """
        name = f"{problem.name}-{features}-{seed}"
        path = self.folder / "schedules" / f"{name}.safetensors"
        if not path.exists():
            directory = self.work / name
            self.console.print(f"training a schedule of {problem.title}, seed {seed}; checkpoints in {directory}")
            found = train(problem, problem.controller(seed, features=features), problem.method, seed, directory)
            save(found.schedule, path, found.card)
            checkpoint.write_bytes(path.with_suffix(".json"), json.dumps(history(directory, found.seconds)).encode())
        return load_schedule(path)

    def history(self, problem: Problem, seed: int, *, features: str = "state") -> dict[str, Any]:
        """How a training that is done went: seconds, and the events of its updates."""
        path = self.folder / "schedules" / f"{problem.name}-{features}-{seed}.json"
        return json.loads(path.read_text(encoding="utf-8"))

    def run(
        self,
        problem: Problem,
        name: str,
        schedule: Callable[[], Schedule],
        *,
        purpose: Purpose = "model",
        data: int | None = None,
        family: AlternateFamily | None = None,
        trials: int | None = None,
        stream: str = "trial",
    ) -> Runs:
        """A schedule's trials, run now if nobody has yet.

        Args:
            problem: whose.
            name: of the file.
            schedule: makes it.
            purpose: which parts of the data the models are trained with.
            data: seed of the draw of the data; the problem's own by default.
            family: in place of the problem's own.
            trials: how many; the problem's own by default.
            stream: what starts and minibatches are drawn from: "trial" for what is reported, another name for
                searching.
        """
        data = problem.seed if data is None else data
        count = problem.trials if trials is None else trials
        made = schedule()
        identity = {
            **problem.describe(),
            "schedule": {"kind": type(made).__name__, "config": _in_short(made.config())},
            "meta-parameters": checkpoint.digest(made.state_dict()),
            "purpose": purpose,
            "data": data,
            "family": (family or problem.families(purpose, data)).name,
            "count": count,
            "stream": stream,
        }
        path = self.folder / "runs" / problem.name / f"{stream}-{purpose}-{data}" / f"{name}.l2o"
        kept = Runs.load(path, identity)
        if kept is not None:
            return kept
        with self.console.status(f"{problem.title}: {name}"):
            chosen = family or problem.families(purpose, data)
            ran, seconds = self._run(problem, made, chosen, count, stream)
            found = Runs.of(ran, seconds, decisions=isinstance(made, Controller))
        found.save(path, identity)
        return found

    def run_each(
        self,
        problem: Problem,
        title: str,
        schedules: Mapping[int, Callable[[], Schedule]],
        *,
        purpose: Purpose = "model",
    ) -> list[Runs]:
        """The trials of one schedule for each seed, which is a part of the name, spread over the workers."""
        calls = {
            f"{title}-{seed}": partial(self.run, problem, f"{title}-{seed}", made, purpose=purpose)
            for seed, made in schedules.items()
        }
        return list(run_all(calls, title=f"{problem.title}: {title}").values())

    def record(self, problem: Problem, schedule: Schedule, *, purpose: Purpose = "model") -> ScheduledRun:
        """The trials of a schedule with the trained models, run now."""
        family = problem.families(purpose, problem.seed)
        return self._run(problem, schedule, family, problem.trials, "trial")[0]

    def _run(
        self,
        problem: Problem,
        schedule: Schedule,
        family: AlternateFamily,
        count: int,
        stream: str,
    ) -> tuple[ScheduledRun, float]:
        begin = time.perf_counter()
        rng = Stream(problem.seed, (stream,), tasks=range(count))
        settings = replace(problem.settled, common=False)
        ran = run_schedule(schedule, family, settings, rng, steps=problem.steps)
        return ran, time.perf_counter() - begin


def _in_short(config: Mapping[str, Any]) -> str:
    """sha256 of a configuration; that of a recorded schedule is every decision of every run."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def train(
    problem: Problem, controller: Controller, method: PolicyGradient, seed: int, directory: Path
) -> TrainedSchedule:
    """Trains a controller of the problem; resumed if it was stopped, not repeated if it is done.

    Raises:
        InterruptedRunError: a signal stopped it; everything so far is checkpointed.
    """
    plan = problem.plan(seed)
    with ProgressBar(plan.trajectories, directory.name) as bar:
        found = train_schedule(
            controller,
            problem.families("controller", problem.seed),
            problem.settled,
            method,
            plan,
            reward=problem.reward,
            directory=directory,
            listeners=[bar],
        )
    if not found.finished:
        raise InterruptedRunError(f"stopped; the same command goes on from {directory}")
    return found


def history(directory: Path, seconds: float) -> dict[str, Any]:
    """How a training went, from its folder: seconds, and the events of its updates and validations."""
    events = [json.loads(line) for line in (directory / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    if not events:
        raise CheckpointError(f"{directory} has no events; delete it and train again")
    return {"seconds": seconds, "events": [event for event in events if event["kind"] in ("window", "validation")]}
