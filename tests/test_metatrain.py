"""The outer loop: learning, resuming exactly, stopping cleanly, giving up clearly."""

import dataclasses
import json
import math
import os
import signal

import pytest
import torch

from l2o import checkpoint
from l2o.curves import log_ratios, run_curves
from l2o.errors import ArgumentError, CheckpointError, DivergedError, HorizonError, InUseError
from l2o.horizons import ConstantHorizon, Curriculum, RandomHorizon
from l2o.meta_optimizer import MetaAdam, MetaOptimizer, MetaRMSprop, snapshot
from l2o.metatrain import metatrain
from l2o.methods.imitation import Imitation
from l2o.methods.meta_loss import MetaLoss
from l2o.methods.self_improving import SelfImproving
from l2o.methods.unrolled import Unrolled
from l2o.optimizers.architectures import load
from l2o.optimizers.dm import L2ODM
from l2o.optimizers.handcrafted import SGD, Adam
from l2o.optimizers.hierarchical import L2OScale
from l2o.optimizers.rnnprop import RNNprop
from l2o.outer_loop import Plan
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.tasks.functions import BenchmarkFunction
from l2o.tasks.mixture import Mixture
from l2o.tasks.quadratic import Quadratics
from l2o.tasks.wrappers import ConvexRegulariser, NoisyGradients, RandomScaling

PLAN = Plan(
    trajectories=5,
    horizon=ConstantHorizon(12, 4),
    tasks=3,
    validate_every=2,
    validation_tasks=4,
    validation_last=3,
    checkpoint_every=2,
    seed=11,
)
MAKE = {"DM": L2ODM.for_quadratics, "RNNprop": RNNprop.lv}
METHODS = {"meta-loss": MetaLoss, "unrolled": Unrolled}


class StoppedError(Exception):
    pass


def stop_at(number):
    events = []

    def listen(event):
        events.append(event)
        if len(events) == number:
            raise StoppedError

    return listen


def train(
    directory=None, *, make=L2ODM.for_quadratics, family=Quadratics, method=MetaLoss, plan=PLAN, listeners=(), **options
):
    return metatrain(make(), family(4), method(), plan, directory=directory, listeners=listeners, **options)


def fingerprint(trained):
    return checkpoint.digest(trained.optimizer.state_dict()), trained.validations


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_run_killed_anywhere_resumes_to_the_same_bits(make, method, tmp_path):
    whole = train(make=make, method=method)
    events = 5 * 3 + 4
    for number in range(1, events + 1):
        directory = tmp_path / str(number)
        with pytest.raises(StoppedError):
            train(directory, make=make, method=method, listeners=[stop_at(number)])
        resumed = train(directory, make=make, method=method)
        assert fingerprint(resumed) == fingerprint(whole)
        assert resumed.finished


@pytest.mark.parametrize("number", [5, 8, 14])  # kills in three trajectories, of which the second is imitated
@pytest.mark.parametrize("moments", ["own", "shared"])
def test_a_run_with_rmsprop_resumes_to_the_same_bits(moments, number, tmp_path):
    run = {"plan": dataclasses.replace(PLAN, meta_optimizer=MetaRMSprop(0.01, moments=moments)), "method": both_losses}
    with pytest.raises(StoppedError):
        train(tmp_path, listeners=[stop_at(number)], **run)
    tensors, _ = checkpoint.read(tmp_path / "checkpoint.safetensors", kind="checkpoint")
    kinds = {name.split("/")[1] for name in tensors if name.startswith("moments/")}
    assert kinds == ({"shared"} if moments == "shared" else {"meta-loss", "imitation of sgd"})
    seen = []
    assert fingerprint(train(tmp_path, **run)) == fingerprint(train(listeners=[seen.append], **run))
    assert {event["moments"] for event in seen if "moments" in event} == {"meta-loss", "imitation of sgd"}


def both_losses():
    return Imitation(teachers={"sgd": SGD(0.01)}, ratio=0.5)


class StoppedInside(Quadratics):
    """A kill in the middle of the validation of that number."""

    def __init__(self, dimensions, *, at=None):
        super().__init__(dimensions)
        self.at, self.validations = at, 0

    def batch_indices(self, instance, rng):
        self.validations += "validation" in rng.names and rng.step == 0
        if "validation" in rng.names and rng.step == 5 and self.validations == self.at:
            raise StoppedError
        return {}


GROWING = dataclasses.replace(
    PLAN, trajectories=12, horizon=Curriculum((4, 8), window=4, periods=2, longest_stage=3), validate_every=1
)


@pytest.mark.parametrize("number", [1, 2, 3, 5])
@pytest.mark.parametrize("plan", [PLAN, GROWING], ids=["constant", "curriculum"])
def test_a_run_killed_during_a_validation_resumes_to_the_same_bits(plan, number, tmp_path):
    plan = dataclasses.replace(plan, checkpoint_every=1, trajectories=max(8, plan.trajectories))
    with pytest.raises(StoppedError):
        train(tmp_path, family=lambda dimensions: StoppedInside(dimensions, at=number), plan=plan)
    assert (tmp_path / "checkpoint.safetensors").exists() == (number > 1 or plan.horizon != PLAN.horizon)
    assert fingerprint(train(tmp_path, plan=plan)) == fingerprint(train(plan=plan))


@pytest.mark.parametrize("meta_optimizer", [MetaAdam(0.3), MetaRMSprop(0.3)], ids=["adam", "rmsprop"])
def test_a_curriculum_of_one_stage_that_gets_worse_resumes_to_the_same_bits(meta_optimizer, tmp_path):
    one = Curriculum((4,), window=4, periods=2, longest_stage=3)
    plan = dataclasses.replace(GROWING, horizon=one, meta_optimizer=meta_optimizer, checkpoint_every=1)
    whole = train(plan=plan)
    assert whole.best.trajectory < whole.validations[-1].trajectory
    with pytest.raises(StoppedError):  # at the validation after the best: nothing better will come
        train(tmp_path, plan=plan, listeners=[stop_at(2 * whole.best.trajectory + 2)])
    assert fingerprint(train(tmp_path, plan=plan)) == fingerprint(whole)


def test_a_run_killed_in_the_middle_of_a_stage_resumes_to_the_same_bits(tmp_path):
    plan, seen = dataclasses.replace(GROWING, checkpoint_every=1), []

    def listen(event):  # in the second stage, after its baseline and a period, within a trajectory
        seen.append(event)
        inside = [e["kind"] for e in seen if e["kind"] == "validation" and e["stage"] == 1]
        if event["kind"] == "window" and event["window"] == 1 and len(inside) == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(tmp_path, plan=plan, listeners=[listen])
    _, metadata = checkpoint.read(tmp_path / "checkpoint.safetensors", kind="checkpoint")
    standing = metadata["progress"]["standing"]
    assert (standing["stage"], standing["periods"], metadata["progress"]["window"]) == (1, 1, 1)
    assert fingerprint(train(tmp_path, plan=plan)) == fingerprint(train(plan=plan))


class Minibatches(Quadratics):
    """Two rows of the residual at a time."""

    def batch_indices(self, instance, rng):
        return {"rows": rng.integers(self.dimensions, (2,))}

    def loss(self, params, instance, batch):
        return (instance["matrix"] @ params["x"] - instance["target"])[batch["rows"]].square().sum()

    value_and_grad = TaskFamily.value_and_grad


@pytest.mark.parametrize("number", [6, 11])  # the last checkpoints: window 1 of trajectory 1, window 2 of trajectory 2
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_resumed_run_draws_the_minibatches_of_its_step(method, number, tmp_path):
    with pytest.raises(StoppedError):
        train(tmp_path, family=Minibatches, method=method, listeners=[stop_at(number)])
    resumed = train(tmp_path, family=Minibatches, method=method)
    assert fingerprint(resumed) == fingerprint(train(family=Minibatches, method=method))


def test_a_resumed_run_remembers_the_best_from_before_it_stopped(tmp_path):
    plan = dataclasses.replace(PLAN, meta_optimizer=MetaAdam(learning_rate=10.0))  # the start is best by decades
    with pytest.raises(StoppedError):
        train(tmp_path, plan=plan, listeners=[stop_at(18)])
    _, metadata = checkpoint.read(tmp_path / "checkpoint.safetensors", kind="checkpoint")
    resumed = train(tmp_path, plan=plan)
    assert resumed.best.trajectory * PLAN.horizon.windows < metadata["progress"]["windows"]
    assert fingerprint(resumed) == fingerprint(train(plan=plan))


def test_events_stand_in_the_log_once_and_in_order(tmp_path):
    for number in (3, 6, 4):
        with pytest.raises(StoppedError):
            train(tmp_path, listeners=[stop_at(number)])
    train(tmp_path)
    logged = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    seen = []
    train(listeners=[seen.append])
    assert [(e["kind"], e["trajectory"], e["windows"]) for e in logged] == [
        (e["kind"], e["trajectory"], e["windows"]) for e in seen
    ]
    assert [event["number"] for event in logged] == list(range(len(seen)))
    windows = [event for event in logged if event["kind"] == "window"]
    assert len(windows) == 15
    assert {"meta_loss", "meta_gradient_norm", "update_norm", "update_to_parameter", "diverged"} <= set(windows[0])
    assert all(event["meta_gradient_norm"] > 0 for event in windows)


def test_the_best_validation_is_what_comes_back():
    trained = train(plan=dataclasses.replace(PLAN, meta_optimizer=MetaAdam(learning_rate=0.3)))  # far too large
    assert trained.best == min(trained.validations, key=lambda validation: validation.value)
    assert [validation.trajectory for validation in trained.validations] == [0, 2, 4, 5]
    again = train(
        plan=dataclasses.replace(
            PLAN, trajectories=max(1, trained.best.trajectory), meta_optimizer=MetaAdam(learning_rate=0.3)
        )
    )
    assert again.best == trained.best
    assert checkpoint.digest(again.optimizer.state_dict()) == checkpoint.digest(trained.optimizer.state_dict())


def test_meta_training_lowers_the_validation_loss():
    plan = dataclasses.replace(
        PLAN,
        trajectories=60,
        tasks=16,
        validate_every=20,
        validation_tasks=16,
        meta_optimizer=MetaAdam(learning_rate=0.01),
    )
    trained = train(plan=plan)
    assert trained.best.value < 0.5 * trained.validations[0].value


def test_validation_meets_the_same_tasks_each_time():
    plan = dataclasses.replace(PLAN, meta_optimizer=MetaAdam(learning_rate=1e-30))  # meta-parameters stay as they are
    assert len({validation.value for validation in train(plan=plan).validations}) == 1


def test_a_validation_is_the_mean_of_the_last_iterates():
    stream = Stream(PLAN.seed, ("validation",), tasks=range(PLAN.validation_tasks))
    losses = run_curves(L2ODM.for_quadratics(), Quadratics(4), stream, steps=12).losses  # [tasks, steps + 1]
    assert train().validations[0].value == pytest.approx(float(losses[:, -3:].mean()), rel=1e-12)


@pytest.mark.parametrize("wrap", [RandomScaling, ConvexRegulariser])
def test_validations_are_on_the_validation_family(wrap):
    family = wrap(Quadratics(4))
    stream = Stream(PLAN.seed, ("validation",), tasks=range(PLAN.validation_tasks))
    losses = run_curves(L2ODM.for_quadratics(), Quadratics(4), stream, steps=12).losses  # [tasks, steps + 1]
    trained = metatrain(L2ODM.for_quadratics(), family, MetaLoss(), PLAN, validation_family=Quadratics(4))
    wrapped = metatrain(L2ODM.for_quadratics(), family, MetaLoss(), PLAN)
    assert trained.validations[0].value == pytest.approx(float(losses[:, -3:].mean()), rel=1e-12)
    assert wrapped.validations[0].value != trained.validations[0].value
    assert trained.card.training_tasks == family.name
    assert trained.card.configuration["validation family"] == "quadratics-4d"


def test_the_validation_family_is_part_of_the_run(tmp_path):
    scaled = RandomScaling(Quadratics(4))
    options = {"plan": PLAN, "directory": tmp_path, "validation_family": Quadratics(4)}
    with pytest.raises(StoppedError):
        metatrain(L2ODM.for_quadratics(), scaled, MetaLoss(), listeners=[stop_at(8)], **options)
    for other in (None, scaled, Quadratics(3), Quadratics(4, start_scale=2.0)):
        with pytest.raises(CheckpointError, match=r"of another run \(validation"):
            metatrain(L2ODM.for_quadratics(), scaled, MetaLoss(), **{**options, "validation_family": other})
    resumed = metatrain(L2ODM.for_quadratics(), scaled, MetaLoss(), **options)
    whole = metatrain(L2ODM.for_quadratics(), scaled, MetaLoss(), PLAN, validation_family=Quadratics(4))
    assert fingerprint(resumed) == fingerprint(whole)


def test_a_validation_family_that_is_the_training_family_is_no_other_run(tmp_path):
    family = Quadratics(4)
    with pytest.raises(StoppedError):
        train(tmp_path, listeners=[stop_at(8)])
    assert metatrain(
        L2ODM.for_quadratics(), family, MetaLoss(), PLAN, validation_family=family, directory=tmp_path
    ).finished


def test_a_signal_ends_the_run_cleanly_and_it_resumes(tmp_path):
    for number in (signal.SIGINT, signal.SIGTERM):
        directory = tmp_path / number.name
        before = signal.getsignal(number)

        def listen(event, number=number):
            if event["kind"] == "window" and event["windows"] == 5:
                os.kill(os.getpid(), number)

        stopped = train(directory, listeners=[listen])
        assert not stopped.finished
        assert signal.getsignal(number) == before
        assert fingerprint(train(directory)) == fingerprint(train())


def test_a_signal_before_the_first_validation_of_a_curriculum_ends_the_run_cleanly(tmp_path):
    plan = dataclasses.replace(PLAN, horizon=Curriculum((4, 8), (8, 12), 4, periods=1), validate_every=2)

    def listen(event):
        assert event["kind"] == "window"
        os.kill(os.getpid(), signal.SIGTERM)

    stopped = train(tmp_path, plan=plan, listeners=[listen])
    assert (stopped.finished, stopped.validations, stopped.best.value) == (False, [], float("inf"))
    assert checkpoint.digest(stopped.optimizer.state_dict()) == checkpoint.digest(L2ODM.for_quadratics().state_dict())
    assert fingerprint(train(tmp_path, plan=plan)) == fingerprint(train(plan=plan))


def test_two_runs_in_one_directory_are_refused(tmp_path):
    seen = []

    def listen(event):
        if event["kind"] == "window" and not seen:
            seen.append(event)
            with pytest.raises(InUseError, match="another run is at work in"):
                train(tmp_path)

    whole = train(tmp_path, listeners=[listen])
    assert seen
    assert fingerprint(whole) == fingerprint(train())
    train(tmp_path)  # free again


def test_the_best_of_each_part_of_a_run_is_kept(tmp_path):
    plan = dataclasses.replace(PLAN, trajectories=6, validate_every=1)
    seen = {}

    def listen(event):
        if event["kind"] == "validation":
            seen[event["trajectory"]] = event["value"]

    trained = train(tmp_path, plan=plan, listeners=[listen], keep_every=3)
    assert sorted(path.name for path in tmp_path.glob("best-*.safetensors")) == [
        "best-3.safetensors",
        "best-6.safetensors",
    ]
    for part, trajectories in (("best-3", range(1, 4)), ("best-6", range(4, 7))):
        best = min(trajectories, key=seen.__getitem__)
        shorter = train(plan=dataclasses.replace(plan, trajectories=best, validate_every=best))
        assert shorter.best.trajectory == best
        kept = load(tmp_path / f"{part}.safetensors")
        assert checkpoint.digest(kept.state_dict()) == checkpoint.digest(shorter.optimizer.state_dict())
    assert trained.best.value == min(trained.validations, key=lambda entry: entry.value).value


@pytest.mark.parametrize("kept", [None, 2], ids=["none", "others"])
def test_parts_that_a_resumed_run_has_passed_without_keeping_them_are_refused(kept, tmp_path):
    plan = dataclasses.replace(PLAN, trajectories=6, validate_every=1)
    train(tmp_path, plan=plan, keep_every=kept)
    with pytest.raises(CheckpointError, match=r"best-3.safetensors is missing.*did not keep every 3 trajectories"):
        train(tmp_path, plan=plan, keep_every=3)
    assert train(tmp_path, plan=plan, keep_every=kept).finished


def test_parts_can_be_kept_only_where_there_is_a_directory(tmp_path):
    with pytest.raises(ArgumentError, match="keep_every is 3 and directory None"):
        train(keep_every=3)
    with pytest.raises(ArgumentError, match="keep_every is 0"):
        train(tmp_path, keep_every=0)


def test_a_second_signal_interrupts_at_once():
    def listen(event):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(listeners=[listen])


def test_a_finished_run_called_again_gives_its_result(tmp_path):
    first = train(tmp_path)
    seen = []
    again = train(tmp_path, listeners=[seen.append])
    assert fingerprint(again) == fingerprint(first)
    assert again.seconds >= first.seconds
    assert seen == []


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"plan": dataclasses.replace(PLAN, seed=12)}, "seed|plan"),
        ({"plan": dataclasses.replace(PLAN, tasks=2)}, "plan"),
        ({"make": RNNprop.lv}, "optimizer"),
        ({"make": lambda: L2ODM.for_quadratics(seed=1)}, "initial"),
        ({"method": Unrolled}, "method"),
        ({"method": lambda: MetaLoss(weights="last")}, "method"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path, change, names):
    with pytest.raises(StoppedError):
        train(tmp_path, listeners=[stop_at(8)])
    with pytest.raises(CheckpointError, match=rf"of another run \(.*({names}).*another directory"):
        train(tmp_path, **change)


def test_another_task_distribution_under_the_same_name_is_refused(tmp_path):
    with pytest.raises(StoppedError):
        train(tmp_path, listeners=[stop_at(8)])
    with pytest.raises(CheckpointError, match="task"):
        metatrain(L2ODM.for_quadratics(), Quadratics(4, start_scale=2.0), MetaLoss(), PLAN, directory=tmp_path)


def test_a_changed_number_of_threads_is_refused_unless_accepted(tmp_path):
    with pytest.raises(StoppedError):
        train(tmp_path, listeners=[stop_at(8)])
    torch.set_num_threads(2)
    try:
        with pytest.raises(CheckpointError, match=r"threads: 1 there, 2 here.*torch\.set_num_threads"):
            train(tmp_path)
        assert train(tmp_path, accept_changed_environment=True).finished
    finally:
        torch.set_num_threads(1)


def test_other_minibatches_under_the_same_name_are_refused(tmp_path):
    class Larger(Minibatches):
        def batch_indices(self, instance, rng):
            return {"rows": rng.integers(self.dimensions, (3,))}

    with pytest.raises(StoppedError):
        train(tmp_path, family=Minibatches, listeners=[stop_at(8)])
    with pytest.raises(CheckpointError, match="task"):
        train(tmp_path, family=Larger)


def test_an_event_log_that_lost_events_is_refused(tmp_path):
    with pytest.raises(StoppedError):
        train(tmp_path, listeners=[stop_at(8)])
    (tmp_path / "events.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="shorter than at the checkpoint"):
        train(tmp_path)


def test_litter_of_a_kill_during_a_save_is_cleared(tmp_path):
    with pytest.raises(StoppedError):
        train(tmp_path, listeners=[stop_at(8)])
    (tmp_path / ".checkpoint.safetensors.abc123").write_bytes(b"half")
    assert fingerprint(train(tmp_path)) == fingerprint(train())
    assert not (tmp_path / ".checkpoint.safetensors.abc123").exists()


def test_a_damaged_checkpoint_is_refused(tmp_path):
    train(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 1
    path.write_bytes(bytes(blob))
    with pytest.raises(CheckpointError, match="altered"):
        train(tmp_path)


class NeverFinite(TaskFamily):
    name = "never-finite"

    def init(self, instance, rng):
        return {"x": rng.normal((2,))}

    def loss(self, params, instance, batch):
        return (params["x"] * torch.inf).sum()


def test_a_run_without_finite_meta_gradients_gives_up_with_the_seed():
    plan = dataclasses.replace(PLAN, patience=4)
    events = []
    with pytest.raises(DivergedError, match=r"4 windows in a row.*seed 11.*Lower the meta learning rate"):
        metatrain(L2ODM(), NeverFinite(), MetaLoss(), plan, listeners=[events.append])
    assert [event["kind"] for event in events].count("skipped") == 4
    assert all(event["diverged"] == 1 for event in events)


class SometimesInfinite(Quadratics):
    """Some trajectories have no finite loss at all."""

    infinite = (1,)

    def init(self, instance, rng):
        start = super().init(instance, rng)["x"]
        return {"x": start + (torch.inf if rng.trajectory in self.infinite and "train" in rng.names else 0.0)}


def test_skipped_windows_are_counted_and_change_nothing():
    events = []
    trained = metatrain(L2ODM.for_quadratics(), SometimesInfinite(4), MetaLoss(), PLAN, listeners=[events.append])
    skipped = [event for event in events if event["kind"] == "skipped"]
    assert trained.skipped == len(skipped) == 1  # everybody is dead: the trajectory ends after its first window
    assert [event["trajectory"] for event in skipped] == [1]
    assert [event["skipped"] for event in events if "window" in event] == [0, 0, 0, *[1] * 10]
    assert trained.finished


def test_only_skipped_windows_in_a_row_exhaust_the_patience():
    class TwiceInfinite(SometimesInfinite):
        infinite = (1, 3)

    trained = train(family=TwiceInfinite, plan=dataclasses.replace(PLAN, patience=2))
    assert trained.finished
    assert trained.skipped == 2


def test_a_diverging_validation_is_infinitely_bad():
    class DiesInValidation(Quadratics):
        def init(self, instance, rng):
            start = super().init(instance, rng)["x"]
            return {"x": start + (torch.nan if "validation" in rng.names else 0.0)}

    trained = metatrain(L2ODM.for_quadratics(), DiesInValidation(4), MetaLoss(), PLAN)
    assert all(v.value == float("inf") and v.diverged == 1 for v in trained.validations)
    assert trained.card.curve == []


def test_the_card_tells_the_run(tmp_path):
    trained = train()
    card = trained.card
    assert (card.method, card.training_tasks, card.horizon, card.seed) == ("meta-loss", "quadratics-4d", 12, 11)
    assert card.curve == [[v.trajectory, v.value] for v in trained.validations]
    assert trained.optimizer.horizon == 12


def test_clipping_bounds_the_meta_gradient():
    big = {"a": torch.full((4,), 100.0)}

    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Parameter(torch.zeros(4))

    seen = []
    one = One()
    optimizer = MetaOptimizer(one, MetaAdam(learning_rate=1.0, clip=1.0), ["m"])  # type: ignore[arg-type]
    one.a.register_hook(lambda grad: seen.append(grad))
    optimizer.step(big, "m", progress=0.0)
    assert optimizer.tree()["m/exp_avg/a"].norm() == pytest.approx(0.1 * 1.0)  # (1 - beta1) times the clipped norm


def test_float64_runs_in_float64():
    trained = train(plan=dataclasses.replace(PLAN, dtype="float64"))
    assert all(parameter.dtype == torch.float64 for parameter in trained.optimizer.parameters())


class Blind(Quadratics):
    """A family whose gradients mean nothing."""

    offers = frozenset({"loss", "params"})


class Curious(L2ODM):
    """Wants to see what no family shows."""

    reads = frozenset({"grad", "curvature"})


class CuriousTeacher(SGD):
    reads = frozenset({"grad", "curvature"})


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((L2ODM(), Blind(4), MetaLoss()), {}, "method 'meta-loss' reads grad of a task, and quadratics-4d offers loss"),
        ((L2ODM(), RandomScaling(Blind(4)), MetaLoss()), {}, "reads grad of a task, and quadratics-4d-scaled offers"),
        ((L2ODM(), ConvexRegulariser(Blind(4)), MetaLoss()), {}, "reads grad of a task"),
        ((Curious(), Quadratics(4), MetaLoss()), {}, "learned optimizer L2O-DM reads curvature of a task"),
        (
            (L2ODM(), Quadratics(4), MetaLoss()),
            {"validation_family": Blind(4)},
            "learned optimizer L2O-DM reads grad of a task",
        ),
        (
            (L2ODM(), Quadratics(4), Imitation(teachers={"sgd": SGD(0.1), "odd": CuriousTeacher(0.1)})),
            {},
            "teacher odd reads curvature of a task, and quadratics-4d offers grad, loss, params; take one that reads",
        ),
        (
            (L2ODM(), Quadratics(4), Imitation(SelfImproving(helpers={"odd": CuriousTeacher(0.1)}))),
            {},
            "helper odd reads curvature",
        ),
        (
            (L2ODM(), Quadratics(4), Imitation(ratio=(0.0, 0.3))),
            {},
            r"ratio is \(0.0, 0.3\), 2 shares of trajectories, and the horizon has 1 stage; pass one share for each",
        ),
        ((L2ODM(), Quadratics(4), Imitation(Imitation(ratio=(0.0, 0.3)))), {}, r"ratio is \(0.0, 0.3\)"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_runs(arguments, options, message, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        metatrain(*arguments, PLAN, directory=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_what_has_no_meta_parameters_is_refused():
    with pytest.raises(ArgumentError, match="Adam has no meta-parameters"):
        metatrain(Adam(0.1), Quadratics(4), MetaLoss(), PLAN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trajectories": 0}, "trajectories is 0"),
        ({"tasks": 0}, "tasks is 0"),
        ({"validation_last": 13}, "validation_last is 13"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"validation_measure": "ratio"}, "validation_measure is 'ratio'"),
    ],
)
def test_impossible_plans_are_refused(change, message):
    with pytest.raises(ArgumentError, match=message):
        dataclasses.replace(PLAN, **change)


@pytest.mark.parametrize(("steps", "window"), [(10, 20), (0, 0), (30, 20), (20, 0)])
def test_horizons_and_windows_must_fit(steps, window):
    with pytest.raises(HorizonError, match="horizon"):
        ConstantHorizon(steps, window)


def test_the_meta_learning_rate_falls_along_half_a_cosine():
    settings = MetaAdam(learning_rate=1.0, final_learning_rate=0.2)
    assert [settings.at(share) for share in (0, 0.5, 1)] == pytest.approx([1.0, 0.6, 0.2])
    assert MetaAdam(learning_rate=0.5).at(0.9) == 0.5


def test_the_meta_learning_rate_follows_the_share_of_trajectories_done(monkeypatch):
    shares, events = [], []
    monkeypatch.setattr(MetaAdam, "at", lambda self, progress: shares.append(progress) or 1e-3 * (1 + progress))
    train(listeners=[events.append])
    wanted = [trajectory / 5 for trajectory in range(5) for _ in range(3)]
    assert shares[::2] == shares[1::2] == wanted  # once for the step, once for its event
    assert [event["learning_rate"] for event in events if "window" in event] == [1e-3 * (1 + share) for share in wanted]


def test_a_first_meta_step_is_as_long_as_the_meta_learning_rate_of_its_time():
    agent = L2ODM()
    before = snapshot(agent)
    optimizer = MetaOptimizer(agent, MetaAdam(learning_rate=1.0, final_learning_rate=0.2), ["m"])
    optimizer.step({name: torch.ones_like(leaf) for name, leaf in before.items()}, "m", progress=0.5)
    for name, leaf in agent.state_dict().items():
        torch.testing.assert_close(leaf, before[name] - 0.6)


def test_meta_adam_refuses_nonsense():
    with pytest.raises(ArgumentError, match=r"final meta learning rate is 0\.1"):
        MetaAdam(learning_rate=0.01, final_learning_rate=0.1)
    with pytest.raises(ArgumentError, match="learning rate is 0"):
        MetaAdam(learning_rate=0)
    with pytest.raises(ArgumentError, match="clip is -1"):
        MetaAdam(clip=-1)


def test_tasks_of_one_trajectory_are_those_of_the_stream():
    """The documented replay recipe of `DivergedError` names exactly the tasks that were trained on."""
    from l2o.processes.optimizee import Optimizee

    seen = []

    class Spy(Quadratics):
        def init(self, instance, rng):
            start = super().init(instance, rng)
            if "train" in rng.names:
                seen.append((rng.trajectory, start["x"]))
            return start

    metatrain(L2ODM.for_quadratics(), Spy(4), MetaLoss(), PLAN)
    trajectory, start = seen[3]
    again = Optimizee.start(
        Quadratics(4), Stream(11, ("train",), trajectory=trajectory, tasks=range(3)), dtype=torch.float64
    )
    assert torch.equal(again.params["x"], start)


def mixed(dimensions=4, **options):
    """Three families, two of them with other parameter shapes, one with minibatches, one with noise."""
    return Mixture(
        "mixed",
        [NoisyGradients(Quadratics(dimensions), 0.5), Minibatches(5), BenchmarkFunction.booth()],
        **options,
    )


RANDOM = dataclasses.replace(
    PLAN,
    trajectories=3,
    horizon=RandomHorizon(1, 2.0, 2, 3.0, validation_steps=6),
    validation_measure="log-ratio",
    checkpoint_every=1,
)


@pytest.mark.parametrize(
    ("make", "method"), [(L2ODM.for_quadratics, MetaLoss), (L2ODM.for_quadratics, Unrolled), (L2OScale, MetaLoss)]
)
def test_a_run_of_random_lengths_on_a_mixture_killed_anywhere_resumes_to_the_same_bits(make, method, tmp_path):
    options, events = {"make": make, "method": method, "family": mixed, "plan": RANDOM}, []
    whole = train(**options, listeners=[events.append])
    assert whole.skipped == 0
    assert max(event.get("window", 0) for event in events) >= 2
    for number in range(1, len(events) + 1):
        directory = tmp_path / str(number)
        with pytest.raises(StoppedError):
            train(directory, **options, listeners=[stop_at(number)])
        assert fingerprint(train(directory, **options)) == fingerprint(whole)


def test_windows_and_trajectories_have_the_lengths_that_the_horizon_draws():
    events = []
    train(family=mixed, plan=RANDOM, listeners=[events.append])
    for trajectory in range(3):
        lengths = RANDOM.horizon.lengths(RANDOM.horizon.begin(), Stream(11, ("train",), trajectory=trajectory))
        windows = [event for event in events if event["kind"] == "window" and event["trajectory"] == trajectory]
        assert [event["steps"] for event in windows] == list(lengths)
        assert [event["window"] for event in windows] == list(range(len(lengths)))


def test_a_trajectory_of_a_mixture_is_one_of_its_families():
    drawn = []

    class Spy(Quadratics):
        def init(self, instance, rng):
            if "train" in rng.names:
                drawn.append((rng.trajectory, self.name))
            return super().init(instance, rng)

    mixture = Mixture("two", [Spy(2), Spy(3)])
    metatrain(L2ODM.for_quadratics(), mixture, MetaLoss(), dataclasses.replace(PLAN, trajectories=12))
    assert drawn == [(number, mixture.member(Stream(11, ("train",), trajectory=number)).name) for number in range(12)]
    assert len({name for _, name in drawn}) == 2


def test_a_log_ratio_validation_is_the_mean_logarithm_of_last_by_first():
    stream = Stream(11, ("validation",), tasks=range(4))
    losses = run_curves(L2ODM.for_quadratics(), Quadratics(4), stream, steps=12).losses  # [tasks, steps + 1]
    expected = ((losses[:, -3:].mean(1) + 1e-6) / (losses[:, 0] + 1e-6)).log().mean()
    trained = train(plan=dataclasses.replace(PLAN, validation_measure="log-ratio"))
    assert trained.validations[0].value == pytest.approx(float(expected), rel=1e-9)
    assert trained.best.value == min(validation.value for validation in trained.validations)


def test_a_log_ratio_is_exact_and_finite_at_a_loss_of_0():
    losses = torch.tensor([[2.0, 5.0, 1.0, 3.0], [1.0, 0.0, 0.0, 0.0], [1.0, 0.5, torch.nan, torch.nan]])
    ratios = log_ratios(losses.double(), last=2)
    assert ratios[0].item() == pytest.approx(0.0, abs=1e-15)
    assert ratios[1].item() == pytest.approx(math.log(1e-6 / (1 + 1e-6)), rel=1e-14)
    assert torch.isnan(ratios[2])


def test_a_log_ratio_of_a_dead_task_is_infinitely_bad():
    plan = dataclasses.replace(PLAN, validation_measure="log-ratio", validation_tasks=20)
    trained = metatrain(L2ODM.for_quadratics(), NeverFinite(), MetaLoss(), plan)
    assert all(validation.value == float("inf") for validation in trained.validations)


def test_a_log_ratio_of_negative_losses_is_refused():
    plan = dataclasses.replace(PLAN, validation_measure="log-ratio", validation_tasks=20)
    message = "a loss of styblinski-tang-2d is -.* in a validation, and ratios need losses that are not negative; take"
    with pytest.raises(ArgumentError, match=message):
        metatrain(L2ODM.for_quadratics(), BenchmarkFunction.styblinski_tang(), MetaLoss(), plan)


@pytest.mark.parametrize(
    "other",
    [
        lambda _: mixed(6),
        lambda _: mixed(weights=[1, 2, 1]),
        lambda _: mixed(trajectories_each=2),
        lambda _: Mixture("mixed", mixed().families[:2]),
    ],
    ids=["member", "weights", "each", "fewer"],
)
def test_another_mixture_is_refused(other, tmp_path):
    with pytest.raises(StoppedError):
        train(tmp_path, family=mixed, listeners=[stop_at(8)])
    with pytest.raises(CheckpointError, match=r"of another run.*(family|task): "):
        train(tmp_path, family=other)


def test_a_changed_member_of_the_same_name_is_refused(tmp_path):
    with pytest.raises(StoppedError):
        train(tmp_path, family=mixed, listeners=[stop_at(8)])

    class Stretched(BenchmarkFunction):
        def init(self, instance, rng):
            return {"x": 2 * super().init(instance, rng)["x"]}

    booth = Stretched.booth()
    with pytest.raises(CheckpointError, match="task: "):
        train(tmp_path, family=lambda _: Mixture("mixed", [*mixed().families[:2], booth]))
