"""What holds for every task family."""

from dataclasses import replace

import pytest
import torch
from contract.task_cases import every_family

from l2o import trees
from l2o.errors import UnsupportedError
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.tasks.objective import true_losses, true_value_and_grad
from l2o.trees import Tree

STREAM = Stream(5, ("contract",), trajectory=2, tasks=range(4))


def start(family: TaskFamily, stream: Stream = STREAM) -> Optimizee:
    return Optimizee.start(family, stream, dtype=torch.float64)


def drawn(family: TaskFamily, stream: Stream) -> Tree:
    """All that a family draws, before any conversion."""
    instance = family.sample(stream.child("instance"))
    params = family.init(instance, stream.child("init"))
    batches = {f"at {step}": family.batch_indices(instance, stream.child("batch").at(step=step)) for step in (0, 3)}
    gathered = {f"gathered {name}": family.gather(indices) for name, indices in batches.items()}
    return trees.join(instance=instance, params=params, **batches, **gathered)


def one_task(tree: Tree, task: int) -> Tree:
    return {name: leaf[task] for name, leaf in tree.items()}


def assert_equal(tree: Tree, other: Tree) -> None:
    assert tree.keys() == other.keys()
    for name, leaf in tree.items():
        assert leaf.dtype == other[name].dtype
        assert torch.equal(leaf, other[name]), name


@every_family
def test_every_leaf_has_the_tasks_axis_and_every_parameter_is_real(family: TaskFamily) -> None:
    tree = drawn(family, STREAM)
    assert {leaf.shape[0] for leaf in tree.values()} == {4}
    assert all(leaf.is_floating_point() for leaf in trees.select(tree, "params").values())


@every_family
def test_draws_are_pure_functions_of_the_stream(family: TaskFamily) -> None:
    state = torch.get_rng_state()
    first = drawn(family, STREAM)
    torch.manual_seed(1)
    assert_equal(first, drawn(family, STREAM))
    torch.set_rng_state(state)
    drawn(family, STREAM)
    assert torch.equal(torch.get_rng_state(), state)


@every_family
def test_draws_do_not_depend_on_how_tasks_are_batched(family: TaskFamily) -> None:
    parts = [drawn(family, STREAM.over(tasks)) for tasks in (range(2), range(2, 4))]
    assert_equal(drawn(family, STREAM), trees.map_leaves(lambda *leaves: torch.cat(leaves), *parts))


@every_family
def test_another_trajectory_or_seed_starts_elsewhere(family: TaskFamily) -> None:
    here = start(family)
    for stream in (STREAM.at(trajectory=3), replace(STREAM, seed=6)):
        other = start(family, stream)
        assert not torch.equal(trees.flatten(here.params), trees.flatten(other.params))


@every_family
def test_losses_and_gradients_are_those_of_single_tasks(family: TaskFamily) -> None:
    process = start(family)
    batch = process.batch()
    with torch.no_grad():  # as in a rollout
        losses, grads = family.value_and_grad(process.params, process.instance, batch)
    assert not losses.requires_grad
    assert grads.keys() == process.params.keys()
    torch.testing.assert_close(family.losses(process.params, process.instance, batch), losses, rtol=1e-12, atol=0)
    for task in range(4):
        leaves = {name: leaf.clone().requires_grad_() for name, leaf in one_task(process.params, task).items()}
        loss = family.loss(leaves, one_task(process.instance, task), one_task(batch, task))
        truth = torch.autograd.grad(loss, list(leaves.values()))
        assert loss.shape == ()
        torch.testing.assert_close(losses[task], loss.detach(), rtol=1e-12, atol=0)
        scale = max(float(grad.abs().max()) for grad in truth)
        for name, grad in zip(leaves, truth, strict=True):
            torch.testing.assert_close(grads[name][task], grad, rtol=1e-10, atol=1e-12 * scale)


@every_family
def test_gradient_equals_finite_differences(family: TaskFamily) -> None:
    """Central differences along random directions; their error is about step^2 f''' and 1e-16 f / step."""
    process = start(family)
    batch, step = process.batch(), 1e-6
    losses, grads = family.value_and_grad(process.params, process.instance, batch)
    scale = 1e-5 * trees.norms(grads) + 1e-9 * losses.abs()
    for number in range(3):
        rng = STREAM.child("direction").at(step=number)
        direction = {name: rng.child(name).normal(leaf.shape[1:]) for name, leaf in process.params.items()}
        ahead, behind = (
            family.losses(
                trees.map_leaves(lambda x, d, h=h: x + h * d, process.params, direction), process.instance, batch
            )
            for h in (step, -step)
        )
        slope = (trees.flatten(grads) * trees.flatten(direction)).sum(1)
        assert ((ahead - behind) / (2 * step) - slope).abs().le(scale * trees.norms(direction)).all()


@every_family
def test_second_derivatives_equal_finite_differences_of_the_gradient(family: TaskFamily) -> None:
    """Exact meta-gradients differentiate the gradients of `losses`: one product with the Hessian."""
    process = start(family)
    batch, step = process.batch(), 1e-6
    direction = {name: STREAM.child(name).normal(leaf.shape[1:]) for name, leaf in process.params.items()}
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in process.params.items()}
    losses = family.losses(leaves, process.instance, batch)
    grads = torch.autograd.grad(losses.sum(), list(leaves.values()), create_graph=True)
    slope = torch.stack([(grad * direction[name]).sum() for name, grad in zip(leaves, grads, strict=True)]).sum()
    product = torch.autograd.grad(slope, list(leaves.values()), materialize_grads=True)
    ahead, behind = (
        family.value_and_grad(
            trees.map_leaves(lambda x, d, h=h: x + h * d, process.params, direction), process.instance, batch
        )[1]
        for h in (step, -step)
    )
    truth = (trees.flatten(ahead) - trees.flatten(behind)) / (2 * step)
    found = trees.flatten(dict(zip(leaves, product, strict=True)))
    tolerance = 1e-5 * truth.norm(dim=1) + 1e-8 * trees.norms(ahead)
    assert ((found - truth).norm(dim=1) <= tolerance).all()


@every_family
def test_known_optimum_has_zero_gradient_and_the_least_loss(family: TaskFamily) -> None:
    process = start(family)
    optimum = family.optimum(process.instance)
    if optimum is None:
        pytest.skip("no known optimum")
    assert optimum.keys() == process.params.keys()
    assert {name: leaf.shape for name, leaf in optimum.items()} == {n: leaf.shape for n, leaf in process.params.items()}
    least, grads = family.value_and_grad(optimum, process.instance, process.batch())
    assert trees.flatten(grads).abs().max() <= 1e-9
    for number in range(100):  # from 1e-3 away to beyond the starts
        rng = STREAM.child("point").at(step=number)
        distance = 10 ** rng.child("distance").uniform((1,), low=-3.0, high=1.5)  # [tasks, 1]
        offset = distance * rng.child("offset").normal(trees.flatten(optimum).shape[1:])
        point = trees.unflatten(trees.flatten(optimum) + offset, optimum)
        assert (family.losses(point, process.instance, process.batch()) >= least).all()
    assert (family.losses(process.params, process.instance, process.batch()) >= least).all()


@every_family
def test_true_objective_is_the_loss_on_everything_at_once(family: TaskFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, process = family.whole(), start(family)
    if whole is None:
        with pytest.raises(UnsupportedError, match="no true objective"):
            true_losses(family, process.params, process.instance)
        return
    indices = {name: leaf.expand(4, *leaf.shape) for name, leaf in whole.items()}
    batch = trees.to(family.gather(indices), "cpu", torch.float64)
    losses, grads = family.value_and_grad(process.params, process.instance, batch)
    for at_once in (10_000, 4 * 7):  # in one part; in several, of 7 examples or fewer
        monkeypatch.setattr("l2o.tasks.objective.EXAMPLES_AT_ONCE", at_once)
        found = true_losses(family, process.params, process.instance)
        torch.testing.assert_close(found, losses, rtol=1e-12, atol=0)
        found, found_grads = true_value_and_grad(family, process.params, process.instance)
        torch.testing.assert_close(found, losses, rtol=1e-12, atol=0)
        torch.testing.assert_close(found_grads, grads, rtol=1e-10, atol=1e-12 * float(trees.norms(grads).max()))


@every_family
def test_tasks_do_not_touch_each_other(family: TaskFamily) -> None:
    process = start(family)
    batch = process.batch()
    broken = {name: leaf.clone() for name, leaf in process.params.items()}
    for leaf in broken.values():
        leaf[1] = torch.nan
    losses, grads = family.value_and_grad(process.params, process.instance, batch)
    losses_beside, grads_beside = family.value_and_grad(broken, process.instance, batch)
    others = torch.tensor([0, 2, 3])
    assert not torch.isfinite(losses_beside[1])
    assert torch.equal(losses[others], losses_beside[others])
    assert_equal(*({name: leaf[others] for name, leaf in tree.items()} for tree in (grads, grads_beside)))


@every_family
def test_metrics_are_one_number_a_task(family: TaskFamily) -> None:
    process = start(family)
    metrics = family.metrics(process.params, process.instance)
    assert all(measure.shape == (4,) and torch.isfinite(measure).all() for measure in metrics.values())


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_five_small_steps_downhill_lower_the_loss(family: TaskFamily, dtype: torch.dtype) -> None:
    """On the first step's minibatch, on which all five gradients are taken, whatever the process draws."""
    begin = Optimizee.start(family, STREAM, dtype=dtype)
    process, batch = begin, begin.batch()
    first = family.losses(begin.params, begin.instance, batch)
    assert torch.isfinite(first).all()
    for _ in range(5):
        seen, hidden = process.observe()
        assert process.alive.all()
        assert all(leaf.dtype == dtype for leaf in seen.values())
        _, grads = family.value_and_grad(process.params, process.instance, batch)
        if process.step == 0:
            assert_equal(trees.select(hidden, "metagrad"), grads)
            assert_equal(trees.select(seen, "grad"), process.shown(grads))
        length = 1e-3 / trees.norms(grads)  # [tasks]
        action = trees.unflatten(-length[:, None] * trees.flatten(grads), grads)
        process = process.apply(action)
    assert process.step == 5
    assert (family.losses(process.params, process.instance, batch) < first).all()
