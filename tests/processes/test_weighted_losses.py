"""Joint training with balanced losses: the same run as a schedule's joint choice, and every rule on real data."""

import pytest
import torch

from l2o.errors import ArgumentError
from l2o.optimizers.handcrafted import SGD, Adam
from l2o.processes.balancing import DynamicWeightAverage, EqualWeights, GradNorm, PCGrad, RandomLossWeighting
from l2o.processes.balancing import UncertaintyWeighting as Uncertainty
from l2o.processes.judging import Outcome
from l2o.processes.replicated_losses import ReplicatedLosses, Settings
from l2o.processes.weighted_losses import BalancedRun, balanced_run
from l2o.rng import Stream
from l2o.tasks.alternate import AlternateFamily, Choice, Goal
from l2o.tasks.gaussian_mixture import GaussianMixtureEM
from l2o.tasks.multitask import MultitaskDigits
from l2o.tasks.regression import QuadraticRegression

RNG = Stream(3, ("test",), tasks=range(3))


def regression() -> QuadraticRegression:
    return QuadraticRegression(0.4, dimensions=4, sizes=(30,) * 5)


def run(family, balancing, rule, *, steps=40, rng=RNG, **options) -> BalancedRun:
    rules = dict.fromkeys(family.groups, rule)
    return balanced_run(family, balancing, rules, rng, steps=steps, dtype=torch.float64, **options)


@pytest.mark.parametrize(
    "make",
    [regression, lambda: MultitaskDigits(hidden=5), lambda: GaussianMixtureEM(points=30)],
    ids=["regression", "digits", "mixture"],
)
@pytest.mark.parametrize("rule", [SGD(0.01), Adam(0.01)], ids=["SGD", "Adam"])
def test_equal_weights_are_the_choice_of_all_pairs(make, rule):
    family = make()
    found = run(family, EqualWeights(), rule, validate_every=3)
    family.choices = (Choice("joint", family.pairs),)
    settings = Settings(dict.fromkeys(family.groups, rule), validate_every=3)
    process = ReplicatedLosses.start(family, settings, RNG, steps=40, dtype=torch.float64)
    for _ in range(40):
        process = process.apply({"choice": torch.zeros(3, dtype=torch.int64)})
    for name, leaf in process.params.items():
        torch.testing.assert_close(found.params[name], leaf, rtol=1e-9, atol=1e-12)
    assert found.judgement.metrics.keys() == process.judgement.metrics.keys()
    for name, leaf in process.judgement.metrics.items():
        torch.testing.assert_close(found.judgement.metrics[name], leaf, rtol=1e-9, atol=1e-12)
    assert torch.equal(found.judgement.step, process.judgement.step)
    assert torch.equal(found.outcome, process.outcome)


@pytest.mark.parametrize(
    "balancing",
    [EqualWeights(), Uncertainty(0.01), DynamicWeightAverage(), RandomLossWeighting(), GradNorm(), PCGrad()],
    ids=lambda balancing: balancing.name,
)
def test_every_balancing_learns_the_digits(balancing):
    family = MultitaskDigits(purpose="model")
    rules = dict.fromkeys(family.groups, Adam(3e-3))
    found = balanced_run(family, balancing, rules, RNG, steps=250)
    assert (found.outcome == Outcome.RUNNING).all()
    assert (found.judgement.metrics["test_accuracy"] > 0.8).all()
    assert found.weights.shape == (3, 4)


@pytest.mark.parametrize("balancing", [RandomLossWeighting(), GradNorm(), PCGrad()], ids=lambda rule: rule.name)
def test_replicas_are_the_runs_that_they_would_be_alone(balancing):
    together = run(MultitaskDigits(hidden=5), balancing, Adam(0.01), steps=12)
    alone = run(MultitaskDigits(hidden=5), balancing, Adam(0.01), steps=12, rng=RNG.over([2]))
    for name, leaf in alone.params.items():
        torch.testing.assert_close(leaf[0], together.params[name][2], rtol=1e-9, atol=1e-12)


class Wells(AlternateFamily):
    """Losses (x - 1)^2 and (x + 1)^2 y^2 of one group; task 1 breaks where y falls below 0.5."""

    name = "wells"

    def __init__(self, groups=None):
        super().__init__(
            losses=("one", "two"),
            groups=groups or {"both": ("x", "y")},
            choices=[Choice("c", (("one", name), ("two", name))) for name in groups or ("both",)],
            goal=Goal("x"),
        )

    def init(self, instance, rng):
        return {"x": rng.child("x").uniform(low=1.0, high=2.0), "y": torch.ones(len(rng.tasks), dtype=torch.float64)}

    def sample(self, rng):
        return {"breaks": torch.tensor(rng.tasks) == 1}

    def loss_named(self, name, params, instance, batch):
        broken = torch.where(instance["breaks"] & (params["y"] < 0.5), torch.nan, 0.0)
        if name == "one":
            return (params["x"] - 1).square() + broken * params["x"]
        return (params["x"] + 1).square() * params["y"].square()

    def metrics(self, params, instance):
        return {"x": params["x"]}


def test_a_task_whose_loss_is_not_finite_diverges_alone():
    found = run(Wells(), EqualWeights(), SGD(0.05))
    assert found.outcome.tolist() == [Outcome.RUNNING, Outcome.DIVERGED, Outcome.RUNNING]
    assert torch.isfinite(found.params["x"]).all()
    assert 0 < found.params["y"][1] < 0.5


def test_patience_ends_a_run():
    found = run(Wells(), EqualWeights(), SGD(1e-9), steps=100, validate_every=1, patience=4)
    assert found.outcome.tolist() == [Outcome.RUNNING] * 3  # x falls at every step, if only by little
    higher = Wells()
    higher.goal = Goal("x", "higher")
    ended = run(higher, EqualWeights(), SGD(1e-9), steps=100, validate_every=1, patience=4)
    assert ended.outcome.tolist() == [Outcome.FINISHED] * 3
    assert ended.judgement.step.tolist() == [0] * 3


def test_what_does_not_fit_is_refused():
    with pytest.raises(ArgumentError, match="steps is 0"):
        run(Wells(), EqualWeights(), SGD(0.1), steps=0)
    with pytest.raises(ArgumentError, match="patience is 0"):
        run(Wells(), EqualWeights(), SGD(0.1), patience=0)
    with pytest.raises(ArgumentError, match="the groups digit, parity, large, pixels overlap"):
        run(MultitaskDigits(grouping="task"), EqualWeights(), SGD(0.1))
    with pytest.raises(ArgumentError, match="no rule for both; there are none"):
        balanced_run(Wells(), EqualWeights(), {}, RNG, steps=1)
