"""Rollout and replay against plain autograd and finite differences."""

import pytest
import torch
from cases import every_learned, held_constant, perturbed

from l2o import trees
from l2o.agent import Piece, meta_parameters
from l2o.errors import ArgumentError
from l2o.kernels.reference import replay
from l2o.kernels.targets import Linear
from l2o.methods.base import Trajectory
from l2o.methods.meta_loss import MetaLoss, iterate_weights, later_gradients, mean_value
from l2o.methods.unrolled import Unrolled, exact_gradients, stopped_gradients, unroll
from l2o.optimizers.dm import L2ODM
from l2o.optimizers.handcrafted import SGD, Adam, Momentum
from l2o.processes.optimizee import Optimizee
from l2o.replay import replay_gradient
from l2o.rng import Stream
from l2o.rollout import AgentDrives, rollout
from l2o.tasks.base import TaskFamily
from l2o.tasks.quadratic import Quadratics
from l2o.tasks.wrappers import NoisyGradients


class TwoLeaves(TaskFamily):
    """A small curved loss with two parameters of different shape and a minibatch."""

    name = "two-leaves"

    def sample(self, rng):
        return {"target": rng.normal((3,))}

    def init(self, instance, rng):
        return {"w": rng.child("w").normal((2, 3)), "b": rng.child("b").normal(())}

    def batch_indices(self, instance, rng):
        return {"i": rng.integers(5, (4,))}

    def gather(self, indices):
        return {"x": torch.sin(indices["i"][..., None].double() + torch.arange(2))}  # [tasks, 4, 2]

    def loss(self, params, instance, batch):
        out = torch.tanh(batch["x"] @ params["w"]) * params["b"] - instance["target"]
        return out.square().mean() + 0.1 * params["b"].square()


FAMILIES = {
    "quadratics": Quadratics(3, start_scale=0.3),
    "two leaves": TwoLeaves(),
    "noisy two leaves": NoisyGradients(TwoLeaves(), 0.5),
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


def some_learned():
    return L2ODM.andrychowicz()


def start(optimizer, family, tasks=3, method=None):
    process = Optimizee.start(family, Stream(5, ("test",), tasks=range(tasks)), dtype=torch.float64)
    return (method or MetaLoss()).begin(optimizer, process, Stream(5, ("test",), tasks=range(tasks)))


def relative(a, b):
    error = torch.cat([(a[name] - b[name]).flatten() for name in b]).norm()
    return float(error / torch.cat([leaf.flatten() for leaf in b.values()]).norm())


@every_learned
@every_family
@pytest.mark.parametrize("weights", ["all", "last"])
@pytest.mark.parametrize("objective", ["loss", "log"])
def test_replay_gradient_equals_autograd(make, family, weights, objective):
    optimizer = perturbed(make())
    trajectory = start(optimizer, family)
    estimate, after = MetaLoss(weights=weights, objective=objective).window(optimizer, trajectory, 7)
    losses, end = unroll(held_constant(optimizer), trajectory, 7, gradients=stopped_gradients)
    values = (losses + 1e-12).log() if objective == "log" else losses
    objective = (values * torch.tensor(iterate_weights(weights, 7))).sum(1).mean()
    theta = meta_parameters(optimizer)
    truth = dict(zip(theta, torch.autograd.grad(objective, list(theta.values())), strict=True))
    assert relative(estimate.gradient, truth) < 1e-10
    assert estimate.value == pytest.approx(objective.item(), rel=1e-12)
    for name, leaf in end.process.params.items():
        assert torch.allclose(after.process.params[name], leaf, rtol=1e-12, atol=1e-14)
    for name, leaf in end.states["agent"].items():
        assert torch.allclose(after.states["agent"][name], leaf, rtol=1e-12, atol=1e-14)


@every_learned
def test_second_window_carries_state_and_parameters(make):
    """Two windows of 5: the second's gradient equals autograd started from the first's end, detached."""
    optimizer = perturbed(make())
    _, middle = MetaLoss().window(optimizer, start(optimizer, TwoLeaves()), 5)
    estimate, end = MetaLoss().window(optimizer, middle, 5)
    losses, _ = unroll(held_constant(optimizer), middle, 5, gradients=stopped_gradients)
    theta = meta_parameters(optimizer)
    grads = torch.autograd.grad(losses.sum(1).mean(), list(theta.values()), materialize_grads=True)
    truth = dict(zip(theta, grads, strict=True))
    assert relative(estimate.gradient, truth) < 1e-10
    _, whole = MetaLoss().window(optimizer, start(optimizer, TwoLeaves()), 10)
    assert all(torch.equal(whole.process.params[k], end.process.params[k]) for k in whole.process.params)
    assert all(torch.equal(whole.states["agent"][k], v) for k, v in end.states["agent"].items())


@every_learned
@every_family
@pytest.mark.parametrize("objective", ["loss", "log"])
def test_unrolled_gradient_equals_finite_differences(make, family, objective):
    optimizer = perturbed(make())
    trajectory = start(optimizer, family, tasks=2)
    estimate, _ = Unrolled(objective=objective).window(optimizer, trajectory, 3)
    generator = torch.Generator().manual_seed(0)
    theta = meta_parameters(optimizer)
    for _ in range(3):
        direction = {
            name: torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype) for name, leaf in theta.items()
        }
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for name, leaf in theta.items():
                    leaf.add_(sign * 1e-6 * direction[name])
            # The true objective: no gradient is held constant, since each run recomputes it.
            values.append(MetaLoss(objective=objective).window(optimizer, trajectory, 3)[0].value)
            with torch.no_grad():
                for name, leaf in theta.items():
                    leaf.sub_(sign * 1e-6 * direction[name])
        slope = sum(float((estimate.gradient[name] * direction[name]).sum()) for name in theta)
        # Central differences in float64 with a step of 1e-6: error about 1e-9 relative to the loss.
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=2e-5, abs=1e-6)


def test_two_unrolled_windows_are_one_in_two_halves():
    """The second half goes on with its own minibatches."""
    optimizer = perturbed(some_learned())
    trajectory = start(optimizer, TwoLeaves())
    _, middle = Unrolled().window(optimizer, trajectory, 3)
    _, end = Unrolled().window(optimizer, middle, 3)
    _, whole = Unrolled().window(optimizer, trajectory, 6)
    assert end.process.step == 6
    assert all(torch.equal(end.process.params[k], v) for k, v in whole.process.params.items())
    assert all(torch.equal(end.states["agent"][k], v) for k, v in whole.states["agent"].items())


def test_first_and_second_order_gradients_differ():
    optimizer = perturbed(some_learned())
    trajectory = start(optimizer, TwoLeaves())
    first, _ = MetaLoss().window(optimizer, trajectory, 5)
    second, _ = Unrolled().window(optimizer, trajectory, 5)
    assert relative(first.gradient, second.gradient) > 1e-3
    assert first.value == pytest.approx(second.value, rel=1e-12)


@every_learned
@pytest.mark.parametrize("piece", [1, 4, 7, 10**6])
def test_replay_in_pieces_equals_the_whole(make, piece):
    optimizer = perturbed(make())
    trajectory = start(optimizer, TwoLeaves())
    record = rollout(trajectory.process, AgentDrives(optimizer), trajectory.states, 4, record=optimizer.reads)
    target = Linear(later_gradients(record.privileged, [torch.ones(3)] * 5))
    actions, state = replay(optimizer, record.observations[:-1], record.entry["agent"])
    value = sum((target.slopes[i] * trees.flatten(action)).sum() for i, action in enumerate(actions))
    theta = meta_parameters(optimizer)
    truth = dict(zip(theta, torch.autograd.grad(value, list(theta.values())), strict=True))
    assert relative(replay_gradient(optimizer, record, target, piece=piece), truth) < 1e-12
    for name, leaf in state.items():
        assert torch.allclose(leaf, record.exit["agent"][name], rtol=1e-12, atol=1e-14)
    for recorded, replayed in zip(record.actions, actions, strict=True):
        assert all(torch.allclose(recorded[k], replayed[k], rtol=1e-12, atol=1e-15) for k in recorded)


def test_replay_takes_explicit_meta_parameters():
    optimizer = perturbed(some_learned())
    trajectory = start(optimizer, TwoLeaves())
    record = rollout(trajectory.process, AgentDrives(optimizer), trajectory.states, 2, record=optimizer.reads)
    theta = {name: leaf.detach() * 1.5 for name, leaf in meta_parameters(optimizer).items()}
    explicit, _ = replay(optimizer, record.observations[:-1], record.entry["agent"], theta=theta)
    with torch.no_grad():
        for parameter in optimizer.parameters():
            parameter.mul_(1.5)
    own, _ = replay(optimizer, record.observations[:-1], record.entry["agent"])
    assert all(torch.equal(a[k], b[k]) for a, b in zip(explicit, own, strict=True) for k in a)


def test_later_gradients_exclude_the_step_itself():
    grads = [{"metagrad/x": torch.tensor([[float(10**i)]])} for i in range(4)]
    assert later_gradients(grads, [torch.ones(1)] * 4).flatten().tolist() == [1110.0, 1100.0, 1000.0]
    assert later_gradients(grads, [torch.zeros(1)] * 3 + [torch.ones(1)]).flatten().tolist() == [1000.0] * 3


def test_a_value_is_the_mean_over_the_tasks_alive():
    losses, alive = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[True, True], [True, False]])
    assert mean_value(losses, alive, [1.0, 10.0]) == (1 + 3) / 2 + 10 * 2


def test_rollout_records_one_observation_more_than_actions():
    optimizer = SGD(0.1)
    trajectory = start(optimizer, TwoLeaves())
    record = rollout(trajectory.process, AgentDrives(optimizer), trajectory.states, 3, record=frozenset({"grad"}))
    assert (len(record.observations), len(record.privileged), record.steps) == (4, 4, 3)
    assert all(set(observation) == {"grad/w", "grad/b"} for observation in record.observations)
    following, _ = record.process.observe()
    assert torch.equal(record.observations[-1]["grad/w"], following["grad/w"])
    assert record.process.step == 3


def test_tasks_starts_and_minibatches_come_from_their_own_streams():
    family, stream = TwoLeaves(), Stream(5, ("test",), trajectory=2, tasks=range(3))
    process = Optimizee.start(family, stream, dtype=torch.float64)
    instance = family.sample(stream.child("instance"))
    params = family.init(instance, stream.child("init"))
    assert all(torch.equal(process.instance[name], leaf) for name, leaf in instance.items())
    assert all(torch.equal(process.params[name], leaf) for name, leaf in params.items())
    batches = []
    for step in range(4):
        indices = family.batch_indices(instance, stream.child("batch").at(step=step))
        batches.append(process.batch()["x"])
        assert torch.equal(batches[-1], family.gather(indices)["x"])
        process = process.apply(trees.map_leaves(torch.zeros_like, params))
    assert not torch.equal(batches[0], batches[1])


class Fragile(TaskFamily):
    """x^2 from x = 1; the loss of task 1 is not a number below x = 0.5, its gradient infinite."""

    name = "fragile"

    def sample(self, rng):
        return {"fragile": torch.tensor([[float(task == 1)] for task in rng.tasks])}

    def init(self, instance, rng):
        return {"x": torch.ones(len(rng.tasks), 2)}

    def loss(self, params, instance, batch):
        return params["x"].square().sum()

    def value_and_grad(self, params, instance, batch):
        broken = (instance["fragile"] > 0) & (params["x"][:, :1] < 0.5)
        losses, grads = super().value_and_grad(params, instance, batch)
        return torch.where(broken[:, 0], torch.nan, losses), {"x": torch.where(broken, torch.inf, grads["x"])}


def test_a_diverged_task_is_frozen_counted_and_leaves_the_others_alone():
    optimizer = Momentum(0.1, momentum=0.0)  # x shrinks by 0.8 a step: 0.512 after 3 steps, 0.4096 after 4

    def run(tasks):
        process = Optimizee.start(Fragile(), Stream(1, tasks=tasks), dtype=torch.float64)
        states = {"agent": optimizer.init_state(process.params, Stream(0))}
        return rollout(process, AgentDrives(optimizer), states, 8, record=frozenset({"grad"}))

    record = run(range(3))
    assert record.alive[1].tolist() == [True] * 4 + [False] * 5
    assert record.alive[[0, 2]].all()
    assert all(float(observation["grad/x"][1].abs().sum()) == 0 for observation in record.observations[4:])
    assert record.process.params["x"][1].tolist() == pytest.approx([0.8**4] * 2)
    assert record.process.params["x"][0].tolist() == pytest.approx([0.8**8] * 2)
    assert record.exit["agent"]["buffer"][1].tolist() == pytest.approx([2 * 0.8**3] * 2)
    assert torch.equal(record.process.params["x"][2], run([2]).process.params["x"][0])


def test_a_dead_task_stays_where_it_died():
    optimizer = perturbed(some_learned())
    with torch.no_grad():
        optimizer.output.bias.fill_(-1.5)  # it moves without a gradient too
    trajectory = start(optimizer, Fragile())

    def run(steps):
        return rollout(trajectory.process, AgentDrives(optimizer), trajectory.states, steps, record=frozenset())

    record = run(8)
    steps = int(record.alive[1].sum())
    assert 0 < steps < 8
    assert torch.equal(record.process.params["x"][1], run(steps).process.params["x"][1])
    assert not torch.equal(record.process.params["x"][0], run(steps).process.params["x"][0])


class Flickering(TaskFamily):
    """x^2; in step 2 alone the loss of task 1 is not a number, or its gradient infinite."""

    name = "flickering"

    def __init__(self, broken):
        self.broken = broken

    def init(self, instance, rng):
        return {"x": 1 + rng.uniform((2,))}

    def batch_indices(self, instance, rng):
        return {"broken": torch.tensor([rng.step == 2 and task == 1 for task in rng.tasks])}

    def loss(self, params, instance, batch):
        return params["x"].square().sum()

    def value_and_grad(self, params, instance, batch):
        losses, grads = super().value_and_grad(params, instance, batch)
        if self.broken == "loss":
            return torch.where(batch["broken"], torch.nan, losses), grads
        return losses, {"x": torch.where(batch["broken"][:, None], torch.inf, grads["x"])}


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_task_that_breaks_once_is_dead_from_then_on(broken):
    trajectory = start(SGD(0.1), Flickering(broken))
    record = rollout(trajectory.process, AgentDrives(SGD(0.1)), trajectory.states, 5, record=frozenset({"grad"}))
    assert record.alive[1].tolist() == [True] * 2 + [False] * 4
    assert record.alive[[0, 2]].all()
    for observation, hidden in zip(record.observations[2:], record.privileged[2:], strict=True):
        assert not observation["grad/x"][1].any()
        assert hidden["loss"][1] == 0


@pytest.mark.parametrize("family", [TwoLeaves(), Flickering("loss")], ids=lambda family: family.name)
def test_a_restored_trajectory_goes_on_as_if_never_stopped(family):
    trajectory = start(SGD(0.1), family)
    process = rollout(trajectory.process, AgentDrives(SGD(0.1)), trajectory.states, 3, record=frozenset()).process
    shuffled = dict(reversed(process.snapshot().items()))  # the order of a file is anybody's guess
    restored = trajectory.process.restored(shuffled, process.step)
    assert list(restored.params) == list(process.params)
    for _ in range(2):
        assert torch.equal(restored.alive, process.alive)
        for ours, wanted in zip(restored.observe(), process.observe(), strict=True):
            assert all(torch.equal(ours[name], leaf) for name, leaf in wanted.items())
        action = trees.map_leaves(torch.ones_like, process.params)
        restored, process = restored.apply(action), process.apply(action)


def test_unrolling_notes_which_tasks_died():
    class First(Quadratics):
        def losses(self, params, instance, batch):
            return super().losses(params, instance, batch) * torch.tensor([torch.nan, 1.0, 1.0])

    optimizer = perturbed(some_learned())
    estimate, after = Unrolled().window(optimizer, start(optimizer, First(3)), 4)
    assert after.process.survivors.tolist() == [False, True, True]
    assert estimate.diagnostics["diverged"] == pytest.approx(1 / 3)


def test_a_diverged_task_does_not_poison_the_meta_gradient():
    optimizer = perturbed(some_learned())
    with torch.no_grad():
        optimizer.output.bias.fill_(-1.5)  # every update about -0.15: task 1 breaks after four steps
    together, _ = MetaLoss().window(optimizer, start(optimizer, Fragile()), 8)
    assert together.diagnostics["diverged"] == pytest.approx(1 / 3)
    assert all(bool(torch.isfinite(leaf).all()) for leaf in together.gradient.values())
    assert together.value == together.value


class ReadsParams(SGD):
    reads = frozenset({"grad", "params"})

    def __init__(self):
        super().__init__(0.1)
        self.pull = torch.nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def forward(self, observation, state):
        grads, params = trees.select(observation, "grad"), trees.select(observation, "params")
        return {name: -0.1 * grads[name] - self.pull * params[name] for name in grads}, state

    def pieces(self, observations, state, size):
        yield Piece(slice(None), observations, state)


class Vanishing(Fragile):
    """As fragile, and the parameters of task 1 start at infinity."""

    def init(self, instance, rng):
        return {"x": torch.where(instance["fragile"] > 0, torch.inf, torch.ones(len(rng.tasks), 2))}


def test_parameters_of_a_dead_task_do_not_poison_a_rule_that_reads_them():
    optimizer = ReadsParams()
    estimate, _ = MetaLoss().window(optimizer, start(optimizer, Vanishing()), 4)
    assert all(bool(torch.isfinite(leaf).all()) for leaf in estimate.gradient.values())
    assert all(value == value for value in estimate.diagnostics.values())


def test_an_unrolled_window_with_a_dead_task_is_no_estimate():
    optimizer = perturbed(some_learned())
    estimate, after = Unrolled().window(optimizer, start(optimizer, Vanishing()), 3)
    assert not any(bool(torch.isfinite(leaf).any()) for leaf in estimate.gradient.values())
    again, _ = Unrolled().window(optimizer, after, 3)
    assert not any(bool(torch.isfinite(leaf).any()) for leaf in again.gradient.values())


def test_a_window_in_which_every_task_died_has_no_value():
    class Dead(Quadratics):
        def value_and_grad(self, params, instance, batch):
            losses, grads = super().value_and_grad(params, instance, batch)
            return losses * torch.nan, grads

    optimizer = perturbed(some_learned())
    estimate, after = MetaLoss().window(optimizer, start(optimizer, Dead(3)), 4)
    assert estimate.value != estimate.value
    assert estimate.diagnostics["diverged"] == 1
    assert not after.process.survivors.any()


def test_a_tasks_gradient_does_not_depend_on_its_company():
    optimizer = perturbed(some_learned())
    family = TwoLeaves()

    def window(tasks):
        process = Optimizee.start(family, Stream(1, tasks=tasks), dtype=torch.float64)
        trajectory = Trajectory(process, {"agent": optimizer.init_state(process.params, Stream(0))})
        return MetaLoss().window(optimizer, trajectory, 5)[0].gradient

    alone = [window([task]) for task in range(3)]
    mean = {name: torch.stack([g[name] for g in alone]).mean(0) for name in alone[0]}
    assert relative(window(range(3)), mean) < 1e-12


def test_a_rollout_without_steps_is_refused():
    trajectory = start(Adam(0.1), TwoLeaves())
    with pytest.raises(ArgumentError, match="at least 1"):
        rollout(trajectory.process, AgentDrives(Adam(0.1)), trajectory.states, 0, record=frozenset())


@pytest.mark.parametrize("method", [MetaLoss, Unrolled])
def test_unknown_weights_are_refused(method):
    with pytest.raises(ArgumentError, match="choose 'all' or 'last'"):
        method(weights="first")
    with pytest.raises(ArgumentError, match="choose 'loss' or 'log'"):
        method(objective="square")


def test_exact_gradients_keep_their_graph():
    x = {"x": torch.tensor([2.0], requires_grad=True)}
    (grad,) = exact_gradients(x["x"] ** 3, x).values()
    assert grad.item() == 12
    assert torch.autograd.grad(grad.sum(), x["x"])[0].item() == 12  # second derivative of x^3 at 2
