"""Random scaling and the convex regulariser against what they wrap."""

import math

import pytest
import torch

from l2o import trees
from l2o.errors import ArgumentError
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.tasks.functions import BenchmarkFunction
from l2o.tasks.quadratic import Quadratics
from l2o.tasks.wrappers import ConvexRegulariser, NoisyGradients, RandomScaling
from l2o.trees import Tree

STREAM = Stream(3, ("wrappers",), tasks=range(3))


class EverythingSet(TaskFamily):
    """A family that overrides all there is: what it says of itself must come through a wrapper unchanged.

    f(theta) = sum theta^2 over the two parameters, with a gradient that autograd would not give.
    """

    name = "everything"

    def sample(self, rng):
        return {"scales": rng.child("scales").uniform(), "regulariser/centre": rng.child("centre").uniform((2,))}

    def init(self, instance, rng):
        return {"regulariser/z": rng.child("z").normal((2,)), "w": rng.child("w").normal((3, 2))}

    def batch_indices(self, instance, rng):
        return {"examples": rng.integers(100, (4,)), "seen": instance["scales"]}

    def gather(self, indices):
        return {"doubled": 2 * indices["examples"]}

    def loss(self, params, instance, batch):
        return params["w"].square().sum() + params["regulariser/z"].square().sum()

    def value_and_grad(self, params, instance, batch):
        return self.losses(params, instance, batch), {name: 7 * leaf for name, leaf in params.items()}

    def gradient_noise(self, params, instance, rng):
        return {"w": instance["scales"][:, None, None] * rng.normal((3, 2))}  # none on the other parameter

    def optimum(self, instance) -> Tree | None:
        ones = torch.ones_like(instance["scales"])
        return {"regulariser/z": ones[:, None].repeat(1, 2) * 5, "w": ones[:, None, None].repeat(1, 3, 2) * 6}

    def metrics(self, params, instance):
        return {"total": trees.flatten(params).sum(1), "instance": instance["scales"]}

    def data_notes(self):
        return ["made up"]


def wrapped_and_inner(family: TaskFamily, inner: TaskFamily):
    """Instance and start of the wrapper, then of what it wraps, from one stream."""
    for member in (family, inner):
        instance = member.sample(STREAM.child("instance"))
        yield instance
        yield member.init(instance, STREAM.child("init"))


def assert_trees_close(tree, other) -> None:
    assert tree.keys() == other.keys()
    for name, leaf in tree.items():
        torch.testing.assert_close(leaf, other[name], rtol=1e-13, atol=0)


def test_scaling_wraps_every_member_of_the_family() -> None:
    inner = EverythingSet()
    family = RandomScaling(inner)
    instance, start, inner_instance, inner_start = wrapped_and_inner(family, inner)
    scales = trees.select(instance, "scales")
    assert_trees_close(trees.select(instance, "family"), inner_instance)
    assert_trees_close(trees.map_leaves(torch.mul, start, scales), inner_start)
    indices = family.batch_indices(instance, STREAM)
    assert_trees_close(indices, inner.batch_indices(inner_instance, STREAM))
    batch = family.gather(indices)
    assert_trees_close(batch, inner.gather(indices))
    losses, grads = family.value_and_grad(start, instance, batch)
    inner_losses, inner_grads = inner.value_and_grad(inner_start, inner_instance, batch)
    torch.testing.assert_close(losses, inner_losses)
    assert_trees_close(grads, trees.map_leaves(torch.mul, inner_grads, scales))
    torch.testing.assert_close(family.losses(start, instance, batch), inner_losses)
    optimum = inner.optimum(inner_instance)
    assert optimum is not None
    assert_trees_close(family.optimum(instance), trees.map_leaves(torch.div, optimum, scales))
    assert_trees_close(family.metrics(start, instance), inner.metrics(inner_start, inner_instance))
    noise = inner.gradient_noise(inner_start, inner_instance, STREAM)
    assert_trees_close(family.gradient_noise(start, instance, STREAM), {"w": scales["w"] * noise["w"]})
    assert family.data_notes() == ["made up"]
    assert family.name == "everything-scaled"


def test_the_regulariser_wraps_every_member_of_the_family() -> None:
    inner = EverythingSet()
    family = ConvexRegulariser(inner, coordinates=4)
    instance, start, inner_instance, inner_start = wrapped_and_inner(family, inner)
    assert_trees_close(trees.select(instance, "family"), inner_instance)
    assert_trees_close(trees.select(start, "family"), inner_start)
    indices = family.batch_indices(instance, STREAM)
    assert_trees_close(indices, inner.batch_indices(inner_instance, STREAM))
    batch = family.gather(indices)
    assert_trees_close(batch, inner.gather(indices))
    losses, grads = family.value_and_grad(start, instance, batch)
    inner_losses, inner_grads = inner.value_and_grad(inner_start, inner_instance, batch)
    centre = instance["regulariser/centre"]
    torch.testing.assert_close(losses, inner_losses + centre.square().mean(1))
    torch.testing.assert_close(family.losses(start, instance, batch), losses)
    assert_trees_close(trees.select(grads, "family"), inner_grads)
    torch.testing.assert_close(grads["regulariser/z"], -2 * centre / 4)
    optimum = inner.optimum(inner_instance)
    assert optimum is not None
    assert_trees_close(family.optimum(instance), trees.join(family=optimum, regulariser={"z": centre}))
    assert_trees_close(family.metrics(start, instance), inner.metrics(inner_start, inner_instance))
    noise = inner.gradient_noise(inner_start, inner_instance, STREAM)
    assert_trees_close(family.gradient_noise(start, instance, STREAM), {"family/w": noise["w"]})
    assert family.data_notes() == ["made up"]
    assert family.name == "everything-regularised"


def test_noise_wraps_every_member_of_the_family_and_adds_to_its_noise() -> None:
    inner = EverythingSet()
    family = NoisyGradients(inner, 0.5)
    instance, start, inner_instance, inner_start = wrapped_and_inner(family, inner)
    assert_trees_close(instance, inner_instance)
    assert_trees_close(start, inner_start)
    indices = family.batch_indices(instance, STREAM)
    assert_trees_close(indices, inner.batch_indices(instance, STREAM))
    batch = family.gather(indices)
    assert_trees_close(batch, inner.gather(indices))
    (losses, grads), (inner_losses, inner_grads) = (
        member.value_and_grad(start, instance, batch) for member in (family, inner)
    )
    assert torch.equal(losses, inner_losses)
    assert_trees_close(grads, inner_grads)
    assert torch.equal(family.losses(start, instance, batch), losses)
    optimum, inner_optimum = family.optimum(instance), inner.optimum(instance)
    assert optimum is not None
    assert inner_optimum is not None
    assert_trees_close(optimum, inner_optimum)
    assert_trees_close(family.metrics(start, instance), inner.metrics(start, instance))
    own = {name: 0.5 * STREAM.child(family.name).child(name).normal(leaf.shape[1:]) for name, leaf in start.items()}
    noise = family.gradient_noise(start, instance, STREAM)
    assert_trees_close(noise, own | {"w": own["w"] + inner.gradient_noise(start, instance, STREAM)["w"]})
    assert family.data_notes() == ["made up"]
    assert family.name == "everything-noisy-0.5"


@pytest.mark.parametrize(
    "wrap", [RandomScaling, ConvexRegulariser, lambda family: NoisyGradients(family, 0.5)], ids=["scale", "z", "noise"]
)
def test_a_wrapper_offers_what_is_wrapped_offers(wrap) -> None:
    inner = EverythingSet()
    inner.offers = frozenset({"loss"})
    assert wrap(inner).offers == {"loss"}


def noisy_process(deviation: float = 2.0, tasks: int = 3) -> Optimizee:
    family = NoisyGradients(Quadratics(4), deviation)
    return Optimizee.start(family, STREAM.over(range(tasks)), dtype=torch.float64)


def test_the_optimizer_sees_noise_that_the_meta_loss_does_not() -> None:
    process = noisy_process()
    clean = Optimizee.start(Quadratics(4), STREAM, dtype=torch.float64)
    seen, hidden = process.observe()
    truth = clean.observe()[1]
    assert_trees_close(hidden, truth)
    noise = seen["grad/x"] - truth["metagrad/x"]
    expected = 2.0 * STREAM.child("noise").child("quadratics-4d-noisy-2").child("x").normal((4,))
    torch.testing.assert_close(noise, expected, rtol=0, atol=1e-13)
    assert torch.equal(seen["loss"], hidden["loss"])


def test_noise_is_drawn_anew_in_every_step_and_for_every_task_and_is_normal() -> None:
    process, noise = noisy_process(tasks=200), []
    for _ in range(5):
        seen, hidden = process.observe()
        noise.append(seen["grad/x"] - hidden["metagrad/x"])
        process = process.apply({"x": torch.zeros_like(process.params["x"])})
    drawn = torch.stack(noise)  # [steps, tasks, coordinates]
    assert len({round(number, 12) for number in drawn.flatten().tolist()}) == drawn.numel()
    assert abs(float(drawn.mean())) < 5 * 2 / drawn.numel() ** 0.5  # five standard errors
    assert float(drawn.std()) == pytest.approx(2.0, rel=0.06)  # a standard error is 1.1 %
    again, _ = noisy_process(tasks=200).observe()
    first, _ = noisy_process(tasks=2).observe()
    assert torch.equal(again["grad/x"][:2], first["grad/x"])


def test_a_dead_task_shows_no_noise() -> None:
    process = noisy_process()
    process.params["x"][1] = torch.inf
    seen, hidden = process.observe()
    assert not seen["grad/x"][1].any()
    assert not hidden["metagrad/x"][1].any()
    assert seen["grad/x"][0].all()


@pytest.mark.parametrize("deviation", [-1.0, math.inf, math.nan])
def test_nonsensical_noise_is_refused(deviation: float) -> None:
    with pytest.raises(ArgumentError, match="deviation is"):
        NoisyGradients(Quadratics(4), deviation)


def test_scales_are_log_uniform_over_the_spread() -> None:
    """30,000 coordinates of ln c: U(-2, 2) has deviation 4 / sqrt(12) and kurtosis 1.8."""
    family = RandomScaling(Quadratics(100), spread=2.0)
    logs = family.sample(Stream(0, tasks=range(300)))["scales/x"].log()
    assert logs.abs().max() <= 2
    assert logs.abs().max() > 1.99
    assert float(logs.mean()) == pytest.approx(0, abs=5 * 1.155 / math.sqrt(30_000))
    assert float(logs.std()) == pytest.approx(4 / math.sqrt(12), rel=0.01)
    assert float((logs / logs.std()).pow(4).mean()) == pytest.approx(1.8, abs=0.03)


def test_the_gradient_is_the_scale_times_the_gradient_of_what_is_wrapped() -> None:
    inner = BenchmarkFunction.rosenbrock(3)
    family = RandomScaling(inner)
    instance, start, inner_instance, inner_start = wrapped_and_inner(family, inner)
    _, grads = family.value_and_grad(start, instance, {})
    _, inner_grads = inner.value_and_grad(inner_start, inner_instance, {})
    _, truth = TaskFamily.value_and_grad(family, start, instance, {})
    torch.testing.assert_close(grads["x"], instance["scales/x"] * inner_grads["x"])
    torch.testing.assert_close(grads["x"], truth["x"], rtol=1e-10, atol=0)


def test_scales_stay_for_a_trajectory_and_change_with_the_next() -> None:
    family = RandomScaling(Quadratics(3))
    process = Optimizee.start(family, STREAM)
    seen, _ = process.observe()
    later = process.apply({"x": -0.01 * seen["grad/x"]})
    assert torch.equal(later.instance["scales/x"], process.instance["scales/x"])
    following = Optimizee.start(family, STREAM.at(trajectory=1))
    assert not torch.equal(following.instance["scales/x"], process.instance["scales/x"])


def test_spread_zero_changes_nothing() -> None:
    inner = Quadratics(3)
    scaled, plain = (Optimizee.start(family, STREAM) for family in (RandomScaling(inner, spread=0.0), inner))
    for one, other in zip(scaled.observe(), plain.observe(), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_scaling_twice_draws_two_scales() -> None:
    family = RandomScaling(RandomScaling(Quadratics(3)))
    instance = family.sample(STREAM)
    assert not torch.equal(instance["scales/x"], instance["family/scales/x"])


def test_each_part_of_the_published_problem_has_its_own_spread() -> None:
    family = RandomScaling(ConvexRegulariser(Quadratics(40)), spread=3.0, spreads={"regulariser/": 1.0})
    instance = family.sample(Stream(0, tasks=range(100)))
    for name, spread in (("family/x", 3.0), ("regulariser/z", 1.0)):
        greatest = float(instance[f"scales/{name}"].log().abs().max())
        assert 0.99 * spread < greatest <= spread


def test_the_longest_prefix_gives_the_spread() -> None:
    spreads = {"w": 1.0, "regulariser/z": 0.25, "regulariser": 0.5}
    family = RandomScaling(EverythingSet(), spread=2.0, spreads=spreads)
    assert family.spread_of == {"regulariser/z": 0.25, "w": 1.0}
    assert RandomScaling(Quadratics(2)).spread_of == {"x": 3.0}


def test_the_regulariser_is_the_mean_of_clipped_squares() -> None:
    """Offsets 1, -3, 4 from the centre: (1 + 9 + 10) / 3, and no slope where the square is beyond 10."""
    family = ConvexRegulariser(BenchmarkFunction.booth(), coordinates=3)
    centre = torch.tensor([[0.5, -0.5, 0.0]])
    instance = {**trees.join(family=BenchmarkFunction.booth().sample(Stream(0))), "regulariser/centre": centre}
    params = {"family/x": torch.tensor([[1.0, 3.0]]), "regulariser/z": centre + torch.tensor([[1.0, -3.0, 4.0]])}
    losses, grads = family.value_and_grad(params, instance, {})
    assert float(losses[0]) == pytest.approx(20 / 3)
    torch.testing.assert_close(grads["regulariser/z"], torch.tensor([[2 / 3, -2.0, 0.0]]))
    _, truth = TaskFamily.value_and_grad(family, params, instance, {})
    assert_trees_close(grads, truth)


def test_the_regulariser_starts_at_zero_around_uniform_centres() -> None:
    family = ConvexRegulariser(Quadratics(2))
    stream = Stream(0, tasks=range(500))
    instance = family.sample(stream)
    centre = instance["regulariser/centre"]
    assert centre.shape == (500, 20)
    assert centre.abs().max() <= 1
    assert float(centre.mean()) == pytest.approx(0, abs=5 * 0.577 / 100)
    assert float(centre.std()) == pytest.approx(2 / math.sqrt(12), rel=0.02)
    assert family.init(instance, stream)["regulariser/z"].count_nonzero() == 0


@pytest.mark.parametrize("wrap", [RandomScaling, ConvexRegulariser])
def test_an_unknown_optimum_stays_unknown(wrap) -> None:
    class NoOptimum(EverythingSet):
        def optimum(self, instance):
            return None

    family = wrap(NoOptimum())
    assert family.optimum(family.sample(STREAM)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spread": -1.0}, "is -1.0"),
        ({"spread": math.nan}, "is nan"),
        ({"spread": math.inf}, "is inf"),
        ({"spreads": {"x": -2.0}}, "'x\\*' is -2.0"),
        ({"spreads": {"y": 1.0}}, "no parameter begins so"),
    ],
)
def test_meaningless_spreads_are_refused(arguments, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        RandomScaling(Quadratics(2), **arguments)


def test_a_regulariser_without_coordinates_is_refused() -> None:
    with pytest.raises(ArgumentError, match="coordinates is 0"):
        ConvexRegulariser(Quadratics(2), coordinates=0)
