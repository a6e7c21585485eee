"""A mixture gives each trajectory, and each task of a validation, one of its families."""

import math
from collections import Counter

import pytest
import torch

from l2o import trees
from l2o.curves import run_curves
from l2o.errors import ArgumentError
from l2o.optimizers.handcrafted import Adam
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.tasks.functions import BenchmarkFunction
from l2o.tasks.mixture import Mixture
from l2o.tasks.quadratic import Quadratics
from l2o.tasks.wrappers import ConvexRegulariser, NoisyGradients, RandomScaling

SMALL, LARGE, FUNCTION = Quadratics(2), Quadratics(5), BenchmarkFunction.booth()


class Measured(Quadratics):
    def metrics(self, params, instance):
        return {"first": params["x"][:, 0], "second": params["x"][:, 1]}


class AlsoMeasured(Quadratics):
    def metrics(self, params, instance):
        return {"second": params["x"][:, 1]}

    def data_notes(self):
        return ["made up"]


def three(**options) -> Mixture:
    return Mixture("three", [SMALL, LARGE, FUNCTION], **options)


def names(mixture: Mixture, trajectories: int, **stream) -> list[str]:
    return [mixture.member(Stream(3, trajectory=number, **stream)).name for number in range(trajectories)]


def test_a_trajectory_is_of_one_family_and_the_process_keeps_it():
    mixture, seen = three(), set()
    for trajectory in range(10):
        stream = Stream(0, ("train",), trajectory=trajectory, tasks=range(4))
        process = Optimizee.start(mixture, stream, dtype=torch.float64)
        assert any(process.family is family for family in mixture.families)
        alone = Optimizee.start(process.family, stream, dtype=torch.float64)
        for name, leaf in alone.params.items():
            assert torch.equal(process.params[name], leaf)
        assert process.observe()[1]["loss"].shape == (4,)
        seen.add(process.family.name)
    assert len(seen) == 3


def test_a_member_depends_on_the_trajectory_and_the_first_task_alone():
    assert names(three(), 30) == names(three(), 30, tasks=range(7))
    assert names(three(), 30) != names(three(), 30, tasks=range(1, 8))


def test_all_families_are_drawn_alike_or_by_their_weights():
    counts = Counter(names(three(), 3000))
    assert all(abs(count - 1000) < 5 * math.sqrt(3000 * 2 / 9) for count in counts.values())  # five deviations
    counts = Counter(names(three(weights=[3, 0, 1]), 3000))
    assert counts[LARGE.name] == 0
    assert abs(counts[SMALL.name] - 2250) < 5 * math.sqrt(3000 * 3 / 16)


def test_so_many_trajectories_in_a_row_meet_one_family():
    drawn = names(three(trajectories_each=5), 300)
    blocks = [drawn[start : start + 5] for start in range(0, 300, 5)]
    assert all(len(set(block)) == 1 for block in blocks)
    assert len({block[0] for block in blocks}) == 3
    starts = [Optimizee.start(three(trajectories_each=5), Stream(3, trajectory=number)).params for number in (0, 1)]
    assert not torch.equal(*(trees.flatten(start) for start in starts))


def test_the_name_tells_variants_apart():
    assert three().name == "three"
    assert three(weights=[1, 2, 0.5], trajectories_each=5).name == "three-weighted-1:2:0.5-each-5"


def test_a_mixture_in_a_mixture_draws_from_its_own_families():
    nested = Mixture("outer", [three(), Quadratics(7)])
    assert [member.name for member in nested.members()] == [SMALL.name, LARGE.name, FUNCTION.name, "quadratics-7d"]
    assert set(names(nested, 100)) == {member.name for member in nested.members()}


def test_curves_give_each_task_the_family_that_its_number_draws():
    mixture, stream = three(), Stream(1, ("validation",), tasks=range(12))
    curves = run_curves(Adam(0.1), mixture, stream, steps=5, dtype=torch.float64)
    members = [mixture.member(stream.over((task,))) for task in range(12)]
    assert len({member.name for member in members}) == 3
    for task, member in enumerate(members):
        alone = run_curves(Adam(0.1), member, stream.over((task,)), steps=5, dtype=torch.float64)
        torch.testing.assert_close(curves.losses[task], alone.losses[0], rtol=1e-12, atol=0)


def test_curves_of_a_mixture_do_not_depend_on_the_tasks_beside():
    stream = Stream(1, ("validation",), tasks=range(12))
    whole = run_curves(Adam(0.1), three(), stream, steps=5, dtype=torch.float64).losses
    parts = [
        run_curves(Adam(0.1), three(), stream.over(tasks), steps=5, dtype=torch.float64).losses
        for tasks in (range(5), range(5, 12))
    ]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-12, atol=0)


def test_curves_have_the_metrics_that_all_tasks_have():
    mixture = Mixture("measured", [Measured(2), AlsoMeasured(3)])
    stream = Stream(0, tasks=range(10))
    assert len({mixture.member(stream.over((task,))).name for task in stream.tasks}) == 2
    metrics = run_curves(Adam(0.1), mixture, stream, steps=3).metrics
    assert {name: measure.shape for name, measure in metrics.items()} == {"second": (10,)}


def test_data_notes_are_those_of_the_families_once_each():
    assert Mixture("noted", [AlsoMeasured(3), AlsoMeasured(7), SMALL]).data_notes() == ["made up"]


@pytest.mark.parametrize(
    "wrap", [RandomScaling, ConvexRegulariser, lambda family: NoisyGradients(family, 1.0)], ids=["scaled", "", "noisy"]
)
def test_a_wrapper_around_a_mixture_is_refused(wrap):
    with pytest.raises(ArgumentError, match=r"the mixture three has no tasks of its own.*around the families"):
        Optimizee.start(wrap(three()), Stream(0))


def test_a_mixture_has_no_loss_of_its_own():
    with pytest.raises(ArgumentError, match=r"take one with member\(rng\)"):
        three().loss({}, {}, {})


@pytest.mark.parametrize(
    ("families", "options", "message"),
    [
        ([], {}, "at least one"),
        ([SMALL, Quadratics(2)], {}, "each name once"),
        ([SMALL, LARGE], {"weights": [1]}, "for 2 families"),
        ([SMALL, LARGE], {"weights": [1, -1]}, "not negative"),
        ([SMALL, LARGE], {"weights": [0, 0]}, "not all 0"),
        ([SMALL, LARGE], {"weights": [1, math.inf]}, "one number for each"),
        ([SMALL, LARGE], {"trajectories_each": 0}, "trajectories_each is 0"),
    ],
)
def test_nonsense_is_refused(families, options, message):
    with pytest.raises(ArgumentError, match=message):
        Mixture("wrong", families, **options)
