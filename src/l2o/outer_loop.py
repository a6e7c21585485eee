"""The outer loop: meta-trains any agent on the processes of any source with any method."""

import dataclasses
import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Literal

import torch

from l2o import checkpoint, trees
from l2o.agent import Agent, Backend
from l2o.errors import ArgumentError, CheckpointError, DivergedError, RankError
from l2o.events import Event, JsonLines, Listener
from l2o.horizons import ConstantHorizon, Curriculum, RandomHorizon, Stage, Standing
from l2o.kernels.select import backend_name, checked
from l2o.meta_optimizer import MetaAdam, MetaOptimizer, MetaSettings, global_norm, is_finite, snapshot
from l2o.methods.base import AgentT, Estimate, Method, ProcessT, Trajectory
from l2o.provenance import source_commit
from l2o.ranks import ALONE, Ranks
from l2o.rng import Stream
from l2o.sources import Source
from l2o.trees import Tree
from l2o.weights import Card, save


@dataclass(frozen=True)
class Plan:
    """How a meta-training goes.

    Args:
        trajectories: number of trajectories ("meta-epochs" in the papers).
        horizon: inner steps of a trajectory, and inner steps between meta-updates; a `Curriculum` lets them grow, a
            `RandomHorizon` draws them.
        tasks: tasks in one trajectory, of all processes together; the meta-gradient is their mean.
        meta_optimizer: how the meta-parameters are stepped: `MetaAdam` or `MetaRMSprop`.
        validate_every: trajectories between validations; of a curriculum, the length of a period.
        validation_tasks: tasks of a validation, always the same ones.
        validation_last: a validation's value is the mean loss of this many last iterates; 1 is the papers' choice.
        validation_measure: "loss" takes the mean of it over the tasks; "log-ratio" the mean of the logarithm of its
            ratio to the task's first loss (`log_ratios`), for tasks whose losses differ by orders of magnitude, as in a
            mixture, and are not negative.
        checkpoint_every: windows between checkpoints.
        restore_meta_optimizer: when a curriculum takes up its best meta-parameters again, take up the meta-optimizer's
            moments of that time too. False keeps the moments, as the public code of Chen et al. 2020 does.
        patience: so many skipped windows in a row raise `DivergedError`.
        seed: the one seed of the run.
        device: where the tasks and the optimizer live, for instance "cpu" or "cuda".
        dtype: number type of tasks and optimizer.
        backend: who computes rollouts and replays; "auto" keeps the optimizer's own `backend`.

    Example:
        >>> plan = Plan(trajectories=200, tasks=4, meta_optimizer=MetaAdam(3e-3, 3e-4, clip=1.0))
        >>> plan.horizon
        ConstantHorizon(steps=100, window=20)
    """

    trajectories: int = 100
    horizon: ConstantHorizon | Curriculum | RandomHorizon = field(default_factory=ConstantHorizon)
    tasks: int = 1
    meta_optimizer: MetaSettings = field(default_factory=MetaAdam)
    validate_every: int = 10
    validation_tasks: int = 20
    validation_last: int = 20
    validation_measure: Literal["loss", "log-ratio"] = "loss"
    checkpoint_every: int = 25
    restore_meta_optimizer: bool = True
    patience: int = 50
    seed: int = 0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        for name in ("trajectories", "tasks", "validate_every", "validation_tasks", "checkpoint_every", "patience"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} is {getattr(self, name)}; it must be at least 1")
        shortest = min(stage.validation_steps for stage in self.horizon.stages)
        if not 1 <= self.validation_last <= shortest:
            raise ArgumentError(
                f"validation_last is {self.validation_last}; it must lie between 1 and the steps validated, {shortest}"
            )
        if self.validation_measure not in ("loss", "log-ratio"):
            raise ArgumentError(f"validation_measure is {self.validation_measure!r}; choose 'loss' or 'log-ratio'")
        if self.dtype not in ("float32", "float64"):
            raise ArgumentError(f"dtype is {self.dtype!r}; choose 'float32' or 'float64'")
        checked(self.backend)

    @property
    def torch_dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "float64": torch.float64}[self.dtype]


@dataclass(frozen=True)
class Validation:
    """One validation.

    Args:
        trajectory: after how many trajectories.
        value: mean over its tasks of the plan's `validation_measure`, infinite where a task's is not a number.
            Comparable within a stage.
        diverged: share of diverged tasks.
        stage: number of the stage it belongs to.
        steps: its inner steps.
    """

    trajectory: int
    value: float
    diverged: float
    stage: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Finished:
    """How a meta-training ended.

    Args:
        validations: all validations, the first before any training.
        best: the best of them; of infinite value if the run was interrupted before the first.
        finished: False if the run was interrupted; run it again to go on.
        skipped: windows whose meta-gradient was not finite.
        seconds: wall time of all calls of this run, up to their last checkpoints.
        card: where the meta-parameters come from.
    """

    validations: list[Validation]
    best: Validation
    finished: bool
    skipped: int
    seconds: float
    card: Card


def run(
    agent: AgentT,
    source: Source[AgentT, ProcessT],
    method: Method[AgentT, ProcessT],
    plan: Plan,
    *,
    directory: Path | None = None,
    listeners: Sequence[Listener] = (),
    keep_every: int | None = None,
    accept_changed_environment: bool = False,
    ranks: Ranks = ALONE,
) -> Finished:
    """Meta-trains `agent` in place and leaves it with the meta-parameters of the best validation.

    What the arguments mean, and what is raised, stands at `metatrain` and `train_schedule`, which call it.
    """
    if keep_every is not None and (keep_every < 1 or directory is None):
        raise ArgumentError(f"keep_every is {keep_every} and directory {directory}; pass at least 1, and a directory")
    if ranks.count > 1:
        _check_shared(method, plan, ranks)
    if not ranks.leads:
        directory, listeners, keep_every = None, (), None
    with checkpoint.held(directory) if directory else nullcontext(), _stop_requested(ranks) as stop:
        start = _Run(agent, source, method, plan, directory, listeners, keep_every, accept_changed_environment, ranks)
        return start.go(stop)


@dataclass
class _Progress:
    """Where a run stands: the next window to run, and what was found so far."""

    trajectory: int = 0
    window: int = 0
    windows: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    validations: list[Validation] = field(default_factory=list)
    best: Validation | None = None
    standing: Standing = field(default_factory=Standing)
    trained_steps: int = 0
    events: int = 0

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "_Progress":
        validations = [Validation(**entry) for entry in values["validations"]]
        best = Validation(**values["best"]) if values["best"] else None
        standing = Standing(**values["standing"])
        return cls(**{**values, "validations": validations, "best": best, "standing": standing})


class _Run(Generic[AgentT, ProcessT]):
    def __init__(
        self,
        agent: AgentT,
        source: Source[AgentT, ProcessT],
        method: Method[AgentT, ProcessT],
        plan: Plan,
        directory: Path | None,
        listeners: Sequence[Listener],
        keep_every: int | None,
        accept_changed_environment: bool,
        ranks: Ranks,
    ) -> None:
        self.agent = agent.to(plan.device, plan.torch_dtype)
        if plan.backend != "auto":
            agent.backend = plan.backend
        self.source, self.method, self.plan, self.ranks = source, method, plan, ranks
        self.meta_optimizer = MetaOptimizer(self.agent, plan.meta_optimizer, method.moments)
        self.progress = _Progress(standing=plan.horizon.begin())
        self.best_parameters, self.best_moments = snapshot(self.agent), self.meta_optimizer.tree()
        self.trajectory: Trajectory[ProcessT] | None = None
        self.memory: Tree = {}
        self.keep_every = keep_every
        self.identity = _identity(self.agent, source, method, plan)
        self.stopping = False
        if ranks.count > 1:
            self._check_alike()
        self.log = JsonLines(directory / "events.jsonl") if directory else None
        self.listeners = [*([self.log] if self.log else []), *listeners]
        self.path = directory / "checkpoint.safetensors" if directory else None
        if self.path:
            for litter in self.path.parent.glob(f".{self.path.name}.*"):  # of a run killed while it saved
                litter.unlink()
        saved = ranks.first(self._saved)
        if saved:
            self._resume(saved, accept_changed_environment)
        elif self.log:
            self.log.rewind(0)

    def go(self, stop: threading.Event) -> Finished:
        self.started = time.perf_counter() - self.progress.seconds
        self.stop = stop
        (self.stopping,) = self.ranks.any(stop.is_set())
        progress, plan = self.progress, self.plan
        while True:
            while progress.window == 0 and self._validation_due():
                self._validate()
            done = progress.standing.finished or progress.trajectory == plan.trajectories
            if done or self.stopping:
                break
            self._window()
            if progress.windows % plan.checkpoint_every == 0:
                self._save()
        self._save()
        self.agent.load_state_dict(self.best_parameters)
        self.agent.horizon = progress.trained_steps or None
        return Finished(
            validations=progress.validations,
            best=progress.best or Validation(trajectory=0, value=float("inf"), diverged=0.0),
            finished=done,
            skipped=progress.skipped,
            seconds=progress.seconds,
            card=self._card(),
        )

    def _card(self) -> Card:
        curve = [[entry.trajectory, entry.value] for entry in self.progress.validations]
        return Card(
            method=self.method.name,
            training_tasks=self.source.name,
            horizon=self.progress.trained_steps,
            seed=self.plan.seed,
            configuration=self.identity,
            curve=[[at, value] for at, value in curve if value < float("inf")],
            data=self.source.data_notes(),
            commit=source_commit(),
            backend=self._environment()["backend"],
        )

    def _validation_due(self) -> bool:
        at, standing = self.progress.trajectory, self.progress.standing
        last = self.progress.validations[-1].trajectory if self.progress.validations else 0
        period = at != last and (at % self.plan.validate_every == 0 or at == self.plan.trajectories)
        return standing.baseline or (period and not standing.finished)

    @property
    def _stage(self) -> Stage:
        return self.plan.horizon.stages[self.progress.standing.stage]

    def _validate(self) -> None:
        plan, progress, before, stage = self.plan, self.progress, self.progress.standing, self._stage
        stream = Stream(plan.seed, ("validation",), tasks=self.ranks.share(plan.validation_tasks))
        found = self.source.validate(
            self.agent, stream, steps=stage.validation_steps, device=plan.device, dtype=plan.torch_dtype
        ).over(self.ranks, tasks=plan.validation_tasks)
        value = float(found.values.mean())
        value = value if value == value else float("inf")
        diverged = float(found.diverged.double().mean())
        validation = Validation(progress.trajectory, value, diverged, before.stage, stage.validation_steps)
        progress.validations.append(validation)
        self._keep(validation)
        progress.standing = standing = plan.horizon.after(before, value)
        if standing.keeps or before.baseline or progress.best is None:
            progress.best = validation
            self.best_parameters = snapshot(self.agent)
            self.best_moments = trees.map_leaves(torch.clone, self.meta_optimizer.tree())
        if standing.keeps or progress.trained_steps == 0:
            progress.trained_steps = stage.steps
        if standing.restores:
            self.agent.load_state_dict(self.best_parameters)
            if plan.restore_meta_optimizer and not standing.finished:
                self.meta_optimizer.load(self.best_moments)
        best = progress.best.value
        further = {name: float(leaf.mean()) for name, leaf in found.diagnostics.items()}
        numbers = {"value": value, "best": best, "diverged": diverged, **further}
        self._tell("validation", **numbers, stage=before.stage, steps=validation.steps)
        (self.stopping,) = self.ranks.any(self.stop.is_set())

    def _keep(self, validation: Validation) -> None:
        """Saves the meta-parameters if their validation is the best so far of its part of the run."""
        if self.keep_every is None or self.path is None or validation.trajectory == 0:
            return
        part = _part(validation.trajectory, self.keep_every)
        before = [v.value for v in self.progress.validations[:-1] if part - self.keep_every < v.trajectory <= part]
        if not before or validation.value < min(before):
            save(self.agent, self.path.with_name(f"best-{part}"), self._card())

    def _check_kept(self, path: Path) -> None:
        """An error if the run was not asked to keep these parts from its beginning: they cannot be had any more."""
        if self.keep_every is None:
            return
        for validation in self.progress.validations:
            kept = path.with_name(f"best-{_part(validation.trajectory, self.keep_every)}.safetensors")
            if validation.trajectory > 0 and not kept.exists():
                raise CheckpointError(
                    f"{kept} is missing, though {path} is past it: that run did not keep every {self.keep_every} "
                    "trajectories; use another directory, or delete the checkpoint"
                )

    def _window(self) -> None:
        progress, plan = self.progress, self.plan
        if self.trajectory is None:
            self.trajectory = self._begin()
        lengths = plan.horizon.lengths(progress.standing, self._stream)
        steps = lengths[progress.window]
        estimate, self.trajectory = self.method.window(self.agent, self.trajectory, steps)
        at = {"trajectory": progress.trajectory, "window": progress.window, "steps": steps}
        self._take(None if estimate is None else estimate.over(self.ranks, tasks=plan.tasks), at)
        progress.window += 1
        progress.windows += 1
        survivors = self.trajectory.process.survivors
        someone_alive, self.stopping = self.ranks.any(bool(survivors.any()), self.stop.is_set())
        if progress.window == len(lengths) or not someone_alive:
            self.memory = self.trajectory.states.get("memory", {})
            progress.trajectory, progress.window, self.trajectory = progress.trajectory + 1, 0, None
        if progress.skipped_in_a_row >= plan.patience:
            raise DivergedError(
                f"{progress.skipped_in_a_row} windows in a row had no finite meta-gradient, up to trajectory "
                f"{at['trajectory']} of seed {plan.seed}. Lower the meta learning rate "
                f"({plan.meta_optimizer.learning_rate}), set its clip, or lower the output scale of "
                f"{self.agent.name}; a meta-loss of logarithms needs positive losses. To look at it: "
                f"Stream({plan.seed}, ('train',), trajectory={at['trajectory']}, tasks=range({plan.tasks}))."
            )

    def _take(self, estimate: Estimate | None, at: dict[str, int]) -> None:
        """Steps on an estimate, and on those that follow from it; they may say how the trajectory goes on."""
        progress = self.progress
        while estimate is not None:
            usable = is_finite(estimate.gradient) and estimate.value - estimate.value == 0
            if usable:
                share = progress.trajectory / self.plan.trajectories
                self.meta_optimizer.step(estimate.gradient, estimate.moments, progress=share)
                progress.skipped_in_a_row = 0
            else:
                progress.skipped += 1
                progress.skipped_in_a_row += 1
            self._tell_window(estimate, at, usable)
            following = estimate.then() if estimate.then is not None else None
            if isinstance(following, Trajectory):
                self.trajectory, following = following, None
            estimate = following

    def _tell_window(self, estimate: Estimate, at: dict[str, int], usable: bool) -> None:
        plan, progress = self.plan, self.progress
        numbers = {
            "meta_loss": estimate.value,
            "meta_gradient_norm": global_norm(estimate.gradient),
            "learning_rate": plan.meta_optimizer.at(progress.trajectory / plan.trajectories),
            "tasks": plan.tasks,
            "skipped": progress.skipped,
            **estimate.diagnostics,
        }
        self._tell("window" if usable else "skipped", **{**numbers, **at, "moments": estimate.moments})

    def _environment(self) -> dict[str, Any]:
        backend = backend_name(self.agent, self.plan.device, self.plan.torch_dtype)
        return {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "backend": backend,
            "processes": self.ranks.count,
        }

    @property
    def _stream(self) -> Stream:
        """The stream of the current trajectory, for the tasks of this process."""
        plan, tasks = self.plan, self.ranks.share(self.plan.tasks)
        return Stream(plan.seed, ("train",), trajectory=self.progress.trajectory, tasks=tasks)

    def _begin(self) -> Trajectory[ProcessT]:
        plan, stream = self.plan, self._stream
        steps = sum(plan.horizon.lengths(self.progress.standing, stream))
        process = self.source.start(stream, steps=steps, device=plan.device, dtype=plan.torch_dtype)
        trajectory = self.method.begin(self.agent, process, stream, stage=self.progress.standing.stage)
        states = {**trajectory.states, "memory": self.memory} if self.memory else trajectory.states
        return dataclasses.replace(trajectory, states=states)

    def _tell(self, kind: str, **numbers: float | str) -> None:
        progress = self.progress
        places = {"number": progress.events, "trajectory": progress.trajectory, "windows": progress.windows}
        progress.events += 1
        event: Event = {"kind": kind, **places}
        for listener in self.listeners:
            listener({**event, **numbers})

    def _save(self) -> None:
        self.progress.seconds = time.perf_counter() - self.started
        if self.ranks.count > 1:
            self._check_together()
        under_way = self._under_way()
        if self.path is None or self.log is None:
            return
        tensors = trees.join(
            meta=dict(self.agent.state_dict()), best=self.best_parameters, moments=self.meta_optimizer.tree()
        )
        if len(self.plan.horizon.stages) > 1:
            tensors |= trees.join(best_moments=self.best_moments)
        tensors |= trees.join(carried=self.memory)
        tensors |= under_way
        metadata = {
            "identity": self.identity,
            "environment": self._environment(),
            "progress": self.progress.as_json(),
            "log_position": self.log.position(),
            "states": list(self.trajectory.states) if self.trajectory else [],
        }
        checkpoint.write(self.path, tensors, metadata, kind="checkpoint")

    def _under_way(self) -> Tree:
        """The trajectory under way, of all processes together, for a checkpoint; empty between two."""
        if self.trajectory is None:
            return {}
        states, common = self.trajectory.states, self.trajectory.common
        mine = {name: state for name, state in states.items() if name not in common}
        by_task = trees.join(process=self.trajectory.process.snapshot(), **mine)
        everyone, _ = self.ranks.gather(by_task, tasks=self.plan.tasks)
        return everyone | trees.join(**{name: state for name, state in states.items() if name in common})

    def _saved(self) -> bytes:
        """The checkpoint's bytes; none if there is none."""
        return checkpoint.read_bytes(self.path) if self.path and self.path.exists() else b""

    def _resume(self, saved: bytes, accept_changed_environment: bool) -> None:
        path = self.path or Path("the first process's checkpoint")
        tensors, metadata = checkpoint.parse(saved, kind="checkpoint", source=str(path))
        _refuse_difference(path, "run", metadata["identity"], self.identity, "use another directory, or delete it")
        before, now = {"processes": 1, **metadata["environment"]}, self._environment()
        if not accept_changed_environment:
            remedy = (
                "restore it (torch.set_num_threads, --threads, torchrun --nproc-per-node) or pass "
                "accept_changed_environment=True"
            )
            _refuse_difference(path, "environment", before, now, remedy)
        tensors = trees.to(tensors, self.plan.device, self.plan.torch_dtype)
        self.agent.load_state_dict(trees.select(tensors, "meta"))
        self.best_parameters = trees.select(tensors, "best")
        self.meta_optimizer.load(trees.select(tensors, "moments"))
        self.best_moments = trees.select(tensors, "best_moments")
        self.memory = trees.select(tensors, "carried")
        self.progress = _Progress.from_json(metadata["progress"])
        if metadata["states"]:
            fresh = self._begin()
            lengths = self.plan.horizon.lengths(self.progress.standing, self._stream)
            steps = sum(lengths[: self.progress.window])
            process = fresh.process.restored(self._own(trees.select(tensors, "process")), steps)
            states = {name: trees.select(tensors, name) for name in metadata["states"]}
            own = {name: state if name in fresh.common else self._own(state) for name, state in states.items()}
            self.trajectory = dataclasses.replace(fresh, process=process, states=own)
        if self.log is not None:
            self._rewind(self.log, path, metadata["log_position"])
        if self.path is not None:
            self._check_kept(self.path)
        if changed := _differences(before, now):
            self._tell("environment", changed=changed)

    def _own(self, tree: Tree) -> Tree:
        return self.ranks.own(tree, tasks=self.plan.tasks)

    @staticmethod
    def _rewind(log: JsonLines, path: Path, position: int) -> None:
        if log.position() < position:
            raise CheckpointError(
                f"the event log beside {path} is shorter than at the checkpoint; restore it, or delete the checkpoint"
            )
        log.rewind(position)

    def _check_alike(self) -> None:
        """An error if this process was started with something else than the first one."""
        mine = {**self.identity, **self._environment()}
        theirs = json.loads(self.ranks.first(lambda: json.dumps(mine).encode()))
        if differences := _differences(theirs, mine, there="in process 0", here=f"in process {self.ranks.rank}"):
            raise ArgumentError(f"the processes differ ({differences}); start all with the same command and set-up")

    def _check_together(self) -> None:
        """An error if this process has other meta-parameters than the first one."""
        mine = checkpoint.digest(self.agent.state_dict())
        if self.ranks.first(lambda: mine.encode()) != mine.encode():
            raise RankError(
                f"process {self.ranks.rank} has other meta-parameters than process 0 in trajectory "
                f"{self.progress.trajectory}: either method {self.method.name!r} decides something by the tasks that a "
                "process has, or their machines compute differently. Start it in one process"
            )


def _part(trajectory: int, every: int) -> int:
    """The end of the part of a run that a trajectory belongs to."""
    return -(-trajectory // every) * every


def _identity(agent: Agent, source: Source, method: Method, plan: Plan) -> dict[str, Any]:
    """What makes a run this run, in JSON: a checkpoint of another one is refused."""
    described = {
        agent.kind: agent.name,
        "config": agent.config(),
        "initial": checkpoint.digest(agent.state_dict()),
        **source.describe(Stream(plan.seed, ("identity",))),
        "method": method.describe(),
        "plan": dataclasses.asdict(plan),
    }
    return json.loads(json.dumps(described))


def _check_shared(method: Method, plan: Plan, ranks: Ranks) -> None:
    """An error if the run cannot be shared among several processes."""
    if not method.shares:
        raise ArgumentError(
            f"method {method.name!r} cannot share its tasks among {ranks.count} processes; start it in one, without "
            "torchrun, and other seeds beside it"
        )
    ranks.share(plan.tasks)
    ranks.share(plan.validation_tasks)


def _refuse_difference(path: Path, what: str, saved: dict[str, Any], now: dict[str, Any], remedy: str) -> None:
    if differences := _differences(saved, now):
        raise CheckpointError(f"{path} is of another {what} ({differences}); {remedy}")


def _differences(saved: dict[str, Any], now: dict[str, Any], *, there: str = "there", here: str = "here") -> str:
    """The entries that differ, in words; empty if none does."""
    names = [name for name in {**now, **saved} if saved.get(name) != now.get(name)]
    return "; ".join(f"{name}: {saved.get(name)} {there}, {now.get(name)} {here}" for name in names)


@contextmanager
def _stop_requested(ranks: Ranks) -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets. Other threads leave signals alone.

    A second one interrupts at once, unless there are several processes: these may be sent it by all who started them,
    and end together.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: FrameType | None) -> None:
        del number, frame
        if stop.is_set() and ranks.count == 1:
            raise KeyboardInterrupt
        stop.set()

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
