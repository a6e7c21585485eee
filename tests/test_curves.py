"""Curves of the true objective beside those of minibatches, and curves of runs that diverged."""

import math
from dataclasses import replace

import pytest
import torch

from l2o.agent import Action
from l2o.curves import TrueObjective, held, run_curves
from l2o.errors import ArgumentError, UnsupportedError
from l2o.optimizers.dm import L2ODM
from l2o.optimizers.handcrafted import SGD, Adam
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.tasks.data import blobs
from l2o.tasks.objective import true_losses
from l2o.tasks.projected import ProjectedClassification
from l2o.tasks.quadratic import Quadratics
from l2o.tasks.softmax_regression import SoftmaxRegression
from l2o.trees import Tree

RNG = Stream(3, ("curves",), tasks=range(3))
FAMILY = ProjectedClassification(blobs(), dimensions=16, hidden=16, batch=10)


@pytest.mark.parametrize(("every", "examples"), [(1, None), (5, None), (4, 700)])
def test_true_losses_are_those_of_every_kth_iterate(every: int, examples: int | None) -> None:
    settings = TrueObjective(every=every, examples=examples)
    curves = run_curves(SGD(0.2), FAMILY, RNG, steps=11, true_objective=settings, dtype=torch.float64)
    process = Optimizee.start(FAMILY, RNG, dtype=torch.float64)
    points = []
    for step in range(12):
        if step % every == 0:
            points.append(true_losses(FAMILY, process.params, process.instance, examples=examples))
        seen, _ = process.observe()
        process = process.apply({name: -0.2 * seen[f"grad/{name}"] for name in process.params})
    assert curves.true_every == every
    assert curves.true_losses is not None
    assert curves.true_losses.dtype == torch.float64
    assert curves.true_losses.shape == (3, 1 + 11 // every)
    torch.testing.assert_close(curves.true_losses, torch.stack(points, dim=1), rtol=1e-10, atol=0)


def test_recording_the_true_objective_changes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run_curves(Adam(0.01), FAMILY, RNG, steps=6)
    monkeypatch.setattr("l2o.curves.COORDINATES_AT_ONCE", 2 * 442)  # two tasks, then one
    true = run_curves(Adam(0.01), FAMILY, RNG, steps=6, true_objective=TrueObjective(every=3))
    torch.testing.assert_close(true.losses, plain.losses, rtol=1e-5, atol=0)
    assert (plain.true_losses, plain.true_every) == (None, None)
    assert (true.evaluations, true.loss_evaluations) == (plain.evaluations, plain.loss_evaluations) == (7, 0)
    assert true.true_losses is not None
    assert true.true_losses.shape == (3, 3)


def test_time_of_a_step_is_without_the_true_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_000))  # every look at the clock is a second later

    def slow(*_: object, **__: object) -> torch.Tensor:
        for _ in range(50):
            next(clock)
        return torch.zeros(3)

    monkeypatch.setattr("l2o.curves.true_losses", slow)
    monkeypatch.setattr("l2o.curves.time.perf_counter", lambda: float(next(clock)))
    curves = run_curves(SGD(0.1), Quadratics(3), RNG, steps=4, true_objective=TrueObjective())
    # The clock is looked at twice around each of 5 measurements, one second apart from what lies between: 5 + 1.
    assert curves.seconds_per_step == pytest.approx(6 / (4 * 3))


def test_without_minibatches_the_true_objective_is_the_loss() -> None:
    curves = run_curves(SGD(0.01), Quadratics(3), RNG, steps=6, true_objective=TrueObjective(), dtype=torch.float64)
    assert curves.true_losses is not None
    torch.testing.assert_close(curves.true_losses, curves.losses, rtol=1e-12, atol=0)


def test_a_task_that_dies_has_no_true_objective_from_there_on() -> None:
    class Dying(SoftmaxRegression):
        def loss(self, params: Tree, instance: Tree, batch: Tree) -> torch.Tensor:
            loss = super().loss(params, instance, batch)
            return torch.where(params["bias"][0].abs() > 0.2, torch.inf, loss)

    family = Dying(3, samples=50, batch=6)
    curves = run_curves(SGD(0.5), family, RNG, steps=20, true_objective=TrueObjective(), dtype=torch.float64)
    assert curves.true_losses is not None
    assert curves.losses.isnan().any()
    assert torch.equal(curves.losses.isnan(), curves.true_losses.isnan())


def test_overwriting_the_state_in_place_changes_no_curve() -> None:
    class Copying(L2ODM):
        def act(self, observation: Tree, state: Tree, *, owned: bool = False) -> tuple[Action, Tree]:
            return super().act(observation, state, owned=False)

    class Dying(Quadratics):
        def value_and_grad(self, params: Tree, instance: Tree, batch: Tree) -> tuple[torch.Tensor, Tree]:
            losses, grads = super().value_and_grad(params, instance, batch)
            return torch.where(losses > 20, torch.inf, losses), grads

    rng = RNG.over(range(8))
    curves = run_curves(L2ODM.andrychowicz(), Dying(4), rng, steps=40)
    dead = curves.losses.isnan().any(1)
    assert bool((curves.losses[:, 0].isfinite() & dead).any())
    assert not bool(dead.all())
    assert torch.equal(
        curves.losses.nan_to_num(), run_curves(Copying.andrychowicz(), Dying(4), rng, steps=40).losses.nan_to_num()
    )


def test_nothing_is_computed_after_all_tasks_have_died() -> None:
    class Counted(Quadratics):
        evaluations = 0

        def value_and_grad(self, params: Tree, instance: Tree, batch: Tree) -> tuple[torch.Tensor, Tree]:
            Counted.evaluations += 1
            return super().value_and_grad(params, instance, batch)

    curves = run_curves(SGD(1e30), Counted(3), RNG, steps=1_000, true_objective=TrueObjective(every=10))
    assert curves.losses.shape == (3, 1_001)
    assert curves.losses[:, 0].isfinite().all()
    assert curves.losses[:, 5:].isnan().all()
    assert bool(curves.diverged.all())
    assert curves.true_losses is not None
    assert curves.true_losses.shape == (3, 101)
    assert curves.true_losses[:, 1:].isnan().all()
    assert Counted.evaluations < 10


def test_a_family_without_a_true_objective_is_refused() -> None:
    class Unknown(Quadratics):
        def whole(self) -> None:
            return None

    with pytest.raises(UnsupportedError, match="no true objective"):
        run_curves(SGD(0.1), Unknown(3), RNG, steps=2, true_objective=TrueObjective())


def test_measuring_at_every_zeroth_step_is_refused() -> None:
    with pytest.raises(ArgumentError, match="every is 0"):
        TrueObjective(every=0)
    with pytest.raises(ArgumentError, match="every is -1"):
        replace(TrueObjective(), every=-1)


def test_curves_are_held_at_ten_times_their_start_from_where_they_diverged() -> None:
    nan, inf = math.nan, math.inf
    losses = torch.tensor(
        [
            [2.0, 1.0, 19.9, 1.0],  # did not
            [2.0, 20.1, 1.0, 0.5],  # did, and came back
            [2.0, 1.0, nan, nan],
            [2.0, inf, 1.0, 1.0],
            [-2.0, 15.9, 16.1, 3.0],  # nine times |start| above the start
            [0.0, 0.0, 1e-9, 0.0],
        ],
        dtype=torch.float64,
    )
    curves, flags = held(losses)
    expected = [[2, 1, 19.9, 1], [2, 20, 20, 20], [2, 1, 20, 20], [2, 20, 20, 20], [-2, 15.9, 16, 16], [0, 0, 0, 0]]
    assert curves.tolist() == expected
    assert flags.tolist() == [False, True, True, True, True, True]


def test_a_run_that_starts_nowhere_cannot_be_held() -> None:
    with pytest.raises(ArgumentError, match=r"start at \[nan\]"):
        held(torch.tensor([[math.nan, 1.0]]))
