"""Quadratics against arithmetic, autograd and the statistics of their constants."""

import math

import pytest
import torch

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.tasks.quadratic import Quadratics
from l2o.trees import Tree


def drawn(family: Quadratics, stream: Stream) -> tuple[Tree, Tree]:
    instance = family.sample(stream.child("instance"))
    return instance, family.init(instance, stream.child("init"))


def test_loss_is_the_squared_residual() -> None:
    instance = {"matrix": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "target": torch.tensor([1.0, 0.0])}
    assert Quadratics(2).loss({"x": torch.ones(2)}, instance, {}) == 2**2 + 7**2


@pytest.mark.parametrize("family", [Quadratics(3), Quadratics(1), Quadratics.published()])
def test_closed_form_equals_autograd(family: Quadratics) -> None:
    instance, params = drawn(family, Stream(0, tasks=range(5)))
    losses, grads = family.value_and_grad(params, instance, {})
    truth, true_grads = TaskFamily.value_and_grad(family, params, instance, {})
    torch.testing.assert_close(losses, truth, rtol=1e-12, atol=0)
    torch.testing.assert_close(grads["x"], true_grads["x"], rtol=1e-11, atol=1e-13)


def test_optimum_has_zero_loss_and_gradient() -> None:
    family = Quadratics(10)
    instance, _ = drawn(family, Stream(0, tasks=range(20)))
    losses, grads = family.value_and_grad(family.optimum(instance), instance, {})
    assert losses.max() < 1e-20
    assert grads["x"].abs().max() < 1e-9


@pytest.mark.parametrize(
    ("constants", "mean", "deviation", "fourth"), [("normal", 0, 1, 3), ("uniform", 0.5, 1 / math.sqrt(12), 1.8)]
)
def test_constants_have_the_moments_of_their_distribution(constants, mean, deviation, fourth) -> None:
    """10^5 numbers: the mean is within 5 standard errors, the kurtosis (3 normal, 1.8 uniform) within 0.1."""
    instance, _ = drawn(Quadratics(10, constants=constants), Stream(1, tasks=range(1000)))
    for name, numbers in (("matrix", 1e5), ("target", 1e4)):
        leaf = instance[name]
        assert leaf.numel() == numbers
        assert float(leaf.mean()) == pytest.approx(mean, abs=5 * deviation / math.sqrt(numbers))
        assert float(leaf.std()) == pytest.approx(deviation, rel=5 / math.sqrt(numbers))
    matrix = instance["matrix"]
    assert float(((matrix - mean) / deviation).pow(4).mean()) == pytest.approx(fourth, abs=0.1)
    if constants == "uniform":
        assert matrix.min() >= 0
        assert matrix.max() < 1


def test_starts_have_the_stated_deviation() -> None:
    for scale in (1.0, 0.01):
        _, params = drawn(Quadratics(10, start_scale=scale), Stream(2, tasks=range(1000)))
        assert float(params["x"].std()) == pytest.approx(scale, rel=0.04)
        assert abs(float(params["x"].mean())) < 0.05 * scale


def test_published_variant_has_exactly_a_128th_of_the_gradient() -> None:
    """Exactly, because 128 is a power of two."""
    published, independent = Quadratics.published(), Quadratics(10, constants="uniform", start_scale=0.01)
    stream = Stream(3, tasks=range(4))
    instance, params = drawn(published, stream)
    for one, other in zip(drawn(independent, stream), (instance, params), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    losses, grads = published.value_and_grad(params, instance, {})
    full, full_grads = independent.value_and_grad(params, instance, {})
    assert torch.equal(128 * losses, full)
    assert torch.equal(128 * grads["x"], full_grads["x"])


def test_draws_do_not_depend_on_how_tasks_are_batched() -> None:
    family = Quadratics(4)
    whole, *parts = (drawn(family, Stream(4, tasks=tasks)) for tasks in (range(4), range(2), range(2, 4)))
    for together, first, second in zip(whole, *parts, strict=True):
        for name, leaf in together.items():
            assert torch.equal(leaf, torch.cat([first[name], second[name]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dimensions": 0}, "dimensions is 0"),
        ({"constants": "cauchy"}, "constants is 'cauchy'"),
        ({"start_scale": -1.0}, "start_scale -1.0"),
        ({"start_scale": math.nan}, "start_scale nan"),
        ({"divisor": 0.0}, "divisor"),
    ],
)
def test_meaningless_arguments_are_refused(arguments, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        Quadratics(**arguments)
