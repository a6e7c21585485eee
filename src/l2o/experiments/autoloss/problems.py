"""The problems of AutoLoss's experiments: how schedules are trained on each, and how they are tried."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from l2o.horizons import ConstantHorizon
from l2o.meta_optimizer import MetaAdam
from l2o.methods.policy_gradient import MovingAverage, PolicyGradient
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.handcrafted import Adam
from l2o.outer_loop import Plan
from l2o.processes.replicated_losses import Settings
from l2o.schedules.controllers import Controller
from l2o.schedules.features import Features, MeasureFeatures, PaperFeatures, PaperGANFeatures, RobustFeatures
from l2o.schedules.rewards import LogReward, NegativeReward, PublishedReward, Reward
from l2o.sources import describe_rules
from l2o.tasks.alternate import AlternateFamily, Choice
from l2o.tasks.classification import SparseClassification
from l2o.tasks.gan import GAN
from l2o.tasks.gaussian_mixture import GaussianMixtureEM
from l2o.tasks.multitask import MultitaskDigits
from l2o.tasks.regression import QuadraticRegression
from l2o.tasks.splits import Purpose

CAP = 1.5
"""Bound of the logits of our controllers: of two choices, none gets rarer than one in twenty. Chosen with the meta
learning rate in pilot runs of the regression on other seeds. At 0.05 a step too long left one choice out for good:
runs that are all alike teach nothing. With the bound alone two of four controllers still stayed at it, at 0.03 one of
three, at 0.02 none. A bonus on the entropy of 0.01 drew the rates to one half, one of 0.003 did not help."""

Families = Callable[[Purpose, int], AlternateFamily]
"""A family from the parts of the data that it uses and the seed of the draw."""


@dataclass(frozen=True)
class Problem:
    """A problem, and how schedules are trained and tried on it.

    Args:
        name: of its folder.
        title: in tables.
        families: makes the family.
        rules: for each group, the optimizer that steps it.
        settings: how choices become updates, the optimizers aside.
        sizes: of its runs and of the training of schedules.
        measure: what the goal's metric is, in words.
        tested: the metric that is reported besides, "" for none.
        decimals: that tables give.
        primary: number of the choice that alone makes the first baseline.
        hidden: units of the controller's hidden layer.
        reward: what a run is worth.
        price: of a unit of cost, added to the measure; not negative.
        published: the features, the temperature and the learning of the paper instead of ours; rewards are `reward`.
        joint: the weight of the penalty becomes this family's in joint training, or None without a penalty.
        seed: of everything that is drawn for it.
    """

    name: str
    title: str
    families: Families
    rules: Mapping[str, LearnedOptimizer]
    settings: Mapping[str, int | None]
    sizes: "Sizes"
    measure: str = "validation"
    tested: str = "test"
    decimals: int = 4
    primary: int = 0
    hidden: int = 16
    reward: Reward = field(default_factory=LogReward)
    price: float = 0.0
    published: MovingAverage | None = None
    joint: Callable[[Purpose, int, float], AlternateFamily] | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        # Every table, verdict and run asks for the family; drawing or loading its data once is enough.
        object.__setattr__(self, "families", cache(inspect.unwrap(self.families)))

    def __getstate__(self) -> dict[str, Any]:
        """Sent to a worker, it goes without its cache, which cannot be sent."""
        return {**vars(self), "families": inspect.unwrap(self.families)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.__post_init__()

    @property
    def settled(self) -> Settings:
        """The settings of its runs."""
        return Settings(optimizers=self.rules, **self.settings)  # pyright: ignore[reportArgumentType]

    @property
    def steps(self) -> int:
        """Choices of a run, in training and in trials; a run may end earlier."""
        return self.sizes.steps

    @property
    def trials(self) -> int:
        """Runs that are reported on, each from a start of its own."""
        return self.sizes.trials

    @property
    def seeds(self) -> range:
        """Seeds of trained schedules."""
        return range(1, self.sizes.controllers + 1)

    def plan(self, seed: int) -> Plan:
        """Of the training of a schedule."""
        return self.sizes.plan(seed)

    @property
    def budget(self) -> int:
        """Runs that training one schedule takes, validations aside."""
        return self.sizes.updates * self.sizes.rollouts

    def controller(self, seed: int, *, features: str = "state", bias: Sequence[float] | None = None) -> Controller:
        """A fresh controller that sees the state of the run, or only the time; `bias` is what it prefers at first."""
        family = self.families("controller", self.seed)
        seen: Features
        losses, gan = list(dict.fromkeys(loss for loss, _ in family.pairs)), isinstance(family, GAN)
        temperature = 2.0 if self.published is not None and not gan else 1.0
        if features == "time":
            seen = MeasureFeatures(["progress"])
        elif self.published is None:
            seen = RobustFeatures(family.pairs, losses, family.goal.metric)
        else:
            seen = PaperGANFeatures() if gan else PaperFeatures(family.pairs, losses, family.goal.metric)
        hidden = [self.hidden] if self.hidden else []
        cap = None if self.published is not None else CAP
        return Controller(
            seen,
            len(family.choices),
            hidden=hidden,
            temperature=temperature,
            logit_cap=cap,
            bias=bias,
            seed=seed,
        )

    @property
    def method(self) -> PolicyGradient:
        """How schedules are trained."""
        return PolicyGradient(self.reward, self.published)

    def describe(self) -> dict[str, Any]:
        """What makes its runs these runs, in JSON."""
        return {
            "name": self.name,
            "optimizers": describe_rules(self.rules),
            "settings": dict(self.settings),
            "steps": self.steps,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Sizes:
    """What a preset sets for a problem.

    Args:
        steps: of a run.
        updates: of the controller.
        rollouts: runs for each update.
        trials: runs that are reported on.
        rate: meta learning rate.
        controllers: how many schedules are trained, each from a seed of its own.
    """

    steps: int
    updates: int
    rollouts: int
    trials: int
    rate: float = 0.02
    controllers: int = 3

    def plan(self, seed: int) -> Plan:
        """The plan of a training: windows of a tenth of a run, up to ten validations."""
        return Plan(
            trajectories=self.updates,
            tasks=self.rollouts,
            horizon=ConstantHorizon(self.steps, max(1, self.steps // 10)),
            meta_optimizer=MetaAdam(self.rate),
            validate_every=-(-self.updates // 10),
            validation_tasks=max(2, self.rollouts // 2),
            validation_last=1,
            checkpoint_every=10,
            seed=seed,
        )


REGRESSION: Mapping[str, Sizes] = {
    "smoke": Sizes(120, 2, 4, 3, controllers=1),
    "laptop": Sizes(6_000, 30, 16, 10),
    "paper": Sizes(20_000, 400, 1, 10, rate=1e-3),
}
CLASSIFICATION: Mapping[str, Sizes] = {
    "smoke": Sizes(60, 2, 4, 3, controllers=1),
    "laptop": Sizes(2_000, 30, 16, 10),
    "paper": Sizes(2_000, 1_000, 1, 10, rate=1e-3),
}
PLAYERS: Mapping[str, Sizes] = {
    "smoke": Sizes(40, 1, 2, 2, controllers=1),
    "laptop": Sizes(5_000, 15, 4, 3, controllers=5),
    "paper": Sizes(200_000, 75, 4, 3, rate=0.02, controllers=5),
}
MULTITASK: Mapping[str, Sizes] = {
    "smoke": Sizes(40, 2, 4, 3, controllers=1),
    "laptop": Sizes(800, 30, 16, 10),
    "paper": Sizes(2_000, 100, 16, 20),
}
MIXTURE: Mapping[str, Sizes] = {
    "smoke": Sizes(40, 2, 4, 3, controllers=1),
    "laptop": Sizes(400, 30, 16, 20),
    "paper": Sizes(1_000, 100, 16, 50),
}


PRICE = 1e-4
"""Nats that a gradient step of expectation maximisation costs: an exact E-step costs five."""


def regression(preset: str, penalty: float = 0.2) -> Problem:
    """AutoLoss's regression, with the published weight of the penalty."""
    sizes, small = REGRESSION[preset], preset == "smoke"
    shape: dict[str, Any] = {"dimensions": 4, "sizes": (60, 60, 60, 60, 100)} if small else {}

    def family(purpose: Purpose, data: int, weight: float = penalty) -> QuadraticRegression:
        return QuadraticRegression(weight, purpose=purpose, data_seed=data, **shape)

    return Problem(
        name=f"regression-{penalty:g}",
        title=f"regression, lambda {penalty:g}",
        families=family,
        rules={"model": Adam(5e-4)},
        settings={"validate_every": 10, "patience": 100, "common": True},
        sizes=sizes,
        measure="mean squared error",
        **_published(preset, PublishedReward("error", 20_000), MovingAverage(decay=0.8, clip=20.0)),
        joint=lambda purpose, data, weight: joint(family(purpose, data, weight)),
    )


def classification(preset: str, penalty: float = 0.02, *, data_seed: int = 1) -> Problem:
    """AutoLoss's classifier, with the published weight of the penalty; 10,000 points to report on."""
    sizes, small = CLASSIFICATION[preset], preset == "smoke"
    shape: dict[str, Any] = (
        {"hidden": 4, "sizes": (40, 40, 40, 40, 60)} if small else {"test_size": 10_000 if preset == "laptop" else None}
    )

    def family(purpose: Purpose, data: int, weight: float = penalty) -> SparseClassification:
        # Schedules are trained without looking at the test points; few of them save time.
        settings = shape if purpose == "model" or small else {}
        return SparseClassification(weight, purpose=purpose, data_seed=data, **settings)

    return Problem(
        name=f"classification-{penalty:g}" + (f"-data-{data_seed}" if data_seed != 1 else ""),
        title=f"classification, lambda {penalty:g}",
        families=family,
        rules={"model": Adam(1e-3)},
        settings={"validate_every": 10, "patience": 20, "common": True},
        sizes=sizes,
        measure="share of errors",
        **_published(preset, PublishedReward("accuracy", 1_000), MovingAverage(decay=0.9, clip=5.0)),
        joint=lambda purpose, data, weight: joint(family(purpose, data, weight)),
        seed=data_seed,
    )


def multitask(preset: str) -> Problem:
    """Four tasks on digits that share a layer; the digit is labelled in a quarter of the training images alone."""
    sizes = MULTITASK[preset]

    def family(purpose: Purpose, data: int) -> MultitaskDigits:
        return MultitaskDigits(purpose=purpose, labelled=50, data_seed=data)

    rules = dict.fromkeys(family("model", 1).groups, Adam(1e-3))
    return Problem(
        name="multitask-digits",
        title="four tasks on digits",
        families=family,
        rules=rules,
        settings={"validate_every": 10, "patience": None, "common": True},
        sizes=sizes,
        measure="cross-entropy of the digit",
        decimals=3,
    )


def mixture(preset: str) -> Problem:
    """Expectation maximisation of a mixture of Gaussians; every run has data of its own."""
    sizes = MIXTURE[preset]

    def family(purpose: Purpose, data: int) -> GaussianMixtureEM:
        del data
        return GaussianMixtureEM(purpose=purpose)

    rules = dict.fromkeys(family("model", 1).groups, Adam(0.03))
    return Problem(
        name="gaussian-mixture",
        title="expectation maximisation",
        families=family,
        rules=rules,
        settings={"validate_every": 10, "patience": None, "common": True},
        sizes=sizes,
        measure=f"held-out negative log-likelihood, {PRICE:g} added for each unit of cost",
        primary=1,
        reward=NegativeReward(PRICE),
        price=PRICE,
    )


def players(preset: str) -> Problem:
    """The published GAN on MNIST in the preset paper; else the scaled variant, perceptrons on 8x8 digits."""
    if preset == "paper":
        return gan(preset, "mnist-gan", "GAN on MNIST", lambda purpose, data: GAN.mnist(samples=5_000))
    samples = 50 if preset == "smoke" else 1_000
    return gan(preset, "digits-gan", "GAN on 8x8 digits (scaled)", lambda purpose, data: GAN.digits(samples=samples))


def gan(preset: str, name: str, title: str, families: Families) -> Problem:
    """A GAN under the published optimizers; small networks with a larger learning rate."""
    paper = preset == "paper"
    return Problem(
        name=name,
        title=title,
        families=families,
        rules=dict.fromkeys(("generator", "discriminator"), Adam(2e-4 if paper else 5e-4, beta1=0.5)),
        settings={
            "validate_every": {"smoke": 10, "laptop": 250, "paper": 500}[preset],
            "patience": 20 if paper else None,
            "collapse_after": 500,
            "common": True,
        },
        sizes=PLAYERS[preset],
        measure="inception score",
        tested="frechet",
        decimals=2,
        **_published(preset, PublishedReward("score", 10), MovingAverage(decay=0.9, clip=20.0, least=1.0)),
    )


def _published(preset: str, reward: Reward, baseline: MovingAverage) -> dict[str, Any]:
    """The paper's reward and baseline in the preset paper, nothing otherwise."""
    return {"reward": reward, "published": baseline} if preset == "paper" else {}


def joint(family: AlternateFamily) -> AlternateFamily:
    """The family with one choice: all losses at once."""
    return family.with_choices([Choice("joint", tuple(dict.fromkeys(family.pairs)))])
