"""Number types, devices, mixed precision, and numbers that are not finite."""

import math

import pytest
import torch
from contract.optimizer_cases import (
    follow,
    gradients,
    loss_of,
    net,
    numbers,
    parameter,
    same,
    shown,
    states,
    step,
    train,
    values,
)
from torch import Tensor, nn

from l2o.agent import Backend
from l2o.errors import ArgumentError
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.torch_optim import STEPS


def types(optimizer: torch.optim.Optimizer, p: Tensor) -> set[torch.dtype]:
    return {leaf.dtype for leaf in optimizer.state[p].values() if leaf.is_floating_point()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_get_single_precision_updates(rule: LearnedOptimizer, dtype: torch.dtype) -> None:
    half, (grad,) = parameter(3, 5, dtype=dtype), gradients((3, 5), steps=1, dtype=dtype)
    single = nn.Parameter(half.detach().float())
    optimizer = rule.as_torch([half], weight_decay=0.0)
    moved = follow(optimizer, half, [grad])
    assert moved.dtype == dtype
    assert types(optimizer, half) == {torch.float32}
    assert same(moved, follow(rule.as_torch([single]), single, [grad.float()]).to(dtype))  # rounded once, at the add


def test_double_precision_parameters_get_double_precision_updates(rule: LearnedOptimizer) -> None:
    double, single, grads = parameter(6, dtype=torch.float64), parameter(6), gradients((6,))
    optimizer = rule.as_torch([double])
    moved = follow(optimizer, double, [grad.double() for grad in grads])
    assert types(optimizer, double) == {torch.float64}
    reference = follow(rule.as_torch([single]), single, grads)
    torch.testing.assert_close(moved.float(), reference, rtol=1e-5, atol=1e-5)
    assert (moved - reference).abs().max() > 0


def test_types_may_be_mixed_in_one_optimizer(separate: LearnedOptimizer) -> None:
    kinds = (torch.bfloat16, torch.float32, torch.float64)
    together, alone = ([parameter(4, dtype=dtype) for dtype in kinds] for _ in range(2))
    for group in (together, alone):
        for p in group:
            p.grad = numbers(4, seed=9, dtype=p.dtype)
    step(separate.as_torch(together))
    for p in alone:
        step(separate.as_torch([p]))
    assert same([p.detach() for p in together], [p.detach() for p in alone])


def test_a_model_that_is_cast_after_saving_gets_its_state_in_its_own_precision(rule: LearnedOptimizer) -> None:
    single, double = parameter(4), parameter(4, dtype=torch.float64)
    first, second = rule.as_torch([single]), rule.as_torch([double])
    follow(first, single, gradients((4,)))
    second.load_state_dict(first.state_dict())
    assert types(second, double) == {torch.float64}
    follow(second, double, gradients((4,), dtype=torch.float64))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_state_follows_the_parameters_device(rule: LearnedOptimizer) -> None:
    here, there, grads = parameter(300), nn.Parameter(numbers(300).cuda()), gradients((300,))
    optimizer = rule.as_torch([there])
    moved = follow(optimizer, there, [grad.cuda() for grad in grads])
    assert {leaf.device for name, leaf in optimizer.state[there].items() if name != STEPS} == {there.device}
    assert optimizer.state[there][STEPS].device.type == "cpu"
    torch.testing.assert_close(moved.cpu(), follow(rule.as_torch([here]), here, grads), rtol=1e-4, atol=1e-4)
    saved = rule.as_torch([here])
    saved.load_state_dict(optimizer.state_dict())
    assert {leaf.device.type for leaf in saved.state[here].values()} == {"cpu"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_gradient_that_is_not_finite_stops_the_step_before_anything_changes(
    rule: LearnedOptimizer, value: float, dtype: torch.dtype
) -> None:
    model = net(dtype=dtype)
    optimizer = rule.as_torch(model.named_parameters(), weight_decay=0.1)
    for _ in range(2):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        step(optimizer)
    model.get_parameter("2.bias").grad[1] = value  # pyright: ignore[reportOptionalSubscript]
    before = values(model), states(optimizer)
    with pytest.raises(ArgumentError, match=r"gradient of 2\.bias holds NaN or infinity"):
        step(optimizer)
    assert same((values(model), states(optimizer)), before)


def test_a_parameter_without_a_name_is_named_by_place_and_shape(rule: LearnedOptimizer) -> None:
    p = parameter(2, 3)
    p.grad = torch.full((2, 3), math.nan)
    with pytest.raises(ArgumentError, match=r"parameter 1 of shape \(2, 3\)"):
        step(rule.as_torch([parameter(1), p]))


def test_large_finite_gradients_are_no_error(rule: LearnedOptimizer) -> None:
    p = parameter(4)
    p.grad = torch.tensor([3e38, -3e38, 3e38, 3e38])  # their sum and their squares overflow
    step(rule.as_torch([p], lr=0.0))


def test_a_step_that_the_scaler_leaves_out_changes_nothing(rule: LearnedOptimizer) -> None:
    model, plain = net(), net()
    optimizer = rule.as_torch(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for at in range(5):
        optimizer.zero_grad()
        loss = loss_of(model)
        scaler.scale(loss).backward()
        before = values(model), states(optimizer)
        if at in (0, 2):  # before there is any state, and after
            next(model.parameters()).grad[0] = math.inf  # pyright: ignore[reportOptionalSubscript]
        scaler.step(optimizer, **shown(optimizer, loss))
        scaler.update()
        if at in (0, 2):
            assert same((values(model), states(optimizer)), before)
    # Powers of two scale without rounding: the three other steps are those of a plain loop.
    assert same(values(model), train(plain, rule.as_torch(plain.parameters()), steps=3))


def test_the_scaler_passes_a_closure_by_position(rule: LearnedOptimizer) -> None:
    model = net()
    optimizer, scaler = rule.as_torch(model.parameters()), torch.amp.GradScaler("cpu", enabled=False)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    assert torch.equal(scaler.step(optimizer, closure), loss_of(net()))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_step_under_autocast_is_computed_in_full_precision(rule: LearnedOptimizer, backend: Backend) -> None:
    outside, inside, grads = parameter(4, 3), parameter(4, 3), gradients((4, 3))
    wanted = follow(rule.as_torch([outside], backend=backend), outside, grads)
    optimizer = rule.as_torch([inside], backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        moved = follow(optimizer, inside, grads)
    assert same(moved, wanted)
    assert types(optimizer, inside) == {torch.float32}


def test_a_closure_keeps_the_autocast_around_it(rule: LearnedOptimizer) -> None:
    model = net()
    optimizer, seen = rule.as_torch(model.parameters()), []

    def closure() -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return loss_of(model)

    with torch.autocast("cpu", torch.bfloat16):
        optimizer.step(closure)
    assert seen == [True]
