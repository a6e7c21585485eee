"""`l2o train`: meta-train a learned optimizer on a task family."""

import dataclasses
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from l2o.agent import Backend
from l2o.cli import choices
from l2o.cli.options import INTERRUPTED, command_line, save_configuration
from l2o.cli.train_options import HorizonOptions, MetaOptimizerOptions, MethodOptions, TrainingTaskOptions
from l2o.errors import ArgumentError
from l2o.events import Listener
from l2o.experiments.study import draw_meta_training
from l2o.metatrain import MetaTrained, metatrain
from l2o.optimizers.base import LearnedOptimizer
from l2o.outer_loop import Plan
from l2o.progress import ProgressBar
from l2o.ranks import joined
from l2o.tracking import Tracker
from l2o.weights import save

ARTIFACTS = ("weights.safetensors", "weights.toml", "meta-training.png")
"""What a tracker keeps of a complete run."""


@dataclass(frozen=True)
class Train:
    """Meta-train a learned optimizer.

    Checkpoints, events and weights go to `--out`. Ctrl-C ends the run cleanly; the same command goes on where it
    stopped, and the result is that of an uninterrupted run, bit for bit.

    Under torchrun several processes share the tasks, see docs/multi_process.md; the first of them writes the files.

    Example: l2o train --task mlp --data mnist --optimizer rnnprop --objective log --out runs/mnist
    Example: torchrun --standalone --nproc-per-node 2 -m l2o train --task mlp --tasks 8 --out runs/shared
    """

    task: tyro.conf.OmitArgPrefixes[TrainingTaskOptions] = field(default_factory=TrainingTaskOptions)
    optimizer: str = "rnnprop"
    """What is trained: a name that `l2o list` shows, or module:Name of your own class."""
    method: tyro.conf.OmitArgPrefixes[MethodOptions] = field(default_factory=MethodOptions)
    horizon: tyro.conf.OmitArgPrefixes[HorizonOptions] = field(default_factory=HorizonOptions)
    meta_optimizer: tyro.conf.OmitArgPrefixes[MetaOptimizerOptions] = field(default_factory=MetaOptimizerOptions)
    trajectories: int = 200
    """Trajectories to train on."""
    tasks: int = 1
    """Tasks in one trajectory, of all processes together: each takes its share, and the result is that of one process,
    but for rounding."""
    validate_every: int = 10
    """Trajectories between validations."""
    validation_tasks: int = 10
    """Tasks of a validation, shared likewise."""
    validation_last: int = 20
    """Iterates at the end of a validation whose mean loss is its value."""
    validation_measure: Literal["loss", "log-ratio"] = "loss"
    """Whether a validation is the mean of its tasks' losses, or of the logarithms of their ratios to the first losses:
    for tasks whose losses differ by orders of magnitude, as in a mixture."""
    checkpoint_every: int = 25
    """Windows between checkpoints."""
    patience: int = 50
    """Windows in a row without a finite meta-gradient before the run gives up."""
    seed: int = 0
    """The one seed of the run."""
    device: str = "cpu"
    """Where tasks and optimizer live, for instance cpu or cuda."""
    dtype: Literal["float32", "float64"] = "float32"
    """Number type of tasks and optimizer."""
    backend: Backend = "auto"
    """Who computes: auto takes the native kernel where it covers the case."""
    out: Path = Path("runs/train")
    """Folder of the run."""
    track: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    """Services that keep the run too, each of which needs its extra; events.jsonl is written in any case. Addresses and
    projects are those of MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, WANDB_MODE and WANDB_PROJECT."""
    threads: int | None = None
    """Torch threads of each process; the result depends on their number in its last bits. None leaves torch's choice,
    of which torchrun makes 1."""
    timeout: float = 600.0
    """Seconds that processes wait for each other, each time, before the run ends with an error."""
    accept_changed_environment: bool = False
    """Go on from a checkpoint although the number of threads or processes, the torch version or the back end is another
    one: the result then differs in its last bits, and events.jsonl says what changed."""

    def plan(self) -> Plan:
        """The plan that the options describe."""
        return Plan(
            trajectories=self.trajectories,
            horizon=self.horizon.made(),
            tasks=self.tasks,
            meta_optimizer=self.meta_optimizer.made(),
            validate_every=self.validate_every,
            validation_tasks=self.validation_tasks,
            validation_last=self.validation_last,
            validation_measure=self.validation_measure,
            checkpoint_every=self.checkpoint_every,
            restore_meta_optimizer=self.horizon.restore_meta_optimizer,
            patience=self.patience,
            seed=self.seed,
            device=self.device,
            dtype=self.dtype,
            backend=self.backend,
        )

    def trackers(self) -> list[Tracker]:
        """The trackers that the options name."""
        if len(set(self.track)) < len(self.track):
            raise ArgumentError(f"--track is {' '.join(self.track)}, and names one twice; name each once")
        configuration = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return [choices.TRACKERS[name](self.out, configuration) for name in self.track]

    def run(self) -> int:
        with joined(timeout=self.timeout) as ranks:
            plan, method, family = self.plan(), self.method.made(), self.task.family()
            training_family = self.task.training_family(family)
            learned = choices.learned_optimizer(self.optimizer, self.seed)

            def train(*listeners: Listener) -> MetaTrained:
                return metatrain(
                    learned,
                    training_family,
                    method,
                    plan,
                    validation_family=family,
                    directory=self.out,
                    listeners=listeners,
                    accept_changed_environment=self.accept_changed_environment,
                    ranks=ranks,
                )

            if ranks.leads:
                return self._tell(learned, plan, train)
            return 0 if train().finished else INTERRUPTED

    def _tell(self, learned: LearnedOptimizer, plan: Plan, train: Callable[..., MetaTrained]) -> int:
        """Trains with a progress bar, and writes and prints what came of it."""
        console = Console()
        trackers = self.trackers()
        if not (self.out / "checkpoint.safetensors").exists():  # a run that is refused leaves the options of that one
            save_configuration(self.out, "train", self)
        with ExitStack() as stack:
            for tracker in trackers:
                stack.enter_context(tracker)
            with ProgressBar(plan.trajectories, learned.name, periods=bool(self.horizon.curriculum)) as bar:
                trained = train(*trackers, bar)
            if not trained.finished:
                console.print(f"stopped with a checkpoint in {self.out}; the same command goes on from there")
                return INTERRUPTED
            if trained.best.value == float("inf"):
                console.print("no validation was finite: the weights are those before training", style="red")
            command = command_line("train", self, without=("out", "track"))
            save(trained.optimizer, self.out / "weights", dataclasses.replace(trained.card, command=command))
            draw_meta_training(trained, plan, log=self.out / "events.jsonl", path=self.out / "meta-training.png")
            for tracker in trackers:
                tracker.complete(*(self.out / name for name in ARTIFACTS))
        console.print(
            f"best validation {trained.best.value:.4g} after {trained.best.trajectory} of {plan.trajectories} "
            f"trajectories; {trained.skipped} windows skipped. Wrote {self.out}/weights.safetensors, its card "
            "weights.toml, meta-training.png and events.jsonl."
        )
        return 0
