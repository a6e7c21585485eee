"""The features of guided policy search: fast ones against the definition, and the policy's against sums by hand."""

import pytest
import torch

from l2o.errors import ArgumentError
from l2o.methods.guided_policy.features import StateFeatures
from l2o.nn import LSTMCell
from l2o.optimizers.predicted_step import GROUPS, PredictedStep, memory, observe, tensor_groups
from l2o.rng import Stream

STEPS, COORDINATES = 141, 5


def _walk():
    """Loss `[steps]`, gradient and parameters `[steps, coordinates]` of a random walk."""
    rng = Stream(3, ("walk",))
    loss = rng.child("loss").normal((STEPS,))[0].double().cumsum(0).abs() * 0.1 + 0.5
    grad = rng.child("grad").normal((STEPS, COORDINATES))[0].double()
    x = rng.child("x").normal((STEPS, COORDINATES))[0].double().cumsum(0)
    return loss, grad, x


def _naive(loss, grad, x, t, history):
    """The definition, word by word."""
    p = t % 5

    def mean(z, i):
        return z[max(i - 2, 0) : i + 1].mean(0)

    u, v, w = [], [], []
    for i in range(history[0]):
        old = t - 5 * (i + 1)
        change = (mean(loss, old + 5) - mean(loss, old)) / mean(loss, old) if old >= 0 else torch.tensor(0.0).double()
        u.append(change.expand(COORDINATES))
    for i in range(history[1]):
        at = t - 5 * i
        v.append(mean(grad, at) / (mean(grad, max(at - 5, p)).abs() + 1) if at >= 0 else torch.zeros(COORDINATES))
    for i in range(history[2]):
        at = t - 5 * i
        if at - 5 < 0:
            w.append(torch.zeros(COORDINATES))
            continue
        top = (mean(x, max(at - 5, p + 5)) - mean(x, max(at - 10, p))).abs()
        w.append(top / ((mean(x, at) - mean(x, at - 5)).abs() + 0.1))
    return torch.stack([leaf.double() for leaf in (*u, *v, *w)], dim=1)


def _fast(features):
    loss, grad, x = _walk()
    remembered, rows = features.begin(1, COORDINATES, x), []
    for t in range(STEPS):
        states, remembered = features.observe(grad[t][None], x[t][None], loss[t][None], remembered)
        rows.append(states[0])
    return torch.stack(rows)


@pytest.mark.parametrize("history", [(25, 26, 25), (5, 6, 5), (2, 4, 2), (1, 1, 1)])
def test_banks_hold_what_the_definition_says(history):
    loss, grad, x = _walk()
    fast = _fast(StateFeatures(history))
    for t in range(STEPS):
        torch.testing.assert_close(fast[t], _naive(loss, grad, x, t, history), rtol=0, atol=1e-12)


def test_so_many_features_are_defined():
    fast = _fast(StateFeatures())
    for t in range(STEPS):
        u, v, w = fast[t].split([25, 26, 25], dim=1)
        for family, count in ((u, min(t // 5, 25)), (v, min(t // 5 + 1, 26)), (w, min(t // 5, 25))):
            assert bool((family[:, :count] != 0).all())
            assert bool((family[:, count:] == 0).all())
    assert bool((fast[125] != 0).all())
    assert not bool((fast[124] != 0).all())


def test_all_but_the_newest_features_are_shifted_ones():
    fast = _fast(StateFeatures())
    for start, stop in ((0, 25), (25, 51), (51, 76)):
        assert torch.equal(fast[5:, :, start + 1 : stop], fast[:-5, :, start : stop - 1])


def test_at_step_seven():
    loss, grad, x = _walk()
    row = _fast(StateFeatures())[7]
    mean = {i: grad[i - 2 : i + 1].mean(0) for i in (7, 2)}
    q = (x[5:8].mean(0) - x[0:3].mean(0)).abs()
    change = (loss[5:8].mean() - loss[0:3].mean()) / loss[0:3].mean()
    torch.testing.assert_close(row[:, 0], change.expand(COORDINATES))
    torch.testing.assert_close(row[:, 25], mean[7] / (mean[2].abs() + 1))
    torch.testing.assert_close(row[:, 26], mean[2] / (mean[2].abs() + 1))
    torch.testing.assert_close(row[:, 51], q / (q + 0.1))
    assert int((row[0] != 0).sum()) == 4


def test_the_position_comes_first_where_it_is_wanted():
    _, _, x = _walk()
    with_it, without = _fast(StateFeatures((2, 4, 2), position=True)), _fast(StateFeatures((2, 4, 2)))
    assert torch.equal(with_it[..., 0], x)
    assert torch.equal(with_it[..., 1:], without)
    features = StateFeatures((2, 4, 2), position=True)
    assert (features.states, features.gradients) == (9, slice(3, 7))


def test_a_family_without_features_is_refused():
    with pytest.raises(ArgumentError, match=r"history is \(2, 0, 2\)"):
        StateFeatures((2, 0, 2))


def test_the_policys_features_by_hand():
    loss, grad, x = torch.tensor([2.0, 3.0, 1.5]), torch.tensor([0.5, -2.0, 4.0]), torch.tensor([1.0, 1.3, 1.2])
    leaves = [leaf.reshape(3, 1, 1) for leaf in (grad, x, loss)]
    features, remembered = [], memory(1, 1, x)
    for g, position, value in ([leaf[:1] for leaf in leaves], [leaf[1:] for leaf in leaves]):
        found, remembered = observe(g, position, value[..., 0], remembered)
        features.append(found[:, 0, 0])
    expected = [
        [0.0, 0.5 / 1.5, 0.0],
        [0.5, -2.0 / 1.5, 0.3 / 0.4],
        [-0.5, 4.0 / 3.0, 0.3 / 0.2],
    ]
    torch.testing.assert_close(torch.cat(features), torch.tensor(expected))


def _drive(rule, params, order=None, steps=4):
    """Updates of a rule under gradients that its own coordinates carry along, permuted within tensors or not."""
    rng, actions = Stream(1, ("gradients",)), []
    state = rule.init_state(params, rng)
    for step in range(steps):
        grads = {name: rng.child(name).at(step=step).normal(leaf.shape[1:]).float() for name, leaf in params.items()}
        seen = {f"params/{name}": leaf + step * 0.1 for name, leaf in params.items()}
        seen |= {
            f"grad/{name}": leaf if order is None else _permuted(leaf, order[name]) for name, leaf in grads.items()
        }
        action, state = rule({**seen, "loss": torch.tensor([2.0 - 0.3 * step])}, state)
        actions.append(action)
    return actions


def _permuted(leaf, order):
    return leaf.flatten(1)[:, order].reshape(leaf.shape)


@pytest.mark.parametrize("share", ["group", "all"])
def test_permuted_coordinates_of_a_tensor_get_permuted_steps(share):
    rule = PredictedStep(hidden=8, share=share)
    params = {"a": torch.ones(1, 4, 3), "b": torch.ones(1, 4), "c": torch.ones(1, 2, 4), "d": torch.ones(1, 2)}
    order = {name: torch.randperm(leaf.numel(), generator=Stream(2).torch_generator()) for name, leaf in params.items()}
    plain, permuted = _drive(rule, params), _drive(rule, params, order)
    for before, after in zip(plain, permuted, strict=True):
        for name, leaf in before.items():
            torch.testing.assert_close(_permuted(leaf, order[name]), after[name], rtol=0, atol=1e-6)


def test_each_group_has_its_own_network():
    rule = PredictedStep(hidden=4)
    with torch.no_grad():
        rule.output_weight.zero_()
        rule.output_bias.copy_(torch.arange(1.0, 5.0))
    params = {"a": torch.ones(1, 2, 3), "b": torch.ones(1, 2), "c": torch.ones(1, 5, 2), "d": torch.ones(1, 5)}
    (action,) = _drive(rule, params, steps=1)
    for number, name in enumerate("abcd"):
        torch.testing.assert_close(action[name], torch.full_like(params[name], 0.01 * (number + 1)))


@pytest.mark.parametrize("share", ["group", "all"])
def test_networks_are_lstm_cells(share):
    rule, rng = PredictedStep(hidden=6, share=share), Stream(5)
    group = torch.tensor([2, 0, 2, 0, 1, 1])
    features, h, c = (rng.child(name).normal((6, width)).float() for name, width in (("f", 3), ("h", 6), ("c", 6)))
    rule.mean.copy_(rng.child("mean").normal((4, 3))[0])
    rule.deviation.copy_(rng.child("deviation").normal((4, 3))[0].abs() + 0.1)
    update, h_next, c_next = rule.step(features, group, h, c)
    unequal = rule.step(features[:, :5], group[:5], h[:, :5], c[:, :5])
    for part, whole in zip(unequal, (update, h_next, c_next), strict=True):
        torch.testing.assert_close(part, whole[:, :5])
    for place, number in enumerate(group.tolist()):
        network, cell = (number if share == "group" else 0), LSTMCell(rule.weight.shape[1] - 6, 6)
        cell.weight.data, cell.bias.data = rule.weight[network].data, rule.bias[network].data
        seen = ((features[:, place] - rule.mean[number]) / rule.deviation[number]).clamp(-5.0, 5.0)
        seen = torch.cat([seen, torch.eye(4)[number][None]], 1) if share == "all" else seen
        h_cell, c_cell = cell(seen, h[:, place], c[:, place])
        torch.testing.assert_close(h_next[:, place], h_cell)
        torch.testing.assert_close(c_next[:, place], c_cell)
        head = h_cell @ rule.output_weight[network] + rule.output_bias[network]
        torch.testing.assert_close(update[:, place], rule.rms[number] * head)


def test_layers_are_told_from_shapes():
    deep = {"w0": (8, 3), "b0": (8,), "w1": (8, 8), "b1": (8,), "w2": (2, 8), "b2": (2,)}
    assert list(tensor_groups(deep).values()) == [0, 1, 0, 1, 2, 3]
    assert list(tensor_groups({"w": (2, 3), "b": (2,)}).values()) == [2, 3]
    assert tensor_groups({"scale": ()}) == {"scale": 3}
    assert len(GROUPS) == 4


def test_so_many_meta_parameters():
    assert sum(p.numel() for p in PredictedStep().parameters()) == 4 * (4 * 128 * (3 + 128 + 1) + 129)
    assert sum(p.numel() for p in PredictedStep(share="all").parameters()) == 4 * 128 * (7 + 128 + 1) + 129
