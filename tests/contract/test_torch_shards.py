"""Parameters that are spread over processes, here over one; tests/integrations/test_distributed.py has two."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from contract.optimizer_cases import gradients, net, parameter, same, states, step, train, values
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from l2o.errors import ArgumentError, UnsupportedError
from l2o.kernels.reference import Reference
from l2o.optimizers import shards
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.handcrafted import Adam
from l2o.optimizers.torch_optim import STEPS
from l2o.rng import Stream


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A distributed run of one process."""
    meeting: Path = tmp_path_factory.mktemp("group") / "meeting"
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def mesh(group: None) -> distributed.DeviceMesh:
    return distributed.init_device_mesh("cpu", (1,))


def whole(tree: object) -> object:
    """With all of each spread tensor in its place."""
    if isinstance(tree, dict):
        return {name: whole(leaf) for name, leaf in tree.items()}
    if isinstance(tree, list):
        return [whole(leaf) for leaf in tree]
    return tree.full_tensor() if isinstance(tree, DTensor) else tree


def sharded(mesh: distributed.DeviceMesh) -> nn.Sequential:
    model = net()
    fully_shard(model, mesh=mesh)
    return model


def test_a_sharded_model_trains_as_it_does_whole(rule: LearnedOptimizer, mesh: distributed.DeviceMesh) -> None:
    plain, model = net(), sharded(mesh)
    reference, optimizer = (rule.as_torch(each.parameters(), weight_decay=0.1) for each in (plain, model))
    wanted = train(plain, reference)
    assert same(whole(train(model, optimizer)), wanted)
    assert same(whole(states(optimizer)), states(reference))


def test_a_slice_does_by_itself_what_it_does_in_the_whole(separate: LearnedOptimizer) -> None:
    """Which a rule promises that says it does not couple coordinates."""
    together, grads = parameter(10), gradients((10,))
    alone = [nn.Parameter(part.clone()) for part in together.detach().split([4, 6])]
    optimizers = [separate.as_torch([p]) for p in (together, *alone)]
    for grad in grads:
        for p, optimizer, own in zip((together, *alone), optimizers, (grad, *grad.split([4, 6])), strict=True):
            p.grad = own.clone()
            step(optimizer)
    agree = torch.allclose(torch.cat([p.detach() for p in alone]), together.detach(), rtol=1e-6, atol=1e-6)
    assert agree != separate.couples_coordinates


def test_state_by_coordinate_is_spread_as_its_parameter(
    separate: LearnedOptimizer, mesh: distributed.DeviceMesh
) -> None:
    model = sharded(mesh)
    optimizer = separate.as_torch(model.parameters())
    train(model, optimizer, steps=1)
    for p, state in optimizer.state.items():
        spread = [leaf for leaf in state.values() if isinstance(leaf, DTensor)]
        assert bool(spread) != separate.couples_coordinates
        assert all(leaf.shape[: p.ndim] == p.shape and leaf.placements == p.placements for leaf in spread)


def test_a_state_goes_from_spread_to_plain_and_back(rule: LearnedOptimizer, mesh: distributed.DeviceMesh) -> None:
    plain, model = net(), sharded(mesh)
    first, second = rule.as_torch(plain.parameters()), rule.as_torch(model.parameters())
    train(plain, first)
    second.load_state_dict(first.state_dict())
    assert same(whole(states(second)), states(first))
    third = rule.as_torch(net().parameters())
    third.load_state_dict(second.state_dict())
    assert same(states(third), states(first))


@pytest.mark.parametrize("placement", [Replicate(), Shard(1)], ids=["replicated", "by columns"])
def test_gradients_are_laid_out_as_their_parameter(
    rule: LearnedOptimizer, mesh: distributed.DeviceMesh, placement: Replicate | Shard
) -> None:
    """As tensor parallelism may leave them."""
    plain, (grad,) = parameter(3, 5), gradients((3, 5), steps=1)
    spread = nn.Parameter(distribute_tensor(plain.detach().clone(), mesh, [placement]))
    plain.grad, spread.grad = grad.clone(), distribute_tensor(grad, mesh, [Shard(0)])
    for p in (plain, spread):
        step(rule.as_torch([p]))
    assert same(whole(spread.detach()), plain.detach())


def test_a_gradient_that_is_not_finite_is_named(rule: LearnedOptimizer, mesh: distributed.DeviceMesh) -> None:
    model = sharded(mesh)
    optimizer = rule.as_torch(model.named_parameters())
    train(model, optimizer, steps=1)
    before = whole([values(model), states(optimizer)])
    model[2].bias.grad.to_local()[0] = torch.inf
    with pytest.raises(ArgumentError, match=r"gradient of 2\.bias holds NaN or infinity"):
        step(optimizer)
    assert same(whole([values(model), states(optimizer)]), before)


def test_states_asked_for_early_leave_a_sharded_run_as_it_is(
    rule: LearnedOptimizer, mesh: distributed.DeviceMesh
) -> None:
    plain, model = net(), sharded(mesh)
    optimizer = rule.as_torch(model.parameters(), lr=0.0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert {int(state[STEPS]) for state in optimizer.state.values()} == {0}
    optimizer.param_groups[0]["lr"] = 1.0
    assert same(whole(train(model, optimizer)), train(plain, rule.as_torch(plain.parameters())))


def test_a_part_without_coordinates_counts_the_steps_of_the_others() -> None:
    """A process may hold none of a short bias; what it saves of the whole tensor must be true all the same."""
    rule = Adam(0.1)
    state = rule.init_state({"p": torch.zeros(1, 0)}, Stream(0))
    for _ in range(3):
        Reference().advance(rule, {"grad/p": torch.zeros(1, 0)}, state)
    assert state["step"].tolist() == [3.0]


def test_flat_pieces_are_refused_by_name(rule: LearnedOptimizer) -> None:
    """FullyShardedDataParallel marks them; what it makes itself is in tests/integrations/test_distributed.py."""
    p = parameter(7)
    optimizer = rule.as_torch([("net.flat", p)])
    p.grad, p._fsdp_flattened = torch.ones(7), True  # pyright: ignore[reportAttributeAccessIssue]
    before = p.detach().clone()
    with pytest.raises(UnsupportedError, match=r"net\.flat is a flat piece that FullyShardedDataParallel made"):
        step(optimizer)
    assert same(p.detach(), before)
    assert not optimizer.state


def test_the_mean_over_one_process_is_the_number_itself() -> None:
    value = torch.tensor(3.0)
    assert shards.mean_over_processes(value) is value
