"""L2O-Scale is what its formulas say, number for number, and sees a problem as a whole."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import perturbed
from numpy.typing import NDArray
from torch import Tensor, nn

import l2o
from l2o import checkpoint, trees
from l2o.agent import meta_parameters
from l2o.errors import ArgumentError
from l2o.events import Event
from l2o.kernels.reference import replay
from l2o.methods.base import Method
from l2o.methods.meta_loss import MetaLoss
from l2o.methods.unrolled import Unrolled
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.hierarchical import GRUCell, L2OScale
from l2o.optimizers.torch_optim import STEPS
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.tasks.quadratic import Quadratics
from l2o.trees import Tree

Array = NDArray[np.float64]

STREAM = Stream(11, ("hierarchical",), tasks=range(3))
SHAPES = {"weight": (4, 3), "bias": (3,), "scale": ()}
PER_COORDINATE = ("h0", "average", "square", "log_rate", "scale_decay", "input_decay")


def rule_of_no_special_numbers(**constants: float) -> L2OScale:
    """In float64, with every meta-parameter moved: zeros and equal biases would hide a mistake."""
    rule = perturbed(L2OScale(**constants))  # pyright: ignore[reportArgumentType]
    assert isinstance(rule, L2OScale)
    return rule


def observations(steps: int, stream: Stream = STREAM) -> list[Tree]:
    """Gradients of very different sizes, leaves `[tasks, ...]`, for each step."""
    return [
        trees.join(grad={name: draw.child(name).normal(shape) * 10.0 ** (1 - step) for name, shape in SHAPES.items()})
        for step in range(steps)
        for draw in (stream.at(step=step),)
    ]


def begun(rule: LearnedOptimizer, seen: Sequence[Tree], stream: Stream = STREAM) -> Tree:
    return rule.init_state(trees.select(seen[0], "grad"), stream.child("agent"))


@torch.no_grad()
def drive(rule: LearnedOptimizer, seen: list[Tree], stream: Stream = STREAM) -> tuple[list[Tree], Tree]:
    return replay(rule, seen, begun(rule, seen, stream))


def close(found: Tree, wanted: Tree) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


# The formulas once more, in NumPy, one task, one tensor and one coordinate after another.


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def affine(layer: nn.Module, x: Array) -> Array:
    return x @ layer.get_parameter("weight").detach().numpy() + layer.get_parameter("bias").detach().numpy()


def gru(cell: GRUCell, x: Array, h: Array, beta: Array) -> Array:
    n = len(h)
    gates = sigmoid(affine(cell.gates, np.concatenate([x, h])) + beta[: 2 * n])
    r, u = gates[:n], gates[n:]
    c = np.tanh(affine(cell.candidate, np.concatenate([x, r * h])) + beta[2 * n :])
    return u * h + (1 - u) * c


class WrittenOut:
    """One task of the default rule; tensors are flat arrays by name."""

    def __init__(self, rule: L2OScale, log_rates: dict[str, Array]) -> None:
        self.rule, self.log_rate = rule, dict(log_rates)
        self.theta = {name: leaf.detach().numpy() for name, leaf in rule.named_parameters()}
        n = {name: len(rates) for name, rates in log_rates.items()}
        self.h0 = {name: np.tile(self.theta["initial0"], (n[name], 1)) for name in n}
        self.h1 = dict.fromkeys(n, self.theta["initial1"])
        self.h2 = self.theta["initial2"]
        self.average = {name: np.zeros((n[name], 4)) for name in n}
        self.square = {name: np.zeros((n[name], 4)) for name in n}
        self.scale_decay = {name: np.zeros(n[name]) for name in n}
        self.input_decay = {name: np.zeros(n[name]) for name in n}

    def step(self, grads: dict[str, Array]) -> dict[str, Array]:
        mean_rate = np.concatenate(list(self.log_rate.values())).mean()
        updates, h1_after = {}, {}
        for name, grad in grads.items():
            beta0 = affine(self.rule.bias0_from1, self.h1[name]) + affine(self.rule.bias0_from2, self.h2)
            beta1 = affine(self.rule.bias1_from2, self.h2)
            directions, wanted, seen = [], [], []
            started = bool(self.square[name].any())
            for i in range(len(grad)):
                g, mean = float(grad[i]), float(mean_rate)
                direction, log_rate, features = self.coordinate(name, i, g, mean, beta0, started=started)
                directions.append(direction)
                wanted.append(log_rate)
                seen.append(features)
            size = math.sqrt(np.mean(np.square(directions)) + 1e-16)
            updates[name] = -np.exp(np.array(wanted) + self.theta["offset"]) * np.array(directions) / size
            h1_after[name] = gru(self.rule.cell1, np.mean(seen, axis=0), self.h1[name], beta1)
        self.h1 = h1_after
        mean = np.mean(list(h1_after.values()), axis=0)
        self.h2 = gru(self.rule.cell2, mean, self.h2, np.zeros(60))
        return updates

    def coordinate(
        self, name: str, i: int, grad: float, mean_rate: float, beta: Array, *, started: bool
    ) -> tuple[float, float, Array]:
        d, s = float(self.input_decay[name][i]), float(self.scale_decay[name][i])
        x, q = [], []
        for k in range(4):
            decay = d ** (0.5**k)
            a = self.average[name][i, k] = decay * self.average[name][i, k] + (1 - decay) * grad
            keep = s if started else 0.0
            v = self.square[name][i, k] = keep * self.square[name][i, k] + (1 - keep) * (a * a + 1e-12)
            x.append(math.asinh(a / math.sqrt(v + 1e-16)))
            q.append(math.log(v + 1e-16))
        products = [x[0] * x[1], x[1] * x[2], x[2] * x[3]]
        rate = float(self.log_rate[name][i])
        z = np.array([*x, *products, *(each - np.mean(q) for each in q), rate - mean_rate])
        h0 = self.h0[name][i] = gru(self.rule.cell0, z, self.h0[name][i], beta)
        scale, decay, change = affine(self.rule.heads, h0)
        self.scale_decay[name][i], self.input_decay[name][i] = sigmoid(scale), sigmoid(decay)
        wanted = min(max(rate + change, -33.0), 33.0)
        slow = sigmoid(self.theta["rate_decay"])
        self.log_rate[name][i] = slow * rate + (1 - slow) * wanted
        direction = h0 @ self.theta["direction"] + np.array(x) @ self.theta["shortcut"]
        return float(direction), wanted, np.concatenate([h0, z])

    def state(self) -> Tree:
        tree = {"h2": self.h2}
        for kind in (*PER_COORDINATE, "h1"):
            tree |= {f"{kind}/{name}": value for name, value in getattr(self, kind).items()}
        return {name: torch.from_numpy(np.asarray(value)) for name, value in tree.items()}


@pytest.mark.parametrize("steps", [1, 3])
def test_equals_its_formulas_written_out(steps: int) -> None:
    rule, seen = rule_of_no_special_numbers(), observations(steps)
    entry = begun(rule, seen)
    actions, exit_state = drive(rule, seen)
    for task in STREAM.tasks:
        truth = WrittenOut(rule, {name: entry[f"log_rate/{name}"][task].numpy().copy() for name in SHAPES})
        for step, action in enumerate(actions):
            grads = {name: seen[step][f"grad/{name}"][task].flatten().numpy() for name in SHAPES}
            wanted = {name: torch.from_numpy(update) for name, update in truth.step(grads).items()}
            close({name: leaf[task].flatten() for name, leaf in action.items()}, wanted)
        found = {name: exit_state[name][task] for name in truth.state()}
        close(found, truth.state())
        assert found.keys() == exit_state.keys()


PARTS = {
    "cell0": 690,
    "bias0_from1": 630,
    "bias0_from2": 630,
    "cell1": 2580,
    "bias1_from2": 1260,
    "cell2": 2460,
    "initial0": 10,
    "initial1": 20,
    "initial2": 20,
    "direction": 10,
    "heads": 33,
    "shortcut": 4,
    "rate_decay": 1,
    "offset": 1,
}


def test_meta_parameters_are_as_many_as_published() -> None:
    found = dict.fromkeys(PARTS, 0)
    for name, parameter in L2OScale().named_parameters():
        found[name.partition(".")[0]] += parameter.numel()
    assert found == PARTS
    assert sum(found.values()) == 8349


def test_meta_parameters_start_as_published() -> None:
    rules = [L2OScale(seed=seed) for seed in range(20)]
    matrices = {name for name, theta in rules[0].named_parameters() if theta.ndim == 2}
    drawn = {
        name: torch.stack([rule.get_parameter(name).detach() for rule in rules])
        for name, _ in rules[0].named_parameters()
    }
    drawn["heads.weight"], rates = drawn["heads.weight"].split([2, 1], dim=2)
    assert not rates.any()
    deviations = {name: 0.5 / math.sqrt(drawn[name].shape[1]) for name in (*matrices, "direction")}
    for name, deviation in deviations.items():
        spread = 5 / math.sqrt(drawn[name].numel())  # five standard errors
        assert abs(float(drawn[name].mean())) < spread * deviation, name
        assert abs(float(drawn[name].std()) / deviation - 1) < spread, name
        assert float(drawn[name].abs().max()) > 2.1 * deviation, name  # not cut
    for level in range(3):
        vector = drawn[f"initial{level}"]
        assert 0.9 < float(vector.max()) <= 1
        assert -1 <= float(vector.min()) < -0.9
        assert bool((drawn[f"cell{level}.gates.bias"] == 2.2).all())
        assert not drawn[f"cell{level}.candidate.bias"].any()
    for name in ("bias0_from1", "bias0_from2", "bias1_from2"):
        assert not drawn[f"{name}.bias"].any()
    assert abs(float(drawn["shortcut"].mean()) - 0.25) < 5 * 0.05 / math.sqrt(80)
    assert abs(float(drawn["shortcut"].std()) / 0.05 - 1) < 5 / math.sqrt(80)
    assert torch.equal(drawn["heads.bias"][0], torch.tensor([3.2, 2.2, 0.0]))
    assert bool((drawn["rate_decay"] == 3.2).all())
    assert bool((drawn["offset"] == -1).all())


def test_the_seed_decides_the_meta_parameters() -> None:
    first, again, other = L2OScale(seed=1), L2OScale(seed=1), L2OScale(seed=2)
    assert all(torch.equal(theta, again.get_parameter(name)) for name, theta in first.named_parameters())
    assert not torch.equal(first.cell0.gates.weight, other.cell0.gates.weight)


def test_tasks_never_influence_each_other() -> None:
    rule = rule_of_no_special_numbers()
    together, exit_together = drive(rule, observations(4))
    for task in STREAM.tasks:
        stream = STREAM.over([task])
        alone, exit_alone = drive(rule, observations(4, stream), stream)
        for ours, wanted in zip([*together, exit_together], [*alone, exit_alone], strict=True):
            close({name: leaf[task : task + 1] for name, leaf in ours.items()}, wanted)


@torch.no_grad()
def test_permuted_coordinates_and_tensors_get_permuted_updates() -> None:
    rule, seen = rule_of_no_special_numbers(), observations(4)
    entry = begun(rule, seen)
    generator = torch.Generator().manual_seed(0)
    order = {name: torch.randperm(math.prod(shape), generator=generator) for name, shape in SHAPES.items()}

    def permuted(leaf: Tensor, name: str) -> Tensor:
        return leaf.flatten(1)[:, order[name]].view_as(leaf) if leaf.ndim > 1 else leaf

    shuffled = [{f"grad/{n}": permuted(grads[f"grad/{n}"], n) for n in reversed(SHAPES)} for grads in seen]
    shuffled_entry = {"h2": entry["h2"]}
    for name in SHAPES:
        shuffled_entry[f"h1/{name}"] = entry[f"h1/{name}"]
        for kind in PER_COORDINATE:
            shuffled_entry[f"{kind}/{name}"] = entry[f"{kind}/{name}"][:, order[name]]
    actions, exit_state = replay(rule, seen, entry)
    found, found_state = replay(rule, shuffled, shuffled_entry)
    for ours, wanted in zip(found, actions, strict=True):
        close({name: ours[name] for name in SHAPES}, {name: permuted(leaf, name) for name, leaf in wanted.items()})
    for name in SHAPES:
        torch.testing.assert_close(found_state[f"h1/{name}"], exit_state[f"h1/{name}"], rtol=1e-12, atol=1e-14)
        wanted = exit_state[f"h0/{name}"][:, order[name]]
        torch.testing.assert_close(found_state[f"h0/{name}"], wanted, rtol=1e-12, atol=1e-14)


@torch.no_grad()
def test_a_tensors_update_has_root_mean_square_one_apart_from_its_learning_rates() -> None:
    rule, seen = rule_of_no_special_numbers(), observations(4)
    state, keep = begun(rule, seen), torch.sigmoid(rule.rate_decay)
    for grads in seen:
        before = state
        action, state = rule(grads, state)
        for name, update in action.items():
            wanted = (state[f"log_rate/{name}"] - keep * before[f"log_rate/{name}"]) / (1 - keep)  # l*
            normed = update.reshape(wanted.shape) / (wanted + rule.offset).exp()
            # l* is a difference of numbers near 10 divided by 0.04, then exponentiated: 1e-13 at worst.
            torch.testing.assert_close(normed.square().mean(1), torch.ones(3).double(), rtol=1e-11, atol=0)


@torch.no_grad()
def test_the_first_step_averages_the_first_gradient_alone() -> None:
    rule, seen = rule_of_no_special_numbers(), observations(1)
    _, state = rule(seen[0], begun(rule, seen))
    for name in SHAPES:
        grad = seen[0][f"grad/{name}"].flatten(1) if SHAPES[name] else seen[0][f"grad/{name}"][:, None]
        wanted = grad[..., None].expand(-1, -1, 4)
        assert torch.equal(state[f"average/{name}"], wanted)
        assert torch.equal(state[f"square/{name}"], wanted.square() + 1e-12)


@torch.no_grad()
def test_each_time_scale_is_twice_as_slow() -> None:
    rule = L2OScale(scales=6).double()
    state = rule.init_state({"p": torch.zeros(1, 1)}, Stream(0))
    state = {name: leaf.double() for name, leaf in state.items()} | {"input_decay/p": torch.tensor([[0.5]]).double()}
    state["average/p"] = torch.ones(1, 1, 6).double()
    _, after = rule({"grad/p": torch.zeros(1, 1).double()}, state)
    halving = after["average/p"][0, 0].log2().reciprocal()
    torch.testing.assert_close(halving, -(2.0 ** torch.arange(6)).double())


def test_learning_rates_start_at_random_in_their_range() -> None:
    rule, low, high = L2OScale(), math.log(1e-6), math.log(1e-2)
    params = {f"p{i}": torch.zeros(2, 2000) for i in range(100)}
    state = rule.init_state(params, Stream(5, tasks=range(2)))
    rates = torch.stack([state[f"log_rate/{name}"] for name in params], dim=1)  # [tasks, tensors, coordinates]
    assert rates.dtype == torch.float32
    assert low <= float(rates.min()) < low + 0.3
    assert high - 0.3 < float(rates.max()) <= high
    spread = rates.amax(2) - rates.amin(2)
    assert (high - low) / 2 * 0.98 < float(spread.min()) <= float(spread.max()) <= (high - low) / 2 + 1e-5
    centres = rates.mean(2)  # each tensor's own, uniform on half the range: deviation 4.6 / sqrt(12)
    assert abs(float(centres.mean()) - (low + high) / 2) < 5 * 1.33 / math.sqrt(200)
    assert abs(float(centres.std()) / 1.33 - 1) < 5 / math.sqrt(400)


def test_learning_rates_come_from_the_stream_alone() -> None:
    rule, params = L2OScale(), {"w": torch.zeros(3, 40), "b": torch.zeros(3, 40)}
    stream = Stream(5, ("train",), trajectory=2, tasks=range(3))
    state = rule.init_state(params, stream)
    again = rule.init_state(params, stream)
    assert all(torch.equal(leaf, again[name]) for name, leaf in state.items())
    later = rule.init_state(params, stream.at(trajectory=3))
    last = rule.init_state({name: leaf[2:] for name, leaf in params.items()}, stream.over([2]))
    for name in params:
        leaf = state[f"log_rate/{name}"]
        assert not torch.equal(leaf, later[f"log_rate/{name}"])
        assert not torch.equal(leaf[0], leaf[1])
        assert torch.equal(leaf[2:], last[f"log_rate/{name}"])
    assert not torch.equal(state["log_rate/w"], state["log_rate/b"])


def test_a_stream_of_other_tasks_is_refused() -> None:
    with pytest.raises(ArgumentError, match="w has 3 tasks and the stream 1"):
        L2OScale().init_state({"w": torch.zeros(3, 2)}, Stream(0))


@pytest.mark.parametrize(("limit", "clipped"), [(1.0, True), (33.0, False)])
def test_the_clip_of_the_learning_rate_passes_gradients_straight_through(limit: float, clipped: bool) -> None:
    rule, seen = rule_of_no_special_numbers(limit=limit), observations(1)
    action, _ = rule(seen[0], begun(rule, seen))  # rates start near e^-9
    for name, update in action.items():
        size = update.flatten(1).square().mean(1).sqrt() if update.ndim > 1 else update.abs()
        bound = torch.exp(rule.offset - 1)
        assert torch.allclose(size, bound.expand(3), rtol=1e-12) == clipped, name
    total = trees.flatten(action).sum()
    (slope,) = torch.autograd.grad(total, rule.heads.bias)
    # delta = -exp(l* + o) e with d l* / d b_l = 1, clipped or not, so that the slope is delta itself.
    assert slope[2].item() == pytest.approx(total.item(), rel=1e-10)


def test_the_first_window_trains_the_vectors_that_states_start_at() -> None:
    rule = rule_of_no_special_numbers()
    process = Optimizee.start(Quadratics(3), Stream(5, tasks=range(2)), dtype=torch.float64)
    trajectory = MetaLoss().begin(rule, process, Stream(5, tasks=range(2)))
    first, trajectory = MetaLoss().window(rule, trajectory, 3)
    second, _ = MetaLoss().window(rule, trajectory, 3)
    for name in meta_parameters(rule):
        assert bool(first.gradient[name].any()), name
        assert bool(second.gradient[name].any()) == (not name.startswith("initial")), name


@pytest.mark.parametrize("grads", [[0.0] * 6, [0.0, 1e-38, -1e-8, 1.0, -1e15, 1e-45], [3e38, -3e38, 1.0, 0.0, -1.0, 2]])
def test_updates_are_finite_for_gradients_of_any_size(grads: list[float]) -> None:
    rule, seen = L2OScale(), {"grad/p": torch.tensor([grads])}
    entry = begun(rule, [seen], STREAM.over([0]))
    actions, state = replay(rule, [seen] * 5, entry)
    assert all(torch.isfinite(action["p"]).all() for action in actions)
    assert all(torch.isfinite(leaf).all() for leaf in state.values())
    theta = list(rule.parameters())
    slopes = torch.autograd.grad(torch.stack([action["p"].sum() for action in actions]).sum(), theta)
    assert all(torch.isfinite(slope).all() for slope in slopes)


def test_an_empty_tensor_spoils_nothing() -> None:
    rule = L2OScale()
    seen = {"grad/p": torch.ones(1, 3), "grad/none": torch.ones(1, 0)}
    actions, state = replay(rule, [seen] * 3, begun(rule, [seen], STREAM.over([0])))
    assert all(torch.isfinite(action["p"]).all() for action in actions)
    assert all(torch.isfinite(leaf).all() for leaf in state.values())


def test_a_short_meta_training_lowers_the_loss_on_quadratics() -> None:
    plan = l2o.Plan(
        6, l2o.ConstantHorizon(40, 20), 16, meta_optimizer=l2o.MetaAdam(0.03), validate_every=6, validation_tasks=32
    )
    trained = l2o.metatrain(L2OScale(), Quadratics(5), MetaLoss(objective="log"), plan)
    first, last = (validation.value for validation in trained.validations)
    assert last < 0.9 * first
    assert trained.skipped == 0


class TwoTensors(TaskFamily):
    """|A w|^2 + b^2 with one matrix A for each task."""

    name = "two-tensors"

    def sample(self, rng: Stream) -> Tree:
        return {"matrix": rng.normal((3, 3))}

    def init(self, instance: Tree, rng: Stream) -> Tree:
        return {"w": rng.child("w").normal((3,)), "b": rng.child("b").normal(())}

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        return (instance["matrix"] @ params["w"]).square().sum() + params["b"].square()


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("number", [2, 3, 5])  # validation, window, window, window, window, ...
@pytest.mark.parametrize("method", [MetaLoss, Unrolled])
def test_a_run_stopped_anywhere_resumes_to_the_same_bits(
    method: Callable[[], Method], number: int, tmp_path: Path
) -> None:
    plan = l2o.Plan(2, l2o.ConstantHorizon(9, 3), 2, validation_tasks=2, validation_last=3, checkpoint_every=1)
    heard = []

    def stop(event: Event) -> None:
        heard.append(event)
        if len(heard) == number:
            raise StoppedError

    def train(directory: Path | None, *listeners: Callable[[Event], None]) -> tuple[str, object]:
        trained = l2o.metatrain(L2OScale(), TwoTensors(), method(), plan, directory=directory, listeners=listeners)
        return checkpoint.digest(trained.optimizer.state_dict()), trained.validations

    with pytest.raises(StoppedError):
        train(tmp_path, stop)
    assert train(tmp_path) == train(None)


def test_the_config_rebuilds_the_architecture() -> None:
    rule = L2OScale(
        lowest_rate=1e-4,
        highest_rate=1e-3,
        limit=5.0,
        scales=3,
        coordinate_units=5,
        tensor_units=6,
        problem_units=7,
    )
    rebuilt = L2OScale(**rule.config())  # pyright: ignore[reportArgumentType]
    rebuilt.load_state_dict(rule.state_dict())
    assert rebuilt.config() == rule.config()
    seen = [trees.map_leaves(torch.Tensor.float, grads) for grads in observations(2)]
    torch.testing.assert_close(drive(rebuilt, seen), drive(rule, seen), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"lowest_rate": 0.0}, "lowest_rate"),
        ({"lowest_rate": 0.1, "highest_rate": 0.01}, "highest_rate"),
        ({"highest_rate": math.inf}, "highest_rate"),
        ({"limit": 0.0}, "limit"),
        ({"limit": math.nan}, "limit"),
        ({"scales": 0}, "scales"),
        ({"coordinate_units": 0}, "coordinate_units"),
        ({"tensor_units": 0}, "tensor_units"),
        ({"problem_units": 0}, "problem_units"),
    ],
)
def test_constants_without_meaning_are_refused(wrong: dict[str, float], named: str) -> None:
    with pytest.raises(ArgumentError, match=f"{named} is|{named} {wrong[named]}"):
        L2OScale(**wrong)  # pyright: ignore[reportArgumentType]


# As a drop-in: one problem of all parameters.


def large_steps() -> L2OScale:
    return L2OScale(lowest_rate=1e-3, highest_rate=1.0)


def own_leaves(rule: L2OScale, p: Tensor, place: int) -> Tree:
    """The state of a parameter at a place in the optimizer, under that place as its name."""
    fresh = rule.init_state({"p": p.detach()[None]}, Stream(0, ("torch",), tasks=(place,)))
    return {f"{name.removesuffix('/p')}/{place}" if name != "h2" else name: leaf for name, leaf in fresh.items()}


def moved(rule: L2OScale, state: Tree, grads: dict[int, Tensor]) -> tuple[dict[int, Tensor], Tree]:
    """A step of the rule over parameters by place; what belongs to others is left as it is."""
    with torch.no_grad():
        action, after = rule({f"grad/{place}": grad[None] for place, grad in grads.items()}, state)
    return {place: action[str(place)][0] for place in grads}, {**state, **after}


def drawn(*shape: int, seed: int) -> Tensor:
    return Stream(seed, ("drop-in",)).normal(shape)[0].float()


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(drawn(*shape, seed=seed)) for seed, shape in enumerate([(4, 3), (3,), (5,)])]


def step(optimizer: torch.optim.Optimizer, params: Sequence[nn.Parameter], grads: dict[int, Tensor]) -> None:
    for place, p in enumerate(params):
        p.grad = grads[place].clone() if place in grads else None
    optimizer.step()


def gradients(params: Sequence[nn.Parameter], places: Sequence[int], at: int) -> dict[int, Tensor]:
    return {place: drawn(*params[place].shape, seed=100 + 10 * at + place) for place in places}


def test_the_drop_in_shows_the_rule_all_parameters_as_one_problem() -> None:
    rule, params = large_steps(), parameters()
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.25, "weight_decay": 0.1}]
    optimizer, wanted = rule.as_torch(groups, lr=0.5), [p.detach().clone() for p in params]
    state: Tree = {}
    for place, p in enumerate(params):
        state |= own_leaves(rule, p, place)
    for at in range(4):
        grads = gradients(params, (0, 1, 2), at)
        step(optimizer, params, grads)
        deltas, state = moved(rule, state, grads)
        for place, delta in deltas.items():
            lr, decay = (0.5, 0.0) if place < 2 else (0.25, 0.1)
            wanted[place] = (1 - lr * decay) * wanted[place] + lr * delta
    torch.testing.assert_close([p.detach() for p in params], wanted)
    for place, p in enumerate(params):
        torch.testing.assert_close(optimizer.state[p]["h2"], state["h2"])
        torch.testing.assert_close(optimizer.state[p]["h1/p"], state[f"h1/{place}"])


def test_parameters_enter_and_pause_and_the_problem_goes_on() -> None:
    rule, params = large_steps(), parameters()
    optimizer, wanted = rule.as_torch(params), [p.detach().clone() for p in params]
    state = own_leaves(rule, params[1], 1)
    known = {1}
    for at, places in enumerate([(1,), (1,), (0, 1), (0,), (2,), (0, 1, 2)]):
        for place in sorted(set(places) - known):
            state |= {name: leaf for name, leaf in own_leaves(rule, params[place], place).items() if name != "h2"}
        known |= set(places)
        grads = gradients(params, places, at)
        step(optimizer, params, grads)
        deltas, state = moved(rule, state, grads)
        for place, delta in deltas.items():
            wanted[place] = wanted[place] + delta
        copies = [optimizer.state[params[place]]["h2"] for place in known]
        assert all(torch.equal(copy, copies[0]) for copy in copies)
        torch.testing.assert_close(copies[0], state["h2"].detach())
    torch.testing.assert_close([p.detach() for p in params], wanted)
    assert [int(optimizer.state[p][STEPS]) for p in params] == [3, 4, 2]


def test_parameters_of_one_shape_start_with_learning_rates_of_their_own() -> None:
    params = [nn.Parameter(torch.zeros(6)) for _ in range(2)]
    optimizer = large_steps().as_torch(params)
    step(optimizer, params, dict.fromkeys((0, 1), torch.ones(6)))
    first, second = (optimizer.state[p]["log_rate/p"] for p in params)
    assert not torch.isclose(first, second).any()


KINDS: dict[str, Callable[[list[nn.Parameter]], list[dict]]] = {
    "precision": lambda ps: [{"params": [ps[0], nn.Parameter(ps[1].detach().double()), ps[2]]}],
    "direction": lambda ps: [{"params": ps[0]}, {"params": ps[1], "maximize": True}, {"params": ps[2]}],
}


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_of_another_precision_or_direction_are_another_problem(kind: str) -> None:
    def run(places: Sequence[int]) -> list[Tensor]:
        groups = KINDS[kind](parameters())
        optimizer = large_steps().as_torch(groups)
        params = [p for group in groups for p in ([group["params"]] if kind == "direction" else group["params"])]
        for at in range(3):
            grads = {place: grad.to(params[place]) for place, grad in gradients(params, places, at).items()}
            step(optimizer, params, grads)
        return [p.detach() for p in params]

    together = run((0, 1, 2))
    assert torch.equal(together[1], run((1,))[1])
    assert torch.equal(together[0], run((0, 2))[0])
    assert not torch.equal(together[0], run((0,))[0])  # 0 and 2 are one problem
