"""Predicted step descent as a drop-in, and its weights."""

import copy
import math

import pytest
import torch
from torch import nn

import l2o
from l2o import trees
from l2o.errors import ArgumentError, MissingLossError
from l2o.optimizers.predicted_step import PredictedStep
from l2o.rng import Stream


def problem():
    """A network of three layers, inputs, targets."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3))
    return model, torch.randn(16, 5), torch.randint(3, (16,))


def calibrated(hidden=6):
    """A rule whose constants differ from group to group."""
    rule, rng = PredictedStep(hidden=hidden, seed=3), Stream(8)
    rule.mean.copy_(0.1 * rng.child("mean").normal((4, 3))[0])
    rule.deviation.copy_(0.5 + rng.child("deviation").uniform((4, 3))[0])
    rule.rms.copy_(torch.tensor([0.3, 0.1, 0.2, 0.4]))
    return rule


def follow(model, inputs, targets, optimizer, steps):
    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_drop_in_steps_as_the_rule_by_itself_does():
    model, inputs, targets = problem()
    mine, rule = copy.deepcopy(model), calibrated()
    found = follow(model, inputs, targets, rule.as_torch(model.parameters()), 6)
    params = {name: p.detach()[None] for name, p in mine.named_parameters()}
    state = rule.init_state(params, Stream(0))
    for _ in range(6):
        leaves = {name: leaf[0].requires_grad_() for name, leaf in params.items()}
        loss = nn.functional.cross_entropy(torch.func.functional_call(mine, leaves, (inputs,)), targets)
        grads = torch.autograd.grad(loss, list(leaves.values()))
        seen = {f"grad/{name}": grad[None] for name, grad in zip(leaves, grads, strict=True)}
        seen |= {f"params/{name}": leaf.detach()[None] for name, leaf in leaves.items()}
        with torch.no_grad():
            action, state = rule({**seen, "loss": loss.detach()[None]}, state)
        params = {name: leaf.detach() + action[name] for name, leaf in params.items()}
    torch.testing.assert_close(found, torch.cat([leaf.flatten() for leaf in params.values()]))


def test_the_loss_can_be_passed_without_a_closure_but_not_left_out():
    model, inputs, targets = problem()
    optimizer = calibrated().as_torch(model.parameters())
    loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    with pytest.raises(MissingLossError, match="reads the loss"):
        optimizer.step()
    optimizer.step(loss=loss)


def test_a_state_goes_on_where_it_was_saved():
    model, inputs, targets = problem()
    rule = calibrated()
    first = rule.as_torch(model.parameters())
    follow(model, inputs, targets, first, 3)
    other = copy.deepcopy(model)
    second = rule.as_torch(other.parameters())
    second.load_state_dict(first.state_dict())
    ends = [follow(one, inputs, targets, optimizer, 3) for one, optimizer in ((model, first), (other, second))]
    assert torch.equal(*ends)
    groups = [int(state["group"].max()) for state in second.state.values()]
    assert groups == [0, 1, 0, 1, 2, 3]


def test_weights_keep_the_constants(tmp_path):
    rule = calibrated()
    l2o.save(rule, tmp_path / "policy")
    loaded = l2o.load(tmp_path / "policy.safetensors")
    assert loaded.config() == rule.config()
    for name, leaf in rule.state_dict().items():
        assert torch.equal(leaf, loaded.state_dict()[name])


def test_a_loss_near_zero_moves_no_more_than_its_limit():
    """From 1e-6 to 1 the loss changes by a million times; a policy must not see that."""

    def second(loss, limit=5.0):
        rule = PredictedStep(hidden=4, limit=limit, seed=1)
        params = {"w": torch.ones(1, 2, 2)}
        state = rule.init_state(params, Stream(0))
        for now in (1e-6, loss):
            seen = {"grad/w": torch.ones(1, 2, 2), "params/w": params["w"], "loss": torch.tensor([now])}
            action, state = rule(seen, state)
        return action["w"]

    assert torch.equal(second(1.0), second(6e-6))  # both count as five deviations
    assert not torch.equal(second(1.0), second(2e-6))
    assert not torch.equal(second(1.0, limit=math.inf), second(6e-6, limit=math.inf))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"hidden": 0}, "hidden is 0"), ({"share": "none"}, "share is"), ({"limit": 0.0}, "limit is 0.0")],
)
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        PredictedStep(**arguments)


@pytest.mark.parametrize("share", ["group", "all"])
@pytest.mark.parametrize("left_out", ["", "hidden"], ids=["four groups", "two groups"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_a_window_at_once_is_one_step_after_another(share, left_out, dtype, tolerance):
    rule = PredictedStep(hidden=5, share=share, seed=2)
    constants = calibrated()
    for name in ("mean", "deviation", "rms"):
        rule.get_buffer(name).copy_(constants.get_buffer(name))
    rule.to(dtype)
    shapes = {"hidden.weight": (3, 4), "hidden.bias": (3,), "last.weight": (2, 3), "last.bias": (2,)}
    shapes = {name: shape for name, shape in shapes.items() if not left_out or not name.startswith(left_out)}
    rng = Stream(5, tasks=range(3))

    def seen(step):
        leaves = {
            f"{kind}/{name}": rng.child(f"{kind} {name}").at(step=step).normal(shape).to(dtype)
            for kind in ("grad", "params")
            for name, shape in shapes.items()
        }
        return {**leaves, "loss": rng.child("loss").at(step=step).uniform(()).to(dtype)}

    def gradient(actions):
        total = sum((trees.flatten(action) * (1 + step)).square().sum() for step, action in enumerate(actions))
        return torch.autograd.grad(total, list(rule.parameters()))

    params = {name: rng.child(name).normal(shape).to(dtype) for name, shape in shapes.items()}
    state = rule.run([seen(0), seen(1)], rule.init_state(params, rng))[1]
    state = {name: leaf.detach() for name, leaf in state.items()}
    at_once, after = rule.run([seen(2), seen(3), seen(4)], state)
    singly, moved = [], state
    for step in (2, 3, 4):
        action, moved = rule(seen(step), moved)
        singly.append(action)
    for mine, other in zip(at_once, singly, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(after, moved, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient(at_once), gradient(singly), rtol=tolerance, atol=tolerance)
