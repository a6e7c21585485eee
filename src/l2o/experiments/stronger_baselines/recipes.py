"""How the learned optimizers of "Training stronger baselines" are meta-trained: one recipe each, shared by all figures.

Source: Chen et al. 2020, sections 3 to 5, and its public code. All but L2O-Scale-Meta are trained on MLP-orig, with
windows of 20 steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from l2o.experiments.stronger_baselines.optimizees import training_family
from l2o.horizons import ConstantHorizon, Curriculum, RandomHorizon
from l2o.meta_optimizer import MetaRMSprop
from l2o.methods.base import OptimizerMethod
from l2o.methods.imitation import Imitation
from l2o.methods.meta_loss import MetaLoss
from l2o.methods.self_improving import SelfImproving
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.dm import L2ODM
from l2o.optimizers.hierarchical import L2OScale
from l2o.optimizers.rnnprop import RNNprop
from l2o.outer_loop import Plan
from l2o.tasks.base import TaskFamily
from l2o.tasks.ensembles import scale_core


@dataclass(frozen=True)
class Recipe:
    """How one learned optimizer is made.

    Args:
        optimizer: a fresh one, from the seed of its meta-parameters.
        method: how meta-gradients are got.
        plan: everything else; its seed is replaced by the meta-training seed.
        family: what it is trained on, from the preset.
    """

    optimizer: Callable[[int], LearnedOptimizer]
    method: OptimizerMethod
    plan: Plan
    family: Callable[[str], TaskFamily] = training_family

    def seeded(self, seed: int) -> tuple[LearnedOptimizer, OptimizerMethod, Plan]:
        """What `metatrain` needs for one meta-training seed."""
        return self.optimizer(seed), self.method, replace(self.plan, seed=seed)


@dataclass(frozen=True)
class Plans:
    """The plans of a preset.

    Args:
        dm: L2O-DM and its imitation.
        dm_longer: L2O-DM-AUG: fewer and longer trajectories, more steps in all.
        dm_curriculum: L2O-DM-CL, with and without imitation.
        rnnprop: RNNprop.
        rnnprop_curriculum: RNNprop-CL-IL.
        scale: L2O-Scale, its imitation and its self-improving.
        scale_curriculum: L2O-Scale-CL-IL.
        scale_meta: L2O-Scale-Meta, on an ensemble of small problems.
    """

    dm: Plan
    dm_longer: Plan
    dm_curriculum: Plan
    rnnprop: Plan
    rnnprop_curriculum: Plan
    scale: Plan
    scale_curriculum: Plan
    scale_meta: Plan


_SMOKE = Plan(trajectories=4, horizon=ConstantHorizon(20, 10), validate_every=2, validation_tasks=2, validation_last=5)
_SMOKE_CURRICULUM = replace(
    _SMOKE, trajectories=8, horizon=Curriculum((10, 20), (20, 30), 10, periods=2, longest_stage=2)
)

_LAPTOP = Plan(trajectories=1_000, validate_every=50, validation_tasks=5)
_LAPTOP_STAGES = Curriculum((100, 200, 500, 1000), longest_stage=6)
_LAPTOP_CURRICULUM = replace(_LAPTOP, trajectories=10_000, horizon=_LAPTOP_STAGES)
_LAPTOP_SCALE = replace(_LAPTOP, trajectories=100, validate_every=10, meta_optimizer=MetaRMSprop(1e-3))
_LAPTOP_META = Plan(
    trajectories=1_000,
    horizon=RandomHorizon(longest=100),
    validate_every=100,
    validation_measure="log-ratio",
    meta_optimizer=MetaRMSprop(1e-3),
)

_PAPER = Plan(trajectories=10_000, validate_every=100, validation_tasks=20)
_PAPER_CURRICULUM = replace(_PAPER, horizon=Curriculum())
_PUBLISHED_RMSPROP = MetaRMSprop(1e-6, moments="shared")
_PAPER_SCALE = Plan(trajectories=100, validate_every=1, validation_tasks=5, meta_optimizer=_PUBLISHED_RMSPROP)
_PAPER_META = Plan(
    trajectories=5_000,
    horizon=replace(RandomHorizon.published(longest=1_000), validation_steps=1_000),
    validate_every=100,
    validation_measure="log-ratio",
    meta_optimizer=_PUBLISHED_RMSPROP,
)

PLANS: dict[str, Plans] = {
    "smoke": Plans(
        dm=_SMOKE,
        dm_longer=replace(_SMOKE, trajectories=2, horizon=ConstantHorizon(30, 10)),
        dm_curriculum=_SMOKE_CURRICULUM,
        rnnprop=_SMOKE,
        rnnprop_curriculum=_SMOKE_CURRICULUM,
        scale=_SMOKE,
        scale_curriculum=_SMOKE_CURRICULUM,
        scale_meta=Plan(
            trajectories=2,
            horizon=RandomHorizon(1, 1.0, 5, 5.0, validation_steps=20),
            validate_every=2,
            validation_tasks=2,
            validation_measure="log-ratio",
            validation_last=5,
        ),
    ),
    "laptop": Plans(
        dm=_LAPTOP,
        dm_longer=replace(
            _LAPTOP, trajectories=200, horizon=ConstantHorizon(1000, 20), validate_every=20, validation_tasks=3
        ),
        dm_curriculum=_LAPTOP_CURRICULUM,
        rnnprop=Plan(trajectories=100, validate_every=10, validation_tasks=20),
        rnnprop_curriculum=replace(
            _LAPTOP_CURRICULUM, validate_every=10, horizon=Curriculum(_LAPTOP_STAGES.steps, longest_stage=10)
        ),
        scale=_LAPTOP_SCALE,
        scale_curriculum=replace(_LAPTOP_SCALE, trajectories=10_000, horizon=_LAPTOP_STAGES),
        scale_meta=_LAPTOP_META,
    ),
    "paper": Plans(
        dm=_PAPER,
        dm_longer=replace(_PAPER, trajectories=5_000, horizon=ConstantHorizon(1000, 20)),
        dm_curriculum=_PAPER_CURRICULUM,
        rnnprop=Plan(trajectories=100, validate_every=10, validation_tasks=20),
        rnnprop_curriculum=replace(_PAPER_CURRICULUM, validate_every=10),
        scale=_PAPER_SCALE,
        scale_curriculum=replace(_PAPER_SCALE, trajectories=10_000, horizon=Curriculum()),
        scale_meta=_PAPER_META,
    ),
}
"""The laptop preset has the paper's windows, minibatches, teachers and ratios, and a tenth of L2O-DM's trajectories;
its curriculum stops at trajectories of 1,000 steps. A first one validated L2O-DM's curriculum every 20 trajectories: a
second seed left the first stage with what 20 trajectories had found and never got below a validation loss of 0.5, so it
was given up before any test. The meta learning rate for L2O-Scale is 1e-3: the published 1e-6 leaves the optimizer
where it starts. A first recipe, 300 trajectories at 1e-4, ended at validation losses between 1.15 and 1.97, and two
thirds of its runs on Conv-MNIST diverged, trained plainly, with imitation or self-improving; on another seed, 100
trajectories at 1e-3 validate at 1.0, and Adam or losses in the place of their logarithms no better."""


def recipes(preset: str) -> Mapping[str, Recipe]:
    """All recipes of a preset by the name in the figures."""
    plans = PLANS[preset]
    rising = (0.0, 0.1, 0.3, 0.3)[: len(plans.dm_curriculum.horizon.stages)]
    return {
        "L2O-DM": Recipe(_dm, MetaLoss(), plans.dm),
        "L2O-DM-AUG": Recipe(_dm, MetaLoss(), plans.dm_longer),
        "L2O-DM-IL": Recipe(_dm, Imitation(ratio=0.3), plans.dm),
        "L2O-DM-CL": Recipe(_dm, MetaLoss(), plans.dm_curriculum),
        "L2O-DM-CL-IL": Recipe(_dm, Imitation(ratio=rising), plans.dm_curriculum),
        "RNNprop": Recipe(_rnnprop, MetaLoss(), plans.rnnprop),
        "RNNprop-CL-IL": Recipe(_rnnprop, Imitation(ratio=0.3), plans.rnnprop_curriculum),
        "L2O-Scale": Recipe(_scale, MetaLoss(objective="log"), plans.scale),
        "L2O-Scale-SI": Recipe(_scale, SelfImproving(objective="log"), plans.scale),
        "L2O-Scale-IL": Recipe(_scale, Imitation(MetaLoss(objective="log"), ratio=0.1), plans.scale),
        "L2O-Scale-Meta": Recipe(_scale, MetaLoss(objective="log"), plans.scale_meta, _ensemble),
        "L2O-Scale-CL-IL": Recipe(_scale, Imitation(MetaLoss(objective="log"), ratio=0.1), plans.scale_curriculum),
    }


def _dm(seed: int) -> LearnedOptimizer:
    return L2ODM.chen(seed=seed)


def _rnnprop(seed: int) -> LearnedOptimizer:
    return RNNprop.chen(seed=seed)


def _ensemble(preset: str) -> TaskFamily:
    del preset
    return scale_core(trajectories_each=5)


def _scale(seed: int) -> LearnedOptimizer:
    return L2OScale(seed=seed)
