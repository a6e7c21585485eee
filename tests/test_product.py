"""Every method with every horizon, learned optimizer and task family: exact meta-gradients, and resuming exactly."""

import itertools

import pytest
import torch
from cases import held_constant, perturbed

import l2o
from l2o import (
    ES,
    L2ODM,
    PES,
    SGD,
    Adam,
    ConstantHorizon,
    Curriculum,
    Imitation,
    L2OScale,
    MetaLoss,
    MLPClassifier,
    MLPLOpt,
    Plan,
    Quadratics,
    RNNprop,
    SelfImproving,
    SmallFC,
    Stream,
    Unrolled,
    checkpoint,
    trees,
)
from l2o.agent import meta_parameters
from l2o.methods.meta_loss import iterate_weights, objective_value
from l2o.methods.unrolled import stopped_gradients, unroll
from l2o.processes.optimizee import Optimizee
from l2o.tasks.functions import BenchmarkFunction
from l2o.tasks.wrappers import RandomScaling

TASKS = 2
RULES = {"adam": Adam(0.01), "sgd": SGD(1e-3)}


def first_order(method, optimizer, trajectory, steps):
    """The meta-loss by autograd through the unroll, every gradient that the optimizer sees held constant."""
    losses, _ = unroll(held_constant(optimizer), trajectory, steps, gradients=stopped_gradients)  # [tasks, steps + 1]
    return summed(method, losses)


def distance_to_teacher(method, optimizer, trajectory, steps):
    """|teacher's update - own update|^2 / (2 P) along the teacher's path, its gradients constants."""
    process, taught, own = trajectory.process, trajectory.states["teacher"], trajectory.states["agent"]
    _, teacher = method._teacher(process)
    coordinates = trees.flatten(process.params).shape[1]
    total = torch.zeros(())
    for _ in range(steps):
        seen, _ = process.observe()
        update, taught = teacher(seen, taught)
        action, own = optimizer(seen, own)
        difference = trees.flatten(update) - trees.flatten(action)
        total = total + difference.square().sum() / (2 * coordinates * TASKS)
        process = process.apply(update)
    return total


def first_order_among_helpers(method, optimizer, trajectory, steps):
    """The meta-loss by autograd through an unroll in which gradients and the helpers' updates are constants."""
    process, states = trajectory.process, dict(trajectory.states)
    turns = method.turns(process.rng, range(process.step, process.step + steps))
    params, losses = process.params, []
    for step in range(steps + 1):
        losses.append(process.family.losses(params, process.instance, process.batch()))
        if step == steps:
            break
        seen, _ = process.observe()
        action, states["agent"] = optimizer(seen, states["agent"])
        for number, (name, helper) in enumerate(method.helpers.items(), 1):
            update, states[f"helper {name}"] = helper(seen, states[f"helper {name}"])
            action = trees.where_tasks(turns[step] != number, action, update)
        params = trees.map_leaves(torch.add, params, action)
        process = process.apply(trees.map_leaves(torch.Tensor.detach, action))
    return summed(method.meta_loss, torch.stack(losses, dim=1))


def summed(method, losses):
    weights = torch.tensor(iterate_weights(method.weights, losses.shape[1] - 1))
    return (objective_value(losses, method.objective) * weights).sum(1).mean()


REPLAYED = {
    "meta-loss": (lambda: MetaLoss(), first_order),
    "meta-loss, log": (lambda: MetaLoss(objective="log"), first_order),
    "meta-loss, last": (lambda: MetaLoss(weights="last"), first_order),
    "meta-loss, last, log": (lambda: MetaLoss(weights="last", objective="log"), first_order),
    "imitation, uniform": (lambda: Imitation(teachers=RULES, ratio=1.0), distance_to_teacher),
    "imitation, turn": (lambda: Imitation(teachers=RULES, ratio=1.0, order="turn"), distance_to_teacher),
    "self-improving": (lambda: SelfImproving(helpers=RULES), first_order_among_helpers),
}
METHODS = {
    **{name: make for name, (make, _) in REPLAYED.items()},
    "imitation, else log": lambda: Imitation(MetaLoss(objective="log"), teachers=RULES, ratio=0.5),
    "unrolled": Unrolled,
    "unrolled, last, log": lambda: Unrolled(weights="last", objective="log"),
    "es": lambda: ES(pairs=2),
    "pes": lambda: PES(pairs=2),
    "pes, last, log": lambda: PES(pairs=2, weights="last", objective="log"),
    "imitation, else pes": lambda: Imitation(PES(pairs=2), teachers=RULES, ratio=0.5),
}
HORIZONS = {"constant": ConstantHorizon(4, 2), "curriculum": Curriculum((2, 4), window=2, periods=1, longest_stage=1)}
OPTIMIZERS = {
    "L2O-DM chen": L2ODM.chen,
    "L2O-DM quadratics": L2ODM.for_quadratics,
    "RNNprop chen": RNNprop.chen,
    "L2O-Scale": L2OScale,
    "MLPLOpt": MLPLOpt,
    "SmallFC": SmallFC,
}
FAMILIES = {
    "quadratics": Quadratics(3),
    "branin": BenchmarkFunction.branin(),
    "perceptron": MLPClassifier(l2o.load_dataset("digits", "train"), hidden=(2,), batch=8, start_scale=0.1),
    "scaled quadratics": RandomScaling(Quadratics(3), spread=1.0),
}
VALIDATION_FAMILIES = {**FAMILIES, "scaled quadratics": Quadratics(3)}


ON_ONE_FAMILY = {"MLPLOpt", "SmallFC", "es", "pes", "pes, last, log", "imitation, else pes"}
"""They go with the perceptron alone, which has tensors of two shapes: with every family this file would take twice as
long. What they do in a window is tested in test_replay.py and test_evolution.py."""


def product(methods):
    return pytest.mark.parametrize(
        ("method", "horizon", "make", "family"),
        [
            (method, horizon, make, family)
            for method, horizon, make, family in itertools.product(methods, HORIZONS, OPTIMIZERS, FAMILIES)
            if family == "perceptron" or not ON_ONE_FAMILY & {method, make}
        ],
    )


@product(REPLAYED)
def test_the_meta_gradient_of_every_window_equals_autograd(method, horizon, make, family):
    (make_method, loss_of), windows = REPLAYED[method], HORIZONS[horizon]
    optimizer, method = perturbed(OPTIMIZERS[make]()), make_method()
    theta = meta_parameters(optimizer)
    last = len(windows.stages) - 1
    stream = Stream(5, ("test",), trajectory=last, tasks=range(TASKS))
    process = Optimizee.start(FAMILIES[family], stream, dtype=torch.float64)
    trajectory = method.begin(optimizer, process, stream, stage=last)
    for _ in range(windows.stages[last].steps // windows.window):
        estimate, after = method.window(optimizer, trajectory, windows.window)
        loss = loss_of(method, optimizer, trajectory, windows.window)
        truth = torch.autograd.grad(loss, list(theta.values()), materialize_grads=True)
        wrong = torch.cat([(estimate.gradient[name] - leaf).flatten() for name, leaf in zip(theta, truth, strict=True)])
        assert float(wrong.norm()) <= 1e-9 * float(torch.cat([leaf.flatten() for leaf in truth]).norm())
        assert estimate.value == pytest.approx(loss.item(), rel=1e-9)
        assert after.process.survivors.all()
        trajectory = after


class StoppedError(Exception):
    pass


def run(make, family, method, horizon, directory=None, *, stop_at=None, **options):
    """Two trajectories, the second of two windows; stopped when the window of that number has been run, unsaved."""
    seen = itertools.count(1)

    def stop(event):
        if event["kind"] in ("window", "skipped") and next(seen) == stop_at:
            raise StoppedError

    plan = Plan(
        trajectories=2,
        horizon=HORIZONS[horizon],
        tasks=TASKS,
        meta_optimizer=l2o.MetaAdam(0.01),
        validate_every=1,
        validation_tasks=1,
        validation_last=1,
        checkpoint_every=1,
    )
    return l2o.metatrain(
        OPTIMIZERS[make](),
        FAMILIES[family],
        METHODS[method](),
        plan,
        validation_family=VALIDATION_FAMILIES[family],
        directory=directory,
        listeners=[stop],
        **options,
    )


@product(METHODS)
def test_a_run_stopped_in_the_middle_of_a_trajectory_resumes_to_the_same_bits(method, horizon, make, family, tmp_path):
    last = {"constant": 4, "curriculum": 3}[horizon]
    with pytest.raises(StoppedError):
        run(make, family, method, horizon, tmp_path, stop_at=last)
    _, metadata = checkpoint.read(tmp_path / "checkpoint.safetensors", kind="checkpoint")
    progress = metadata["progress"]
    assert (progress["trajectory"], progress["window"], progress["windows"]) == (1, 1, last - 1)
    assert progress["standing"]["stage"] == len(HORIZONS[horizon].stages) - 1
    resumed, whole = run(make, family, method, horizon, tmp_path), run(make, family, method, horizon)
    assert checkpoint.digest(resumed.optimizer.state_dict()) == checkpoint.digest(whole.optimizer.state_dict())
    assert resumed.validations == whole.validations
    assert resumed.finished
