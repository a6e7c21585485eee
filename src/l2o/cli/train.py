"""`l2o train`: meta-train a learned optimizer on a task family."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from l2o.agent import Backend
from l2o.cli import choices
from l2o.cli.options import INTERRUPTED, TaskOptions, rule, save_configuration
from l2o.errors import ArgumentError
from l2o.events import Listener, TensorBoard
from l2o.experiments.study import draw_meta_training
from l2o.horizons import ConstantHorizon, Curriculum, RandomHorizon
from l2o.meta_optimizer import MetaAdam
from l2o.metatrain import Plan, metatrain
from l2o.methods.base import Method
from l2o.methods.imitation import PUBLISHED_TEACHERS, Imitation
from l2o.methods.self_improving import SelfImproving
from l2o.optimizers.weights import save
from l2o.progress import ProgressBar


@dataclass(frozen=True)
class Train:
    """Meta-train a learned optimizer.

    Checkpoints, events and weights go to `--out`. Ctrl-C ends the run cleanly; the same command goes on where it
    stopped, and the result is that of an uninterrupted run, bit for bit.

    Example: l2o train --task mlp --data mnist --optimizer rnnprop --objective log --out runs/mnist
    """

    task: Annotated[TaskOptions, tyro.conf.arg(name="")] = field(default_factory=TaskOptions)
    optimizer: str = "rnnprop"
    """What is trained: a name that `l2o list` shows, or module:Name of your own class."""
    method: Literal["meta-loss", "unrolled", "self-improving"] = "meta-loss"
    """How meta-gradients are got: first order through replay, exact second order, or first order on trajectories of
    which the teachers take some steps."""
    objective: Literal["loss", "log"] = "loss"
    """Whether the meta-loss sums losses or their logarithms."""
    weights: Literal["all", "last"] = "all"
    """Whether every iterate of a window counts, or only the last."""
    teachers: tuple[str, ...] = ()
    """Rules with learning rates, as adam:0.01 sgd:0.1 adagrad:0.01, that the learned optimizer imitates on a share of
    the trajectories; with method self-improving, that take some of its steps."""
    imitation: tuple[float, ...] = (0.3,)
    """Share of trajectories that a teacher drives; several are those of the stages of a curriculum."""
    teacher_order: Literal["uniform", "turn"] = "uniform"
    """Whether the teacher of a trajectory is drawn, or teachers take turns."""
    fade: int = 100
    """Trajectories after which the teachers of method self-improving take no more steps."""
    trajectories: int = 200
    """Trajectories to train on."""
    horizon: int = 100
    """Inner steps of a trajectory; with --random-horizon, of a validation."""
    curriculum: tuple[int, ...] = ()
    """Inner steps of the stages of a curriculum, rising, as 100 200 500; instead of --horizon."""
    periods: int = 3
    """Validations of a stage of the curriculum before it may end."""
    random_horizon: tuple[int, float, int, float] | None = None
    """Trajectories of random lengths, as 20 20 1 5: windows of 20 steps and 20 more on average, in trajectories of 1
    window and 5 more on average; instead of --window."""
    longest_window: int | None = None
    """With --random-horizon, the most inner steps of a window: it bounds the memory; none for no bound."""
    window: int = 20
    """Inner steps between meta-updates."""
    tasks: int = 1
    """Tasks in one trajectory."""
    learning_rate: float = 1e-3
    """Meta learning rate of Adam."""
    final_learning_rate: float | None = None
    """Meta learning rate at the end of the run, reached along half a cosine; none keeps it constant."""
    clip: float | None = None
    """Largest norm of a meta-gradient; none for no clipping."""
    validate_every: int = 10
    """Trajectories between validations."""
    validation_tasks: int = 10
    """Tasks of a validation."""
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
    tensorboard: bool = False
    """Also write TensorBoard events to the folder (needs the extra `tensorboard`)."""
    threads: int | None = None
    """Torch threads; the result depends on their number in its last bits. None leaves torch's choice."""

    def plan(self) -> Plan:
        """The plan that the options describe."""
        return Plan(
            trajectories=self.trajectories,
            horizon=self._horizon(),
            tasks=self.tasks,
            meta_optimizer=MetaAdam(self.learning_rate, self.final_learning_rate, self.clip),
            validate_every=self.validate_every,
            validation_tasks=self.validation_tasks,
            validation_last=self.validation_last,
            validation_measure=self.validation_measure,
            checkpoint_every=self.checkpoint_every,
            patience=self.patience,
            seed=self.seed,
            device=self.device,
            dtype=self.dtype,
            backend=self.backend,
        )

    def _horizon(self) -> ConstantHorizon | Curriculum | RandomHorizon:
        if self.random_horizon and self.curriculum:
            raise ArgumentError("--random-horizon and --curriculum both say how long trajectories are; pass one")
        if self.longest_window is not None and not self.random_horizon:
            raise ArgumentError("--longest-window bounds the windows of --random-horizon; pass both, or neither")
        if self.random_horizon:
            window, extra_steps, windows, extra_windows = self.random_horizon
            return RandomHorizon(
                windows,
                extra_windows,
                window,
                extra_steps,
                validation_steps=self.horizon,
                longest=self.longest_window,
            )
        if self.curriculum:
            return Curriculum(self.curriculum, window=self.window, periods=self.periods)
        return ConstantHorizon(self.horizon, self.window)

    def meta_method(self) -> Method:
        """The method that the options describe."""
        teachers = {name: rule(name) for name in self.teachers}
        if self.method == "self-improving":
            helpers = teachers or PUBLISHED_TEACHERS
            return SelfImproving(helpers=helpers, fade=self.fade, weights=self.weights, objective=self.objective)
        method = choices.METHODS[self.method](self.weights, self.objective)
        if not teachers:
            return method
        return Imitation(method, teachers=teachers, ratio=self.imitation, order=self.teacher_order)

    def run(self) -> int:
        console = Console()
        plan, family = self.plan(), self.task.family()
        learned = choices.learned_optimizer(self.optimizer, self.seed)
        method = self.meta_method()
        if not (self.out / "options.json").exists():  # a run that is refused leaves those of the run that is there
            save_configuration(self.out, "train", self)
        listeners: list[Listener] = [TensorBoard(self.out / "tensorboard")] if self.tensorboard else []
        with ProgressBar(plan.trajectories, learned.name, periods=bool(self.curriculum)) as bar:
            trained = metatrain(learned, family, method, plan, directory=self.out, listeners=[*listeners, bar])
        if not trained.finished:
            console.print(f"stopped with a checkpoint in {self.out}; the same command goes on from there")
            return INTERRUPTED
        save(trained.optimizer, self.out / "weights", trained.card)
        draw_meta_training(trained, plan, log=self.out / "events.jsonl", path=self.out / "meta-training.png")
        console.print(
            f"best validation {trained.best.value:.4g} after {trained.best.trajectory} of {plan.trajectories} "
            f"trajectories; {trained.skipped} windows skipped. Wrote {self.out}/weights.safetensors, its card "
            "weights.toml, meta-training.png and events.jsonl."
        )
        return 0
