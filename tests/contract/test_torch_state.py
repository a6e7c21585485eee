"""The state: where it lives, and that saving, loading, copying and pickling lose nothing."""

import copy
import io
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from contract.optimizer_cases import (
    STEPS_TAKEN,
    Delayed,
    follow,
    gradients,
    net,
    numbers,
    parameter,
    same,
    states,
    train,
    values,
)
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from l2o.errors import WeightsError
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.dm import L2ODM
from l2o.optimizers.handcrafted import Adam
from l2o.optimizers.torch_optim import STEPS
from l2o.rng import Stream


def through_a_file(tree: Any) -> Any:
    file = io.BytesIO()
    torch.save(tree, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_state_is_the_rules_own_and_a_count(rule: LearnedOptimizer) -> None:
    p = parameter(3, 5)
    optimizer = rule.as_torch([p])
    follow(optimizer, p, gradients((3, 5)))
    fresh = rule.init_state({"p": p.detach()[None]}, Stream(0))
    wanted = {name: leaf.shape for name, leaf in fresh.items()}
    if not rule.couples_coordinates:  # what it keeps of each coordinate has the shape of the parameter
        wanted = {name: p.shape + leaf.shape[2:] if leaf.ndim > 1 else leaf.shape for name, leaf in fresh.items()}
    assert {name: leaf.shape for name, leaf in optimizer.state[p].items()} == {**wanted, STEPS: torch.Size([])}
    assert all(type(leaf) is Tensor for leaf in optimizer.state[p].values())
    assert int(optimizer.state[p][STEPS]) == STEPS_TAKEN


def test_the_group_holds_plain_values_and_no_meta_parameters(rule: LearnedOptimizer) -> None:
    (group,) = rule.as_torch([parameter(3)], horizon=7).state_dict()["param_groups"]
    assert group.keys() == {"lr", "weight_decay", "horizon", "maximize", "optimizer", "meta_parameters", "params"}
    assert group["horizon"] == 7
    assert group["optimizer"].startswith(rule.name)
    assert len(group["meta_parameters"]) == 64
    assert not any(isinstance(value, Tensor) for value in group.values())


def test_a_saved_and_loaded_optimizer_continues_bit_for_bit(rule: LearnedOptimizer) -> None:
    through, stopped = net(), net()
    whole = train(through, rule.as_torch(through.parameters(), lr=0.5, weight_decay=0.01), 2 * STEPS_TAKEN)
    optimizer = rule.as_torch(stopped.parameters(), lr=0.5, weight_decay=0.01)
    train(stopped, optimizer)
    saved = through_a_file({"model": stopped.state_dict(), "optimizer": optimizer.state_dict()})
    resumed = net(seed=1)
    resumed.load_state_dict(saved["model"])
    optimizer = rule.as_torch(resumed.parameters())
    optimizer.load_state_dict(saved["optimizer"])
    assert same(train(resumed, optimizer), whole)


def test_a_parameter_of_several_pieces_continues_bit_for_bit(rule: LearnedOptimizer) -> None:
    size = 8192 + 100
    p, q, grads = parameter(size), parameter(size), gradients((size,), steps=4)
    whole, first, second = rule.as_torch([p]), rule.as_torch([q]), rule.as_torch([q])
    follow(first, q, grads[:2])
    second.load_state_dict(through_a_file(first.state_dict()))
    assert same(follow(second, q, grads[2:]), follow(whole, p, grads))


def test_loading_leaves_its_argument_alone(rule: LearnedOptimizer) -> None:
    model = net()
    optimizer = rule.as_torch(model.parameters())
    train(model, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    before = copy.deepcopy(saved)
    optimizer.load_state_dict(saved)
    assert same(saved, before)
    train(model, optimizer)
    assert same(saved, before)


def test_two_optimizers_share_no_state(rule: LearnedOptimizer) -> None:
    p, q, grads = parameter(4), parameter(4), gradients((4,))
    first, second = rule.as_torch([p]), rule.as_torch([q])
    follow(first, p, grads)
    second.load_state_dict(first.state_dict())
    before = states(second)
    follow(first, p, grads)
    assert same(states(second), before)


def moved(tree: Any) -> Any:
    """What accelerate's `move_to_device` does: new containers, tensors through `.to`."""
    if isinstance(tree, Mapping):
        return type(tree)({key: moved(value) for key, value in tree.items()})  # pyright: ignore[reportCallIssue]
    if isinstance(tree, list | tuple):
        return type(tree)(moved(value) for value in tree)
    return tree.to("cpu") if isinstance(tree, Tensor) else tree


def test_loading_its_own_state_before_the_first_step_changes_nothing(rule: LearnedOptimizer) -> None:
    plain, prepared = net(), net()
    wanted = train(plain, rule.as_torch(plain.parameters()))
    optimizer = rule.as_torch(prepared.parameters())
    optimizer.load_state_dict(moved(optimizer.state_dict()))
    assert not optimizer.state
    assert same(train(prepared, optimizer), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_state_of_half_precision_parameters_is_loaded_bit_for_bit(rule: LearnedOptimizer, dtype: torch.dtype) -> None:
    p, q = parameter(9, dtype=dtype), parameter(9, dtype=dtype)
    first, second = rule.as_torch([p]), rule.as_torch([q])
    follow(first, p, gradients((9,), dtype=dtype))
    second.load_state_dict(through_a_file(first.state_dict()))
    assert same(states(second), states(first))
    assert {leaf.dtype for leaf in second.state[q].values() if leaf.is_floating_point()} == {torch.float32}


def test_the_users_own_loading_hooks_are_kept_and_run(rule: LearnedOptimizer) -> None:
    p, q = parameter(4), parameter(4)
    first, second = rule.as_torch([p]), rule.as_torch([q])
    follow(first, p, gradients((4,)))
    foreign = first.state_dict()
    foreign["state"] = {"renamed": foreign["state"][0]}
    seen = []

    def rename(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "state": {0: state["state"]["renamed"]}}

    second.register_load_state_dict_pre_hook(rename)
    second.register_load_state_dict_post_hook(lambda optimizer: seen.append(states(optimizer)))
    for _ in range(2):
        second.load_state_dict(foreign)
    assert same(seen, [states(first)] * 2)


def others(rule: LearnedOptimizer, p: nn.Parameter) -> list[torch.optim.Optimizer]:
    other_kind = Adam(0.5) if rule.name != "Adam" else L2ODM.chen()
    made: list[torch.optim.Optimizer] = [other_kind.as_torch([p]), torch.optim.Adam([p])]
    if list(rule.parameters()):
        other_weights = copy.deepcopy(rule)
        next(other_weights.parameters()).data += 1e-6
        made.append(other_weights.as_torch([p]))
    return made


def test_the_state_of_another_rule_is_refused_by_name(rule: LearnedOptimizer) -> None:
    p, q, grads = parameter(4), parameter(4), gradients((4,))
    optimizer = rule.as_torch([q])
    follow(optimizer, q, grads)
    before = copy.deepcopy(optimizer.state_dict())
    for other in others(rule, p):
        follow(other, p, grads)
        with pytest.raises(WeightsError) as caught:
            optimizer.load_state_dict(other.state_dict())
        group = other.param_groups[0]
        for stated in (group.get("optimizer", "(not stated)"), group.get("meta_parameters", "(not stated)")):
            assert stated in str(caught.value)
        assert optimizer.param_groups[0]["optimizer"] in str(caught.value)
        assert optimizer.param_groups[0]["meta_parameters"] in str(caught.value)
        assert same(optimizer.state_dict(), before)


def test_equal_weights_with_other_constants_are_another_rule() -> None:
    chen, andrychowicz = L2ODM.chen().as_torch([parameter(2)]), L2ODM.andrychowicz().as_torch([parameter(2)])
    assert chen.param_groups[0]["meta_parameters"] == andrychowicz.param_groups[0]["meta_parameters"]
    with pytest.raises(WeightsError, match=r"k=10\.0"):
        chen.load_state_dict(andrychowicz.state_dict())


def test_a_state_that_does_not_fit_is_refused_and_nothing_changes(rule: LearnedOptimizer) -> None:
    p, q = parameter(4), parameter(5)
    first, second = rule.as_torch([p]), rule.as_torch([q], lr=0.25)
    follow(first, p, gradients((4,)))
    if states(first)[0].keys() == {STEPS}:
        pytest.fail("every optimizer in the table has a state by coordinate")
    follow(second, q, gradients((5,)))
    before = copy.deepcopy(second.state_dict())
    with pytest.raises(WeightsError, match="parameter 0"):
        second.load_state_dict(first.state_dict())
    assert same(second.state_dict(), before)


def test_a_state_with_other_groups_is_refused_as_in_torch(rule: LearnedOptimizer) -> None:
    saved = rule.as_torch([parameter(4), parameter(3)]).state_dict()
    with pytest.raises(ValueError, match="doesn't match the size"):
        rule.as_torch([parameter(4)]).load_state_dict(saved)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        rule.as_torch([{"params": [parameter(4)]}, {"params": [parameter(3)]}]).load_state_dict(saved)


def duplicates(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[tuple[torch.optim.Optimizer, nn.Module]]:
    return [copy.deepcopy((optimizer, model)), pickle.loads(pickle.dumps((optimizer, model)))]


def test_copies_and_pickles_continue_bit_for_bit_and_apart(rule: LearnedOptimizer) -> None:
    model = net()
    optimizer = rule.as_torch(model.parameters(), lr=0.5, horizon=100)
    train(model, optimizer)
    made, here = duplicates(optimizer, model), values(model)
    for twin, twin_model in made:
        assert type(twin) is type(optimizer)
        assert repr(twin) == repr(optimizer)
        train(twin_model, twin)
    assert same(values(model), here)
    wanted = train(model, optimizer)
    for twin, twin_model in made:
        assert same(values(twin_model), wanted)
        assert same(twin.state_dict(), optimizer.state_dict())


def test_a_copy_made_before_the_first_step_works(rule: LearnedOptimizer) -> None:
    model = net()
    made = duplicates(rule.as_torch(model.parameters()), model)
    wanted = train(model, rule.as_torch(model.parameters()))
    for twin, twin_model in made:
        assert same(train(twin_model, twin), wanted)


def test_distributed_checkpoints_carry_the_state(rule: LearnedOptimizer) -> None:
    """Their first move is a step with zero gradients at lr 0."""
    through, stopped, resumed = net(), net(), net()
    whole = train(through, rule.as_torch(through.parameters()), 2 * STEPS_TAKEN)
    first = rule.as_torch(stopped.parameters())
    train(stopped, first)
    saved = get_optimizer_state_dict(stopped, first)
    resumed.load_state_dict(stopped.state_dict())
    before = values(resumed)
    second = rule.as_torch(resumed.parameters())
    set_optimizer_state_dict(resumed, second, saved)
    assert same(values(resumed), before)
    assert same(states(second), states(first))
    assert same(train(resumed, second), whole)


def test_a_delay_line_is_saved_and_loaded() -> None:
    p, q, grads = parameter(4), parameter(4), gradients((4,))
    wanted = follow(Delayed().as_torch([p]), p, grads)
    first, second = Delayed().as_torch([q]), Delayed().as_torch([q])
    follow(first, q, grads[:3])
    second.load_state_dict(through_a_file(first.state_dict()))
    assert same(follow(second, q, grads[3:]), wanted)


def test_a_channels_last_parameter_keeps_its_state_through_a_file(rule: LearnedOptimizer) -> None:
    grads = [grad.to(memory_format=torch.channels_last) for grad in gradients((2, 3, 4, 5))]
    p, q = (nn.Parameter(numbers(2, 3, 4, 5).to(memory_format=torch.channels_last)) for _ in range(2))
    wanted = follow(rule.as_torch([p]), p, grads)
    first, second = rule.as_torch([q]), rule.as_torch([q])
    follow(first, q, grads[:3])
    second.load_state_dict(through_a_file(first.state_dict()))
    assert same(follow(second, q, grads[3:]), wanted)
