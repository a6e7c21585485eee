"""What changes in the middle of a run, and states that are asked for before it begins."""

import pytest
import torch
from contract.optimizer_cases import (
    LossScaled,
    follow,
    gradients,
    loss_behind,
    net,
    numbers,
    parameter,
    predicted_step,
    same,
    states,
    step,
    train,
    values,
)
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from l2o.errors import MissingLossError
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.torch_optim import STEPS
from l2o.trees import Tree


def own_states(optimizer: torch.optim.Optimizer, rule: LearnedOptimizer, first: int) -> list[Tree]:
    """The states of the parameters from one on, without what a coupling rule keeps for all of them."""
    shared = {name for name in states(optimizer)[0] if "/" not in name} - {STEPS} if rule.couples_tensors else set()
    return [{name: leaf for name, leaf in state.items() if name not in shared} for state in states(optimizer)[first:]]


def steps_of(optimizer: torch.optim.Optimizer) -> set[int]:
    return {int(state[STEPS]) for state in optimizer.state.values()}


def test_a_parameter_frozen_in_the_middle_rests_as_it_is(rule: LearnedOptimizer) -> None:
    model = net()
    optimizer = rule.as_torch(model.parameters(), weight_decay=0.1)
    train(model, optimizer, steps=2)
    layer = model[2].requires_grad_(False)  # its gradients stay
    assert all(p.grad is not None for p in layer.parameters())
    before, moved = [values(layer), own_states(optimizer, rule, 2)], values(model)[:2]
    train(model, optimizer, steps=2)
    assert same([values(layer), own_states(optimizer, rule, 2)], before)
    assert not same(values(model)[:2], moved)
    layer.requires_grad_(True)
    train(model, optimizer, steps=1)
    assert [int(state[STEPS]) for state in states(optimizer)] == [5, 5, 3, 3]


def test_a_thawed_parameter_goes_on_where_it_rested(separate: LearnedOptimizer) -> None:
    steady, paused, alone, grads = parameter(4), parameter(4, seed=1), parameter(4, seed=1), gradients((4,))
    optimizer = separate.as_torch([steady, paused])
    for at, grad in enumerate(grads):
        paused.requires_grad_(at not in (2, 3))
        steady.grad, paused.grad = grad.clone(), grad.clone()
        step(optimizer, loss_behind(grad))
    wanted = follow(separate.as_torch([alone]), alone, grads[:2] + grads[4:])
    assert same(paused.detach(), wanted)


def test_a_group_added_in_the_middle_is_trained_saved_and_loaded(rule: LearnedOptimizer) -> None:
    model = net()
    optimizer = rule.as_torch(model[0].parameters())
    train(model, optimizer, steps=2)
    late = values(model[2])
    optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.25})
    train(model, optimizer, steps=2)
    assert not any(torch.equal(p, q) for p, q in zip(values(model[2]), late, strict=True))
    assert [int(state[STEPS]) for state in states(optimizer)] == [4, 4, 2, 2]
    twin = net(seed=1)
    twin.load_state_dict(model.state_dict())
    again = rule.as_torch([{"params": model.parameters()} for model in (twin[0], twin[2])])
    again.load_state_dict(optimizer.state_dict())
    assert same(train(twin, again), train(model, optimizer))


def test_lr_of_zero_rests_one_group_and_not_the_others(rule: LearnedOptimizer) -> None:
    model = net()
    before = values(model)
    optimizer = rule.as_torch([{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}])
    train(model, optimizer, steps=2)
    assert same(values(model[0]), before[:2])
    assert not any(torch.equal(p, q) for p, q in zip(values(model[2]), before[2:], strict=True))


def test_states_asked_for_before_the_first_step_leave_the_run_as_it_is(rule: LearnedOptimizer) -> None:
    """Distributed checkpoints ask for them with a step at lr 0, with gradients of zero and without a loss."""
    asked, plain = net(), net()
    optimizer = rule.as_torch(asked.parameters(), weight_decay=0.1)
    given = get_optimizer_state_dict(asked, optimizer)["state"]
    assert given.keys() == dict(asked.named_parameters()).keys()
    assert steps_of(optimizer) == {0}
    assert same(train(asked, optimizer), train(plain, rule.as_torch(plain.parameters(), weight_decay=0.1)))


def test_a_warm_up_from_zero_counts_its_first_step(rule: LearnedOptimizer) -> None:
    model = net()
    optimizer = rule.as_torch(model.parameters(), lr=0.0)
    before = values(model)
    train(model, optimizer, steps=1)
    assert same(values(model), before)
    assert steps_of(optimizer) == {1}


def test_gradients_of_zero_count_once_the_run_has_begun(rule: LearnedOptimizer) -> None:
    p = parameter(4)
    optimizer = rule.as_torch([p])
    follow(optimizer, p, gradients((4,), steps=1))
    optimizer.param_groups[0]["lr"] = 0.0
    follow(optimizer, p, [torch.zeros(4)])
    assert steps_of(optimizer) == {2}


@pytest.mark.parametrize("make", [LossScaled, predicted_step])
def test_lr_zero_alone_does_not_stand_in_for_the_loss(make: type[LearnedOptimizer]) -> None:
    p = nn.Parameter(numbers(4))
    optimizer = make().as_torch([p], lr=0.0)
    p.grad = torch.ones(4)
    with pytest.raises(MissingLossError):
        optimizer.step()
    assert not optimizer.state
