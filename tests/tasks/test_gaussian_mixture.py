"""A mixture of Gaussians: the bound and where it is tight, gradients in closed form, monotone maximisation."""

from dataclasses import replace

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from l2o.errors import ArgumentError
from l2o.optimizers.handcrafted import SGD, Adam
from l2o.processes.replicated_losses import ReplicatedLosses, Settings
from l2o.rng import Stream
from l2o.rollout import rollout
from l2o.schedules.base import ScheduleDrives
from l2o.schedules.fixed import InTurn
from l2o.tasks.alternate import AlternateFamily
from l2o.tasks.gaussian_mixture import GaussianMixtureEM
from l2o.trees import Tree

RNG = Stream(3, ("test",), tasks=range(5))


def drawn(family: GaussianMixtureEM, rng: Stream = RNG) -> tuple[Tree, Tree]:
    """The instance, and parameters away from the start's symmetries."""
    instance = family.sample(rng.child("instance"))
    params = family.init(instance, rng.child("init"))
    return instance, {name: leaf + 0.3 * rng.child(name).normal(leaf.shape[1:]) for name, leaf in params.items()}


def mixture(params: Tree, task: int) -> MixtureSameFamily:
    """The same mixture as torch has it."""
    normal = Normal(params["means"][task], (params["log_variances"][task] / 2).exp())
    return MixtureSameFamily(Categorical(logits=params["weights"][task]), Independent(normal, 1))


def after(choice: int, process: ReplicatedLosses) -> ReplicatedLosses:
    return process.apply({"choice": torch.full((len(process.outcome),), choice)})


def started(family: GaussianMixtureEM, rule, steps: int = 100) -> ReplicatedLosses:
    settings = Settings(dict.fromkeys(family.groups, rule), validate_every=1)
    return ReplicatedLosses.start(family, settings, RNG, steps=steps, dtype=torch.float64)


def test_metrics_are_the_negative_log_likelihoods_of_the_mixture():
    family = GaussianMixtureEM(points=30)
    instance, params = drawn(family)
    found = family.metrics(params, instance)
    truth = {name: instance[f"true_{name}"] for name in ("means", "log_variances", "weights")}
    for task in range(5):
        for role in ("train", "validation", "test"):
            wanted = -mixture(params, task).log_prob(instance[role][task]).mean()
            torch.testing.assert_close(found[role][task], wanted)
            if role != "train":
                floor = -mixture(truth, task).log_prob(instance[role][task]).mean()
                torch.testing.assert_close(found[f"{role}_excess"][task], wanted - floor)


def test_the_exact_e_step_makes_the_bound_the_log_likelihood():
    family = GaussianMixtureEM(points=30)
    instance, params = drawn(family)
    likelihood = family.metrics(params, instance)["train"]
    loose = torch.func.vmap(lambda p, i: family.loss_named("elbo", p, i, {}))(params, instance)
    assert (loose > likelihood + 0.01).all()
    exact = torch.func.vmap(lambda p, i: family.updated("exact E-step", p, i, {}))(params, instance)
    tight, grads = family.pair_value_and_grad(("elbo", "responsibilities"), params | exact, instance, {})
    torch.testing.assert_close(tight, likelihood, rtol=1e-12, atol=0)
    assert grads["responsibilities"].abs().max() < 1e-15


def test_closed_forms_are_the_gradients_of_the_bound():
    family = GaussianMixtureEM(points=12, components=4)
    instance, params = drawn(family)
    for pair in family.pairs:
        values, grads = family.pair_value_and_grad(pair, params, instance, {})
        wanted, by_autograd = AlternateFamily.pair_value_and_grad(family, pair, params, instance, {})
        torch.testing.assert_close(values, wanted)
        assert grads.keys() == by_autograd.keys()
        for name in grads:
            torch.testing.assert_close(grads[name], by_autograd[name])


def test_exact_e_steps_and_small_gradient_m_steps_never_lower_the_likelihood():
    family = GaussianMixtureEM()
    process, seen = started(family, SGD(0.1)), []
    for _ in range(40):
        seen.append(family.metrics(process.params, process.instance)["train"])
        process = after(1, after(2, process))
    trail = torch.stack(seen)
    assert (trail.diff(dim=0) < 0).all()
    assert (trail[0] - trail[-1] > 0.05).all()
    assert process.measures["cost"].tolist() == [40 * (5 + 1)] * 5


def test_gradient_steps_on_the_responsibilities_tighten_the_bound():
    family = GaussianMixtureEM(points=50)
    process = started(family, Adam(0.1))
    first = family.metrics(process.params, process.instance)["train"]
    for _ in range(300):
        process = after(0, process)
    bound, _ = family.pair_value_and_grad(("elbo", "responsibilities"), process.params, process.instance, {})
    torch.testing.assert_close(bound, first, rtol=0, atol=2e-3)


def test_training_comes_near_to_the_mixture_that_was_drawn():
    family = GaussianMixtureEM()
    process = started(family, Adam(0.03), steps=600)
    process = replace(process, settings=replace(process.settings, validate_every=10))
    driver = ScheduleDrives(InTurn((2, 1, 1), choices=3), RNG)
    metrics = rollout(process, driver, driver.begin(), 600, record=frozenset()).process.judgement.metrics
    assert metrics["test_excess"].median() < 0.1
    assert (metrics["validation"] > 0).all()


def test_points_come_from_the_drawn_mixture():
    family = GaussianMixtureEM(points=20_000)
    instance = family.sample(RNG)
    truth = {name: instance[f"true_{name}"] for name in ("means", "log_variances", "weights")}
    for task in range(5):
        wanted, points = mixture(truth, task), instance["train"][task]
        error = (points.mean(0) - wanted.mean) / (wanted.variance / 20_000).sqrt()
        assert error.abs().max() < 4
        torch.testing.assert_close(points.var(0), wanted.variance, rtol=0.06, atol=0)


def test_purposes_share_the_mixture_and_the_test_points_and_nothing_else():
    controller, model = (GaussianMixtureEM(purpose=purpose).sample(RNG) for purpose in ("controller", "model"))
    same = {name for name in controller if torch.equal(controller[name], model[name])}
    assert same == {"true_means", "true_log_variances", "true_weights", "test", "test_floor"}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ArgumentError, match="need at least 2 components, a training point for each"):
        GaussianMixtureEM(components=4, points=3)
    with pytest.raises(ArgumentError, match="spread is 0"):
        GaussianMixtureEM(spread=0)
    with pytest.raises(ArgumentError, match="purpose is 'test'"):
        GaussianMixtureEM(purpose="test")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="costs -1"):
        GaussianMixtureEM(exact_cost=-1)
