"""Policy gradients: exact against enumeration, unbiased by baselines, and learning what no constant rate can do."""

import itertools
import math

import pytest
import torch

from l2o.errors import ArgumentError
from l2o.meta_optimizer import MetaAdam, MetaOptimizer
from l2o.methods.policy_gradient import LeaveOneOut, MovingAverage, policy_gradient
from l2o.optimizers.handcrafted import SGD
from l2o.processes.replicated_losses import ReplicatedLosses, Settings
from l2o.rng import Stream
from l2o.rollout import rollout
from l2o.schedules.base import ScheduleDrives
from l2o.schedules.controllers import Controller
from l2o.schedules.features import Features, MeasureFeatures
from l2o.schedules.fixed import Recorded
from l2o.tasks.alternate import AlternateFamily, Choice, Goal

D = torch.float64


class Chain(AlternateFamily):
    """x_1 follows 1, x_2 follows x_1, ...: with SGD of rate 1 and as many steps, only the order 1, 2, ... ends at 1."""

    def __init__(self, links=2):
        names = [f"x{i}" for i in range(links)]
        self.name = f"chain-{links}"
        super().__init__(
            losses=names,
            groups={name: (name,) for name in names},
            choices=[Choice(name, ((name, name),)) for name in names],
            goal=Goal("error", at="last"),
        )

    def init(self, instance, rng):
        return {name: torch.zeros(len(rng.tasks), 1, dtype=D) for name in self.groups}

    def loss_named(self, name, params, instance, batch):
        place = int(name[1:])
        ahead = params[f"x{place - 1}"] if place else 1.0
        return (params[name] - ahead).square().sum() / 2

    def metrics(self, params, instance):
        return {"error": (params[f"x{len(self.groups) - 1}"][:, 0] - 1).square()}


def run(schedule, steps, rng, *, family, driver=None):
    rules = {group: SGD(1.0) for group in family.groups}
    process = ReplicatedLosses.start(family, Settings(rules, validate_every=1), rng, steps=steps, dtype=D)
    driver = driver or ScheduleDrives(schedule, rng)
    record = rollout(process, driver, driver.begin(), steps, record=schedule.reads)
    return record, -record.process.judgement.metrics["error"]


def controller(width_names, choices=2, **options):
    return Controller(MeasureFeatures(width_names), choices, **options).to(D)


def test_the_expected_policy_gradient_is_that_of_the_expected_reward():
    family, names = Chain(2), ["progress", "loss/x0", "loss/x1"]
    schedule = controller(names, hidden=[3], seed=4)
    sequences = list(itertools.product(range(2), repeat=2))
    rng = Stream(0, ("test",), tasks=range(len(sequences)))
    forced = Recorded(torch.tensor(sequences).T, 2)
    record, rewards = run(schedule, 2, rng, family=family, driver=ScheduleDrives(forced, rng))
    logs, state = [], schedule.begin(len(sequences))
    for seen, action in zip(record.observations, record.actions, strict=False):
        found, state = schedule(seen, state)
        logs.append(found["log_probability"].gather(1, action["choice"][:, None])[:, 0])
    probabilities = torch.stack(logs).sum(0).exp()  # [sequences]
    assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-12)
    wanted = torch.autograd.grad(-(probabilities * rewards).sum(), list(schedule.parameters()))
    for baseline in (0.0, 0.7):
        weights = len(sequences) * probabilities.detach() * (rewards - baseline)  # the mean over runs becomes a sum
        found = policy_gradient(schedule, record, weights, time="sum")
        for gradient, truth in zip(found.values(), wanted, strict=True):
            assert torch.allclose(gradient, truth, atol=1e-12)
    averaged = policy_gradient(schedule, record, weights)
    assert all(torch.allclose(2 * averaged[name], leaf) for name, leaf in found.items())


def test_the_gradient_of_one_decision_is_known():
    class One(Features):
        width = 1

        def begin(self, tasks):
            return {"tasks": torch.zeros(tasks)}

        def forward(self, observation, state):
            return torch.full((len(state["tasks"]), 1), 2.0, dtype=D), state

    schedule = Controller(One(), 2, seed=1).to(D)
    tasks = 20_000
    rng = Stream(1, ("test",), tasks=range(tasks))
    record, _ = run(schedule, 1, rng, family=Chain(2))
    choice = record.actions[0]["choice"]
    p = schedule.log_probabilities(torch.full((1, 1), 2.0, dtype=D)).exp()[0]
    rewards = torch.tensor([0.3, 1.0], dtype=D)[choice]
    analytic = p[0] * p[1] * (0.3 - 1.0) * 2.0  # d E[R] / d w_0, with logits w_k x
    spread = {}
    for name, baseline in (("none", 0.0), ("mean", float(rewards.mean()))):
        single = (rewards - baseline) * ((choice == 0).to(D) - p[0]) * 2.0
        found = -policy_gradient(schedule, record, rewards - baseline)["layers.0.weight"][0, 0]
        assert found.item() == pytest.approx(single.mean().item(), abs=1e-12)
        assert abs(found - analytic) < 3 * single.std() / math.sqrt(tasks)
        spread[name] = single.std()
    assert spread["mean"] < spread["none"]


def learn(schedule, family, steps, *, updates, tasks, rate, seed):
    optimizer = MetaOptimizer(schedule, MetaAdam(rate), ["policy gradient"])
    for update in range(updates):
        rng = Stream(seed, ("train",), trajectory=update, tasks=range(tasks))
        record, rewards = run(schedule, steps, rng, family=family)
        advantages, _ = LeaveOneOut().advantages(rewards)
        optimizer.step(policy_gradient(schedule, record, advantages), "policy gradient", progress=0.0)
    record, rewards = run(schedule, steps, Stream(seed, ("test",), tasks=range(200)), family=family)
    return float((rewards > -1e-6).double().mean())


@pytest.mark.parametrize("seed", range(3))
def test_a_controller_learns_an_order_that_no_constant_rate_can_keep(seed):
    names = ["progress", "loss/x0", "loss/x1"]
    untrained = learn(controller(names, seed=seed), Chain(2), 2, updates=0, tasks=1, rate=0.1, seed=seed)
    trained = learn(controller(names, hidden=[16], seed=seed), Chain(2), 2, updates=80, tasks=16, rate=0.1, seed=seed)
    assert untrained < 0.5
    assert trained > 0.95


def test_a_controller_learns_a_chain_of_three():
    names = ["progress", "loss/x0", "loss/x1", "loss/x2"]
    schedule = controller(names, 3, hidden=[16], seed=0)
    assert learn(schedule, Chain(3), 3, updates=150, tasks=32, rate=0.05, seed=0) > 0.95


def test_leave_one_out_advantages_are_exact():
    rewards = torch.tensor([1.0, 2.0, 6.0], dtype=D)
    found, after = LeaveOneOut(standardise=False, clip=None).advantages(rewards)
    assert found.tolist() == pytest.approx([1 - 4.0, 2 - 3.5, 6 - 1.5])
    scaled, _ = LeaveOneOut(clip=None).advantages(1000 * rewards)
    assert scaled.tolist() == pytest.approx((found / rewards.std()).tolist())
    assert LeaveOneOut(clip=1.0).advantages(rewards)[0].abs().max() == 1.0
    assert LeaveOneOut().advantages(torch.ones(4))[0].tolist() == [0.0] * 4
    assert after == LeaveOneOut(standardise=False, clip=None)


def test_the_moving_average_subtracts_what_was_before_the_reward():
    baseline = MovingAverage(decay=0.8, clip=20.0)
    first, baseline = baseline.advantages(torch.tensor([10.0]))
    second, baseline = baseline.advantages(torch.tensor([15.0]))
    third, baseline = baseline.advantages(torch.tensor([100.0]))
    assert (first.item(), second.item(), third.item()) == (0.0, 5.0, 20.0)
    assert baseline.value == pytest.approx(0.8 * 11.0 + 0.2 * 100.0)


def test_decisions_of_a_run_that_died_do_not_count():
    class Dies(Chain):
        def loss_named(self, name, params, instance, batch):
            value = super().loss_named(name, params, instance, batch)
            return torch.where(params["x0"].sum() > 0.5, torch.nan, value)

    schedule = controller(["progress"], seed=2)
    rng = Stream(0, ("test",), tasks=range(8))
    record, _ = run(schedule, 4, rng, family=Dies(2))
    assert not bool(record.alive[:, -1].all())
    gradient = policy_gradient(schedule, record, torch.ones(8, dtype=D), time="sum")
    state, total = schedule.begin(8), 0.0
    for place, (seen, action) in enumerate(zip(record.observations, record.actions, strict=False)):
        found, state = schedule(seen, state)
        taken = found["log_probability"].gather(1, action["choice"][:, None])[:, 0]
        total = total - (taken * record.alive[:, place]).sum() / 8
    wanted = torch.autograd.grad(total, list(schedule.parameters()))
    assert all(torch.allclose(*pair) for pair in zip(gradient.values(), wanted, strict=True))


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        (lambda: LeaveOneOut().advantages(torch.ones(1)), "1 run has no others"),
        (lambda: LeaveOneOut().advantages(torch.tensor([1.0, math.inf])), "diverged needs a finite reward"),
        (lambda: MovingAverage(decay=1.0), "decay is 1.0"),
        (lambda: controller(["progress"], temperature=0.0), "temperature is 0.0"),
        (lambda: controller(["progress"], bias=[1.0]), "1 numbers for 2 choices"),
        (lambda: MeasureFeatures([]), "names is empty"),
    ],
)
def test_what_makes_no_sense_is_refused(fails, message):
    with pytest.raises(ArgumentError, match=message):
        fails()


def test_a_feature_that_the_process_does_not_show_is_named():
    schedule = controller(["loss/x7"])
    with pytest.raises(ArgumentError, match="no measure loss/x7; the process shows progress"):
        run(schedule, 1, Stream(0), family=Chain(2))


def test_temperature_and_cap_flatten_and_a_bias_leans():
    features = torch.tensor([[3.0]], dtype=D)
    plain, warm, capped = (
        controller(["progress"], seed=3, **options).log_probabilities(features)[0].exp()
        for options in ({}, {"temperature": 2.0}, {"logit_cap": 0.1})
    )
    assert abs(warm[0] - 0.5) < abs(plain[0] - 0.5)
    assert abs(capped[0] - 0.5) < 0.051
    leaning = controller(["progress"], seed=3, bias=[5.0, 0.0]).log_probabilities(0 * features)[0].exp()
    assert leaning[0].item() == pytest.approx(1 / (1 + math.exp(-5)))
