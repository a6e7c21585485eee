"""A schedule in a user's own loop decides as in `ReplicatedLosses`, resumes exactly, and says what is wrong."""

import io
import math
import os
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import two_processes
from contract.task_cases import noise_images, untrained_scores
from torch import nn

import l2o
from l2o.errors import ArgumentError, DivergedError, UnsupportedError, WeightsError
from l2o.optimizers.handcrafted import SGD, Adam
from l2o.processes.replicated_losses import Settings
from l2o.rng import Stream
from l2o.schedules.architectures import load_schedule
from l2o.schedules.controllers import Controller
from l2o.schedules.distill import distill
from l2o.schedules.features import FEATURES, MeasureFeatures, PaperFeatures, PaperGANFeatures, RobustFeatures
from l2o.schedules.fixed import ConstantRates, InTurn, RatesInTime, Recorded, Threshold
from l2o.schedules.follow import follow
from l2o.schedules.runs import run_schedule
from l2o.tasks.alternate import Choice
from l2o.tasks.gan import GAN
from l2o.tasks.gan_architecture import Architecture
from l2o.tasks.regression import QuadraticRegression

PAIRS, LOSSES = (("mse", "model"), ("l1", "model")), ("mse", "l1")
STREAM = Stream(3, ("follow",))  # of `follow(seed=3)`, so that decisions, starts and minibatches are the same
ALL_OF_IT = ["progress", "loss/mse", "loss/l1", "gradient/mse:model", "gradient/l1:model", "age/mse", "age/l1",
             "metric/validation", "validated", "cost"]  # fmt: skip


def lively(features, choices=2, **options):
    """A controller whose decisions hang on what it sees."""
    controller = Controller(features, choices, **options)
    with torch.no_grad():
        for parameter in controller.parameters():
            parameter.copy_(Stream(1, (str(tuple(parameter.shape)),)).normal(parameter.shape)[0])
    return controller


REGRESSION = {
    "paper": (lively(PaperFeatures(PAIRS, LOSSES, "validation"), temperature=10.0), "sample"),
    "robust, hidden": (lively(RobustFeatures(PAIRS, LOSSES, "validation"), hidden=[4]), "sample"),
    "dithered": (lively(RobustFeatures(PAIRS, LOSSES, "validation", progress=False)), "dither"),
    "every measure": (lively(MeasureFeatures(ALL_OF_IT), temperature=30.0), "sample"),
    "threshold": (Threshold("mse", "l1", -0.95), "sample"),
    "rates in time": (RatesInTime([[0.9, 0.1], [0.2, 0.8]]), "sample"),
}


def regression():
    return QuadraticRegression(dimensions=3, sizes=(20, 20, 20, 20, 20))


class Form(nn.Module):
    """b'x + x'Ax / 10 as a plain module, at the start that `ReplicatedLosses` draws."""

    def __init__(self, family):
        super().__init__()
        start = family.init({}, STREAM.child("init"))
        self.b, self.A = nn.Parameter(start["b"][0]), nn.Parameter(start["A"][0])

    def forward(self, x):
        return x @ self.b + ((x @ self.A) * x).sum(1) / 10


def error(model, points):
    inputs, targets = points
    return (model(inputs) - targets).square().mean()


@pytest.mark.parametrize(("schedule", "execution"), REGRESSION.values(), ids=REGRESSION.keys())
@pytest.mark.parametrize("optimizer", [(SGD(0.003), torch.optim.SGD, 0.003), (Adam(0.02), torch.optim.Adam, 0.02)])
def test_a_plain_loop_makes_the_decisions_and_the_parameters_of_the_replicas(schedule, execution, optimizer):
    rule, torch_optimizer, rate = optimizer
    family, steps = regression(), 60
    settings = Settings({"model": rule}, validate_every=7)
    run = run_schedule(schedule, family, settings, STREAM, steps=steps, execution=execution, dtype=torch.float64)

    model = Form(family)
    validation = family.parts["controller validation"]
    optimizer = torch_optimizer(model.parameters(), lr=rate)
    losses = {
        "mse": lambda: error(model, family.parts["controller train"]),
        "l1": lambda: family.penalty * sum(p.abs().sum() for p in model.parameters()),
    }
    follower = follow(
        schedule, choices=LOSSES, groups={"model": model.parameters()}, steps=steps, seed=3, execution=execution
    )
    follower.measure({name: loss() for name, loss in losses.items()})
    follower.validated({"validation": error(model, validation)})
    for step in range(1, steps + 1):
        choice = follower.choose()
        optimizer.zero_grad()
        loss = losses[choice]()
        loss.backward()
        follower.took({choice: loss})
        optimizer.step()
        if step % 7 == 0 or step == steps:
            follower.validated({"validation": error(model, validation)})
    assert torch.equal(follower.decisions, run.choices)
    assert 5 < int(run.choices.sum()) < 55  # both choices are taken, or the test would show little
    for name, leaf in run.process.params.items():  # another order of the same sums in float64
        assert torch.allclose(leaf[0], getattr(model, name), rtol=1e-9, atol=1e-12)
    seen, last = follower._loop.observe(), run.process.observe()[0]
    assert seen.keys() == last.keys() - {"metric/test"}  # which only the family looks at
    for name, leaf in seen.items():
        assert torch.allclose(leaf, last[name], rtol=1e-8, atol=1e-12), name


def test_a_plain_gan_loop_makes_the_decisions_and_the_parameters_of_the_replicas():
    architecture = Architecture.perceptrons((1, 4, 8), hidden=6, latent=5)
    images, scores = noise_images(30, architecture.image), untrained_scores(architecture.image)
    family = GAN(images, architecture, scores, batch=6, samples=20, generator_steps=2, simultaneous=True)
    features = PaperGANFeatures(metrics=("inception_score", "discriminator_error"))
    schedule, steps = lively(features, 3, temperature=3.0), 40
    rules = {"generator": SGD(0.1), "discriminator": SGD(0.2)}
    settings = Settings(rules, validate_every=10)
    run = run_schedule(schedule, family, settings, STREAM, steps=steps, dtype=torch.float64)

    instance = family.sample(STREAM.child("instance"))
    params = {
        name: nn.Parameter(leaf[0].double()) for name, leaf in family.init(instance, STREAM.child("init")).items()
    }
    groups = {name: [params[leaf] for leaf in leaves] for name, leaves in family.groups.items()}
    optimizers = {name: torch.optim.SGD(group, 0.1 * (1 + place)) for place, (name, group) in enumerate(groups.items())}

    def loss(name, step, turn):
        stream = STREAM.child("batch") if turn == 0 else STREAM.child(f"batch {turn}")
        batch = family.gather(family.batch_indices(instance, stream.at(step=step)))
        return family.loss_named(name, params, {}, {key: leaf[0].double() for key, leaf in batch.items()})

    def metrics():
        one = {name: leaf.detach()[None] for name, leaf in params.items()}
        return {name: value[0] for name, value in family.metrics(one, instance).items()}

    follower = follow(schedule, choices=family.choices, groups=groups, steps=steps, seed=3)
    follower.measure({name: loss(name, 0, 0) for name in groups})
    follower.validated(metrics())
    for step in range(steps):
        follower.choose()
        choice = follower.choice
        for turn in range(choice.repeat):
            found = {name: loss(name, step, turn) for name, _ in choice.pairs}
            grads = {name: torch.autograd.grad(value, groups[name]) for name, value in found.items()}
            for name, those in grads.items():
                for parameter, grad in zip(groups[name], those, strict=True):
                    parameter.grad = grad
            follower.took(found)
            for name in found:
                optimizers[name].step()
        if (step + 1) % 10 == 0:
            follower.validated(metrics())
    assert torch.equal(follower.decisions, run.choices)
    assert torch.bincount(run.choices[0], minlength=3).min() >= 2
    for name, leaf in run.process.params.items():
        assert torch.allclose(leaf[0], params[name], rtol=1e-9, atol=1e-12)


class Loop:
    """A small loop of two losses on one layer; `step` takes one choice."""

    def __init__(self, schedule, *, steps=200, begun=False, **options):
        torch.manual_seed(0)
        self.model = nn.Linear(4, 1)
        groups = {"model": self.model.parameters()}
        self.follower = follow(schedule, choices=LOSSES, groups=groups, steps=steps, **options)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        if not begun:
            self.follower.measure({name: self.loss(name) for name in LOSSES})
            self.follower.validated({"validation": 1.0})

    def loss(self, name):
        if name == "l1":
            return 0.1 * self.model.weight.abs().sum() + 0.0 * self.model.bias.sum()
        return (self.model(torch.ones(2, 4)) - 1).square().mean()

    def backward(self, name):
        self.optimizer.zero_grad()
        loss = self.loss(name)
        loss.backward()
        return loss

    def step(self):
        choice = self.follower.choose()
        self.follower.took({choice: self.backward(choice)})
        self.optimizer.step()
        if self.follower.decisions.shape[1] % 5 == 0:
            self.follower.validated({"validation": self.loss("mse")})
        return choice


CONTROLLED = lively(RobustFeatures(PAIRS, LOSSES, "validation"))


@pytest.mark.parametrize("schedule", [CONTROLLED, ConstantRates.coin(0.4), InTurn.ratio(2, 3)])
@pytest.mark.parametrize("execution", ["sample", "dither", "greedy"])
def test_a_resumed_run_goes_on_exactly(schedule, execution):
    whole = Loop(schedule, execution=execution)
    for _ in range(57):
        whole.step()
    saved, weights = io.BytesIO(), io.BytesIO()
    torch.save(whole.follower.state_dict(), saved)
    torch.save([whole.model.state_dict(), whole.optimizer.state_dict()], weights)
    rest = [whole.step() for _ in range(60)]

    resumed = Loop(schedule, execution=execution, begun=True)
    for buffer in (saved, weights):
        buffer.seek(0)
    resumed.follower.load_state_dict(torch.load(saved, weights_only=True))
    model, optimizer = torch.load(weights, weights_only=True)
    resumed.model.load_state_dict(model)
    resumed.optimizer.load_state_dict(optimizer)
    assert [resumed.step() for _ in range(60)] == rest
    assert torch.equal(resumed.follower.decisions, whole.follower.decisions)
    assert torch.equal(resumed.model.weight, whole.model.weight)


def test_a_state_of_another_run_is_refused():
    state = Loop(CONTROLLED).follower.state_dict()
    with pytest.raises(WeightsError, match="seed 0, here 1"):
        Loop(CONTROLLED, seed=1).follower.load_state_dict(state)
    other = lively(RobustFeatures(PAIRS, LOSSES, "validation"), temperature=2.0, hidden=[3])
    with pytest.raises(WeightsError, match="meta_parameters"):
        Loop(other).follower.load_state_dict(state)


def test_decisions_do_not_touch_the_users_random_numbers_nor_they_the_decisions():
    torch.manual_seed(5)
    expected = torch.rand(3)
    loop = Loop(ConstantRates.coin(0.5))
    torch.manual_seed(5)
    first = [loop.follower.choose() for _ in range(50)]
    assert torch.equal(torch.rand(3), expected)
    again = Loop(ConstantRates.coin(0.5))
    torch.manual_seed(6)
    assert [again.follower.choose() for _ in range(50)] == first
    other = Loop(ConstantRates.coin(0.5), seed=1)
    assert [other.follower.choose() for _ in range(50)] != first


def test_training_the_schedule_further_does_not_change_the_run():
    mine = lively(RobustFeatures(PAIRS, LOSSES, "validation"))
    loop, reference = Loop(mine), Loop(CONTROLLED)
    with torch.no_grad():
        for parameter in mine.parameters():
            parameter.zero_()
    assert [loop.step() for _ in range(30)] == [reference.step() for _ in range(30)]


def test_a_scaled_gradient_is_measured_unscaled_and_one_that_overflows_is_left_to_the_scaler():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    plain, scaled = Loop(InTurn([0], choices=2)), Loop(InTurn([0], choices=2))
    for loop, scale in ((plain, None), (scaled, scaler)):
        loop.follower.choose()
        loss = loop.loss("mse")
        (loss if scale is None else scale.scale(loss)).backward()
        loop.follower.took({"mse": loss}, scaler=scale)
        loop.follower.measure({"l1": loop.loss("l1")}, scaler=scale)
    for name in ("gradient/mse:model", "gradient/l1:model"):
        assert float(scaled.follower._loop.observe()[name]) == pytest.approx(
            float(plain.follower._loop.observe()[name]), rel=1e-6
        )
    before = float(scaled.follower._loop.observe()["gradient/mse:model"])
    scaled.follower.choose()
    scaled.model.weight.grad.fill_(math.inf)
    scaled.follower.took({"mse": 0.5}, scaler=scaler)
    seen = scaled.follower._loop.observe()
    assert (float(seen["gradient/mse:model"]), float(seen["loss/mse"])) == (before, 0.5)
    with pytest.raises(DivergedError, match="loss/mse is nan"):
        scaled.follower.took({"mse": math.nan}, scaler=scaler)


def test_the_norm_of_half_gradients_neither_overflows_nor_loses_digits():
    weight = nn.Parameter(torch.zeros(10_000, dtype=torch.float16))
    follower = follow(InTurn([0]), choices=("mse",), groups={"model": [weight]}, steps=3)
    follower.choose()
    weight.grad = torch.full_like(weight, 1000.0)  # of norm 1e5, more than float16 holds
    follower.took({"mse": 1.0})
    assert float(follower._loop.observe()["gradient/mse:model"]) == pytest.approx(1000.0, rel=1e-5)  # float32


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_ends_the_run_before_the_optimizer_steps_or_is_counted(kind):
    for action in ("raise", "ignore"):
        loop = Loop(CONTROLLED, on_divergence=action)
        for _ in range(4):
            loop.step()
        choice = loop.follower.choose()
        loss = loop.backward(choice)
        before = loop.follower._loop.observe()
        if kind == "loss":
            loss = loss * math.nan
        else:
            loop.model.weight.grad[0, 0] = math.inf
        wanted = f"{kind}/{choice}.* is (nan|inf) at step 5 of 200"
        with pytest.raises(DivergedError, match=wanted) if action == "raise" else nullcontext():
            loop.follower.took({choice: loss})
        assert loop.follower.diverged == 1
        assert loop.follower._loop.observe() == before
        if action == "ignore":
            loop.step()


def test_losses_that_share_a_group_are_measured_one_by_one():
    model = nn.Linear(4, 1)
    both = [Choice("both", (("one", "model"), ("two", "model")))]
    follower = follow(InTurn([0]), choices=both, groups={"model": model.parameters()}, steps=3)
    follower.choose()
    losses = {"one": model.weight.sum(), "two": 2 * model.weight.sum() + model.bias.sum()}
    with pytest.raises(ArgumentError, match="one and two add up in the group 'model'; before the backward call"):
        follower.took(losses)
    follower.measure(losses)
    assert model.weight.grad is None
    seen = follower._loop.observe()
    assert float(seen["gradient/one:model"]) == pytest.approx(math.sqrt(4 / 5))
    assert float(seen["gradient/two:model"]) == pytest.approx(math.sqrt(17 / 5))
    assert follower.weights().tolist() == [1.0, 1.0]


def test_weights_are_one_for_the_losses_of_the_choice():
    loop = Loop(InTurn([0, 1, 1]))
    assert [(loop.follower.choose(), loop.follower.weights().tolist())[1] for _ in range(3)] == [[1, 0], [0, 1], [0, 1]]


def test_distilled_rates_are_those_of_the_decisions():
    loop = Loop(CONTROLLED, steps=90)
    for _ in range(90):
        loop.step()
    decisions = loop.follower.decisions
    rates = distill(decisions, 2, parts=3).rates
    for part, row in enumerate(rates):
        assert row[1] == pytest.approx(decisions[0, 30 * part : 30 * part + 30].double().mean())
        assert sum(row) == pytest.approx(1)
    uneven = distill(torch.tensor([[0, 1, 1, 0, 1], [1, 1, -1, -1, -1]]), 2, parts=2)
    assert uneven.rates == [[1 / 5, 4 / 5], [1 / 2, 1 / 2]]  # parts of 3 and 2 steps; a run that had ended is left out


def test_a_distilled_schedule_is_saved_loaded_and_keeps_the_rates(tmp_path):
    run = run_schedule(
        RatesInTime([[0.9, 0.1], [0.3, 0.7]]), regression(), Settings({"model": SGD(0.001)}),
        Stream(0, tasks=range(20)), steps=200,
    )  # fmt: skip
    l2o.save(distill(run.choices, 2, parts=4), tmp_path / "rates")
    loaded = load_schedule(tmp_path / "rates.safetensors")
    assert isinstance(loaded, RatesInTime)
    # 1,000 decisions in a part: a deviation of at most 0.016
    assert torch.tensor(loaded.rates)[:, 0].tolist() == pytest.approx([0.9, 0.9, 0.3, 0.3], abs=0.06)
    loop = Loop(loaded, steps=200, execution="dither")
    taken = [loop.follower.choose() for _ in range(200)]
    share = taken[:50].count("mse") / 50
    assert share == pytest.approx(loaded.rates[0][0], abs=0.03)


@pytest.mark.parametrize(
    ("decisions", "parts", "message"),
    [
        (torch.tensor([0, 1]), 1, "pass \\[runs, steps\\]"),
        (torch.tensor([[0, 1]]), 3, "1 to steps parts"),
        (torch.tensor([[0, 2]]), 1, "name choice 2"),
        (torch.tensor([[0, -1]]), 2, "all runs ended before"),
    ],
)
def test_decisions_that_cannot_be_distilled_are_refused(decisions, parts, message):
    with pytest.raises(ArgumentError, match=message):
        distill(decisions, 2, parts=parts)


def loop_of(schedule=None, **options):
    model = nn.Linear(2, 1)
    given = {"choices": LOSSES, "groups": {"model": model.parameters()}, "steps": 5, **options}
    return follow(InTurn([0, 1]) if schedule is None else schedule, **given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choices": ("mse", "l1", "l2")}, "decides among 2 choices, and 3 are named: mse, l1, l2"),
        ({"choices": ("mse", "mse")}, "choices are mse, mse; name at least one, each once"),
        ({"groups": {"G": nn.Linear(1, 1).parameters(), "D": []}}, "which group does the choice 'mse' update"),
        ({"groups": {"mse": [], "l1": []}}, "the group 'mse' has no parameters"),
        ({"choices": (Choice("a", (("mse", "net"),)), "l1")}, "is to update the group 'net'; there are model"),
        (
            {"schedule": CONTROLLED, "choices": ("error", "l1")},
            "decides by gradient/mse:model, loss/mse, and this",
        ),
        ({"steps": 0}, "steps is 0"),
        ({"on_divergence": "stop"}, "on_divergence is 'stop'"),
        ({"execution": "often"}, "execution is 'often'"),
    ],
)
def test_what_cannot_be_followed_is_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        loop_of(**options)


def test_calls_in_the_wrong_order_or_with_wrong_names_say_what_to_do():
    follower = loop_of(CONTROLLED)
    with pytest.raises(ArgumentError, match="not measured yet; before the first choose\\(\\) call measure"):
        follower.choose()
    loop = Loop(CONTROLLED)
    with pytest.raises(ArgumentError, match="took\\(\\) before the first choose"):
        loop.follower.took({"mse": 1.0})
    with pytest.raises(ArgumentError, match="weights\\(\\) before the first choose"):
        loop.follower.weights()
    choice = loop.follower.choose()
    with pytest.raises(ArgumentError, match=f"again before took\\(\\) told what came of {choice!r}"):
        loop.follower.choose()
    with pytest.raises(ArgumentError, match=f"the choice {choice!r} has the losses {choice}, and took\\(\\) got mes"):
        loop.follower.took({"mes": 1.0})
    with pytest.raises(ArgumentError, match="no loss mes; there are mse, l1"):
        loop.follower.measure({"mes": torch.ones(())})
    with pytest.raises(ArgumentError, match="the loss 'mse' has no graph"):
        loop.follower.measure({"mse": torch.ones(())})
    loop.backward(choice)
    with pytest.raises(ArgumentError, match="a number of shape \\(3,\\) was reported; take the mean"):
        loop.follower.took({choice: torch.ones(3)})


def test_a_loss_that_does_not_reach_its_group_is_named():
    follower = loop_of()
    follower.choose()
    with pytest.raises(ArgumentError, match="the loss 'mse' does not reach the group 'model'"):
        follower.took({"mse": 1.0})
    other = nn.Linear(2, 1)
    with pytest.raises(ArgumentError, match="the loss 'l1' does not reach the group 'model'"):
        follower.measure({"l1": other.weight.sum()})


def test_a_sparse_gradient_is_refused_with_the_remedy():
    table = nn.Embedding(5, 2, sparse=True)
    follower = loop_of(groups={"model": table.parameters()})
    follower.choose()
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(UnsupportedError, match="sparse=False"):
        follower.took({"mse": 1.0})


def test_a_run_has_no_more_choices_than_it_was_said_to_have():
    follower = loop_of(Recorded([0, 1, 0, 1, 0], 2))
    assert [follower.choose() for _ in range(5)] == ["mse", "l1", "mse", "l1", "mse"]
    with pytest.raises(ArgumentError, match="all 5 choices of the run are taken; pass a larger steps"):
        follower.choose()


def test_every_kind_of_features_declares_what_it_reads():
    made = {
        "MeasureFeatures": MeasureFeatures(["loss/mse"]),
        "PaperFeatures": PaperFeatures(PAIRS, LOSSES, "validation"),
        "PaperGANFeatures": PaperGANFeatures(),
        "ReleaseFeatures": FEATURES["ReleaseFeatures"]("mse", "l1", "model", "validation"),  # pyright: ignore
        "ReleaseGANFeatures": FEATURES["ReleaseGANFeatures"](),
        "RobustFeatures": RobustFeatures(PAIRS, LOSSES, "validation"),
    }
    assert made.keys() == FEATURES.keys()
    for features in made.values():
        seen = {name: torch.ones(1) for name in features.measures}
        assert features(seen, features.begin(1))[0].shape == (1, features.width)
        for name in seen:
            with pytest.raises((ArgumentError, KeyError)):
                features({key: leaf for key, leaf in seen.items() if key != name}, features.begin(1))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
def test_the_first_process_decides_for_all():
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(two_processes.train, (os.path.join(folder, "meet"), folder), nprocs=2)  # noqa: PTH118
        found = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(found[0][0], found[1][0])
    assert 0 < int(found[0][0].sum()) < 30
    assert torch.equal(found[0][1], found[1][1])
