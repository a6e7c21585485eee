"""Imitation and self-improving: their gradients against autograd, who drives, and how they combine."""

import copy
import itertools
from collections import Counter

import pytest
import torch
from cases import LEARNED, every_learned, perturbed

import l2o
from l2o import L2ODM, SGD, Adam, MetaLoss, Quadratics, RNNprop, Stream, Unrolled, trees
from l2o.agent import meta_parameters
from l2o.errors import ArgumentError
from l2o.horizons import ConstantHorizon, Curriculum
from l2o.methods.imitation import PUBLISHED_TEACHERS, Imitation
from l2o.methods.self_improving import SelfImproving
from l2o.processes.optimizee import Optimizee

STEPS = 6


def begin(method, optimizer, *, trajectory=0, tasks=3, stage=0, dtype=torch.float64):
    stream = Stream(5, ("test",), trajectory=trajectory, tasks=range(tasks))
    process = Optimizee.start(Quadratics(4), stream, dtype=dtype)
    return method.begin(optimizer, process, stream, stage=stage)


def relative(gradient, truth):
    error = torch.cat([(gradient[name] - leaf).flatten() for name, leaf in truth.items()]).norm()
    return float(error / torch.cat([leaf.flatten() for leaf in truth.values()]).norm())


def gradient_of(loss, optimizer):
    theta = meta_parameters(optimizer)
    return dict(zip(theta, torch.autograd.grad(loss, list(theta.values()), materialize_grads=True), strict=True))


@every_learned
@pytest.mark.parametrize("teacher", PUBLISHED_TEACHERS.items(), ids=PUBLISHED_TEACHERS.keys())
def test_imitation_gradient_equals_autograd(make, teacher):
    name, rule = teacher
    optimizer = perturbed(make())
    method = Imitation(teachers={name: rule}, ratio=1.0)
    trajectory = begin(method, optimizer)
    estimates = []
    for _ in range(2):  # the second window carries both states
        estimate, trajectory = method.window(optimizer, trajectory, STEPS)
        estimates.append(estimate)

    start = begin(method, optimizer)
    process, own = start.process, start.states["agent"]
    taught = rule.init_state(process.params, Stream(0))
    for estimate in estimates:
        loss = torch.zeros(())
        for _ in range(STEPS):
            seen, _ = process.observe()
            update, taught = rule(seen, taught)
            action, own = optimizer(seen, own)
            loss = loss + (update["x"] - action["x"]).square().sum() / 2 / (4 * 3)
            process = process.apply(update)
        assert relative(estimate.gradient, gradient_of(loss, optimizer)) < 1e-10
        assert estimate.value == pytest.approx(loss.item(), rel=1e-10)
        assert estimate.moments == f"imitation of {name}"
        own = trees.map_leaves(torch.Tensor.detach, own)


@every_learned
def test_corrections_are_the_teachers_updates_on_the_students_way(make):
    optimizer, rule = perturbed(make()), Adam(0.01)
    method = Imitation(teachers={"adam": rule}, ratio=1.0, corrections=1.0)
    trajectory = begin(method, optimizer)
    process, own = trajectory.process, trajectory.states["agent"]
    taught = rule.init_state(process.params, Stream(0))
    for _ in range(2):  # the second window carries both states
        estimate, trajectory = method.window(optimizer, trajectory, STEPS)
        loss = torch.zeros(())
        for _ in range(STEPS):
            seen, _ = process.observe()
            update, taught = rule(seen, taught)
            action, own = optimizer(seen, own)
            loss = loss + (update["x"] - action["x"]).square().sum() / 2 / (4 * 3)
            process = process.apply({"x": action["x"].detach()})
        assert relative(estimate.gradient, gradient_of(loss, optimizer)) < 1e-10
        assert estimate.value == pytest.approx(loss.item(), rel=1e-10)
        torch.testing.assert_close(trajectory.process.params["x"], process.params["x"])
        own = trees.map_leaves(torch.Tensor.detach, own)


def test_so_many_trajectories_are_corrected():
    optimizer, method = L2ODM().double(), Imitation(teachers={"sgd": SGD(0.1)}, ratio=1.0, corrections=0.5)
    driven = 0
    for number in range(60):
        trajectory = begin(method, optimizer, trajectory=number, tasks=1)
        taught = {"x": trajectory.process.params["x"] - 0.1 * trajectory.process.observe()[0]["grad/x"]}
        _, after = method.window(optimizer, trajectory, 1)
        driven += not torch.allclose(after.process.params["x"], taught["x"])
    assert 18 <= driven <= 42


def test_a_student_that_equals_its_teacher_has_no_loss():
    class Twin(L2ODM):
        """L2O-DM without meta-parameters: a teacher."""

    twin = Twin(seed=3).requires_grad_(False)
    frozen = {name: parameter.detach() for name, parameter in twin.named_parameters()}
    for cell in (twin.cell1, twin.cell2, twin.output):
        for name in list(cell._parameters):
            cell._parameters.pop(name)
    for name, value in frozen.items():
        part, leaf = name.split(".")
        setattr(getattr(twin, part), leaf, value.double())
    student = L2ODM(seed=3).double()
    method = Imitation(teachers={"twin": twin}, ratio=1.0)
    estimate, _ = method.window(student, begin(method, student), STEPS)
    assert estimate.value == 0
    assert all(float(leaf.abs().max()) == 0 for leaf in estimate.gradient.values())


def test_the_teacher_moves_the_tasks():
    optimizer, rule = L2ODM().double(), SGD(0.01)
    method = Imitation(teachers={"sgd": rule}, ratio=1.0)
    trajectory = begin(method, optimizer)
    process = trajectory.process
    _, after = method.window(optimizer, trajectory, STEPS)
    for _ in range(STEPS):
        seen, _ = process.observe()
        process = process.apply({"x": -0.01 * seen["grad/x"]})
    assert torch.allclose(after.process.params["x"], process.params["x"], rtol=1e-12)


def test_a_share_of_trajectories_is_imitated_and_teachers_share_them():
    optimizer, method = L2ODM().double(), Imitation(ratio=(0.0, 0.3, 1.0))
    counts = [
        sum("distance" in begin(method, optimizer, trajectory=t, tasks=1, stage=stage).states for t in range(300))
        for stage in range(4)
    ]
    assert counts[0] == 0
    assert 65 <= counts[1] <= 115
    assert counts[2] == counts[3] == 300  # the last ratio holds for all later stages
    chosen = Counter(method._teacher(begin(method, optimizer, trajectory=t, tasks=1).process)[0] for t in range(300))
    assert set(chosen) == {"adam", "sgd", "adagrad"}
    assert min(chosen.values()) > 70
    in_turn = Imitation(order="turn")
    names = [in_turn._teacher(begin(in_turn, optimizer, trajectory=t, tasks=1).process)[0] for t in range(6)]
    assert names == ["adam", "sgd", "adagrad"] * 2


def test_a_trajectory_that_is_not_imitated_is_the_other_methods():
    optimizer = perturbed(L2ODM())
    for other in (MetaLoss(objective="log"), Unrolled()):
        method = Imitation(other, ratio=0.0)
        estimate, _ = method.window(optimizer, begin(method, optimizer), STEPS)
        truth, _ = other.window(optimizer, begin(other, optimizer), STEPS)
        assert estimate.moments == "meta-loss"
        assert relative(estimate.gradient, truth.gradient) == 0


def test_a_dead_task_teaches_nothing():
    optimizer = perturbed(L2ODM())
    method = Imitation(teachers={"sgd": SGD(1e200)}, ratio=1.0)
    estimate, after = method.window(optimizer, begin(method, optimizer), STEPS)
    assert not bool(after.process.survivors.any())
    again, _ = method.window(optimizer, after, STEPS)
    assert all(float(leaf.abs().max()) == 0 for leaf in again.gradient.values())
    assert again.value != again.value  # not a number: the window is skipped
    del estimate


@every_learned
@pytest.mark.parametrize("objective", ["loss", "log"])
def test_self_improving_gradient_equals_autograd(make, objective):
    optimizer = perturbed(make())
    method = SelfImproving(objective=objective)
    trajectory = begin(method, optimizer)
    estimate, _ = method.window(optimizer, trajectory, STEPS)
    turns = method.turns(trajectory.process.rng, range(STEPS))
    assert {0, 1, 2, 3} == set(turns.flatten().tolist())  # everyone drives somewhere, or the test sees nothing

    process = trajectory.process
    own = trajectory.states["agent"]
    helpers = [(rule, rule.init_state(process.params, Stream(0))) for rule in method.helpers.values()]
    moved, losses = process.params["x"], []
    for step in range(STEPS + 1):
        seen, hidden = process.observe()
        # The loss at a point that depends on theta through the own updates alone; its gradient at the point is known.
        value = hidden["loss"] + (hidden["metagrad/x"] * (moved - moved.detach())).sum(1)
        losses.append(value.log() if objective == "log" else value)
        if step == STEPS:
            break
        action, own = optimizer(seen, own)
        update = action["x"]
        for number, (rule, state) in enumerate(helpers):
            theirs, after = rule(seen, state)
            helpers[number] = (rule, after)
            update = torch.where((turns[step] == number + 1)[:, None], theirs["x"], update)
        moved = moved + update
        process = process.apply({"x": update.detach()})
    loss = torch.stack(losses).mean(1).sum()
    assert relative(estimate.gradient, gradient_of(loss, optimizer)) < 1e-9
    assert estimate.value == pytest.approx(loss.item(), rel=1e-9)


def test_helpers_fade_out():
    method = SelfImproving(fade=100)
    shares = []
    for trajectory in (0, 50, 100, 500):
        turns = method.turns(Stream(1, trajectory=trajectory, tasks=range(200)), range(20))
        shares.append(float((turns == 0).double().mean()))
    assert shares[0] == pytest.approx(0.25, abs=0.03)
    assert shares[1] == pytest.approx(0.625, abs=0.03)
    assert shares[2:] == [1.0, 1.0]
    turns = method.turns(Stream(1, tasks=range(500)), range(20))
    assert all(float((turns == number).double().mean()) == pytest.approx(0.25, abs=0.03) for number in range(4))


HORIZONS = {"constant": ConstantHorizon(8, 4), "curriculum": Curriculum((4, 8, 12), window=4, periods=1)}
METHODS = {
    "meta-loss": MetaLoss,
    "imitation": lambda: Imitation(ratio=0.5),
    "corrections": lambda: Imitation(ratio=1.0, corrections=0.5),
    "imitation by stage": lambda: Imitation(MetaLoss(objective="log"), ratio=(0.0, 1.0), order="turn"),
    "self-improving": lambda: SelfImproving(fade=3),
    "unrolled": Unrolled,
}


COMBINATIONS = [
    combination
    for combination in itertools.product(HORIZONS, METHODS, ["L2O-DM chen", "RNNprop chen"])
    if combination[:2] != ("constant", "imitation by stage")  # refused: one stage, two ratios
]


@pytest.mark.parametrize(("horizon", "method", "make"), COMBINATIONS)
def test_every_combination_resumes_to_the_same_bits(horizon, method, make, tmp_path):
    def run(directory, interrupt_after=None):
        plan = l2o.Plan(
            trajectories=9,
            horizon=HORIZONS[horizon],
            tasks=2,
            validate_every=1,
            validation_tasks=2,
            validation_last=2,
            checkpoint_every=1,
            meta_optimizer=l2o.MetaAdam(1e-2),
        )
        windows = itertools.count(1)

        def stop(event):
            if event["kind"] in ("window", "skipped") and next(windows) == interrupt_after:
                raise KeyboardInterrupt

        return l2o.metatrain(
            LEARNED[make](), Quadratics(3), METHODS[method](), plan, directory=directory, listeners=[stop]
        )

    whole = run(tmp_path / "whole")
    for after in (2, 3, 5):
        directory = tmp_path / f"after {after}"
        with pytest.raises(KeyboardInterrupt):
            run(directory, interrupt_after=after)
        resumed = run(directory)
        assert resumed.validations == whole.validations
        assert resumed.best == whole.best
        for name, leaf in whole.optimizer.state_dict().items():
            assert torch.equal(resumed.optimizer.state_dict()[name], leaf), name


def test_a_curriculum_trains_longer_and_longer_and_ends_by_itself():
    plan = l2o.Plan(
        trajectories=200,
        horizon=Curriculum((10, 20, 40), window=10, periods=2),
        tasks=8,
        validate_every=2,
        validation_tasks=8,
        validation_last=5,
        meta_optimizer=l2o.MetaAdam(1e-2),
    )
    events = []
    trained = l2o.metatrain(L2ODM.for_quadratics(), Quadratics(3), MetaLoss(), plan, listeners=[events.append])
    stages = [validation.stage for validation in trained.validations]
    assert stages == sorted(stages)
    assert stages[-1] >= 1
    assert {(v.stage, v.steps) for v in trained.validations} <= {(0, 20), (1, 40), (2, 60)}
    assert trained.finished
    assert trained.best.value == min(v.value for v in trained.validations if v.stage == trained.best.stage)
    assert trained.optimizer.horizon in (10, 20, 40)
    assert trained.card.horizon == trained.optimizer.horizon
    windows = Counter(event["trajectory"] for event in events if event["kind"] == "window")
    assert set(windows.values()) <= {1, 2, 4}
    assert len(set(windows.values())) > 1


def test_a_stage_begins_with_the_best_meta_parameters():
    seen, events = [], []

    class Watched(MetaLoss):
        def window(self, optimizer, trajectory, steps):
            seen.append(copy.deepcopy(dict(optimizer.state_dict())))
            return super().window(optimizer, trajectory, steps)

    plan = l2o.Plan(
        trajectories=40,
        horizon=Curriculum((4, 8), window=4, periods=3),
        validate_every=1,
        validation_tasks=2,
        validation_last=1,
        meta_optimizer=l2o.MetaAdam(0.5),
    )
    l2o.metatrain(L2ODM.for_quadratics(), Quadratics(2), Watched(), plan, listeners=[events.append])
    validations = [event for event in events if event["kind"] == "validation"]
    first = next(index for index, event in enumerate(validations) if event["stage"] == 1)
    best, baseline = min(validations[:first], key=lambda event: event["value"]), validations[first]
    assert best["windows"] < baseline["windows"]  # the stage ended later than its best, or this test sees nothing
    for name, leaf in seen[best["windows"]].items():
        assert torch.equal(seen[baseline["windows"]][name], leaf), name


def test_moments_are_taken_up_with_the_meta_parameters_or_kept():
    ends = []
    for restore in (True, False):
        plan = l2o.Plan(
            trajectories=40,
            horizon=Curriculum((4, 8), window=4, periods=3),
            validate_every=1,
            validation_tasks=2,
            validation_last=1,
            restore_meta_optimizer=restore,
            meta_optimizer=l2o.MetaAdam(0.5),
        )
        trained = l2o.metatrain(L2ODM.for_quadratics(), Quadratics(2), MetaLoss(), plan)
        ends.append([v.value for v in trained.validations])
    same = next(index for index, (a, b) in enumerate(zip(*ends, strict=False)) if a != b)
    stage_one = next(i for i, v in enumerate(trained.validations) if v.stage == 1)
    assert same > stage_one  # equal up to the baseline of the second stage, different after its first steps


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Imitation(ratio=1.5), "ratio is 1.5"),
        (lambda: Imitation(ratio=()), r"ratio is \(\)"),
        (lambda: Imitation(teachers={}), "there is no teacher"),
        (lambda: Imitation(teachers={"learned": RNNprop()}), "teacher learned has meta-parameters"),
        (lambda: Imitation(teachers={"a/b": Adam(0.1)}), "leave out the '/'"),
        (lambda: Imitation(order="random"), "order is 'random'"),
        (lambda: Imitation(corrections=-0.1), "corrections is -0.1"),
        (lambda: SelfImproving(start=0.5), "start is 0.5 for each of 3 helpers"),
        (lambda: SelfImproving(fade=0), "fade is 0"),
    ],
)
def test_a_method_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()
