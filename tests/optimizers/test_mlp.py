"""MLPLOpt and SmallFC are what the public code says, number for number, written out one coordinate at a time."""

import math

import numpy as np
import pytest
import torch

from l2o import trees
from l2o.errors import ArgumentError
from l2o.kernels.reference import replay
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.mlp import MLPLOpt, normalised, time_features
from l2o.optimizers.small_fc import SmallFC, longest_axes
from l2o.rng import Stream
from l2o.trees import Tree

SHAPES = {"weight": (4, 3), "bias": (3,), "scale": (), "kernel": (2, 5, 3, 1), "square": (2, 2)}
STREAM = Stream(11, ("mlp",), tasks=range(2))
STEPS = 4
TIME = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000)

each = pytest.mark.parametrize("make", [MLPLOpt, SmallFC])


def drawn(make) -> LearnedOptimizer:
    """In float64, all meta-parameters moved, so that none is zero."""
    rule = make().double()
    with torch.no_grad():
        for number, parameter in enumerate(rule.parameters()):
            parameter.add_(0.05 * Stream(number, ("meta",)).normal(parameter.shape)[0])
    return rule


def observations(stream: Stream = STREAM, shapes=SHAPES) -> list[Tree]:
    """Gradients of very different sizes, and parameters, leaves `[tasks, ...]`, for each step."""
    return [
        trees.join(
            grad={name: at.child(name).normal(shape) * 10.0 ** (1 - step) for name, shape in shapes.items()},
            params={name: at.child(f"{name} itself").normal(shape) for name, shape in shapes.items()},
        )
        for step in range(STEPS)
        for at in (stream.at(step=step),)
    ]


@torch.no_grad()
def drive(rule: LearnedOptimizer, seen: list[Tree], stream: Stream = STREAM) -> tuple[list[Tree], Tree]:
    return replay(rule, seen, rule.init_state(trees.select(seen[0], "params"), stream))


def network_by_hand(rule, features, step):
    """The update of one coordinate from its normalised features."""
    x = np.concatenate([features, [math.tanh(step / tau - 1) for tau in TIME]])
    for layer in (rule.network.layer1, rule.network.layer2):
        x = np.maximum(x @ layer.weight.detach().numpy() + layer.bias.detach().numpy(), 0)
    direction, size = x @ rule.network.output.weight.detach().numpy() + rule.network.output.bias.detach().numpy()
    return -rule.scale * direction * math.exp(rule.exponent * size)


def update_by_hand(rule, features, step):
    """From raw features `[coordinates, features]` of one tensor to its update."""
    divided = features / np.sqrt(1e-5 + (features**2).mean(0))
    return np.array([network_by_hand(rule, row, step) for row in divided])


def mlp_lopt_by_hand(rule, grads, params):
    """Updates of one tensor of one task, for each step."""
    decays, momenta, updates = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999), np.zeros((6, grads[0].size)), []
    for step, (grad, theta) in enumerate(zip(grads, params, strict=True)):
        momenta = np.stack([d * m + (1 - d) * grad.ravel() for d, m in zip(decays, momenta, strict=True)])
        features = np.stack([grad.ravel(), theta.ravel(), *momenta], axis=1)
        updates.append(update_by_hand(rule, features, step))
    return updates


def decays_by_hand(offsets, first):
    return [min(max(1 - (1 - d) * math.exp(10 * z), 0), 1) for z, d in zip(offsets.tolist(), first, strict=True)]


def small_fc_by_hand(rule, grads, params):
    """Updates of one tensor of one task, for each step; statistics coordinate by coordinate."""
    first = (0.9, 0.99, 0.999)
    d_m, d_f = decays_by_hand(rule.momentum_decays, first), decays_by_hand(rule.factored_decays, first)
    (d_v,) = decays_by_hand(rule.square_decay, (0.999,))
    shape = grads[0].shape
    places, ndim = list(np.ndindex(shape)), len(shape)
    if ndim >= 2:
        order = np.argsort(shape, kind="stable")
        longest, second = int(order[-1]), int(order[-2])
    m, v, r, c = ({} for _ in range(4))  # by place, or by place without an axis
    updates = []
    for step, (grad, theta) in enumerate(zip(grads, params, strict=True)):
        for p in places:
            m[p] = [d * old + (1 - d) * grad[p] for d, old in zip(d_m, m.get(p, [0] * 3), strict=True)]
            v[p] = d_v * v.get(p, 0) + (1 - d_v) * grad[p] ** 2
        if ndim >= 2:
            for store, axis in ((r, longest), (c, second)):
                means = (grad**2 + 1e-30).mean(axis)
                for q in np.ndindex(means.shape):
                    old = store.get(q, [0] * 3)
                    store[q] = [d * o + (1 - d) * means[q] for d, o in zip(d_f, old, strict=True)]
        else:
            for p in places:
                old = r.get(p, [0] * 3)
                r[p] = c[p] = [d * o + (1 - d) * (grad[p] ** 2 + 1e-30) for d, o in zip(d_f, old, strict=True)]
        rows = []
        for p in places:
            root = 1 / math.sqrt(v[p] + 1e-6)
            if ndim >= 2:
                without = lambda axis, at: at[:axis] + at[axis + 1 :]  # noqa: E731
                row, column = r[without(longest, p)], c[without(second, p)]
                beside = [r[without(longest, (*p[:second], i, *p[second + 1 :]))] for i in range(shape[second])]
                means = np.mean(beside, axis=0)
                factor = [
                    1 / math.sqrt(max(row[k] / (means[k] + 1e-9), 1e-9)) / math.sqrt(max(column[k], 1e-9))
                    for k in range(3)
                ]
                own = factor
            else:
                row = column = r[p]
                factor = [1 / math.sqrt(x + 1e-9) for x in row]
                own = [1 / math.sqrt(x + 1e-6) for x in row]
            rows.append(
                [
                    *(grad[p], theta[p], *m[p], v[p], *(x * root for x in m[p]), root),
                    *(grad[p] * x for x in factor),
                    *(*row, *column),
                    *(1 / math.sqrt(x + 1e-8) for x in row),
                    *(1 / math.sqrt(x + 1e-8) for x in column),
                    *(x * y for x, y in zip(m[p], own, strict=True)),
                ]
            )
        updates.append(update_by_hand(rule, np.array(rows), step))
    return updates


@pytest.mark.parametrize(("make", "by_hand"), [(MLPLOpt, mlp_lopt_by_hand), (SmallFC, small_fc_by_hand)])
def test_updates_equal_the_formulas_written_out(make, by_hand):
    rule, seen = drawn(make), observations()
    actions, _ = drive(rule, seen)
    for name in SHAPES:
        for task in range(2):
            grads, params = ([step[f"{kind}/{name}"][task].numpy() for step in seen] for kind in ("grad", "params"))
            for action, wanted in zip(actions, by_hand(rule, grads, params), strict=True):
                np.testing.assert_allclose(action[name][task].numpy().ravel(), wanted, rtol=1e-9, atol=1e-16)


def test_the_numbers_of_meta_parameters_are_the_published_ones():
    def counted(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert counted(MLPLOpt()) == 1762
    assert counted(SmallFC().network) == 2402
    assert counted(SmallFC()) == 2402 + 7  # and the decays
    assert counted(SmallFC(hidden=4)) == 197  # with the public code's default width


def test_features_of_time_and_normalised_features_by_hand():
    found = time_features(torch.tensor([0.0, 30.0], dtype=torch.float64))
    assert found.shape == (2, 11)
    assert found[0].tolist() == pytest.approx([math.tanh(-1)] * 11)
    assert found[1, :4].tolist() == pytest.approx([math.tanh(29), math.tanh(9), math.tanh(2), 0.0])
    three = normalised(torch.tensor([[[3.0, -4.0]]], dtype=torch.float64))  # mean square 12.5
    assert three[0, 0].tolist() == pytest.approx([3 / math.sqrt(12.5 + 1e-5), -4 / math.sqrt(12.5 + 1e-5)], rel=1e-14)


def test_the_two_longest_axes():
    assert longest_axes(torch.Size([4, 3])) == (0, 1)
    assert longest_axes(torch.Size([3, 4])) == (1, 0)
    assert longest_axes(torch.Size([2, 2])) == (1, 0)  # as a stable sort has it
    assert longest_axes(torch.Size([2, 5, 3, 1])) == (1, 2)
    assert longest_axes(torch.Size([7])) is None
    assert longest_axes(torch.Size([])) is None


@torch.no_grad()
def test_decays_begin_at_their_constants_and_stay_between_0_and_1():
    grad, rule = {"grad/p": torch.ones(1, 2), "params/p": torch.zeros(1, 2)}, SmallFC()
    state = rule.init_state({"p": torch.zeros(1, 2)}, Stream(0))
    _, after = rule(grad, state)
    torch.testing.assert_close(after["momentum/p"][0, 0], torch.tensor([0.1, 0.01, 0.001]), rtol=1e-4, atol=0)
    torch.testing.assert_close(after["diagonal/p"][0, 0], torch.tensor([0.1, 0.01, 0.001]), rtol=1e-4, atol=0)
    assert float(after["square/p"][0, 0]) == pytest.approx(0.001, rel=1e-4)
    rule.momentum_decays.copy_(torch.tensor([5.0, -5.0, 0.0]))  # far outside: decays 0 and 1
    _, after = rule(grad, state)
    assert after["momentum/p"][0, 0, :2].tolist() == [1.0, 0.0]


@each
def test_tensors_and_tasks_never_influence_each_other(make):
    rule = drawn(make)
    together, _ = drive(rule, observations())
    for name, shape in SHAPES.items():
        for task in range(2):
            one = STREAM.over([task])
            alone, _ = drive(rule, observations(one, {name: shape}), one)
            for ours, wanted in zip(together, alone, strict=True):
                torch.testing.assert_close(ours[name][task], wanted[name][0], rtol=1e-12, atol=1e-18)


@each
def test_coordinates_of_a_tensor_do_influence_each_other(make):
    rule, seen = drawn(make), observations()
    changed = [{**step, "grad/bias": step["grad/bias"] * torch.tensor([1.0, 1.0, 2.0])} for step in seen]
    first, other = drive(rule, seen)[0][0]["bias"], drive(rule, changed)[0][0]["bias"]
    assert (first[:, :2] != other[:, :2]).all()


@each
def test_the_dropin_shows_each_parameter_by_itself(make):
    """Two parameters in one drop-in move as each would alone, and by what it is: the rule reads it."""
    rule = make(scale=0.1)
    starts = [Stream(3).normal((4, 3))[0].float(), Stream(4).normal((5,))[0].float()]

    def run(indices, shift=0.0):
        params = [torch.nn.Parameter(starts[i].clone() + shift) for i in indices]
        optimizer = rule.as_torch(params)
        for step in range(3):
            for i, p in zip(indices, params, strict=True):
                p.grad = Stream(10 * step + i).normal(p.shape)[0].float()
            optimizer.step()
        return [p.detach() for p in params]

    both = run([0, 1])
    assert torch.equal(both[0], run([0])[0])
    assert torch.equal(both[1], run([1])[0])
    assert not torch.allclose(run([0], shift=1.0)[0] - 1.0, both[0], atol=1e-4)


@each
def test_updates_are_finite_for_gradients_of_any_size(make):
    rule, grad = make(), torch.tensor([[0.0, 1e-38, -1e-8, 1.0, -3e38, 1e-45], [1e15, 0.0, 1e20, -1e25, 1.0, 0.0]])
    for leaf in (grad, grad.unflatten(1, (2, 3)), torch.zeros(2, 3)):
        actions, state = drive(rule, [{"grad/p": leaf, "params/p": leaf}] * STEPS)
        assert all(torch.isfinite(action["p"]).all() for action in actions)
        assert all(torch.isfinite(leaf).all() for leaf in state.values())


@each
def test_the_state_has_the_size_that_is_stated(make):
    params = {name: torch.zeros(2, *shape) for name, shape in SHAPES.items()}
    shapes = {name: tuple(leaf.shape) for name, leaf in make().init_state(params, STREAM).items()}
    assert shapes["step"] == (2,)
    if make is MLPLOpt:
        assert shapes["momentum/kernel"] == (2, 30, 6)
        assert len(shapes) == 1 + len(SHAPES)
    else:
        assert (shapes["momentum/kernel"], shapes["square/kernel"]) == ((2, 30, 3), (2, 30))
        assert (shapes["row/kernel"], shapes["column/kernel"]) == ((2, 6, 3), (2, 10, 3))
        assert (shapes["diagonal/scale"], shapes["diagonal/bias"]) == ((2, 1, 3), (2, 3, 3))
        assert "diagonal/weight" not in shapes


@each
def test_the_seed_decides_the_meta_parameters(make):
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    for name, theta in first.named_parameters():
        assert torch.equal(theta, again.get_parameter(name))
        assert not theta.any() or not torch.equal(theta, other.get_parameter(name))
        if theta.ndim == 2:
            spread = float(theta.detach().std())
            assert spread == pytest.approx(0.88 / math.sqrt(len(theta)), rel=0.25)  # a normal cut at two deviations


@each
def test_the_config_rebuilds_the_architecture(make):
    rule = make(hidden=5, scale=0.2, exponent=0.3)
    rebuilt = make(**rule.config())
    rebuilt.load_state_dict(rule.state_dict())
    seen = [{name: leaf.float() for name, leaf in step.items()} for step in observations()]
    torch.testing.assert_close(drive(rebuilt, seen)[0], drive(rule, seen)[0], rtol=0, atol=0)
    assert rebuilt.config() == rule.config()


@each
@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"scale": math.inf}, {"exponent": -1.0}, {"hidden": 0}])
def test_constants_without_meaning_are_refused(make, wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        make(**wrong)
