"""The learned optimizers are what the papers and the public code say, number for number."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from l2o import trees
from l2o.errors import ArgumentError
from l2o.kernels.reference import replay
from l2o.nn import LSTMCell
from l2o.optimizers.base import Coordinatewise
from l2o.optimizers.dm import L2ODM, log_and_sign
from l2o.optimizers.handcrafted import SGD, Adagrad, Adam, Momentum, Nesterov, RMSprop
from l2o.optimizers.rnnprop import RNNprop
from l2o.rng import Stream
from l2o.trees import Tree

Array = NDArray[np.float64]

LEARNED: dict[str, Callable[[], Coordinatewise]] = {
    "L2ODM.chen": L2ODM.chen,
    "L2ODM.andrychowicz": L2ODM.andrychowicz,
    "L2ODM.for_quadratics": L2ODM.for_quadratics,
    "RNNprop.chen": RNNprop.chen,
    "RNNprop.lv": RNNprop.lv,
}
HANDCRAFTED: dict[str, Callable[[], Coordinatewise]] = {
    made.__name__: lambda made=made: made(0.01) for made in (SGD, Momentum, Nesterov, RMSprop, Adam, Adagrad)
}

each_learned = pytest.mark.parametrize("make", LEARNED.values(), ids=list(LEARNED))
each_rule = pytest.mark.parametrize("make", {**LEARNED, **HANDCRAFTED}.values(), ids=[*LEARNED, *HANDCRAFTED])

STREAM = Stream(11, ("learned",), tasks=range(3))
SHAPES = {"weight": (4, 3), "bias": (3,), "scale": ()}
STEPS = 5


def observations(stream: Stream = STREAM) -> list[Tree]:
    """Gradients of very different sizes, leaves `[tasks, ...]`, for each step."""
    return [
        trees.join(grad={name: draw.child(name).normal(shape) * 10.0 ** (1 - step) for name, shape in SHAPES.items()})
        for step in range(STEPS)
        for draw in (stream.at(step=step),)
    ]


@torch.no_grad()
def drive(rule: Coordinatewise, seen: list[Tree]) -> tuple[list[Tree], Tree]:
    return replay(rule, seen, rule.init_state(trees.select(seen[0], "grad"), Stream(0)))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def sonnet_lstm(cell: LSTMCell, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """Sonnet 1's cell written out: gates in the order input, candidate, forget, output; 1 added to the forget gate."""
    weight, bias = cell.weight.detach().numpy(), cell.bias.detach().numpy()
    hidden = h.shape[1]
    z = np.concatenate([x, h], axis=1) @ weight + bias
    i, j, f, o = (z[:, gate * hidden : (gate + 1) * hidden] for gate in range(4))
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j)
    return np.tanh(c) * sigmoid(o), c


def affine(part: torch.nn.Module, x: Array) -> Array:
    return x @ part.get_parameter("weight").detach().numpy() + part.get_parameter("bias").detach().numpy()


class TwoLayers:
    """The recurrent part that both optimizers share, with zeros as its first state."""

    def __init__(self, rule: L2ODM | RNNprop, coordinates: int) -> None:
        self.cells = rule.cell1, rule.cell2
        self.states = [(np.zeros((coordinates, 20)), np.zeros((coordinates, 20))) for _ in range(2)]

    def __call__(self, x: Array) -> Array:
        for layer, cell in enumerate(self.cells):
            self.states[layer] = sonnet_lstm(cell, x, *self.states[layer])
            x = self.states[layer][0]
        return x


def written_out_dm(rule: L2ODM, grads: list[Array]) -> list[Array]:
    layers, updates = TwoLayers(rule, grads[0].size), []
    for g in grads:
        x = g[:, None]
        if rule.preprocess == "log_and_sign":
            epsilon = np.finfo(np.float32).eps
            magnitude = np.maximum(np.log(np.abs(g) + epsilon) / rule.k, -1)
            x = np.stack([magnitude, np.clip(g * np.exp(rule.k), -1, 1)], axis=1)
        updates.append(rule.scale * affine(rule.output, layers(x))[:, 0])
    return updates


def written_out_rnnprop(rule: RNNprop, grads: list[Array]) -> list[Array]:
    layers, updates = TwoLayers(rule, grads[0].size), []
    m, v = np.zeros(grads[0].size), np.zeros(grads[0].size)
    for t, g in enumerate(grads, start=1):
        m = rule.beta1 * m + (1 - rule.beta1) * g
        v = rule.beta2 * v + (1 - rule.beta2) * g**2
        root = np.sqrt(v / (1 - rule.beta2**t)) + 1e-8
        z = affine(rule.input, np.stack([m / (1 - rule.beta1**t) / root, g / root], axis=1))
        x = np.where(z > 0, z, np.exp(np.minimum(z, 0)) - 1)
        updates.append(rule.alpha * np.tanh(affine(rule.output, layers(x))[:, 0]))
    return updates


@pytest.mark.parametrize(
    ("make", "count"),
    [(L2ODM, 5141), (L2ODM.for_quadratics, 5061), (RNNprop, 6641)],
    ids=["DM", "quadratics", "RNNprop"],
)
def test_meta_parameters_are_as_many_as_published(make: Callable[[], Coordinatewise], count: int) -> None:
    assert sum(theta.numel() for theta in make().parameters()) == count


@pytest.mark.parametrize(
    ("grad", "features"),
    [
        (0.0, (-1, 0)),
        (1e-3, (-1, 0.148413)),
        (0.1, (-0.460517, 1)),
        (-10.0, (0.460517, -1)),
        (1e4, (1.842068, 1)),  # the first feature has no upper bound
    ],
)
def test_log_and_sign_has_the_published_values(grad: float, features: tuple[float, float]) -> None:
    found = log_and_sign(torch.tensor([grad], dtype=torch.float64), 5.0)
    torch.testing.assert_close(found, torch.tensor([features], dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [RNNprop.chen, RNNprop.lv])
def test_rnnprop_sees_two_signs_in_its_first_step(make: Callable[[], RNNprop]) -> None:
    rule, seen = make().double(), []
    rule.input.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    grad = torch.tensor([[3.0, -1e-3, 0.0, 1e4]], dtype=torch.float64)
    rule({"grad/p": grad}, rule.init_state({"p": grad}, Stream(0)))
    # epsilon = 1e-8 is 1e-5 of the smallest gradient
    torch.testing.assert_close(seen[0], grad.sign().T.expand(4, 2), rtol=0, atol=2e-5)


def test_the_lstm_cell_is_sonnets() -> None:
    cell = LSTMCell(3, 20).double()
    draw = Stream(2, ("cell",))
    with torch.no_grad():
        cell.weight.copy_(draw.child("weight").normal((23, 80))[0])
        cell.bias.copy_(draw.child("bias").normal((80,))[0])
    x, h, c = (draw.child(name).normal((7, width))[0] for name, width in (("x", 3), ("h", 20), ("c", 20)))
    found = cell(x, h, c)
    for ours, wanted in zip(found, sonnet_lstm(cell, x.numpy(), h.numpy(), c.numpy()), strict=True):
        torch.testing.assert_close(ours.detach(), torch.from_numpy(wanted), rtol=1e-12, atol=1e-12)


def test_the_lstm_cell_does_not_care_about_memory_layout() -> None:
    cell = LSTMCell(3, 20)
    cell.reset(torch.Generator().manual_seed(0))
    x, h, c = torch.randn(7, 3), torch.randn(7, 20), torch.randn(7, 20)
    transposed = [part.T.contiguous().T for part in (x, h, c)]
    for ours, other in zip(cell(x, h, c), cell(*transposed), strict=True):
        assert torch.equal(ours, other)


@pytest.mark.parametrize("make", [L2ODM.chen, L2ODM.andrychowicz, L2ODM.for_quadratics])
def test_dm_equals_its_formulas_written_out(make: Callable[[], L2ODM]) -> None:
    rule = make().double()
    seen = observations(STREAM.over([0]))
    wanted = written_out_dm(rule, [trees.flatten(grads)[0].numpy() for grads in seen])
    found = torch.stack([trees.flatten(action)[0] for action in drive(rule, seen)[0]])
    torch.testing.assert_close(found, torch.from_numpy(np.stack(wanted)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make", [RNNprop.chen, RNNprop.lv])
def test_rnnprop_has_the_published_decays(make: Callable[[], RNNprop]) -> None:
    rule = make()
    assert (rule.beta1, rule.beta2, rule.epsilon) == (0.95, 0.95, 1e-8)


@pytest.mark.parametrize("make", [RNNprop.chen, RNNprop.lv, lambda: RNNprop(beta1=0.8, beta2=0.99)])
def test_rnnprop_equals_its_formulas_written_out(make: Callable[[], RNNprop]) -> None:
    rule = make().double()
    with torch.no_grad():
        rule.output.bias.fill_(0.1)  # biases that start at 0 would hide a mistake
        rule.input.bias.copy_(Stream(1).normal((20,))[0])
    seen = observations(STREAM.over([0]))
    wanted = written_out_rnnprop(rule, [trees.flatten(grads)[0].numpy() for grads in seen])
    found = torch.stack([trees.flatten(action)[0] for action in drive(rule, seen)[0]])
    torch.testing.assert_close(found, torch.from_numpy(np.stack(wanted)), rtol=1e-12, atol=1e-14)


TRUNCATED = 0.8796
"""Standard deviation of a standard normal cut at two deviations: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1))."""


def drawn(rules: list[Coordinatewise], name: str) -> torch.Tensor:
    return torch.stack([rule.get_parameter(name).detach() for rule in rules])


def looks_truncated_normal(values: torch.Tensor, deviation: float) -> bool:
    spread = 5 / math.sqrt(values.numel())  # five standard errors
    return (
        float(values.abs().max()) <= 2 * deviation * (1 + 1e-6)
        and float(values.abs().max()) > 1.6 * deviation
        and abs(float(values.mean())) < spread * deviation
        and abs(float(values.std()) / (TRUNCATED * deviation) - 1) < spread
    )


@pytest.mark.parametrize("make", [L2ODM.chen, L2ODM.andrychowicz, L2ODM.for_quadratics, RNNprop.chen])
def test_meta_parameters_start_as_in_sonnet(make: Callable[..., Coordinatewise]) -> None:
    rules = [make(seed=seed) for seed in range(20)]
    for name, theta in rules[0].named_parameters():
        part = rules[0].get_submodule(name.rpartition(".")[0])
        inputs = part.get_parameter("weight").shape[0]
        if isinstance(part, LSTMCell) or theta.ndim == 2:  # biases of the cells are drawn too
            assert looks_truncated_normal(drawn(rules, name), 1 / math.sqrt(inputs)), name
        else:
            assert not drawn(rules, name).any(), name


def test_rnnprop_of_lv_starts_with_small_weights_and_no_biases() -> None:
    rules: list[Coordinatewise] = [RNNprop.lv(seed=seed) for seed in range(20)]
    for name, theta in rules[0].named_parameters():
        if theta.ndim == 2:
            assert looks_truncated_normal(drawn(rules, name), 0.1), name
        else:
            assert not drawn(rules, name).any(), name


@pytest.mark.parametrize("make", LEARNED.values(), ids=list(LEARNED))
def test_the_seed_decides_the_meta_parameters(make: Callable[..., Coordinatewise]) -> None:
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    for name, theta in first.named_parameters():
        assert torch.equal(theta, again.get_parameter(name))
        assert not theta.any() or not torch.equal(theta, other.get_parameter(name))


@each_rule
def test_tasks_never_influence_each_other(make: Callable[[], Coordinatewise]) -> None:
    rule = make().double()
    together, exit_together = drive(rule, observations())
    for task in STREAM.tasks:
        alone, exit_alone = drive(rule, observations(STREAM.over([task])))
        for ours, wanted in zip([*together, exit_together], [*alone, exit_alone], strict=True):
            row = {name: leaf[task : task + 1] for name, leaf in ours.items()}
            torch.testing.assert_close(row, wanted, rtol=1e-12, atol=1e-15)


@each_rule
def test_permuted_coordinates_get_permuted_updates(make: Callable[[], Coordinatewise]) -> None:
    rule = make().double()
    flat = [{"grad/p": trees.flatten(seen)} for seen in observations()]
    order = torch.randperm(flat[0]["grad/p"].shape[1], generator=torch.Generator().manual_seed(0))
    actions, state = drive(rule, flat)
    permuted, permuted_state = drive(rule, [{"grad/p": seen["grad/p"][:, order]} for seen in flat])
    for ours, wanted in zip(permuted, actions, strict=True):
        torch.testing.assert_close(ours["p"], wanted["p"][:, order], rtol=1e-12, atol=1e-15)
    wanted_state = {name: leaf[:, order] if leaf.ndim > 1 else leaf for name, leaf in state.items()}
    torch.testing.assert_close(permuted_state, wanted_state, rtol=1e-12, atol=1e-15)


@each_rule
@pytest.mark.parametrize("size", [1, 6, 15, 1000])
@torch.no_grad()
def test_pieces_replay_as_the_whole(make: Callable[[], Coordinatewise], size: int) -> None:
    rule = make().double()
    seen = observations()
    _, entry = drive(rule, seen[:2])  # a window that starts with a state
    actions, exit_state = replay(rule, seen[2:], entry)
    whole = torch.stack([trees.flatten(action) for action in actions])  # [steps, tasks, coordinates]
    covered = torch.zeros(whole.shape[2])
    for piece in rule.pieces(seen[2:], entry, size):
        parts, after = replay(rule, piece.observations, piece.state)
        found = torch.stack([trees.flatten(action) for action in parts])
        torch.testing.assert_close(found, whole[:, :, piece.coordinates], rtol=1e-12, atol=1e-15)
        wanted = {name: leaf[:, piece.coordinates] if leaf.ndim > 1 else leaf for name, leaf in exit_state.items()}
        torch.testing.assert_close(after, wanted, rtol=1e-12, atol=1e-15)
        covered[piece.coordinates] += 1
    assert torch.equal(covered, torch.ones_like(covered))


@each_learned
def test_updates_are_finite_for_gradients_of_any_size(make: Callable[[], Coordinatewise]) -> None:
    rule = make()
    grad = torch.tensor([[0.0, 1e-38, -1e-8, 1.0, -1e15, 1e-45]])
    actions, state = drive(rule, [{"grad/p": grad}] * STEPS)
    assert all(torch.isfinite(action["p"]).all() for action in actions)
    assert all(torch.isfinite(leaf).all() for leaf in state.values())


@pytest.mark.parametrize("make", [L2ODM, RNNprop])
def test_the_config_rebuilds_the_architecture(make: Callable[..., Coordinatewise]) -> None:
    rule = make(hidden=7)
    rebuilt = make(**rule.config())
    rebuilt.load_state_dict(rule.state_dict())
    assert rebuilt.config() == rule.config()
    found, wanted = drive(rebuilt, narrow())[0], drive(rule, narrow())[0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def narrow() -> list[Tree]:
    return [trees.map_leaves(torch.Tensor.float, seen) for seen in observations()]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: L2ODM(k=0.0),
        lambda: L2ODM(hidden=0),
        lambda: L2ODM(preprocess="log"),  # pyright: ignore[reportArgumentType]
        lambda: RNNprop(alpha=0.0),
        lambda: RNNprop(epsilon=0.0),
        lambda: RNNprop(hidden=0),
        lambda: RNNprop(beta1=1.0),
        lambda: RNNprop(beta2=-0.1),
    ],
)
def test_constants_without_meaning_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ArgumentError):
        wrong()
