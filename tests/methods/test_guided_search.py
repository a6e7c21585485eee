"""Guided policy search as a whole: controllers improve, the policy follows them, and what goes wrong is mended."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from l2o.errors import ArgumentError, DivergedError, UnsupportedError
from l2o.horizons import ConstantHorizon
from l2o.meta_optimizer import MetaAdam
from l2o.metatrain import metatrain
from l2o.methods.guided_policy import sampling
from l2o.methods.guided_policy.alternation import BregmanADMM, MirrorDescent
from l2o.methods.guided_policy.cost import NewtonDecrement, Taylor
from l2o.methods.guided_policy.dual_search import LEAST, MOST
from l2o.methods.guided_policy.features import StateFeatures
from l2o.methods.guided_policy.gains import Gains
from l2o.methods.guided_policy.sampling import ControllerDrives, Explored, clock, in_dtype, mean_losses
from l2o.methods.guided_policy.search import (
    Exploration,
    Fits,
    GuidedPolicySearch,
    Regression,
    Standing,
    Start,
    _Iteration,
)
from l2o.optimizers.dm import L2ODM
from l2o.optimizers.handcrafted import SGD, Momentum
from l2o.optimizers.predicted_step import PredictedStep
from l2o.outer_loop import Plan
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.rollout import AgentDrives
from l2o.tasks.base import TaskFamily
from l2o.tasks.data import blobs
from l2o.tasks.projected import ProjectedClassification
from l2o.trees import Tree

FEATURES = StateFeatures((2, 4, 2))
PSI_ONLY = BregmanADMM(share=1e-12)
MODELS_ALONE = Fits(widest=10.0, gains=None)
KNOTS = Gains().knots


class Bowl(TaskFamily):
    """f = x' H x / 2 with eigenvalues from 0.05 to 1, in a basis of its own."""

    name = "bowl-of-test"

    def __init__(self, dimensions: int) -> None:
        basis, _ = torch.linalg.qr(Stream(4).normal((dimensions, dimensions))[0])
        self.dimensions = dimensions
        self.H = (basis * torch.linspace(0.05, 1.0, dimensions, dtype=torch.float64)) @ basis.T

    def init(self, instance: Tree, rng: Stream) -> Tree:
        return {"x": rng.normal((self.dimensions,))}

    def whole(self) -> Tree | None:
        return {}

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> torch.Tensor:
        return params["x"] @ self.H.to(params["x"]) @ params["x"] / 2


class Unknown(Bowl):
    def whole(self) -> Tree | None:
        return None


def plan(steps: int, **changes) -> Plan:
    settings = {
        "trajectories": 2,
        "tasks": 4,
        "horizon": ConstantHorizon(steps, steps),
        "meta_optimizer": MetaAdam(5e-3, clip=1.0),
        "validate_every": 1,
        "validation_tasks": 4,
        "validation_last": steps,
        "checkpoint_every": 1,
        "seed": 1,
    }
    return Plan(**{**settings, **changes})


def search(**changes) -> GuidedPolicySearch:
    settings = {
        "features": FEATURES,
        "exploration": Exploration(coordinates=32),
        "regression": Regression(passes=1, steps=3, pairs=32),
        "start": Start(SGD(0.3)),
    }
    return GuidedPolicySearch(**{**settings, **changes})


def told(method: GuidedPolicySearch, family: TaskFamily, made: Plan, policy=None, **given):
    """The events of a meta-training that tell about an iteration, and its result."""
    events = []
    trained = metatrain(policy or PredictedStep(hidden=8), family, method, made, listeners=[events.append], **given)
    return [event for event in events if "pass" in event], trained


def mean_loss(rule, family: TaskFamily, steps: int) -> float:
    """Of a rule, over 16 fresh tasks and all steps."""
    process = Optimizee.start(family, Stream(9, tasks=range(16)))
    states = {"agent": rule.init_state(process.params, Stream(0))}
    return mean_losses(process, AgentDrives(rule), states, steps)[0]


# ---- controllers


def test_controllers_alone_get_better_at_every_iteration():
    family, steps = Bowl(32), 40
    best = min(torch.linspace(0.2, 2.2, 41).tolist(), key=lambda rate: mean_loss(SGD(rate), family, steps))
    method = search(
        alternation=PSI_ONLY,
        fits=MODELS_ALONE,
        start=Start(SGD(best), factor=0.2),
        exploration=Exploration(coordinates=32),
    )
    iterations, _ = told(method, family, plan(steps, trajectories=8, tasks=16, validate_every=8))
    values = [event["value"] for event in iterations]
    first, last, bound = values[0], values[-1], mean_loss(SGD(best), family, steps)
    assert last <= first - 0.3 * (first - bound)
    accepted = [event["accepted"] for event in iterations[1:]]
    assert sum(accepted) >= 6


BLOBS = {"exploration": Exploration(coordinates=64), "start": Start(Momentum(1.0, momentum=0.5), factor=0.2)}


def descent_on_blobs(**changes) -> list[float]:
    """Mean losses over 60 steps of a perceptron under the controllers of eight iterations."""
    family = ProjectedClassification(blobs(), dimensions=16, hidden=16)
    method = search(**{**BLOBS, "alternation": PSI_ONLY, "fits": MODELS_ALONE, **changes})
    iterations, _ = told(method, family, plan(60, trajectories=8, tasks=12, validate_every=8))
    return [event["value"] for event in iterations]


@pytest.mark.slow
def test_controllers_of_a_perceptron_get_better():
    values = descent_on_blobs()
    assert values[0] > 0.95
    assert values[-1] < 0.74


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"exploration": replace(BLOBS["exploration"], jitter=0.0)},
        {"features": replace(FEATURES, position=True), "fits": replace(MODELS_ALONE, cost=Taylor(0))},
    ],
    ids=["no jitter", "Taylor's cost"],
)
def test_without_jitter_or_with_taylors_cost_they_do_not(changes):
    values = descent_on_blobs(**changes)
    assert values[-1] > 0.9 * values[0]


@pytest.mark.slow
def test_gains_by_trial_go_further_than_models_alone():
    tried, alone = descent_on_blobs(fits=Fits()), descent_on_blobs()
    assert tried[-1] < alone[-1] - 0.02


def test_gains_by_trial_never_make_it_worse_and_halve_steps_that_are_too_long():
    method = search(start=Start(SGD(1.9)), exploration=Exploration(jitter=0.0), fits=Fits(trust=1e-6))
    iterations, _ = told(method, Layer(), plan(12, trajectories=4))
    assert all(event["value"] <= event["before_gains"] for event in iterations[1:])
    assert all(event["gain_trials"] >= 2 * len(KNOTS) for event in iterations[1:])
    assert iterations[1]["gains"] >= 4
    values = [event["value"] for event in iterations]
    assert values[-1] < values[0] / 2


# ---- the policy


@pytest.mark.slow
def test_the_policy_imitates_a_controller_that_it_can_represent():
    family, steps = Bowl(12), 20
    method = search(
        fits=Fits(trust=1e-9, gains=None),
        regression=Regression(passes=1, steps=1_000, pairs=96),
        start=Start(SGD(0.5), noise=1e-3),
        exploration=Exploration(jitter=0.0, least_noise=1e-3),
    )
    events = []
    settings = MetaAdam(1e-2, clip=1.0)
    made = plan(steps, trajectories=2, tasks=16, meta_optimizer=settings)
    trained = metatrain(PredictedStep(hidden=16), family, method, made, listeners=[events.append])
    losses = [event["meta_loss"] for event in events if event["kind"] == "window"]
    assert 2 * sum(losses[-20:]) / 20 < 0.1  # relative to the mean square of the actions
    process = Optimizee.start(family, Stream(9, tasks=range(16)))
    imitated = _Iteration(method, PredictedStep(hidden=16), process, steps)
    controller = imitated._begin(imitated._group())  # the same one, of the tasks that `mean_loss` takes
    assert mean_loss(trained.optimizer, family, steps) == pytest.approx(float(controller.value), rel=0.05)


@pytest.mark.slow
def test_the_whole_loop_reaches_the_optimum():
    family, steps = Bowl(8), 40
    method = search(
        fits=MODELS_ALONE,
        regression=Regression(passes=1, steps=200, pairs=64),
        start=Start(Momentum(0.5, momentum=0.5), factor=0.5),
    )
    made = plan(steps, trajectories=12, tasks=8, validation_tasks=16, meta_optimizer=MetaAdam(1e-2, clip=1.0))
    iterations, trained = told(method, family, made, PredictedStep(hidden=16))
    assert mean_loss(trained.optimizer, family, steps) < mean_loss(Momentum(0.25, momentum=0.5), family, steps)
    divergences = [event["policy_kl"] for event in iterations[2:]]  # of the policy from controllers that have moved
    assert sum(divergences[-3:]) < sum(divergences[:3]) / 2
    process = Optimizee.start(family, Stream(5, tasks=range(16)))
    first, policy = process.observe()[1]["loss"], trained.optimizer
    state = policy.init_state(process.params, Stream(0))
    for _ in range(3 * steps):
        with torch.no_grad():
            action, state = policy(process.observe()[0], state)
        process = process.apply(action)
    assert float((process.observe()[1]["loss"] / first).mean()) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("alternation", [BregmanADMM(), MirrorDescent()], ids=["admm", "mirror"])
def test_policy_and_controllers_of_a_perceptron_get_better_together(alternation):
    family = ProjectedClassification(blobs(), dimensions=16, hidden=16)
    method = search(**BLOBS, alternation=alternation, regression=Regression(passes=1, steps=200, pairs=128))
    made = plan(60, trajectories=8, tasks=12, validation_tasks=12, meta_optimizer=MetaAdam(1e-2, clip=1.0))
    iterations, trained = told(method, family, made, PredictedStep(hidden=16))
    first = trained.validations[1].value  # the policy has learned from the first controllers
    assert first > 0.95
    assert trained.best.value < 0.75
    assert iterations[-1]["value"] < 0.85


def test_a_policy_gets_better_than_its_start():
    family, steps = Bowl(8), 20
    method = search(regression=Regression(passes=1, steps=40, pairs=64), start=Start(SGD(0.5), factor=0.5))
    made = plan(steps, trajectories=4, tasks=8, validation_tasks=16, meta_optimizer=MetaAdam(1e-2, clip=1.0))
    iterations, trained = told(method, family, made, PredictedStep(hidden=16))
    first = trained.validations[1].value
    assert trained.best.value < 0.9 * first
    assert len(iterations) == 5


def test_any_learned_optimizer_can_be_the_policy():
    iterations, trained = told(search(), Bowl(6), plan(12), L2ODM(hidden=4))
    assert len(iterations) == 3
    assert trained.best.value < math.inf


# ---- resume


@dataclass
class KilledError(Exception):
    at: int


@pytest.mark.parametrize("alternation", [BregmanADMM(), MirrorDescent(on_policy_from=1)], ids=["admm", "mirror"])
@pytest.mark.parametrize("windows", [2, 9, 14])
def test_a_run_killed_anywhere_resumes_to_the_same_bits(alternation, windows, tmp_path):
    def run(listeners=()):
        method = search(alternation=alternation, regression=Regression(passes=2, steps=2, pairs=16))
        return metatrain(
            PredictedStep(hidden=4), Bowl(6), method, plan(15, trajectories=3), directory=tmp_path, listeners=listeners
        )

    counted = []

    def kill(event):
        counted.append(event["kind"])
        if counted.count("window") == windows:
            raise KilledError(windows)

    with pytest.raises(KilledError):
        run([kill])
    resumed = run()
    again = metatrain(
        PredictedStep(hidden=4),
        Bowl(6),
        search(alternation=alternation, regression=Regression(passes=2, steps=2, pairs=16)),
        plan(15, trajectories=3),
    )
    assert resumed.validations == again.validations
    for name, leaf in again.optimizer.state_dict().items():
        assert torch.equal(leaf, resumed.optimizer.state_dict()[name])


# ---- what goes wrong


def standing(family=None, steps=12, **changes):
    """What an iteration hands on."""
    method, process = search(**changes), Optimizee.start(family or Bowl(6), Stream(2, tasks=range(4)))
    policy = PredictedStep(hidden=4)
    estimate, trajectory = method.window(policy, method.begin(policy, process, Stream(2)), steps)
    while estimate.then is not None:
        following = estimate.then()
        if not hasattr(following, "then"):
            trajectory = following
            break
        estimate = following
    return method, policy, process, trajectory


def drained(estimate):
    estimates = [estimate]
    while hasattr(estimate, "then") and estimate.then is not None:
        estimate = estimate.then()
        estimates.append(estimate)
    return estimates[:-1], estimates[-1]


def test_where_too_many_diverge_the_controller_before_drives():
    method, policy, _, trajectory = standing()
    kept = Standing.of(trajectory.states["memory"])
    wild = replace(kept, controller=replace(kept.controller, K=kept.controller.K * 1e3), before=kept.controller)
    trajectory = replace(trajectory, states={"memory": wild.tree(torch.float32)})
    estimates, following = drained(method.window(policy, trajectory, 12)[0])
    after = Standing.of(following.states["memory"])
    assert estimates[0].diagnostics["sampling_diverged"] == 0
    assert float(after.scale) < float(kept.scale)
    assert float(after.value) < 10


def test_where_everything_diverges_there_is_an_error():
    method, policy, _, trajectory = standing()
    kept = Standing.of(trajectory.states["memory"])
    wild = replace(kept.controller, K=kept.controller.K * 1e6)
    lost = replace(kept, controller=wild, before=wild)
    with pytest.raises(DivergedError, match="more than 25% of the trajectories diverge"):
        method.window(policy, replace(trajectory, states={"memory": lost.tree(torch.float32)}), 12)


def test_a_start_that_diverges_is_refused():
    with pytest.raises((DivergedError, ArgumentError), match=r"SGD|alive"):
        told(search(start=Start(SGD(100.0))), Bowl(6), plan(12))


@dataclass(frozen=True)
class Indefinite:
    """A cost that rewards large states without bound."""

    def __call__(self, states, gradients, curvature, *, alive, name="samples"):
        found = NewtonDecrement()(states, gradients, curvature, alive=alive, name=name)
        most = (torch.einsum("ntcs,tsr,ntcr->ntc", states, found.C, states) / 2).max()
        return found._replace(C=-found.C / most, d=torch.zeros_like(found.d), e=torch.ones_like(found.e))


def test_an_indefinite_cost_ends_in_a_controller_that_is_no_worse():
    iterations, _ = told(search(fits=Fits(cost=Indefinite())), Bowl(6), plan(12))
    assert all(math.isfinite(event["value"]) for event in iterations)
    assert all(event.get("accepted") == 0 or event.get("unsolved") == 1 for event in iterations[1:])
    assert iterations[-1]["scale"] < 1


def test_without_a_solution_the_old_controllers_are_valued_on_the_new_tasks(monkeypatch):
    def unsolved(*_, **__):
        raise DivergedError("no multiplier up to 1e16")

    monkeypatch.setattr("l2o.methods.guided_policy.search.constrained", unsolved)
    method, policy, _, trajectory = standing(fits=MODELS_ALONE)
    old = Standing.of(trajectory.states["memory"])
    other = Optimizee.start(Bowl(6), Stream(3, tasks=range(4)))
    estimates, following = drained(method.window(policy, replace(trajectory, process=other), 12)[0])
    work = _Iteration(method, policy, other, 12)
    value, _ = work._value(old.controller, work._group())
    assert abs(value - float(old.value)) > 0.01
    assert estimates[0].diagnostics["unsolved"] == 1
    assert estimates[0].diagnostics["value"] == value
    after = Standing.of(following.states["memory"])
    assert float(after.value) == pytest.approx(value)
    assert torch.equal(after.controller.K, old.controller.K)


def test_a_singular_fit_is_no_harm():
    iterations, _ = told(search(exploration=Exploration(jitter=0.0, coordinates=1)), Bowl(6), plan(12, tasks=1))
    assert all(math.isfinite(event["value"]) for event in iterations)


def test_a_worse_controller_is_dropped_and_the_trust_region_shrinks():
    iterations, _ = told(search(fits=Fits(trust=500.0)), Bowl(6), plan(12, trajectories=3))
    dropped = [event for event in iterations[1:] if event["accepted"] == 0]
    assert dropped
    for event in dropped:
        assert event["proposed"] >= event["value"]
        assert event["scale"] <= 0.3 * 1.5


class Layer(TaskFamily):
    """A bowl of a weight and a bias: two groups of coordinates."""

    name = "layer-of-test"

    def init(self, instance: Tree, rng: Stream) -> Tree:
        return {"weight": rng.child("weight").normal((2, 3)), "bias": rng.child("bias").normal((2,))}

    def whole(self) -> Tree | None:
        return {}

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> torch.Tensor:
        return params["weight"].square().sum() / 2 + params["bias"].square().sum() / 2


@pytest.mark.parametrize(
    ("factors", "kept"),
    [
        ((2.0, 2.0), (True, True)),
        ((2.0, 300.0), (True, False)),
        ((300.0, 2.0), (False, True)),
        ((0.5, 2.0), (False, True)),
    ],
)
def test_of_the_proposed_controllers_those_that_help_are_kept(factors, kept):
    method, policy, process, trajectory = standing(Layer(), fits=MODELS_ALONE)
    old = Standing.of(trajectory.states["memory"])
    by = torch.tensor(factors, dtype=torch.float64)
    proposed = replace(old, controller=replace(old.controller, K=old.controller.K * by[:, None, None, None]))
    work = _Iteration(method, policy, process, 12)
    after, told_of = work._judged(proposed, old, work._group())
    for g, new in enumerate(kept):
        expected = (proposed if new else old).controller.K[g]
        assert torch.equal(after.controller.K[g], expected)
    assert told_of["groups"] == sum(kept)
    assert told_of["accepted"] == 1
    assert float(after.scale) == pytest.approx(1.5 * float(old.scale))


def test_where_no_group_helps_all_controllers_stay():
    method, policy, process, trajectory = standing(Layer())
    old = Standing.of(trajectory.states["memory"])
    worse = replace(old, controller=replace(old.controller, K=old.controller.K * 0.5))
    work = _Iteration(method, policy, process, 12)
    after, told_of = work._judged(worse, old, work._group())
    assert torch.equal(after.controller.K, old.controller.K)
    assert told_of["accepted"] == told_of["groups"] == 0
    assert float(after.scale) == pytest.approx(0.3 * float(old.scale))


@pytest.mark.parametrize(
    ("made", "family", "error", "message"),
    [
        (plan(12, horizon=ConstantHorizon(12, 6)), Bowl(4), ArgumentError, "window as long as it is"),
        (plan(12), Unknown(4), UnsupportedError, "true objective"),
    ],
)
def test_what_does_not_fit_is_refused(made, family, error, message):
    with pytest.raises(error, match=message):
        told(search(), family, made)


# ---- sampling


def test_gains_are_of_mean_one_and_noise_is_redrawn():
    process = Optimizee.start(Bowl(5), Stream(1, tasks=range(2_000)))
    driver = AgentDrives(SGD(0.1))
    explored = Explored.of(driver, torch.full((3, 5), 0.01), Stream(1, tasks=range(2_000)), jitter=0.3)
    assert float(explored.gains.mean()) == pytest.approx(1.0, abs=0.03)
    assert float(explored.gains.log().std()) == pytest.approx(0.3, abs=0.02)
    states = {"agent": driver.agent.init_state(process.params, Stream(0)), **clock(process)}
    seen = process.observe()[0]
    first, states = explored(seen, states)
    second, states = explored(seen, states)
    plain, _ = driver(seen, states)
    for action in (first, second):
        noise = action["x"] - explored.gains[:, None] * plain["x"]
        assert float(noise.std()) == pytest.approx(0.01, rel=0.05)
    assert not torch.equal(first["x"], second["x"])


def test_a_policy_run_along_samples_in_parts_does_what_it_does_at_once(monkeypatch):
    method, policy, process, trajectory = standing()
    work = _Iteration(method, policy, process, 12)
    samples, _ = work._sampled(Standing.of(trajectory.states["memory"]), work._group())
    whole = samples.means(policy)
    monkeypatch.setattr(sampling, "AT_ONCE", 5)
    for part, other in zip(samples.means(policy), whole, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-6, atol=1e-9)  # the policy computes in float32


def test_a_controllers_actions_are_linear_in_its_states():
    _, _, process, trajectory = standing()
    controller = in_dtype(Standing.of(trajectory.states["memory"]).controller, torch.float32)
    driver = ControllerDrives(controller, FEATURES, torch.zeros(6, dtype=torch.int64))
    states = driver.begin(process)
    remembered = FEATURES.begin(4, 6, process.params["x"])
    for step in range(3):
        seen = process.observe()[0]
        action, states = driver(seen, states)
        own, remembered = FEATURES.observe(seen["grad/x"], seen["params/x"], seen["loss"], remembered)
        expected = (own * controller.K[0, step, 0]).sum(2) + controller.k[0, step, 0]
        torch.testing.assert_close(action["x"], expected)
        process = process.apply(action)


def test_what_is_handed_on_survives_a_checkpoint():
    _, _, _, trajectory = standing()
    memory = trajectory.states["memory"]
    again = Standing.of(memory).tree(torch.float32)
    assert memory.keys() == again.keys()
    assert all(torch.equal(memory[name], again[name]) for name in memory)


@pytest.mark.parametrize("bound", [LEAST, MOST])
def test_a_multiplier_at_its_bound_stays_within_it(bound):
    """1e-8 is less than that as a float32, 1e16 is more."""
    _, _, _, trajectory = standing()
    memory = trajectory.states["memory"]
    memory = {**memory, "multiplier": torch.full_like(memory["multiplier"], bound)}
    kept = Standing.of(memory)
    assert bool((kept.multiplier >= LEAST).all())
    assert bool((kept.multiplier <= MOST).all())
    assert torch.equal(kept.tree(torch.float32)["multiplier"], memory["multiplier"])
