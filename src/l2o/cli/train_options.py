"""Options of `l2o train`, by what they are about; one that has no effect beside the others is refused."""

from dataclasses import dataclass, field, fields
from typing import Literal

import tyro

from l2o.cli import choices
from l2o.cli.options import TaskOptions, refuse_unused, rule
from l2o.cli.search_options import SearchOptions
from l2o.errors import ArgumentError
from l2o.horizons import ConstantHorizon, Curriculum, RandomHorizon
from l2o.meta_optimizer import MetaAdam, MetaRMSprop, MetaSettings
from l2o.methods.base import OptimizerMethod
from l2o.methods.evolution import ES, PES, Shaping
from l2o.methods.imitation import PUBLISHED_TEACHERS, Imitation, Order
from l2o.methods.meta_loss import Objective, Weights
from l2o.methods.self_improving import SelfImproving
from l2o.tasks.base import TaskFamily
from l2o.tasks.wrappers import ConvexRegulariser, RandomScaling


@dataclass(frozen=True)
class TrainingTaskOptions(TaskOptions):
    """What it is trained on. Validations are always on the task itself, neither regularised nor scaled."""

    convex_regulariser: int = 0
    """Easy coordinates added to every training task; Lv et al. 2017 take 20, and 0 adds none."""
    random_scaling: float = 0.0
    """Spread r of random units, exp of U(-r, r), of training parameters; Lv et al. 2017 take 3, and 0 scales none."""
    regulariser_scaling: float = 1.0
    """Spread of the units of the regulariser's own coordinates, where both are asked for."""

    def training_family(self, family: TaskFamily) -> TaskFamily:
        """The family that training draws from: regularised, then scaled, where asked for."""
        if not (self.convex_regulariser and self.random_scaling):
            refuse_unused(self, "regulariser_scaling", reason="without --convex-regulariser and --random-scaling")
        if self.convex_regulariser:
            family = ConvexRegulariser(family, coordinates=self.convex_regulariser)
        if not self.random_scaling:
            return family
        spreads = {"regulariser/": self.regulariser_scaling} if self.convex_regulariser else {}
        return RandomScaling(family, self.random_scaling, spreads=spreads)


@dataclass(frozen=True)
class MethodOptions:
    """How meta-gradients are got, and who else drives."""

    method: Literal["meta-loss", "unrolled", "self-improving", "es", "pes", "guided-policy-search"] = "meta-loss"
    """First order through replay; exact second order; first order where helpers take some of the steps; evolution
    strategies, which only run perturbed copies: truncated, or without the bias of truncation; or guided policy search,
    a trajectory of which is an iteration, with a window as long as the horizon."""
    objective: Objective = "loss"
    """Whether the meta-loss sums losses or their logarithms."""
    weights: Weights = "all"
    """Whether every iterate of a window counts, or only the last."""
    teachers: tuple[str, ...] = ()
    """Rules with learning rates, as adam:0.01 sgd:0.1, to imitate; with self-improving, the helpers."""
    imitation: tuple[float, ...] = ()
    """Share of the trajectories that a teacher drives, 0.3 if not given; several: one for each stage."""
    teacher_order: Order = "uniform"
    """Whether the teacher of a trajectory is drawn, or teachers take turns."""
    corrections: float = 0.0
    """Share of a teacher's trajectories that the learned optimizer drives, corrected by the teacher at every step."""
    helper_start: float | None = None
    """Probability of each helper of self-improving at first; none shares evenly with the learned optimizer."""
    fade: int = 100
    """Trajectories after which the helpers of self-improving take no more steps."""
    sigma: float = 0.01
    """Of es and pes: standard deviation of the perturbations of the meta-parameters."""
    pairs: int = 16
    """Of es and pes: antithetic pairs in a window."""
    shaping: Shaping = "none"
    """Of es: whether differences of meta-losses count, or of their ranks."""
    search: tyro.conf.OmitArgPrefixes[SearchOptions] = field(default_factory=SearchOptions)

    def made(self) -> OptimizerMethod:
        """The method that the options describe."""
        if self.method == "guided-policy-search":
            others = [each.name for each in fields(self) if each.name not in ("method", "search")]
            refuse_unused(self, *others, reason="with --method guided-policy-search")
            return self.search.made()
        self.search.refuse("without --method guided-policy-search")
        teachers = {name: rule(name) for name in self.teachers}
        if len(teachers) < len(self.teachers):
            raise ArgumentError(f"--teachers is {' '.join(self.teachers)}, and names one twice; name each once")
        if self.method == "self-improving":
            unused = ("imitation", "teacher_order", "corrections", "sigma", "pairs", "shaping")
            refuse_unused(self, *unused, reason="with --method self-improving")
            return SelfImproving(
                helpers=teachers or PUBLISHED_TEACHERS,
                start=self.helper_start,
                fade=self.fade,
                weights=self.weights,
                objective=self.objective,
            )
        refuse_unused(self, "helper_start", "fade", reason="without --method self-improving")
        method = self._method_alone()
        if not teachers:
            unused = ("imitation", "teacher_order", "corrections")
            refuse_unused(self, *unused, reason="without --teachers, as adam:0.01")
            return method
        return Imitation(
            method,
            teachers=teachers,
            ratio=self.imitation or 0.3,
            order=self.teacher_order,
            corrections=self.corrections,
        )

    def _method_alone(self) -> OptimizerMethod:
        """The method without teachers or helpers."""
        if self.method != "es":
            refuse_unused(self, "shaping", reason="without --method es")
        if self.method not in ("es", "pes"):
            refuse_unused(self, "sigma", "pairs", reason="without --method es or pes")
            return choices.METHODS[self.method](self.weights, self.objective)
        if self.method == "pes":
            return PES(sigma=self.sigma, pairs=self.pairs, weights=self.weights, objective=self.objective)
        return ES(
            sigma=self.sigma,
            pairs=self.pairs,
            weights=self.weights,
            objective=self.objective,
            shaping=self.shaping,
        )


@dataclass(frozen=True)
class HorizonOptions:
    """How many inner steps a trajectory has."""

    horizon: int = 100
    """Inner steps of a trajectory; with --random-horizon, of a validation."""
    window: int = 20
    """Inner steps between meta-updates."""
    random_horizon: tuple[int, float, int, float] | None = None
    """Trajectories of random lengths, as 20 20 1 5: windows of 20 steps and 20 more on average, in trajectories of 1
    window and 5 more on average; instead of --window."""
    longest_window: int | None = None
    """With --random-horizon, the most inner steps of a window: it bounds the memory; none for no bound."""
    curriculum: tuple[int, ...] = ()
    """Inner steps of the stages of a curriculum, rising, as 100 200 500; instead of --horizon."""
    validation_steps: tuple[int, ...] = ()
    """Inner steps of each stage's validations; if not given, those of the next stage, half as many again at the end."""
    periods: int = 3
    """Validations of a stage before it may end."""
    longest_stage: int = 30
    """Validations after which a stage ends even if every one was the best so far."""
    restore_meta_optimizer: bool = True
    """Whether a stage takes up the moments that belong to its meta-parameters, or keeps those of the end."""

    def made(self) -> ConstantHorizon | Curriculum | RandomHorizon:
        """The horizon that the options describe."""
        if self.random_horizon is None:
            refuse_unused(self, "longest_window", reason="without --random-horizon, as 20 20 1 5")
        elif self.curriculum:
            raise ArgumentError("--random-horizon and --curriculum both say how long trajectories are; pass one")
        if not self.curriculum:
            only = ("validation_steps", "periods", "longest_stage", "restore_meta_optimizer")
            refuse_unused(self, *only, reason="without --curriculum, as 100 200 500")
            if self.random_horizon is None:
                return ConstantHorizon(self.horizon, self.window)
            refuse_unused(self, "window", reason="beside --random-horizon")
            window, extra_steps, windows, extra_windows = self.random_horizon
            return RandomHorizon(
                windows,
                extra_windows,
                window,
                extra_steps,
                validation_steps=self.horizon,
                longest=self.longest_window,
            )
        refuse_unused(self, "horizon", reason="beside --curriculum")
        return Curriculum(
            self.curriculum,
            self.validation_steps or None,
            window=self.window,
            periods=self.periods,
            longest_stage=self.longest_stage,
        )


@dataclass(frozen=True)
class MetaOptimizerOptions:
    """How the meta-parameters are stepped."""

    meta_optimizer: Literal["adam", "rmsprop"] = "adam"
    """Adam, or RMSprop as the public code of Wichrowska et al. 2017 has it."""
    learning_rate: float = 1e-3
    """Meta learning rate."""
    final_learning_rate: float | None = None
    """Meta learning rate at the end of the run, reached along half a cosine; none keeps it constant."""
    clip: float | None = None
    """Adam: largest norm of a meta-gradient; none for no clipping."""
    element_clip: float | None = 1e4
    """RMSprop: largest size of each number of a meta-gradient; none for no clipping."""
    decay: float = 0.9
    """RMSprop: decay of the mean square."""
    epsilon: float = 1e-20
    """RMSprop: added to the mean square under the root."""
    moments: Literal["own", "shared"] = "own"
    """RMSprop: whether each kind of loss has mean squares of its own, or all share one."""

    def made(self) -> MetaSettings:
        """The settings that the options describe."""
        if self.meta_optimizer == "adam":
            only = ("element_clip", "decay", "epsilon", "moments")
            refuse_unused(self, *only, reason="without --meta-optimizer rmsprop")
            return MetaAdam(self.learning_rate, self.final_learning_rate, self.clip)
        refuse_unused(self, "clip", reason="with --meta-optimizer rmsprop; use --element-clip")
        return MetaRMSprop(
            self.learning_rate,
            self.final_learning_rate,
            decay=self.decay,
            epsilon=self.epsilon,
            element_clip=self.element_clip,
            moments=self.moments,
        )
