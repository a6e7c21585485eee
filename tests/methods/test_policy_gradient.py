"""Policy gradients: exact against enumeration, unbiased by baselines, and learning what no constant rate can do."""

import itertools
import math

import pytest
import torch

from l2o import checkpoint
from l2o.errors import ArgumentError
from l2o.horizons import ConstantHorizon
from l2o.kernels.reference import replay
from l2o.meta_optimizer import MetaAdam
from l2o.methods.policy_gradient import (
    Decided,
    LeaveOneOut,
    MovingAverage,
    PolicyGradient,
    StepReward,
    entropies,
    policy_gradient,
)
from l2o.methods.ppo import PPO, Transitions
from l2o.optimizers.handcrafted import SGD, Adam
from l2o.outer_loop import Plan
from l2o.processes.replicated_losses import ReplicatedLosses, Settings
from l2o.rng import Stream
from l2o.rollout import rollout
from l2o.schedules.base import ScheduleDrives
from l2o.schedules.controllers import Controller
from l2o.schedules.features import Features, MeasureFeatures, RobustFeatures
from l2o.schedules.fixed import ConstantRates, Recorded
from l2o.schedules.rewards import LogReward, NegativeReward, PublishedReward, rewards
from l2o.schedules.runs import run_schedule
from l2o.tasks.alternate import AlternateFamily, Choice, Goal, every_subset
from l2o.tasks.regression import QuadraticRegression
from l2o.train_schedule import train_schedule

D = torch.float64


class Chain(AlternateFamily):
    """x_1 follows 1, x_2 follows x_1, ...: with SGD of rate 1 and as many steps, only the order 1, 2, ... ends at 1."""

    def __init__(self, links=2, choices=None):
        names = [f"x{i}" for i in range(links)]
        self.name = f"chain-{links}"
        super().__init__(
            losses=names,
            groups={name: (name,) for name in names},
            choices=choices or [Choice(name, ((name, name),)) for name in names],
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


class Switching(AlternateFamily):
    """Two pulls on x, and the mean distance from what is wanted: +1 in the first half of a run, -1 in the second."""

    name = "switching"

    def __init__(self, steps):
        self.steps = steps
        super().__init__(
            losses=("up", "down"),
            groups={"x": ("x", "time", "missed")},
            choices=[Choice(name, ((name, "x"),)) for name in ("up", "down")],
            goal=Goal("missed", at="last"),
        )

    def init(self, instance, rng):
        return {name: torch.zeros(len(rng.tasks), 1, dtype=D) for name in ("x", "time", "missed")}

    def loss_named(self, name, params, instance, batch):
        """Slopes, for SGD of rate 1: x becomes +1 or -1, time counts steps, missed counts the wrong ones."""
        aim = 1.0 if name == "up" else -1.0
        wanted = torch.where(params["time"] < self.steps / 2, 1.0, -1.0)
        wrong = (aim != wanted).to(D) / self.steps
        return ((params["x"] - aim).square() / 2 - params["time"] - params["missed"] * wrong.detach()).sum()

    def metrics(self, params, instance):
        return {"missed": params["missed"][:, 0] + 1e-3}


def started(family, steps, rng, rate=1.0):
    rules = {group: SGD(rate) for group in family.groups}
    return ReplicatedLosses.start(family, Settings(rules, validate_every=1), rng, steps=steps, dtype=D)


def run(schedule, steps, rng, *, family, driver=None):
    process = started(family, steps, rng)
    driver = driver or ScheduleDrives(schedule, rng)
    record = rollout(process, driver, driver.begin(), steps, record=schedule.reads)
    return record, -record.process.judgement.metrics[family.goal.metric]


def controller(width_names, choices=2, **options):
    return Controller(MeasureFeatures(width_names), choices, **options).to(D)


class Forced:
    """A driver that sees what a controller sees and takes given choices `[tasks, steps]`."""

    def __init__(self, schedule, choices):
        self.schedule, self.choices, self.step = schedule, choices, 0

    def begin(self):
        return {"agent": self.schedule.begin(len(self.choices))}

    def __call__(self, observation, states, *, owned=False):
        found, agent = self.schedule(observation, states["agent"])
        self.step += 1
        return {**found, "choice": self.choices[:, self.step - 1]}, {"agent": agent}


@pytest.mark.parametrize("decisions", ["categorical", "bernoulli", "independent"])
def test_the_expected_policy_gradient_is_that_of_the_expected_reward(decisions):
    choices = every_subset([("x0", "x0"), ("x1", "x1")]) if decisions == "independent" else None
    family, names = Chain(2, choices), ["progress", "loss/x0", "loss/x1"]
    schedule = controller(names, len(family.choices), hidden=[3], decisions=decisions, seed=4)
    sequences = list(itertools.product(range(len(family.choices)), repeat=2))
    rng = Stream(0, ("test",), tasks=range(len(sequences)))
    forced = torch.tensor(sequences)  # [sequences, steps]
    record, rewards = run(schedule, 2, rng, family=family, driver=Forced(schedule, forced))
    actions, _ = replay(schedule, record.observations[:-1], record.entry["agent"])
    logs = [found["log_probability"].gather(1, forced[:, i : i + 1])[:, 0] for i, found in enumerate(actions)]
    probabilities = torch.stack(logs).sum(0).exp()  # [sequences]
    assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-12)
    wanted = torch.autograd.grad(-(probabilities * rewards).sum(), list(schedule.parameters()))
    for baseline in (0.0, 0.7):
        weights = len(sequences) * probabilities.detach() * (rewards - baseline)  # the mean over runs becomes a sum
        found = policy_gradient(schedule, Decided.of(record), weights, time="sum")
        for gradient, truth in zip(found.values(), wanted, strict=True):
            assert torch.allclose(gradient, truth, atol=1e-12)
    averaged = policy_gradient(schedule, Decided.of(record), weights)
    assert all(torch.allclose(2 * averaged[name], leaf) for name, leaf in found.items())


def test_the_gradient_of_one_decision_is_known():
    class One(Features):
        width = 1

        def config(self):
            return {}

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
        found = -policy_gradient(schedule, Decided.of(record), rewards - baseline)["layers.0.weight"][0, 0]
        assert found.item() == pytest.approx(single.mean().item(), abs=1e-12)
        assert abs(found - analytic) < 3 * single.std() / math.sqrt(tasks)
        spread[name] = single.std()
    assert spread["mean"] < spread["none"]


def trained(schedule, family, steps, *, updates, tasks, rate, seed=0, method=None, window=None, validate_every=None):
    """The schedule after a training."""
    plan = Plan(
        trajectories=updates,
        tasks=tasks,
        horizon=ConstantHorizon(steps, window or steps),
        meta_optimizer=MetaAdam(rate),
        validate_every=validate_every or max(1, updates // 5),
        validation_last=1,
        validation_tasks=50,
        seed=seed,
        dtype="float64",
    )
    rules = {group: SGD(1.0) for group in family.groups}
    return train_schedule(
        schedule,
        family,
        Settings(rules, validate_every=1),
        method or PolicyGradient(NegativeReward()),
        plan,
        reward=NegativeReward(),
    )


def success(schedule, family, steps, seed=0):
    """The share of runs that end where they should."""
    _, rewards = run(schedule, steps, Stream(seed, ("test",), tasks=range(200)), family=family)
    return float((rewards > -1e-6).double().mean())


@pytest.mark.parametrize("seed", range(3))
def test_a_controller_learns_an_order_that_no_constant_rate_can_keep(seed):
    family, names = Chain(2), ["progress", "loss/x0", "loss/x1"]
    assert success(controller(names, seed=seed), family, 2, seed) < 0.5
    found = trained(controller(names, hidden=[16], seed=seed), family, 2, updates=80, tasks=16, rate=0.1, seed=seed)
    assert success(found.schedule, family, 2, seed) > 0.95
    assert found.best.value < found.validations[0].value


def test_a_controller_learns_a_chain_of_three():
    names = ["progress", "loss/x0", "loss/x1", "loss/x2"]
    schedule = controller(names, 3, hidden=[16], seed=0)
    assert success(trained(schedule, Chain(3), 3, updates=150, tasks=32, rate=0.05).schedule, Chain(3), 3) > 0.95


def test_a_controller_learns_to_switch_where_every_constant_rate_is_half_wrong():
    family, steps = Switching(20), 20
    schedule = controller(["progress"], hidden=[16], seed=1)
    found = trained(schedule, family, steps, updates=150, tasks=16, rate=0.1, window=10).schedule
    missed = -run(found, steps, Stream(0, ("test",), tasks=range(100)), family=family)[1]
    assert missed.mean() < 0.1
    for rate in (0.0, 0.3, 1.0):
        record, _ = run(ConstantRates.coin(rate), steps, Stream(0, ("test",), tasks=range(400)), family=family)
        assert record.process.judgement.metrics["missed"].mean().item() == pytest.approx(0.5, abs=0.03)


def test_ppo_learns_the_order():
    names = ["progress", "loss/x0", "loss/x1"]
    schedule = controller(names, hidden=[16], critic=[16], seed=3)
    method = PPO(NegativeReward(), updates=4, minibatch=32)
    found = trained(schedule, Chain(2), 2, updates=60, tasks=16, rate=0.03, method=method)
    assert success(found.schedule, Chain(2), 2) > 0.95


@pytest.mark.parametrize("seed", range(10))
def test_a_bandit_finds_the_better_arm(seed):
    class Bandit(Chain):
        def metrics(self, params, instance):
            pulled = (params["x0"][:, 0] > 0.5).to(D)  # choice 0 takes x0 to 1
            chance = torch.where(pulled > 0, 0.8, 0.2)
            return {"error": 1 - (instance["luck"] < chance).to(D)}

        def sample(self, rng):
            return {"luck": rng.uniform()}

    schedule = controller(["progress"], seed=seed)
    found = trained(schedule, Bandit(2), 1, updates=150, tasks=8, rate=0.1, seed=seed, validate_every=150)
    p = found.schedule.log_probabilities(torch.zeros(1, 1, dtype=D)).exp()[0, 0]
    assert p > 0.95


def test_training_resumes_bit_for_bit_in_the_middle_of_an_episode(tmp_path):
    def go(directory, trajectories, stop_at=None):
        schedule = Controller(
            RobustFeatures([("mse", "model"), ("l1", "model")], ["mse", "l1"], "validation"), 2, hidden=[4], seed=1
        )
        family = QuadraticRegression(0.1, dimensions=3, sizes=(20,) * 5)
        plan = Plan(
            trajectories=trajectories, tasks=3, horizon=ConstantHorizon(30, 6), validate_every=2, validation_tasks=2,
            checkpoint_every=1, validation_last=1,
        )  # fmt: skip
        seen = []

        def listen(event):
            seen.append(event)
            if stop_at is not None and len(seen) == stop_at:
                raise KeyboardInterrupt

        method = PolicyGradient(baseline=MovingAverage(), step_reward=StepReward())
        settings = Settings({"model": Adam(1e-2)}, validate_every=5)
        return train_schedule(schedule, family, settings, method, plan, directory=directory, listeners=[listen])

    whole = go(tmp_path / "whole", 4)
    windows = []
    for stop_at in (2, 2, 2):  # at the end of two episodes, a window after the checkpoint; at a validation between two
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "parts", 4, stop_at=stop_at)
        tensors, metadata = checkpoint.read(tmp_path / "parts" / "checkpoint.safetensors", kind="checkpoint")
        windows.append(metadata["progress"]["window"])
    assert windows == [4, 4, 0]
    assert tensors["carried/baseline"].ndim == 0
    again = go(tmp_path / "parts", 4)
    for name, leaf in whole.schedule.state_dict().items():
        assert torch.equal(leaf, again.schedule.state_dict()[name]), name
    assert [v.value for v in whole.validations] == [v.value for v in again.validations]
    read = [
        checkpoint.read(tmp_path / part / "checkpoint.safetensors", kind="checkpoint")[0] for part in ("whole", "parts")
    ]
    assert all(torch.equal(read[0][name], read[1][name]) for name in read[0])


def test_leave_one_out_advantages_are_exact():
    rewards = torch.tensor([1.0, 2.0, 6.0], dtype=D)
    found, memory = LeaveOneOut(standardise=False, clip=None).advantages(rewards, {})
    assert found.tolist() == pytest.approx([1 - 4.0, 2 - 3.5, 6 - 1.5])
    scaled, _ = LeaveOneOut(clip=None).advantages(1000 * rewards, {})
    assert scaled.tolist() == pytest.approx((found / rewards.std()).tolist())
    assert LeaveOneOut(clip=1.0).advantages(rewards, {})[0].abs().max() == 1.0
    assert LeaveOneOut().advantages(torch.ones(4), {})[0].tolist() == [0.0] * 4
    assert memory == {}


def test_the_moving_average_subtracts_what_was_before_the_reward():
    baseline, memory = MovingAverage(decay=0.8, clip=20.0), {}
    found = []
    for reward in (10.0, 15.0, 100.0):
        advantage, memory = baseline.advantages(torch.tensor([reward]), memory)
        found.append(advantage.item())
    assert found == [0.0, 5.0, 20.0]
    assert memory["baseline"].item() == pytest.approx(0.8 * 11.0 + 0.2 * 100.0)
    least, _ = MovingAverage(least=1.0).advantages(torch.tensor([10.2, 9.9]), {"baseline": torch.tensor(10.0)})
    assert least.tolist() == pytest.approx([1.0, -1.0])


def test_the_entropy_bonus_spreads_decisions_and_ppo_s_too():
    schedule = controller(["progress"], bias=[2.0, 0.0], critic=[2], seed=0)
    rows = torch.zeros(1, 5, 1, dtype=D)
    decided = Decided(rows, torch.zeros(1, 5, dtype=torch.int64), torch.ones(1, 5, dtype=D))
    step = policy_gradient(schedule, decided, torch.zeros(1, dtype=D), entropy=1.0)
    before = entropies(schedule.log_probabilities(rows)).mean()
    with torch.no_grad():
        for name, leaf in schedule.named_parameters():
            leaf -= 0.1 * step[name]
    assert entropies(schedule.log_probabilities(rows)).mean() > before


def test_ppo_s_first_gradient_is_the_policy_gradient_and_its_ratio_is_clipped():
    schedule = controller(["progress"], bias=[0.5, 0.0], critic=[3], seed=2)
    rows, choices = torch.linspace(0, 1, 6, dtype=D)[:, None], torch.tensor([0, 1, 0, 1, 1, 0])
    logs = schedule.log_probabilities(rows).detach().gather(1, choices[:, None])[:, 0]
    rewards = torch.arange(6, dtype=D)
    same = Transitions(rows, choices, logs, rewards, rows, torch.zeros(6, dtype=D))
    found, _, _ = PPO(entropy=0.0).gradient(schedule, same)
    advantages = rewards - schedule.values(rows).detach()
    wanted = policy_gradient(schedule, Decided(rows[None], choices[None], torch.ones(1, 6, dtype=D)), advantages[None])
    for name in ("layers.0.weight", "layers.0.bias"):
        assert torch.allclose(found[name], wanted[name])
    assert found["critic.0.weight"].abs().sum() > 0
    far = Transitions(rows, choices, logs - 1.0, 100 + rewards, rows, torch.zeros(6, dtype=D))
    found, _, _ = PPO(entropy=0.0).gradient(schedule, far)  # ratio e, all advantages positive: nothing more to gain
    assert not found["layers.0.weight"].any()


def test_rewards_rise_with_what_is_better():
    lower, higher = Goal("error"), Goal("score", "higher")
    metric = torch.tensor([0.1, 0.4])
    for reward, goal, sign in (
        (LogReward(), lower, -1), (LogReward(), higher, 1),
        (NegativeReward(), lower, -1), (NegativeReward(), higher, 1),
        (PublishedReward("error", 20_000), lower, -1), (PublishedReward("accuracy", 1000), lower, -1),
        (PublishedReward("score", 10), higher, 1),
    ):  # fmt: skip
        worse, better = reward(metric, goal, torch.zeros(2))
        assert (better - worse) * sign > 0
    assert PublishedReward("error", 20_000)(torch.tensor([4.0]), lower, torch.zeros(1)).item() == 5000.0
    assert PublishedReward("accuracy", 100)(torch.tensor([0.2, 0.7]), lower, torch.zeros(2)).tolist() == [
        -125.0,
        -200.0,
    ]
    assert PublishedReward("score", 10)(torch.tensor([3.0]), higher, torch.zeros(1)).item() == 90.0
    assert NegativeReward(0.1)(torch.tensor([3.0]), lower, torch.tensor([5.0])).item() == -3.5


def test_a_run_that_collapsed_is_worth_its_start():
    settings = Settings({"x0": SGD(0.1), "x1": SGD(0.1)}, validate_every=1, collapse_after=2)
    rng = Stream(0, ("test",), tasks=range(2))
    ran = run_schedule(Recorded([[1, 0], [1, 1], [1, 0]], 2), Chain(2), settings, rng, steps=3, dtype=D)
    assert ran.process.outcome.tolist() == [3, 0]
    assert ran.choices.tolist() == [[1, 1, 1], [0, 1, 0]]
    found = rewards(ran.process, NegativeReward())
    assert found[0] == -1.0
    assert found[1] > -1.0


def test_a_step_reward_follows_the_decrease_of_the_validation():
    reward = StepReward(kappa=2.0, cap=1.5, beta=0.5)
    state, found = reward.begin(1), []
    for value in (5.0, 4.0, 4.5):
        seen = {"metric/error": torch.tensor([value]), "validated": torch.ones(1)}
        credit, state = reward(seen, "error", state)
        found.append(credit.item())
    averages = [0.1, 0.5 * 0.1 + 0.5 * 1.0, 0.5 * 0.55 + 0.5 * -0.5]
    sizes = [min(1.5, math.sqrt(d / (abs(b) + 1e-5))) for d, b in zip((0.1, 1.0, 0.5), averages, strict=True)]
    assert found == pytest.approx([2 * sizes[0], 2 * sizes[1], -2 * sizes[2]], rel=1e-5)


def test_decisions_of_a_run_that_died_do_not_count():
    class Dies(Chain):
        def loss_named(self, name, params, instance, batch):
            value = super().loss_named(name, params, instance, batch)
            return torch.where(params["x0"].sum() > 0.5, torch.nan, value)

    schedule = controller(["progress"], seed=2)
    rng = Stream(0, ("test",), tasks=range(8))
    record, _ = run(schedule, 4, rng, family=Dies(2))
    assert not bool(record.alive[:, -1].all())
    gradient = policy_gradient(schedule, Decided.of(record), torch.ones(8, dtype=D), time="sum")
    replayed, total = replay(schedule, record.observations[:-1], record.entry["agent"])[0], 0.0
    for place, (found, action) in enumerate(zip(replayed, record.actions, strict=True)):
        taken = found["log_probability"].gather(1, action["choice"][:, None])[:, 0]
        total = total - (taken * record.alive[:, place]).sum() / 8
    wanted = torch.autograd.grad(total, list(schedule.parameters()))
    assert all(torch.allclose(*pair) for pair in zip(gradient.values(), wanted, strict=True))


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        (lambda: LeaveOneOut().advantages(torch.ones(1), {}), "1 run has no others"),
        (lambda: LeaveOneOut().advantages(torch.tensor([1.0, math.inf]), {}), "diverged needs a finite reward"),
        (lambda: MovingAverage(decay=1.0), "decay is 1.0"),
        (lambda: controller(["progress"], temperature=0.0), "temperature is 0.0"),
        (lambda: controller(["progress"], bias=[1.0]), "1 numbers for 2 logits"),
        (lambda: MeasureFeatures([]), "names is empty"),
        (lambda: controller(["progress"], 3, decisions="bernoulli"), "3 choices cannot be decided as 'bernoulli'"),
        (lambda: controller(["progress"], 4, decisions="independent"), "4 choices cannot be decided as 'independent'"),
        (lambda: controller(["progress"], decisions="greedy"), "decisions is 'greedy'"),
        (
            lambda: trained(controller(["progress"], 3), Chain(2), 2, updates=1, tasks=2, rate=0.1),
            "3 choices, and",
        ),
        (
            lambda: trained(controller(["progress"]), Chain(2), 2, updates=1, tasks=2, rate=0.1, method=PPO()),
            "PPO needs a critic",
        ),
        (lambda: PPO(discount=1.0), "discount is 1.0"),
        (lambda: PPO(updates=0), "updates is 0"),
        (lambda: PolicyGradient(entropy=-1.0), "entropy is -1.0"),
        (lambda: PolicyGradient(time="often"), "time is 'often'"),  # pyright: ignore[reportArgumentType]
        (lambda: PublishedReward("mean", 1.0), "form is 'mean'"),
        (lambda: PublishedReward("score", 0.0), "factor is 0.0"),
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
