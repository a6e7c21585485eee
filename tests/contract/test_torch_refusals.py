"""What is refused, what is warned about, and what importing does: nothing."""

import copy
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.optimizer_cases import LossScaled, follow, gradients, loss_of, net, parameter, same, states, step, values
from torch import Tensor, nn

import l2o
from l2o.errors import ArgumentError, MissingLossError, UnsupportedError
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.torch_optim import TorchOptimizer


@pytest.mark.parametrize("option", ["foreach", "fused", "capturable", "differentiable"])
def test_unsupported_options_are_refused_at_construction(rule: LearnedOptimizer, option: str) -> None:
    chosen: dict[str, Any] = {option: True}
    with pytest.raises(UnsupportedError, match=option):
        TorchOptimizer([parameter(2)], rule, **chosen)
    with pytest.raises(UnsupportedError, match=option):
        TorchOptimizer([{"params": [parameter(2)], **chosen}], rule)
    TorchOptimizer([parameter(2)], rule, **{**chosen, option: False})


def test_maximize_shows_the_rule_the_negated_gradient(rule: LearnedOptimizer) -> None:
    p, q, r, grads = parameter(5), parameter(5), parameter(5), gradients((5,))
    wanted = follow(rule.as_torch([p]), p, [-grad for grad in grads])
    assert same(follow(TorchOptimizer([q], rule, maximize=True), q, grads), wanted)
    assert same(follow(TorchOptimizer([{"params": [r], "maximize": True}], rule), r, grads), wanted)


def test_complex_parameters_are_refused_by_name(rule: LearnedOptimizer) -> None:
    p = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(UnsupportedError, match="phase is complex"):
        rule.as_torch([("phase", p)])
    optimizer = rule.as_torch([parameter(2)])
    with pytest.raises(UnsupportedError, match="complex"):
        optimizer.add_param_group({"params": [p]})
    assert len(optimizer.param_groups) == 1


def test_sparse_gradients_are_refused_by_name_before_anything_changes(rule: LearnedOptimizer) -> None:
    dense, embedding = parameter(2), nn.Embedding(4, 2, sparse=True)
    dense.grad = torch.ones(2)
    embedding(torch.tensor([1])).sum().backward()
    optimizer = rule.as_torch([("dense", dense), ("embedding.weight", embedding.weight)])
    before = dense.detach().clone()
    with pytest.raises(UnsupportedError, match=r"embedding\.weight is sparse"):
        step(optimizer)
    assert same(dense.detach(), before)
    assert not optimizer.state


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_a_number_that_is_several_is_refused(rule: LearnedOptimizer, name: str) -> None:
    chosen: dict[str, Any] = {name: torch.tensor([0.1, 0.1])}
    with pytest.raises(ArgumentError, match=f"Tensor {name} must be 1-element"):
        rule.as_torch([parameter(2)], **chosen)


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_numbers_out_of_range_are_refused(rule: LearnedOptimizer, name: str, value: float) -> None:
    chosen: dict[str, Any] = {name: value}
    with pytest.raises(ArgumentError, match=f"{name} is {value}"):
        rule.as_torch([parameter(2)], **chosen)
    with pytest.raises(ArgumentError, match=f"{name} is {value}"):
        rule.as_torch([{"params": [parameter(2)], **chosen}])


def test_a_horizon_below_one_step_is_refused(rule: LearnedOptimizer) -> None:
    with pytest.raises(ArgumentError, match="horizon is 0"):
        rule.as_torch([parameter(2)], horizon=0)


def test_no_parameters_are_refused_as_in_torch(rule: LearnedOptimizer) -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        rule.as_torch([])
    with pytest.raises(TypeError, match="iterable of Tensors"):
        rule.as_torch(torch.zeros(2, requires_grad=True))


def test_running_far_past_the_horizon_warns_once(rule: LearnedOptimizer) -> None:
    p, q = parameter(2), parameter(2)
    optimizer = rule.as_torch([p, q], horizon=3)
    q.grad = torch.ones(2)
    follow(optimizer, p, gradients((2,), steps=6))  # warnings are errors here
    for each in (optimizer, copy.deepcopy(optimizer)):
        first, *_ = each.param_groups[0]["params"]
        with pytest.warns(UserWarning, match=f"{rule.name} was meta-trained for 3 steps") as caught:
            follow(each, first, gradients((2,), steps=5))
        assert len(caught) == 1
        assert "tests" in caught[0].filename  # the caller's line, not one of torch's wrappers
        twin = copy.deepcopy(each)
        follow(twin, twin.param_groups[0]["params"][0], gradients((2,), steps=1))


def test_the_horizon_of_a_trained_rule_is_the_default(rule: LearnedOptimizer) -> None:
    assert rule.as_torch([parameter(2)]).param_groups[0]["horizon"] is None
    rule.horizon = 100
    assert rule.as_torch([parameter(2)]).param_groups[0]["horizon"] == 100
    assert rule.as_torch([parameter(2)], horizon=7).param_groups[0]["horizon"] == 7


def test_the_steps_towards_the_horizon_survive_loading(rule: LearnedOptimizer) -> None:
    p = parameter(2)
    first, second = rule.as_torch([p], horizon=3), rule.as_torch([p])
    follow(first, p, gradients((2,), steps=6))
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["horizon"] == 3
    with pytest.warns(UserWarning, match="meta-trained for 3 steps"):
        follow(second, p, gradients((2,), steps=1))


def test_a_warning_that_is_an_error_changes_nothing(rule: LearnedOptimizer) -> None:
    p = parameter(2)
    optimizer = rule.as_torch([p], horizon=1)
    here = follow(optimizer, p, gradients((2,), steps=2))
    before = states(optimizer)
    with pytest.raises(UserWarning, match="meta-trained"):
        step(optimizer)
    assert same((p.detach(), states(optimizer)), (here, before))


def test_a_rule_that_reads_the_loss_takes_it_from_the_closure_or_the_argument() -> None:
    with_closure, with_argument, climbing = net(), net(), net()

    def closure() -> Tensor:
        loss = loss_of(with_closure)
        loss.backward()
        return loss

    LossScaled().as_torch(with_closure.parameters()).step(closure)
    loss = loss_of(with_argument)
    loss.backward()
    wanted = [p.detach() - 0.1 * loss.detach() * p.grad for p in with_argument.parameters() if p.grad is not None]
    LossScaled().as_torch(with_argument.parameters()).step(loss=loss)
    torch.testing.assert_close(values(with_argument), wanted)
    assert same(values(with_closure), values(with_argument))
    for p, q in zip(climbing.parameters(), with_argument.parameters(), strict=True):
        p.grad = q.grad
    TorchOptimizer(climbing.parameters(), LossScaled(), maximize=True).step(loss=-loss.item())
    torch.testing.assert_close(values(climbing), [2 * p - q for p, q in zip(values(net()), wanted, strict=True)])


def test_a_rule_that_reads_the_loss_is_never_stepped_without_it() -> None:
    p = parameter(2)
    p.grad = torch.ones(2)
    optimizer, before = LossScaled().as_torch([p]), p.detach().clone()
    with pytest.raises(MissingLossError, match="loss-scaled reads the loss"):
        optimizer.step()
    with pytest.raises(MissingLossError):
        optimizer.step(lambda: None)
    for wrong in (math.nan, torch.ones(2)):
        with pytest.raises(ArgumentError, match="one finite number"):
            optimizer.step(loss=wrong)
    with pytest.raises(ArgumentError, match="a loss and a closure that returns one"):
        optimizer.step(lambda: 1.0, loss=1.0)
    assert same(p.detach(), before)
    assert not optimizer.state
    optimizer.step(lambda: None, loss=0.5)  # as Lightning passes a loss on
    torch.testing.assert_close(p.detach(), before - 0.05)


def test_a_rule_that_does_not_read_the_loss_may_be_given_it(by_gradient: LearnedOptimizer) -> None:
    p, q = parameter(2), parameter(2)
    p.grad, q.grad = torch.ones(2), torch.ones(2)
    by_gradient.as_torch([p]).step(loss=1.0)
    by_gradient.as_torch([q]).step()
    assert same(p.detach(), q.detach())


IMPORT = """
import os, random, socket, sys
import numpy, torch
import rich.style  # draws a number from `random` at its own import

def refused(*_, **__):
    raise AssertionError("the network was used")

def settings():
    threads = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    drawn = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    return threads, drawn, dict(os.environ), sys.path[:], sorted(os.listdir())

socket.socket.connect = socket.getaddrinfo = refused
before = settings()
import l2o
from l2o.optimizers import base, dm, handcrafted, rnnprop, torch_optim
assert settings() == before
"""


def test_importing_has_no_side_effects_and_no_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", IMPORT]
    environment = {**os.environ, "PYTHONPATH": str(Path(l2o.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_finite_gradients_whose_sum_is_not_are_no_error():
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.full((2,), 3e38)
    l2o.SGD(1e-38).as_torch([p]).step()
    assert torch.allclose(p.detach(), torch.full((2,), -3.0))
