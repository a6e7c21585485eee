"""Replicas of a problem with several losses: updates as the equation says, untouched groups, data that do not depend on
what is chosen, and the published reference values of the regression."""

from dataclasses import replace

import pytest
import torch

from l2o import trees
from l2o.errors import ArgumentError
from l2o.optimizers.handcrafted import SGD, Adam
from l2o.processes.judging import Judgement, Outcome
from l2o.processes.replicated_losses import ReplicatedLosses, Settings
from l2o.rng import Stream
from l2o.rollout import rollout
from l2o.schedules.base import ScheduleDrives
from l2o.schedules.fixed import ConstantRates, InTurn, Recorded
from l2o.tasks.alternate import AlternateFamily, Choice, Goal, every_subset
from l2o.tasks.regression import QuadraticRegression

RNG = Stream(3, ("test",), tasks=range(3))
KEEP = frozenset({"loss", "metric"})
LOWER = Goal("sum")


class Two(AlternateFamily):
    """l_1 = (x - c)^2 on group "x"; l_2 = (y - x)^2 + x^2 on both; the minibatch is c."""

    name = "two"

    def __init__(self, choices=None, goal=LOWER):
        pairs = {"first": (("one", "x"),), "second": (("two", "y"),), "both": (("one", "x"), ("two", "x"))}
        chosen = [Choice(name, pairs) for name, pairs in pairs.items()]
        super().__init__(
            losses=("one", "two"),
            groups={"x": ("x",), "y": ("y",)},
            choices=chosen if choices is None else choices,
            goal=goal,
            updates=("halve",),
        )

    def init(self, instance, rng):
        return {"x": rng.child("x").normal((2,)), "y": rng.child("y").normal((2,))}

    def batch_indices(self, instance, rng):
        return {"c": rng.normal((2,))}

    def loss_named(self, name, params, instance, batch):
        if name == "one":
            return (params["x"] - batch["c"]).square().sum()
        return (params["y"] - params["x"]).square().sum() + params["x"].square().sum()

    def updated(self, name, params, instance, batch):
        return {"y": params["y"] / 2}

    def metrics(self, params, instance):
        return {"sum": params["x"].sum(1)}


def started(family=None, rng=RNG, steps=1000, **settings):
    rules = {name: SGD(0.1) for name in ("x", "y")}
    return ReplicatedLosses.start(
        family or Two(), Settings(**{"optimizers": rules, **settings}), rng, steps=steps, dtype=torch.float64
    )


def chosen(*numbers):
    return {"choice": torch.tensor(numbers)}


def test_one_choice_takes_the_gradient_step_of_its_pairs_at_the_same_parameters():
    process = started()
    x, y, c = process.params["x"], process.params["y"], process._batch(0)["c"]
    after = process.apply(chosen(0, 1, 2)).params
    one, two = 2 * (x - c), 2 * (x - y) + 2 * x
    assert torch.allclose(after["x"][0], x[0] - 0.1 * one[0])
    assert torch.allclose(after["y"][1], y[1] - 0.1 * 2 * (y - x)[1])
    assert torch.allclose(after["x"][2], x[2] - 0.1 * (one + two)[2])


def test_groups_and_states_that_a_choice_does_not_name_stay_bit_for_bit():
    process = started(optimizers={"x": Adam(0.1), "y": Adam(0.1)}).apply(chosen(0, 1, 0))
    after = process.apply(chosen(0, 1, 0))
    assert torch.equal(after.params["y"][0], process.params["y"][0])
    assert torch.equal(after.params["x"][1], process.params["x"][1])
    for leaf in ("m", "v", "step"):
        assert torch.equal(after.states[f"y/{leaf}"][0], process.states[f"y/{leaf}"][0])
        assert not torch.equal(after.states[f"x/{leaf}"][0], process.states[f"x/{leaf}"][0])


def test_own_and_shared_optimizers_agree_for_sgd_and_differ_for_adam():
    for rule, same in ((SGD(0.1), True), (Adam(0.1), False)):
        ends = [
            started(optimizers={"x": rule, "y": rule}, optimizer_state=owner).apply(chosen(2, 2, 2)).params["x"]
            for owner in ("group", "pair")
        ]
        assert torch.allclose(*ends, atol=1e-14) == same


def test_a_choice_that_repeats_takes_a_fresh_minibatch_each_time():
    once, twice = (Two([Choice("first", (("one", "x"),), repeat=n)]) for n in (1, 2))
    process = started(twice)
    x = process.params["x"]
    for turn in range(2):
        x = x - 0.2 * (x - process._batch(turn)["c"])
    assert torch.allclose(process.apply(chosen(0, 0, 0)).params["x"], x)
    assert not torch.equal(process._batch(0)["c"], process._batch(1)["c"])
    assert torch.equal(started(once)._batch(0)["c"], process._batch(0)["c"])


def test_minibatches_do_not_depend_on_what_is_chosen():
    first, second = (started().apply(chosen(*numbers)).apply(chosen(0, 0, 0)) for numbers in ((0, 0, 0), (1, 2, 1)))
    assert torch.equal(first._batch(0)["c"], second._batch(0)["c"])


def test_replicas_are_the_runs_that_they_would_be_alone():
    together = started().apply(chosen(0, 1, 2)).apply(chosen(2, 0, 1))
    for task, numbers in enumerate(((0, 2), (1, 0), (2, 1))):
        alone = started(rng=RNG.over([task]))
        for number in numbers:
            alone = alone.apply(chosen(number))
        for name in ("x", "y"):
            assert torch.allclose(alone.params[name][0], together.params[name][task], atol=1e-14)


def test_runs_in_common_differ_by_their_decisions_alone():
    process = started(common=True).apply(chosen(0, 1, 0)).apply(chosen(0, 0, 0))
    alone = started(rng=RNG.over([0])).apply(chosen(0)).apply(chosen(0))
    for name in ("x", "y"):
        assert torch.allclose(process.params[name][[0, 2]], alone.params[name].expand(2, -1))
    assert not torch.equal(process.params["x"][0], process.params["x"][1])


def test_a_measure_is_that_of_the_last_step_that_used_the_pair():
    process = started()
    first, _ = process.observe()
    after = process.apply(chosen(0, 1, 0))
    seen, _ = after.observe()
    x, c = process.params["x"], process._batch(0)["c"]
    assert torch.allclose(seen["loss/one"], (x - c).square().sum(1))  # the start's measure too: of the same minibatch
    moved = after.apply(chosen(1, 0, 1)).observe()[0]
    fresh = (after.params["x"] - after._batch(0)["c"]).square().sum(1)
    assert torch.allclose(moved["loss/one"][1], fresh[1])
    assert torch.equal(moved["loss/one"][0], seen["loss/one"][0])
    assert moved["age/one"].tolist() == [1.0, 0.0, 1.0]
    assert torch.allclose(first["gradient/one:x"], (2 * (x - c)).norm(dim=1) / 2**0.5)


def test_everything_is_measured_at_every_step_if_asked_for():
    process = started(eager=True).apply(chosen(0, 0, 0))
    seen = process.apply(chosen(0, 0, 0)).observe()[0]
    x, y = process.params["x"], process.params["y"]
    assert torch.allclose(seen["loss/two"], (y - x).square().sum(1) + x.square().sum(1))


def test_validations_come_when_they_are_due():
    process = started(validate_every=2)
    flags = []
    for _ in range(4):
        process = process.apply(chosen(0, 0, 0))
        flags.append(process.observe()[0]["validated"][0].item())
        if flags[-1]:
            assert torch.equal(process.observe()[0]["metric/sum"], process.params["x"].sum(1))
    assert flags == [0.0, 1.0, 0.0, 1.0]


def test_a_task_whose_loss_is_not_finite_dies_alone():
    process = started()
    bad = {"x": process.params["x"].clone(), "y": process.params["y"]}
    bad["x"][1, 0] = torch.nan
    after = replace(process, params=bad).apply(chosen(0, 0, 0))
    assert after.alive.tolist() == [True, False, True]
    assert after.observe()[0]["loss/one"][1] == 0
    again = after.apply(chosen(0, 0, 0))
    assert again.alive.tolist() == [True, False, True]
    assert not torch.equal(again.params["x"][0], after.params["x"][0])
    assert all(bool(torch.isfinite(leaf).all()) for leaf in again.observe()[0].values())


def test_a_run_is_judged_by_its_best_validation_or_by_its_last():
    for at in ("best", "last"):
        process, seen = started(Two(goal=Goal("sum", at=at)), validate_every=2, steps=5), []
        for number in (0, 1, 2, 2, 0):
            process = process.apply(chosen(number, number, number))
            if process.step in (2, 4, 5):  # the last step is always validated
                seen.append(process.params["x"].sum(1))
        trail = torch.stack([started().params["x"].sum(1), *seen])  # [validations, tasks]
        wanted = trail[-1] if at == "last" else trail.min(0).values
        assert torch.equal(process.judgement.metrics["sum"], wanted)
        steps = torch.tensor([0, 2, 4, 5])[trail.argmin(0)] if at == "best" else torch.full((3,), 5)
        assert torch.equal(process.judgement.step, steps)
    higher = started(Two(goal=Goal("sum", "higher")), validate_every=1).apply(chosen(0, 0, 0))
    both = torch.stack([started().params["x"].sum(1), higher.params["x"].sum(1)])
    assert torch.equal(higher.judgement.metrics["sum"], both.max(0).values)


def test_a_run_ends_when_its_patience_does():
    process = started(validate_every=1, patience=3)
    for _ in range(3):
        process = process.apply(chosen(1, 1, 1))  # leaves x as it is: no validation is better
    assert process.outcome.tolist() == [Outcome.FINISHED] * 3
    again = process.apply(chosen(0, 0, 0))
    assert torch.equal(again.params["x"], process.params["x"])
    assert not again.observe()[0]["loss/one"].any()


def test_patience_is_counted_from_the_best_validation():
    goal, alive = Goal("error"), torch.tensor([True])
    judgement, waited = Judgement.of({"error": torch.tensor([3.0])}, goal), []
    for step, value in enumerate((4.0, 3.5, 2.0, 2.5), start=1):
        judgement = judgement.after({"error": torch.tensor([value])}, goal, step, alive)
        waited.append(judgement.waited.item())
    assert waited == [1, 2, 0, 1]
    assert judgement.after({"error": torch.tensor([9.0])}, goal, 5, ~alive).waited.item() == 1


def test_a_run_that_takes_the_same_choice_too_often_collapses():
    process = started(collapse_after=2)
    for numbers in ((0, 0, 0), (0, 1, 0), (0, 1, 1)):
        process = process.apply(chosen(*numbers))
    assert process.outcome.tolist() == [Outcome.COLLAPSED, Outcome.RUNNING, Outcome.RUNNING]


def test_a_goal_that_is_not_finite_is_a_divergence():
    class Root(Two):
        def metrics(self, params, instance):
            return {"sum": params["x"].sum(1).sqrt()}

    outcome = started(Root()).outcome
    negative = started().params["x"].sum(1) < 0
    assert negative.any()
    assert torch.equal(outcome == Outcome.DIVERGED, negative)


def test_an_update_of_the_family_s_own_is_a_choice_with_a_cost():
    process = started(Two([Choice("halve", update="halve", cost=5), Choice("first", (("one", "x"),), repeat=2)]))
    after = process.apply(chosen(0, 1, 0))
    assert torch.equal(after.params["y"][[0, 2]], process.params["y"][[0, 2]] / 2)
    assert torch.equal(after.params["y"][1], process.params["y"][1])
    assert after.observe()[0]["cost"].tolist() == [5, 2, 5]


def test_a_run_goes_on_from_its_snapshot():
    process = started(optimizers={"x": Adam(0.1), "y": Adam(0.1)}, validate_every=2).apply(chosen(0, 1, 2))
    saved = {name: process.snapshot()[name] for name in sorted(process.snapshot(), reverse=True)}
    again = started(optimizers={"x": Adam(0.1), "y": Adam(0.1)}, validate_every=2).restored(saved, 1)
    for _ in range(3):
        process, again = process.apply(chosen(2, 0, 1)), again.apply(chosen(2, 0, 1))
    found, wanted = again.snapshot(), process.snapshot()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_every_subset_of_the_pairs_is_a_choice():
    choices = every_subset([("one", "x"), ("two", "x"), ("two", "y")])
    assert len(choices) == 7
    assert choices[5 - 1].pairs == (("one", "x"), ("two", "y"))
    with pytest.raises(ArgumentError, match="11 pairs have 2047 subsets"):
        every_subset([("one", str(i)) for i in range(11)])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ArgumentError, match="names the update 'double'; there are halve"):
        Two([Choice("wrong", update="double")])
    with pytest.raises(ArgumentError, match="is judged by 'end' and has the metrics sum"):
        started(Two(goal=Goal("end")))
    with pytest.raises(ArgumentError, match="patience is 0"):
        started(patience=0)
    with pytest.raises(ArgumentError, match="better is 'more'"):
        Goal("sum", "more")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="give at least one pair"):
        Choice("nothing")
    with pytest.raises(ArgumentError, match="names the loss 'three'; there are one, two"):
        Two([Choice("wrong", (("three", "x"),))])
    with pytest.raises(ArgumentError, match="names the group 'z'; there are x, y"):
        Two([Choice("wrong", (("one", "z"),))])
    with pytest.raises(ArgumentError, match="'one' does not reach the group 'y'"):
        started(Two([Choice("wrong", (("one", "y"),))]))
    with pytest.raises(ArgumentError, match="no optimizer for x"):
        started(optimizers={"y": SGD(0.1)})
    with pytest.raises(ArgumentError, match="repeats 0 times"):
        Choice("never", (("one", "x"),), repeat=0)


def run(schedule, steps, *, family, rng=RNG, **settings):
    """Validation error of the best validation of each task, over a run."""
    rules = {"model": Adam(5e-4)}
    process = ReplicatedLosses.start(family, Settings(rules, **settings), rng, steps=steps)
    driver = ScheduleDrives(schedule, rng)
    record = rollout(process, driver, driver.begin(), steps, record=KEEP)
    validations = torch.stack([seen["metric/validation"] for seen in record.observations])
    return validations.min(0).values, record


def test_the_published_data_are_drawn_exactly():
    family = QuadraticRegression()
    assert family.weight[:3].tolist() == pytest.approx([-0.082978, 0.220324, -0.499886], abs=1e-6)
    floors = [(x @ family.weight - y).square().mean().item() for x, y in family.parts.values()]
    assert floors == pytest.approx([3.9650, 3.8474, 3.8411, 3.3660, 4.0771], abs=1e-4)


def test_closed_forms_of_the_regression_are_the_gradients_of_its_losses():
    family = QuadraticRegression(0.3, dimensions=3, sizes=(20, 10, 10, 10, 10))
    params = trees.map_leaves(lambda leaf: leaf * 3, family.init({}, RNG))
    for pair in family.pairs:
        values, grads = family.pair_value_and_grad(pair, params, {}, {})
        wanted, by_autograd = AlternateFamily.pair_value_and_grad(family, pair, params, {}, {})
        assert torch.allclose(values, wanted)
        for name in grads:
            assert torch.allclose(grads[name], by_autograd[name], atol=1e-12)
    x, y = family.parts["controller train"]
    b, a = params["b"][0], params["A"][0]
    fitted = x @ b + torch.einsum("ni,ij,nj->n", x, a, x) / 10
    assert (fitted - y).square().mean().item() == pytest.approx(family.loss_named("mse", *_first(params)).item())


def _first(params):
    return {name: leaf[0] for name, leaf in params.items()}, {}, {}


@pytest.mark.parametrize(
    ("schedule", "low", "high"),
    [(InTurn((0, 1)), 4.021, 4.029), (ConstantRates.coin(0.5), 4.015, 4.035), (InTurn((0,), choices=2), 10.0, 13.0)],
    ids=["in turn", "coin", "mse alone"],
)
def test_regression_reaches_the_reference_values(schedule, low, high):
    best, _ = run(schedule, 6000, family=QuadraticRegression(0.4))
    assert (best > low).all()
    assert (best < high).all()


def test_joint_training_of_the_regression_reaches_its_reference_value():
    class Joint(QuadraticRegression):
        def __init__(self):
            super().__init__(0.4)
            self.choices = (Choice("joint", (("mse", "model"), ("l1", "model"))),)

    best, _ = run(InTurn((0,)), 6000, family=Joint())
    assert best.tolist() == pytest.approx([4.027] * 3, abs=0.004)


def test_a_penalty_with_an_adam_of_its_own_does_not_regularise():
    best, _ = run(ConstantRates.coin(0.5), 3000, family=QuadraticRegression(0.4), optimizer_state="pair")
    assert (best > 10).all()


def test_a_recorded_run_repeats_without_its_schedule():
    family = QuadraticRegression(0.4, dimensions=4, sizes=(30,) * 5)
    _, first = run(ConstantRates.coin(0.3), 50, family=family)
    decisions = torch.stack([action["choice"] for action in first.actions])
    _, again = run(Recorded(decisions, 2), 50, family=family)
    for name in ("b", "A"):
        assert torch.equal(first.process.params[name], again.process.params[name])
    assert 0.15 < 1 - decisions.double().mean() < 0.45
