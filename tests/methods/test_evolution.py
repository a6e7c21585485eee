"""Evolution strategies: what they estimate, against autograd; what they leave out; resuming exactly."""

import dataclasses
import itertools
import math

import pytest
import torch
from cases import every_learned, perturbed

import l2o
from l2o import checkpoint, trees
from l2o.agent import meta_parameters
from l2o.errors import ArgumentError
from l2o.methods.base import Trajectory
from l2o.methods.evolution import (
    ES,
    PES,
    antithetic_gradient,
    centered_ranks,
    pair_differences,
    perturbations,
    replicated,
    run_copies,
    window_objectives,
)
from l2o.methods.evolution import perturbed as both_sides
from l2o.methods.meta_loss import MetaLoss, iterate_weights, objective_value
from l2o.methods.unrolled import Unrolled, exact_gradients, unroll
from l2o.optimizers.base import Coordinatewise, zeros
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
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


class Push(Coordinatewise):
    """delta = push, the same everywhere: one meta-parameter, and every trajectory is known by hand. It counts steps."""

    name = "push"

    def __init__(self, push=1.0):
        super().__init__()
        self.push = torch.nn.Parameter(torch.tensor([push], dtype=torch.float64))

    def config(self):
        return {}

    def init_coordinates(self, tasks, coordinates, like):
        return {"steps": zeros(like, tasks)}

    def update(self, grad, state):
        return self.push.expand_as(grad), {"steps": state["steps"] + 1}


class LearnedMomentum(Coordinatewise):
    """m = d m + (1 - d) g; delta = -exp(a) m, with d = sigmoid(c): two meta-parameters."""

    name = "learned momentum"

    def __init__(self):
        super().__init__()
        self.log_rate = torch.nn.Parameter(torch.tensor([-2.0], dtype=torch.float64))
        self.decay = torch.nn.Parameter(torch.tensor([0.3], dtype=torch.float64))

    def config(self):
        return {}

    def init_coordinates(self, tasks, coordinates, like):
        return {"m": zeros(like, tasks, coordinates)}

    def update(self, grad, state):
        decay = torch.sigmoid(self.decay)
        m = decay * state["m"] + (1 - decay) * grad
        return -self.log_rate.exp() * m, {"m": m}


def begun(optimizer, family, method, *, tasks=2, seed=5, trajectory=0):
    stream = Stream(seed, ("test",), trajectory=trajectory, tasks=range(tasks))
    process = Optimizee.start(family, stream, dtype=torch.float64)
    return method.begin(optimizer, process, stream)


def flat(tree):
    return torch.cat([leaf.flatten() for leaf in tree.values()])


def rows(noise):
    """Perturbations `[pairs, ...]` of all meta-parameters as `[pairs, meta-parameters]`."""
    return trees.flatten(noise)


TINY = 1e-6
"""A sigma so small that in float64 the loss is a plane: a relative error of at most some 1e-6 is left, by rounding. At
1e-5 a rectified unit of SmallFC crosses its kink."""


@every_learned
@pytest.mark.parametrize(("weights", "objective"), [("all", "loss"), ("last", "log")])
def test_a_small_sigma_measures_the_exact_gradient_along_each_perturbation(make, weights, objective):
    """With g the gradient, every pair gives (g . e) e / sigma^2, whatever the draw: no luck is involved."""
    optimizer, method = perturbed(make()), ES(sigma=TINY, pairs=3, weights=weights, objective=objective)
    trajectory = begun(optimizer, TwoLeaves(), method)
    for _ in range(2):  # the second window starts with a state
        noise = rows(perturbations(optimizer, trajectory.process, sigma=TINY, pairs=3))
        exact, _ = Unrolled(weights=weights, objective=objective).window(optimizer, trajectory, 3)
        estimate, trajectory = method.window(optimizer, trajectory, 3)
        wanted = noise.T @ (noise @ flat(exact.gradient)) / (3 * TINY**2)
        assert float((flat(estimate.gradient) - wanted).norm()) < 1e-5 * float(wanted.norm())
        assert estimate.value == pytest.approx(exact.value, rel=1e-12)
        assert estimate.diagnostics == {"diverged": 0, "pairs_lost": 0}
        trajectory = dataclasses.replace(
            trajectory, states={"agent": {name: leaf.detach() for name, leaf in trajectory.states["agent"].items()}}
        )


@every_learned
def test_persistent_particles_measure_what_earlier_perturbations_did_too(make):
    """In the second window a pair gives (g1 . e1 + g2 . e2)(e1 + e2) / sigma^2, g1 by what drove the first."""
    optimizer, method = perturbed(make()), PES(sigma=TINY, pairs=3)
    trajectory = begun(optimizer, TwoLeaves(), method)
    first = rows(perturbations(optimizer, trajectory.process, sigma=TINY, pairs=3))
    _, middle = method.window(optimizer, trajectory, 3)
    second = rows(perturbations(optimizer, middle.process, sigma=TINY, pairs=3))
    estimate, _ = method.window(optimizer, middle, 3)

    later = {name: leaf.detach().clone().requires_grad_() for name, leaf in meta_parameters(optimizer).items()}
    steps = itertools.count()

    def drives(observation, state):
        if next(steps) < 3:
            return optimizer(observation, state)
        return torch.func.functional_call(optimizer, later, (observation, state))

    plain = begun(optimizer, TwoLeaves(), Unrolled())
    losses, _ = unroll(drives, plain, 6, gradients=exact_gradients)  # [tasks, 7]
    loss = losses[:, 4:].sum(1).mean()
    both = [*meta_parameters(optimizer).values(), *later.values()]
    slopes = torch.cat([g.flatten() for g in torch.autograd.grad(loss, both, materialize_grads=True)])
    g1, g2 = slopes.chunk(2)
    wanted = (first + second).T @ (first @ g1 + second @ g2) / (3 * TINY**2)
    assert float((flat(estimate.gradient) - wanted).norm()) < 1e-5 * float(wanted.norm())
    assert float((first @ g1).norm()) > 1e-3 * float((second @ g2).norm())  # or the test would say nothing


def test_many_pairs_give_the_exact_gradient_within_the_standard_error():
    optimizer, method = LearnedMomentum(), ES(sigma=1e-3, pairs=40)
    exact, _ = Unrolled().window(optimizer, begun(optimizer, TwoLeaves(), Unrolled()), 4)
    estimates = []
    for number in range(12):  # the same tasks, other perturbations
        trajectory = begun(optimizer, TwoLeaves(), method)
        process = dataclasses.replace(trajectory.process, rng=OtherPerturbations.of(trajectory.process.rng, number))
        estimates.append(flat(method.window(optimizer, Trajectory(process, trajectory.states), 4)[0].gradient))
    estimates, truth = torch.stack(estimates), flat(exact.gradient)
    error = float((estimates.mean(0) - truth).norm())
    spread = float((estimates.var(0) / len(estimates)).sum().sqrt())  # standard error of the mean
    # 480 pairs in 2 dimensions: the standard error is about sqrt(3 / 480) = 8 % of the gradient.
    assert spread < 0.12 * float(truth.norm())
    assert error < 3 * spread
    assert float(torch.cosine_similarity(estimates.mean(0), truth, dim=0)) > 0.95


class OtherPerturbations(Stream):
    """A stream that draws other perturbations, and everything else as before."""

    @classmethod
    def of(cls, rng, number):
        made = cls(rng.seed, rng.names, rng.trajectory, rng.step, rng.tasks)
        object.__setattr__(made, "number", number)
        return made

    def child(self, name):
        plain = Stream(self.seed, self.names, self.trajectory, self.step, self.tasks)
        return plain.child(f"{name} {self.number}" if name == "perturbation" else name)

    def over(self, tasks):
        return self.of(dataclasses.replace(super().over(tasks)), self.number)


class Ridge(TaskFamily):
    """f(x) = x - x^5 / (5 3.3^4) from x = 0: it rises, and falls from x = 3.3 on."""

    name = "ridge"

    def init(self, instance, rng):
        return {"x": torch.zeros(len(rng.tasks), 1)}

    def loss(self, params, instance, batch):
        x = params["x"].sum()
        return x - x**5 / (5 * 3.3**4)


def slope(x):
    return 1 - (x / 3.3) ** 4


def over_a_trajectory(method, seed):
    """The sum of the estimates of four windows of one step each, phi standing still at 1: iterates 1, 2, 3, 4."""
    optimizer = Push()
    trajectory, total = begun(optimizer, Ridge(), method, tasks=1, seed=seed), 0.0
    for _ in range(4):
        estimate, trajectory = method.window(optimizer, trajectory, 1)
        total += float(estimate.gradient["push"])
    return total


def test_persistent_estimates_are_unbiased_where_truncated_ones_have_the_wrong_sign():
    """x_k = k phi: the gradient of the sum is sum_k k f'(x_k) < 0, and truncated sum_k f'(x_k) > 0."""
    whole, truncated = sum(k * slope(k) for k in range(1, 5)), sum(slope(k) for k in range(1, 5))
    assert whole < -0.9 < 0.9 < truncated
    assert over_a_trajectory(Unrolled(), 0) == pytest.approx(truncated, rel=1e-12)
    found = {}
    for method in (PES(sigma=1e-3, pairs=30), ES(sigma=1e-3, pairs=30)):
        sums = torch.tensor([over_a_trajectory(method, seed) for seed in range(24)])
        found[method.name] = float(sums.mean()), float(sums.std()) / math.sqrt(len(sums))
    mean, error = found["pes"]
    assert abs(mean - whole) < 3 * error
    assert error < 0.3  # so that the truncated gradient, 2 away, is excluded
    assert abs(mean - truncated) > 5 * error
    mean, error = found["es"]
    assert abs(mean - truncated) < 3 * error
    assert abs(mean - whole) > 10 * error


def test_common_random_numbers_reduce_the_variance():
    optimizer, sigma, pairs = LearnedMomentum(), 0.01, 40
    stream = Stream(3, ("test",), tasks=(0,))
    process = Optimizee.start(TwoLeaves(), stream, dtype=torch.float64)
    noise = perturbations(optimizer, process, sigma=sigma, pairs=pairs)

    def spread(tasks):
        copies = Optimizee.start(TwoLeaves(), stream.over(tasks), dtype=torch.float64)
        states = [optimizer.init_state(process.params, stream)] * (2 * pairs)
        runs = run_copies(optimizer, both_sides(optimizer, noise), copies, states, 4)
        values, valid = window_objectives(runs.losses, runs.alive, iterate_weights("all", 4), "loss")
        each = [
            antithetic_gradient(
                pair_differences(values, valid)[i : i + 1],
                valid[i : i + 1],
                {k: v[i : i + 1] for k, v in noise.items()},
                sigma=sigma,
            )
            for i in range(pairs)
        ]
        return float(torch.stack([flat(gradient) for gradient in each]).var(0).sum())

    common = spread([0] * (2 * pairs))
    other_tasks = spread([0] * pairs + list(range(1, pairs + 1)))  # the minus sides meet tasks of their own
    # Without them a difference has the spread of the losses, of order 1, over sigma = 0.01, and with them that of the
    # slope: some 1e4 times the variance.
    assert other_tasks > 1000 * common


@pytest.mark.parametrize("make", [lambda: perturbed(l2o.L2ODM.chen()), lambda: perturbed(l2o.L2OScale())])
def test_copies_meet_the_same_minibatches_and_noise(make):
    """Copies with equal meta-parameters are equal, and are what `MetaLoss` rolls out."""
    optimizer, family = make(), NoisyGradients(TwoLeaves(), 0.5)
    trajectory = begun(optimizer, family, MetaLoss())
    theta = dict(meta_parameters(optimizer))
    with torch.no_grad():
        runs = run_copies(
            optimizer, [theta] * 3, replicated(trajectory.process, 3), [trajectory.states["agent"]] * 3, 5
        )
    plain, after = MetaLoss().window(optimizer, trajectory, 5)
    for copy in range(3):
        torch.testing.assert_close(runs.losses[copy], runs.losses[0], rtol=1e-12, atol=0)
        params = {name: leaf.chunk(3)[copy] for name, leaf in runs.process.params.items()}
        torch.testing.assert_close(params, after.process.params, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(runs.states[copy], after.states["agent"], rtol=1e-12, atol=1e-14)
    assert float(runs.losses.sum(-1).mean()) == pytest.approx(plain.value, rel=1e-12)


def test_the_trajectory_of_es_is_the_unperturbed_one():
    optimizer, method = perturbed(l2o.L2OScale()), ES(sigma=0.1, pairs=2)
    ours, plain = begun(optimizer, TwoLeaves(), method), begun(optimizer, TwoLeaves(), MetaLoss())
    for _ in range(2):
        estimate, ours = method.window(optimizer, ours, 3)
        wanted, plain = MetaLoss().window(optimizer, plain, 3)
        assert estimate.value == pytest.approx(wanted.value, rel=1e-12)
        assert ours.process.step == plain.process.step
        torch.testing.assert_close(ours.process.params, plain.process.params, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(ours.states, plain.states, rtol=1e-12, atol=1e-14)


def test_perturbations_are_a_function_of_trajectory_and_step_alone():
    optimizer = l2o.L2ODM.chen()

    def drawn(*, tasks=1, trajectory=0, step=0, pairs=2):
        process = begun(optimizer, Quadratics(2), MetaLoss(), tasks=tasks, trajectory=trajectory).process
        process = dataclasses.replace(process, step=step)
        return rows(perturbations(optimizer, process, sigma=0.5, pairs=pairs))

    base = drawn()
    assert torch.equal(drawn(tasks=7), base)
    assert torch.equal(drawn(pairs=5)[:2], base)
    assert base.dtype == torch.float32
    others = [drawn(trajectory=1), drawn(step=1), base.flip(0)]
    assert all(float((other - base).abs().min()) > 0 for other in others)
    assert float(drawn(pairs=4).std()) == pytest.approx(0.5, rel=0.03)  # 20,564 numbers: five standard errors
    split = base[0, : optimizer.cell1.weight.numel()], base[0, -optimizer.cell2.weight.numel() - 21 :]
    assert not torch.equal(split[0][:100], split[1][:100])  # meta-parameters draw by their names


class Fragile(TaskFamily):
    """x^2 from x = 1; not a number below x = 0.5, in task 1 alone."""

    name = "fragile"

    def sample(self, rng):
        return {"fragile": torch.tensor([[float(task == 1)] for task in rng.tasks])}

    def init(self, instance, rng):
        return {"x": torch.ones(len(rng.tasks), 1)}

    def loss(self, params, instance, batch):
        x = params["x"][0]
        return torch.where((instance["fragile"][0] > 0) & (x < 0.5), torch.nan, x**2)


def by_hand(push, shift, noise, steps, *, entry=None):
    """L of each particle of `Push` on `Fragile`, and whether task 1 lives, from x = 1, or from each particle's x."""
    x = torch.ones_like(noise) if entry is None else entry
    path = x + torch.arange(1, steps + 1)[:, None] * (push + shift * noise)  # [steps, pairs]
    return path.square().sum(0), (path >= 0.5).all(0), path[-1]


@pytest.mark.parametrize("method", [ES, PES])
def test_a_pair_with_a_diverged_particle_is_left_out_in_the_task_where_it_diverged(method):
    optimizer, method = Push(-0.1), method(sigma=0.03, pairs=12)
    trajectory = begun(optimizer, Fragile(), method, tasks=3)
    noise = perturbations(optimizer, trajectory.process, sigma=0.03, pairs=12)["push"][:, 0]
    estimate, after = method.window(optimizer, trajectory, 4)
    (plus, lives, _), (minus, lives_too, _) = (by_hand(-0.1, sign, noise, 4) for sign in (1, -1))
    counts = 2 + (lives & lives_too)  # of three tasks, those that lived through this pair
    assert 2 <= int((counts == 2).sum()) <= 10
    wanted = ((plus - minus) / (2 * 0.03**2) * noise * counts).sum() / counts.sum()
    assert float(estimate.gradient["push"]) == pytest.approx(float(wanted), rel=1e-9)
    assert estimate.diagnostics["pairs_lost"] == pytest.approx(1 - float(counts.sum()) / 36)
    assert math.isfinite(estimate.value)
    if method.name == "es":
        assert after.process.survivors.tolist() == [True] * 3  # the unperturbed trajectory is at 0.6


def test_a_dead_particle_stays_dead_until_the_trajectory_ends():
    optimizer, method = Push(-0.1), PES(sigma=0.03, pairs=12)
    trajectory = begun(optimizer, Fragile(), method, tasks=3)
    noise = [perturbations(optimizer, trajectory.process, sigma=0.03, pairs=12)["push"][:, 0]]
    first, trajectory = method.window(optimizer, trajectory, 4)
    noise.append(perturbations(optimizer, trajectory.process, sigma=0.03, pairs=12)["push"][:, 0])
    with torch.no_grad():
        optimizer.push.fill_(0.1)  # upwards: nobody else dies
    second, trajectory = method.window(optimizer, trajectory, 4)
    sides, counts = [], torch.full((12,), 3)
    lives = torch.ones(12, dtype=torch.bool)
    for side, sign in enumerate((1, -1)):
        _, alive, x = by_hand(-0.1, sign, noise[0], 4)
        steps = torch.stack([trajectory.states[f"particle {12 * side + pair}"]["steps"] for pair in range(12)])
        assert torch.equal(steps[:, 1] == 8, alive)  # the state of a dead one stands still
        assert (steps[:, [0, 2]] == 8).all()
        value, _, _ = by_hand(0.1, sign, noise[1], 4, entry=x)
        sides.append(value)
        lives &= alive
    counts = 2 + lives
    wanted = ((sides[0] - sides[1]) / (2 * 0.03**2) * (noise[0] + noise[1]) * counts).sum() / counts.sum()
    assert float(second.gradient["push"]) == pytest.approx(float(wanted), rel=1e-9)
    assert second.diagnostics == first.diagnostics
    assert second.diagnostics["pairs_lost"] > 0


class SometimesInfinite(Quadratics):
    """The second trajectory has no finite loss at all."""

    def init(self, instance, rng):
        start = super().init(instance, rng)["x"]
        return {"x": start + (torch.inf if rng.trajectory == 1 and "train" in rng.names else 0.0)}


@pytest.mark.parametrize("method", [ES(pairs=2), ES(pairs=2, shaping="ranks"), PES(pairs=2)])
def test_a_window_that_lost_all_pairs_is_skipped(method):
    events = []
    plan = dataclasses.replace(PLAN, trajectories=3)
    trained = l2o.metatrain(l2o.L2ODM.chen(), SometimesInfinite(3), method, plan, listeners=[events.append])
    assert trained.skipped == 1  # everybody is dead: the trajectory ends after its first window
    (skipped,) = (event for event in events if event["kind"] == "skipped")
    assert (skipped["trajectory"], skipped["pairs_lost"], skipped["diverged"]) == (1, 1.0, 1.0)


@pytest.mark.parametrize("shaping", ["none", "ranks"])
def test_a_logarithm_of_a_negative_loss_is_no_estimate(shaping):
    class Negative(Quadratics):
        def value_and_grad(self, params, instance, batch):
            losses, grads = super().value_and_grad(params, instance, batch)
            return -losses, grads

    optimizer, method = perturbed(l2o.L2ODM.chen()), ES(pairs=2, objective="log", shaping=shaping)
    estimate, _ = method.window(optimizer, begun(optimizer, Negative(3), method), 2)
    assert not any(bool(torch.isfinite(leaf).any()) for leaf in estimate.gradient.values())


def test_ranks_lie_evenly_between_their_ends():
    values = torch.tensor([[[3.0, 1.0], [100.0, 1.0]], [[-2.0, 1.0], [4.0, 5.0]]])  # [2, pairs, tasks]
    valid = torch.ones(2, 2, dtype=torch.bool)
    ranks = centered_ranks(values, valid)
    assert ranks[..., 0].flatten().tolist() == pytest.approx([-1 / 6, 1 / 2, -1 / 2, 1 / 6])
    assert ranks[..., 1].flatten().tolist() == pytest.approx(
        [-1 / 6, -1 / 6, -1 / 6, 1 / 2]
    )  # three share ranks 0, 1, 2
    valid[1, 0] = False  # 100 and 4 are left out: 3 and -2 remain
    assert centered_ranks(values, valid)[:, 0, 0].tolist() == [0.5, -0.5]
    assert math.isnan(centered_ranks(torch.full((2, 1, 1), torch.nan), torch.ones(1, 1, dtype=torch.bool))[0, 0, 0])


def test_shaping_by_ranks_sees_the_order_of_the_runs_alone():
    optimizer = perturbed(l2o.L2ODM.chen())

    def gradient(objective, shaping):
        method = ES(sigma=0.05, pairs=6, weights="last", objective=objective, shaping=shaping)
        return flat(method.window(optimizer, begun(optimizer, TwoLeaves(), method), 4)[0].gradient)

    torch.testing.assert_close(gradient("loss", "ranks"), gradient("log", "ranks"), rtol=1e-12, atol=0)
    assert not torch.allclose(gradient("loss", "none"), gradient("log", "none"), rtol=1e-2)
    noise = rows(
        perturbations(optimizer, begun(optimizer, TwoLeaves(), MetaLoss()).process, sigma=0.05, pairs=6)
    )  # with ranks of -1/2 to 1/2 a pair's share is at most |e| / (2 sigma^2)
    assert float(gradient("loss", "ranks").norm()) <= float(noise.norm(dim=1).mean()) / (2 * 0.05**2)


class StoppedError(Exception):
    pass


PLAN = l2o.Plan(
    trajectories=2,
    horizon=l2o.ConstantHorizon(6, 2),
    tasks=2,
    meta_optimizer=l2o.MetaAdam(0.01),
    validate_every=1,
    validation_tasks=1,
    validation_last=1,
    checkpoint_every=1,
)


def train(make, family, method, directory=None, *, stop_at=None, plan=PLAN):
    seen = itertools.count(1)

    def stop(event):
        if event["kind"] in ("window", "skipped") and next(seen) == stop_at:
            raise StoppedError

    trained = l2o.metatrain(make(), family, method, plan, directory=directory, listeners=[stop])
    return checkpoint.digest(trained.optimizer.state_dict()), trained.validations


@pytest.mark.parametrize("make", [l2o.RNNprop.lv, l2o.SmallFC])
@pytest.mark.parametrize("method", [ES(pairs=3), PES(pairs=3)], ids=["es", "pes"])
def test_a_run_killed_after_any_window_resumes_to_the_same_bits(make, method, tmp_path):
    whole = train(make, TwoLeaves(), method)
    for number in range(1, 7):
        with pytest.raises(StoppedError):
            train(make, TwoLeaves(), method, tmp_path / str(number), stop_at=number)
        assert train(make, TwoLeaves(), method, tmp_path / str(number)) == whole


def test_a_resumed_run_knows_which_particles_are_dead(tmp_path):
    plan = dataclasses.replace(PLAN, dtype="float64", horizon=l2o.ConstantHorizon(12, 4), tasks=3)
    method, lost = PES(sigma=0.03, pairs=12), []

    def listen(event):
        lost.append(event.get("pairs_lost"))
        if len(lost) == 3:  # a validation, and two windows
            raise StoppedError

    with pytest.raises(StoppedError):
        l2o.metatrain(Push(-0.1), Fragile(), method, plan, directory=tmp_path, listeners=[listen])
    assert 0 < lost[1] < 1
    whole = train(lambda: Push(-0.1), Fragile(), method, plan=plan)
    assert train(lambda: Push(-0.1), Fragile(), method, tmp_path, plan=plan) == whole


def test_a_checkpoint_of_other_perturbations_is_refused(tmp_path):
    with pytest.raises(StoppedError):
        train(l2o.L2ODM.chen, Quadratics(2), PES(pairs=2), tmp_path, stop_at=3)
    for other in (PES(pairs=3), PES(pairs=2, sigma=0.1), ES(pairs=2)):
        with pytest.raises(l2o.L2OError, match=r"of another run .*method"):
            train(l2o.L2ODM.chen, Quadratics(2), other, tmp_path)


class WithoutGradients(Quadratics):
    """Its gradients mean nothing."""

    offers = frozenset({"loss", "params"})


class Blind(Push):
    reads = frozenset()


@pytest.mark.parametrize("method", [ES(pairs=1), PES(pairs=1)], ids=["es", "pes"])
def test_gradients_are_asked_of_a_family_only_where_the_optimizer_reads_them(method):
    assert train(Blind, WithoutGradients(2), method)
    with pytest.raises(ArgumentError, match="learned optimizer push reads grad"):
        train(Push, WithoutGradients(2), method)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: ES(sigma=0.0), "sigma is 0.0; perturbations need a positive"),
        (lambda: PES(sigma=math.inf), "sigma is inf"),
        (lambda: ES(pairs=0), "pairs is 0; a window needs at least 1"),
        (lambda: PES(pairs=-1), "pairs is -1"),
        (lambda: ES(shaping="sign"), "shaping is 'sign'; choose 'none' or 'ranks'"),
        (lambda: ES(weights="first"), "weights is 'first'"),
        (lambda: PES(objective="square"), "objective is 'square'"),
    ],
)
def test_settings_without_meaning_are_refused(wrong, message):
    with pytest.raises(ArgumentError, match=message):
        wrong()


def test_a_window_without_steps_is_refused():
    method = ES(pairs=1)
    with pytest.raises(ArgumentError, match="a window of 0 steps"):
        method.window(Push(), begun(Push(), Ridge(), method), 0)


def test_the_objective_of_a_window_counts_what_came_after_its_start():
    losses = torch.arange(1.0, 9.0).reshape(2, 1, 4)  # [copies, tasks, steps + 1]
    values, valid = window_objectives(losses, torch.ones(2, 1, 4).bool(), iterate_weights("all", 3), "loss")
    assert values.flatten().tolist() == [2 + 3 + 4, 6 + 7 + 8]
    assert valid.tolist() == [[True]]
    values, _ = window_objectives(losses, torch.ones(2, 1, 4).bool(), iterate_weights("last", 3), "log")
    assert values.flatten().tolist() == pytest.approx(objective_value(torch.tensor([4.0, 8.0]), "log").tolist())


@pytest.mark.parametrize("method", [ES, PES])
def test_meta_training_with_evolution_strategies_improves_an_optimizer(method):
    plan = l2o.Plan(
        trajectories=8,
        horizon=l2o.ConstantHorizon(20, 10),
        tasks=8,
        meta_optimizer=l2o.MetaAdam(0.02),
        validate_every=4,
        validation_tasks=16,
        validation_last=5,
        seed=3,
    )
    method = method(sigma=0.02, pairs=5, objective="log")
    trained = l2o.metatrain(l2o.MLPLOpt(scale=0.1), Quadratics(3), method, plan)
    assert trained.skipped == 0
    assert trained.best.value < 0.4 * trained.validations[0].value
