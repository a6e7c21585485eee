"""Hand-designed rules are their torch.optim namesakes."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from l2o.errors import ArgumentError
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.handcrafted import SGD, Adagrad, Adam, Momentum, Nesterov, RMSprop
from l2o.rng import Stream

RATES = (1e-3, 0.1)
EPSILONS = (1e-10, 1e-4)
FRACTIONS = (0.0, 0.5, 0.9)

Pair = tuple[LearnedOptimizer, Callable[[Iterable[Tensor]], optim.Optimizer]]


def pairs() -> Iterator[Any]:
    """Each rule beside its namesake, over a grid of constants."""

    def pair(rule: LearnedOptimizer, make: Callable[..., optim.Optimizer], **constants: Any) -> Any:
        stated = ",".join(f"{name}={value}" for name, value in rule.config().items())
        return pytest.param((rule, lambda params: make(params, **constants)), id=f"{rule.name}({stated})")

    for lr in RATES:
        yield pair(SGD(lr), optim.SGD, lr=lr)
    for lr, momentum in itertools.product(RATES, FRACTIONS):
        yield pair(Momentum(lr, momentum=momentum), optim.SGD, lr=lr, momentum=momentum)
    for lr, momentum in itertools.product(RATES, FRACTIONS[1:]):
        yield pair(Nesterov(lr, momentum=momentum), optim.SGD, lr=lr, momentum=momentum, nesterov=True)
    for lr, alpha, epsilon in itertools.product(RATES, (0.5, 0.99), EPSILONS):
        yield pair(RMSprop(lr, alpha=alpha, epsilon=epsilon), optim.RMSprop, lr=lr, alpha=alpha, eps=epsilon)
    # beta2 = 0 divides by single gradients: chaos, in which both forms lose each other within 50 steps.
    for lr, beta1, beta2, epsilon in itertools.product(RATES, (0.0, 0.9), (0.9, 0.999), EPSILONS):
        rule = Adam(lr, beta1=beta1, beta2=beta2, epsilon=epsilon)
        yield pair(rule, optim.Adam, lr=lr, betas=(beta1, beta2), eps=epsilon)
    for lr, epsilon in itertools.product(RATES, EPSILONS):
        yield pair(Adagrad(lr, epsilon=epsilon), optim.Adagrad, lr=lr, eps=epsilon)


def loss(params: list[Tensor]) -> Tensor:
    """A small regression with one hidden layer, float64."""
    draw = Stream(3, ("data",))
    x, y = draw.child("x").normal((16, 4))[0], draw.child("y").normal((16, 2))[0]
    weight, bias, output = params
    return (torch.tanh(x @ weight + bias) @ output - y).square().mean()


def start() -> list[Tensor]:
    draw = Stream(3, ("start",))
    return [nn.Parameter(draw.child(str(shape)).normal(shape)[0]) for shape in ((4, 5), (5,), (5, 2))]


def descend(make: Callable[[Iterable[Tensor]], optim.Optimizer]) -> list[Tensor]:
    """The parameters after each of 50 steps, `[steps, ...]` each."""
    params = start()
    optimizer, path = make(params), []
    for _ in range(50):
        optimizer.zero_grad()
        loss(params).backward()
        optimizer.step()
        path.append([p.detach().clone() for p in params])
    return [torch.stack(leaf) for leaf in zip(*path, strict=True)]


@pytest.mark.parametrize("pair", list(pairs()))
def test_tracks_torch_over_fifty_steps(pair: Pair) -> None:
    rule, namesake = pair
    torch.testing.assert_close(descend(rule.as_torch), descend(namesake), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", [SGD, Momentum, Nesterov, RMSprop, Adam, Adagrad])
@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_not_positive_and_finite_is_refused(rule: Callable[[float], object], lr: float) -> None:
    with pytest.raises(ArgumentError, match=f"lr is {lr}"):
        rule(lr)


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_a_decay_outside_its_range_is_refused(value: float) -> None:
    for make, name in (
        (lambda: Momentum(0.1, momentum=value), "momentum"),
        (lambda: Nesterov(0.1, momentum=value), "momentum"),
        (lambda: RMSprop(0.1, alpha=value), "alpha"),
        (lambda: Adam(0.1, beta1=value), "beta1"),
        (lambda: Adam(0.1, beta2=value), "beta2"),
    ):
        with pytest.raises(ArgumentError, match=f"{name} is {value}"):
            make()


@pytest.mark.parametrize("rule", [SGD(0.1), Momentum(0.1), Nesterov(0.1), RMSprop(0.1), Adam(0.1), Adagrad(0.1)])
def test_the_config_rebuilds_the_rule(rule: LearnedOptimizer) -> None:
    constants: dict[str, Any] = rule.config()
    assert type(rule)(**constants).config() == constants
    assert not list(rule.parameters())
