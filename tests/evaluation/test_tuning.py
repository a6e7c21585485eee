import math

import pytest
import torch
from torch import Tensor

from l2o.curves import run_curves
from l2o.errors import ArgumentError
from l2o.evaluation import statistics
from l2o.evaluation.tuning import Trial, log_grid, tune, tune_all
from l2o.optimizers.handcrafted import SGD, Adam, Momentum
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.trees import Tree


class Bowl(TaskFamily):
    """f(x) = x^2: gradient descent multiplies x by 1 - 2 lr, so that 1/2 is best and above 1 it diverges."""

    name = "bowl"

    def init(self, instance: Tree, rng: Stream) -> Tree:
        return {"x": rng.uniform((1,), low=1.0, high=2.0)}

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        return params["x"].square().sum()


RNG = Stream(5, ("reported",), tasks=range(3))


def test_log_grid_has_both_ends_and_exact_powers_of_two() -> None:
    assert log_grid(2**-13, 2**-3) == [2.0**k for k in range(-13, -2)]
    assert log_grid(1.0, 2.0, per_octave=2) == pytest.approx([1, math.sqrt(2), 2])
    assert log_grid(1.0, 3.0) == [1.0, 2.0]


@pytest.mark.parametrize("metric", ["final", "log-final", "area"])
def test_the_best_rate_of_a_bowl_is_one_half_by_every_metric(metric: statistics.Metric) -> None:
    tuning = tune(SGD, Bowl(), RNG, steps=20, grid=log_grid(2**-4, 4), metric=metric, last=5)
    assert tuning.best == 0.5
    assert not tuning.widened
    assert not tuning.on_edge
    assert tuning.scores[2.0] == tuning.scores[4.0] == math.inf


def test_the_budget_is_counted_exactly() -> None:
    tuning = tune(SGD, Bowl(), RNG, steps=20, grid=[0.25, 0.5, 1.0, 2.0], metric="final")
    assert tuning.runs == 4 * 3
    assert tuning.evaluations == 4 * 3 * 21


def test_a_score_is_the_mean_over_the_tuning_tasks() -> None:
    tuning = tune(SGD, Bowl(), RNG, steps=20, grid=[0.1, 0.5, 0.9], metric="final", last=3)
    losses = run_curves(SGD(0.1), Bowl(), RNG.child("tuning"), steps=20).losses
    assert tuning.scores[0.1] == pytest.approx(float(losses[:, -3:].mean()), rel=1e-12)


def test_tuning_tasks_differ_from_those_that_the_same_stream_reports() -> None:
    tuning = tune(SGD, Bowl(), RNG, steps=20, grid=[0.1, 0.5, 0.9], metric="final", last=3)
    reported = run_curves(SGD(0.1), Bowl(), RNG, steps=20).losses[:, -3:].mean()
    assert tuning.scores[0.1] != pytest.approx(float(reported), rel=1e-3)


@pytest.mark.parametrize(
    ("grid", "added"), [([2**-6, 2**-5, 2**-4], [2**-3, 2**-2, 2**-1, 1]), ([4.0, 8.0], [2.0, 1.0, 0.5, 0.25])]
)
def test_a_best_value_on_the_edge_widens_the_grid_at_its_own_ratio(grid: list[float], added: list[float]) -> None:
    tuning = tune(SGD, Bowl(), RNG, steps=30, grid=grid, metric="final")
    assert tuning.best == 0.5
    assert list(tuning.scores) == sorted([*grid, *added])
    assert tuning.widenings == len(added)
    assert tuning.runs == 3 * len(tuning.scores)
    assert tuning.widened
    assert not tuning.on_edge


def test_a_grid_that_may_not_grow_enough_says_so() -> None:
    tuning = tune(SGD, Bowl(), RNG, steps=30, grid=[2**-6, 2**-5], metric="final", max_widenings=1)
    assert (tuning.best, tuning.widenings, tuning.on_edge) == (2**-4, 1, True)


def test_a_refinement_tries_the_values_halfway_to_the_neighbours_of_the_best() -> None:
    tuning = tune(SGD, Bowl(), RNG, steps=30, grid=[2**-7, 2**-3, 2.0], metric="final", refinements=2)
    assert list(tuning.scores) == [2**-7, 2**-5, 2**-3, 2**-2, 2**-1, 1.0, 2.0]
    assert tuning.best == 2**-1
    assert not tuning.on_edge


def test_of_equal_scores_the_smaller_value_is_best() -> None:
    tuning = tune(lambda lr: SGD(0.5), Bowl(), RNG, steps=20, grid=[1.0, 2.0, 4.0], metric="final", max_widenings=0)
    assert tuning.best == 1.0


def test_both_metrics_come_from_the_same_runs() -> None:
    seen: list[Trial] = []
    both = tune_all(Adam, Bowl(), RNG, steps=20, grid=log_grid(2**-5, 1), progress=seen.append, last=2)
    values = list(both["final"].scores)
    assert list(both["area"].scores) == values == sorted(trial.value for trial in seen)
    assert both["final"].evaluations == both["area"].evaluations == sum(trial.evaluations for trial in seen)
    for metric, tuning in both.items():
        assert tuning.scores == {t.value: t.scores[metric] for t in sorted(seen, key=lambda t: t.value)}


def test_the_metrics_may_disagree_about_the_best_value() -> None:
    # Momentum 0.9 is critically damped at (1 - sqrt 0.9)^2 / 2 = 0.0013 and ends lowest there; large ones start faster.
    both = tune_all(Momentum, Bowl(), RNG, steps=200, grid=log_grid(2**-9, 1), last=5)
    assert both["final"].best < 0.01 < 0.1 < both["area"].best


def test_progress_tells_each_value_in_turn() -> None:
    seen: list[Trial] = []
    tune(SGD, Bowl(), RNG, steps=20, grid=[4.0, 0.5, 0.25], metric="final", progress=seen.append)
    assert [(trial.value, trial.diverged, trial.runs) for trial in seen] == [(0.25, 0, 3), (0.5, 0, 3), (4.0, 3, 3)]


def test_one_diverged_task_makes_the_score_infinite() -> None:
    class OneSteep(Bowl):
        def sample(self, rng: Stream) -> Tree:
            steepness = [50.0 if task == 1 else 1.0 for task in rng.tasks]
            return {"steepness": torch.tensor(steepness, dtype=torch.float64)}

        def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
            return instance["steepness"] * params["x"].square().sum()

    tuning = tune(SGD, OneSteep(), RNG, steps=30, grid=[0.005, 0.01, 0.5], metric="final")
    assert tuning.scores[0.5] == math.inf
    assert tuning.best == 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": [0.1]}, "at least two"),
        ({"grid": [0.1, 0.1]}, "at least two"),
        ({"grid": [0.0, 0.1]}, "positive"),
        ({"last": 30}, "last is 30"),
        ({"max_widenings": -1}, "max_widenings -1"),
        ({"refinements": -1}, "refinements -1"),
        ({"metrics": ()}, "at least one"),
        ({"grid": [64.0, 128.0], "max_widenings": 2}, "grid of smaller values"),
    ],
)
def test_what_cannot_be_tuned_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        tune_all(SGD, Bowl(), RNG, **{"steps": 20, "grid": [0.1, 0.2], **arguments})


@pytest.mark.parametrize(("low", "high", "per_octave"), [(1.0, 1.0, 1), (0.0, 1.0, 1), (1.0, 2.0, 0)])
def test_a_grid_without_extent_is_refused(low: float, high: float, per_octave: int) -> None:
    with pytest.raises(ArgumentError, match="a grid from"):
        log_grid(low, high, per_octave=per_octave)
