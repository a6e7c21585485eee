"""The cases that PyTorch puts its own optimizers through, for those that fit a learned one.

PyTorch's tests of optimizers are in its repository (test/test_optim.py, test/optim/), and not in what is installed; of
what is (torch.testing._internal.common_optimizers), the table `optim_db` describes torch's own classes for those tests,
and can only be imported beside the package expecttest. Its error cases for all optimizers are run by
tests/integrations/test_torch_error_cases.py; the others are written anew here, under the names that they have there.

Left out, since they do not fit: those of `foreach`, `fused`, `capturable`, `differentiable` and of complex and sparse
tensors, which are refused (test_torch_refusals.py); `test_step_is_noop_for_zero_grads`, since a learned rule may move
at a gradient of zero; `test_load_nontensor_step`, since no state ever had one; those that need several GPUs.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from contract.optimizer_cases import follow, gradients, loss_of, net, numbers, parameter, same, states, train, values
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau, StepLR
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import l2o
from l2o.errors import WeightsError
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.handcrafted import Adam, Momentum
from l2o.optimizers.torch_optim import TorchOptimizer

DESCENDING: dict[str, Callable[[], LearnedOptimizer]] = {
    "dm-quadratics": lambda: l2o.load("dm-quadratics"),
    "rnnprop-mnist": lambda: l2o.load("rnnprop-mnist"),
    "Adam": lambda: Adam(1e-2),
    "Momentum": lambda: Momentum(1e-3),
}
"""Rules that nothing but their training, or their design, makes descend; fresh meta-parameters need not."""

descending = pytest.mark.parametrize("make", DESCENDING.values(), ids=list(DESCENDING))

SCHEDULES: dict[str, list[Callable[[torch.optim.Optimizer], LRScheduler | ReduceLROnPlateau]]] = {
    "none": [],
    "steps": [lambda optimizer: StepLR(optimizer, gamma=0.9, step_size=10)],
    "plateau": [ReduceLROnPlateau],
    "both": [lambda optimizer: StepLR(optimizer, gamma=0.99, step_size=10), ReduceLROnPlateau],
}


def problem(contiguous: bool) -> tuple[nn.Parameter, nn.Parameter, Tensor]:
    """Weight `[10, 5]`, bias `[10]` and an input `[5]`, of which the first two may be columns of something larger."""
    if contiguous:
        return parameter(10, 5), parameter(10, seed=1), numbers(5, seed=2)
    weight, bias = nn.Parameter(numbers(10, 5, 2)[..., 0]), nn.Parameter(numbers(10, 2, seed=1)[..., 0])
    assert not weight.is_contiguous()
    return weight, bias, numbers(5, seed=2)


def run(optimizer: torch.optim.Optimizer, terms: Sequence[Tensor], schedules: Sequence[Any], sign: int = 1) -> list:
    """Losses at the start and after 20 steps with a closure."""
    weight, bias, given = terms

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sign * (weight.mv(given) + bias).square().sum()
        loss.backward()
        return loss

    made = [schedule(optimizer) for schedule in schedules]
    first = closure()
    for _ in range(20):
        loss = optimizer.step(closure)
        for scheduler in made:
            scheduler.step(*([loss.item()] if isinstance(scheduler, ReduceLROnPlateau) else []))
    return [first.item(), closure().item()]


@descending
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("schedules", SCHEDULES.values(), ids=list(SCHEDULES))
def test_forloop_goes_right_direction(
    make: Callable[[], LearnedOptimizer], contiguous: bool, maximize: bool, schedules: list
) -> None:
    terms, sign = problem(contiguous), -1 if maximize else 1
    first, last = run(TorchOptimizer(terms[:2], make(), lr=0.1, maximize=maximize), terms, schedules, sign)
    assert last > first if maximize else last < first


@descending
@pytest.mark.parametrize("schedules", SCHEDULES.values(), ids=list(SCHEDULES))
def test_param_group_with_lrscheduler_goes_right_direction(
    make: Callable[[], LearnedOptimizer], schedules: list
) -> None:
    weight, bias, given = problem(contiguous=True)
    groups = [{"params": [weight]}, {"params": [bias], "lr": 0.01}]
    first, last = run(make().as_torch(groups, lr=0.1), (weight, bias, given), schedules)
    assert last < first


@descending
def test_tensor_lr(make: Callable[[], LearnedOptimizer]) -> None:
    terms, others = problem(contiguous=True), problem(contiguous=True)
    tensor = TorchOptimizer(terms[:2], make(), lr=torch.tensor(0.1))
    wanted = run(make().as_torch(others[:2], lr=0.1), others, [])
    assert run(tensor, terms, []) == pytest.approx(wanted, rel=1e-6)
    assert isinstance(tensor.param_groups[0]["lr"], Tensor)


def test_a_scheduler_changes_a_tensor_lr_in_place(rule: LearnedOptimizer) -> None:
    p, lr = parameter(4), torch.tensor(0.5)
    optimizer = TorchOptimizer([p], rule, lr=lr)
    scheduler = StepLR(optimizer, 1, gamma=0.5)
    follow(optimizer, p, gradients((4,), steps=1))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"].item() == 0.25


def test_param_groups_weight_decay(rule: LearnedOptimizer) -> None:
    """At gradients of the same size the decayed group ends nearer to zero, by the factor that was asked for."""
    decayed, plain, (grad,) = parameter(6), parameter(6), gradients((6,), steps=1)
    start = plain.detach().clone()
    decayed.grad, plain.grad = grad.clone(), grad.clone()
    follow(rule.as_torch([{"params": [plain]}]), plain, [grad])
    follow(rule.as_torch([{"params": [decayed], "weight_decay": 0.1}]), decayed, [grad])
    torch.testing.assert_close(plain.detach() - decayed.detach(), 0.1 * start)


def test_optimizer_can_be_printed(rule: LearnedOptimizer) -> None:
    optimizer = rule.as_torch([{"params": [parameter(2)], "lr": 0.25}, {"params": [parameter(3)]}])
    text = repr(optimizer)
    assert text.startswith("TorchOptimizer (\nParameter Group 0")
    assert "lr: 0.25" in text
    assert rule.name in text
    follow(optimizer, optimizer.param_groups[0]["params"][0], gradients((2,), steps=1))
    assert repr(optimizer) == text


def test_state_dict_deterministic(rule: LearnedOptimizer) -> None:
    first, second = net(), net()
    one, two = rule.as_torch(first.parameters()), rule.as_torch(second.parameters())
    train(first, one)
    second.load_state_dict(first.state_dict())
    two.load_state_dict(one.state_dict())
    for _ in range(3):
        assert same(train(first, one, steps=1), train(second, two, steps=1))
        assert same(one.state_dict(), two.state_dict())
    two.param_groups.extend(two.param_groups)  # a parameter that is there twice is told by the same number
    assert two.state_dict()["param_groups"][-1] == one.state_dict()["param_groups"][-1]


def test_can_load_older_state_dict(rule: LearnedOptimizer) -> None:
    """One without a number that groups have today: the number that the optimizer was made with counts."""
    model = net()
    optimizer = rule.as_torch(model.parameters(), weight_decay=0.1, horizon=100)
    train(model, optimizer)
    for missing in ("maximize", "weight_decay", "horizon"):
        saved = copy.deepcopy(optimizer.state_dict())
        for group in saved["param_groups"]:
            del group[missing]
        optimizer.load_state_dict(saved)
        assert optimizer.param_groups[0][missing] == optimizer.defaults[missing]
        assert missing not in saved["param_groups"][0]
        train(model, optimizer, steps=1)
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["param_groups"][0]["meta_parameters"]  # this one is never filled in
    with pytest.raises(WeightsError, match="not stated"):
        optimizer.load_state_dict(saved)


def test_deepcopy_copies_all_public_attrs(rule: LearnedOptimizer) -> None:
    def public(optimizer: torch.optim.Optimizer) -> set[str]:
        return {name for name in vars(optimizer) if not name.startswith("_")}

    optimizer = rule.as_torch([parameter(2)])
    assert public(copy.deepcopy(optimizer)) == public(optimizer)


@pytest.mark.parametrize("prepend", [False, True])
def test_state_dict_hooks(rule: LearnedOptimizer, prepend: bool) -> None:
    p, seen = parameter(2), []
    optimizer = rule.as_torch([p])
    follow(optimizer, p, gradients((2,), steps=1))
    optimizer.register_state_dict_pre_hook(lambda _: seen.append("before"))
    optimizer.register_state_dict_post_hook(lambda _, saved: seen.append("first"))
    optimizer.register_state_dict_post_hook(lambda _, saved: seen.append("second"), prepend=prepend)
    optimizer.state_dict()
    assert seen == ["before", *(("second", "first") if prepend else ("first", "second"))]


@pytest.mark.parametrize("prepend", [False, True])
def test_load_state_dict_hooks(rule: LearnedOptimizer, prepend: bool) -> None:
    p, q, seen = parameter(2), parameter(2), []
    source, optimizer = rule.as_torch([p], lr=0.5), rule.as_torch([q])
    follow(source, p, gradients((2,), steps=1))
    optimizer.register_load_state_dict_pre_hook(lambda _, saved: seen.append(("pre", saved["param_groups"][0]["lr"])))
    optimizer.register_load_state_dict_post_hook(lambda loaded: seen.append(("post", states(loaded))), prepend=prepend)
    optimizer.load_state_dict(source.state_dict())
    assert same([list(pair) for pair in seen], [["pre", 0.5], ["post", states(source)]])
    optimizer.load_state_dict(source.state_dict())
    assert len(seen) == 4  # the users' hooks are still there, and no others


def test_step_all_hooks(rule: LearnedOptimizer) -> None:
    """The hooks of all optimizers run around those of this one."""
    p, seen = parameter(2), []
    optimizer = rule.as_torch([p])
    everyones = [
        register_optimizer_step_pre_hook(lambda *_: seen.append("all before")),
        register_optimizer_step_post_hook(lambda *_: seen.append("all after")),
    ]
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    try:
        follow(optimizer, p, gradients((2,), steps=1))
    finally:
        for hook in everyones:
            hook.remove()
    assert seen == ["all before", "before", "after", "all after"]


def test_non_empty_state(rule: LearnedOptimizer) -> None:
    p = parameter(2)
    optimizer = rule.as_torch([p])
    follow(optimizer, p, gradients((2,), steps=1))
    assert all(len(state) > 1 for state in optimizer.state.values())


def test_parameters_with_names_keep_them_through_a_state_dict(rule: LearnedOptimizer) -> None:
    model, other = net(), net()
    optimizer, plain = rule.as_torch(model.named_parameters()), rule.as_torch(other.parameters())
    train(model, optimizer)
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == [name for name, _ in model.named_parameters()]
    plain.load_state_dict(optimizer.state_dict())
    assert same(states(plain), states(optimizer))


def test_two_optimizers_share_a_model(rule: LearnedOptimizer) -> None:
    """Each steps its own parameters alone."""
    model = net()
    optimizers = [rule.as_torch(model[0].parameters()), torch.optim.SGD(model[2].parameters(), lr=0.1)]
    for optimizer, (mine, others) in zip(optimizers, itertools.permutations((model[0], model[2])), strict=True):
        before, theirs = values(mine), values(others)
        for each in optimizers:
            each.zero_grad()
        loss_of(model).backward()
        optimizer.step(lambda: torch.tensor(1.0))
        assert same(values(others), theirs)
        assert not same(values(mine), before)
