"""Four tasks on digits: each loss as torch has it, gradients in closed form, who owns the shared layer, real data."""

import pytest
import torch
from torch.nn import functional

from l2o import trees
from l2o.errors import ArgumentError
from l2o.optimizers.handcrafted import Adam
from l2o.processes.replicated_losses import ReplicatedLosses, Settings
from l2o.rng import Stream
from l2o.rollout import rollout
from l2o.schedules.base import ScheduleDrives
from l2o.schedules.fixed import ConstantRates, InTurn
from l2o.tasks.alternate import AlternateFamily
from l2o.tasks.data import load_dataset
from l2o.tasks.multitask import HEADS, MultitaskDigits

RNG = Stream(3, ("test",), tasks=range(3))


@pytest.fixture(scope="module")
def family() -> MultitaskDigits:
    return MultitaskDigits(hidden=6, batch=9)


def start(family: MultitaskDigits, rng: Stream = RNG) -> tuple[dict, dict]:
    """Parameters with biases that are not 0, and a minibatch, in float64."""
    drawn = {name: leaf + 0.1 * rng.child(name).normal(leaf.shape[1:]) for name, leaf in family.init({}, rng).items()}
    return drawn, trees.to(family.gather(family.batch_indices({}, rng)), "cpu", torch.float64)


def test_every_image_is_in_one_part():
    family = MultitaskDigits()
    sizes = [len(labels) for _, labels in family.parts.values()]
    assert sizes == [200, 200, 200, 200, 997]
    images = torch.cat([images for images, _ in family.parts.values()])
    whole = torch.cat([load_dataset("digits", split).inputs for split in ("train", "test")])
    assert torch.equal((images * 255).round().to(torch.uint8).reshape(-1, 8, 8), whole)
    other = MultitaskDigits(data_seed=1)
    again = torch.cat([images for images, _ in other.parts.values()])
    assert not torch.equal(again, images)
    assert torch.equal(again.sum(1).sort().values, images.sum(1).sort().values)
    assert family.data_notes() == [
        "digits: all of scikit-learn's images, shuffled with a fixed seed and dealt out: 200 for controller train, 200 "
        "for controller validation, 200 for train, 200 for validation, 997 for test"
    ]


def test_losses_are_those_of_torch(family):
    params, batch = start(family)
    for task in range(3):
        alone = {name: leaf[task] for name, leaf in params.items()}
        inputs, labels = batch["inputs"][task], batch["labels"][task]
        units = functional.linear(inputs, alone["shared.weight"], alone["shared.bias"]).relu()
        outputs = {name: functional.linear(units, alone[f"{name}.weight"], alone[f"{name}.bias"]) for name in HEADS}
        binary = functional.binary_cross_entropy_with_logits
        wanted = {
            "digit": functional.cross_entropy(outputs["digit"], labels),
            "parity": binary(outputs["parity"][:, 0], (labels % 2).double()),
            "large": binary(outputs["large"][:, 0], (labels > 4).double()),
            "pixels": functional.mse_loss(outputs["pixels"], inputs),
        }
        for name, value in wanted.items():
            found = family.loss_named(name, alone, {}, {leaf: part[task] for leaf, part in batch.items()})
            torch.testing.assert_close(found, value)


def test_the_primary_task_sees_labelled_images_alone():
    family = MultitaskDigits(labelled=5)
    indices = [family.batch_indices({}, RNG.at(step=step)) for step in range(5)]
    assert torch.cat([found["labelled"] for found in indices]).unique().tolist() == [0, 1, 2, 3, 4]
    assert len(torch.cat([found["examples"] for found in indices]).unique()) > 190
    batch, (images, labels) = family.gather(indices[0]), family.parts["controller train"]
    assert torch.equal(batch["digit_inputs"], images[indices[0]["labelled"]])
    assert torch.equal(batch["digit_labels"], labels[indices[0]["labelled"]])
    assert torch.equal(batch["inputs"], images[indices[0]["examples"]])
    both = MultitaskDigits().batch_indices({}, RNG)
    assert torch.equal(both["examples"], both["labelled"])
    with pytest.raises(ArgumentError, match="labelled is 201; there are 200"):
        MultitaskDigits(labelled=201)


@pytest.mark.parametrize("grouping", ["shared", "task"])
def test_closed_forms_are_the_gradients_of_the_losses(grouping):
    family = MultitaskDigits(grouping=grouping, hidden=6, batch=9, labelled=30)
    params, batch = start(family)
    assert len(family.pairs) == {"shared": 8, "task": 4}[grouping]
    for pair in family.pairs:
        values, grads = family.pair_value_and_grad(pair, params, {}, batch)
        wanted, by_autograd = AlternateFamily.pair_value_and_grad(family, pair, params, {}, batch)
        torch.testing.assert_close(values, wanted)
        assert grads.keys() == by_autograd.keys()
        for name in grads:
            torch.testing.assert_close(grads[name], by_autograd[name])


def test_metrics_are_the_loss_and_the_accuracy_of_the_primary_task():
    for purpose, part in (("controller", "controller validation"), ("model", "validation")):
        family = MultitaskDigits(purpose=purpose, hidden=6)
        params, _ = start(family)
        found = family.metrics(params, {})
        for role in ("validation", "test"):
            images, labels = family.parts[part if role == "validation" else "test"]
            for task in range(3):
                alone = {name: leaf[task] for name, leaf in params.items()}
                whole = {"digit_inputs": images.double(), "digit_labels": labels}
                torch.testing.assert_close(found[role][task], family.loss_named("digit", alone, {}, whole))
                units = functional.linear(images.double(), alone["shared.weight"], alone["shared.bias"]).relu()
                guesses = functional.linear(units, alone["digit.weight"], alone["digit.bias"]).argmax(1)
                torch.testing.assert_close(found[f"{role}_accuracy"][task], (guesses == labels).double().mean())


def test_groupings_differ_in_how_many_optimizers_step_the_shared_layer():
    """A digit's first step is the same; a later one finds the moments of parity only where they are shared."""
    ends = {}
    for grouping in ("shared", "task"):
        family = MultitaskDigits(grouping=grouping, hidden=6)
        settings = Settings(dict.fromkeys(family.groups, Adam(1e-2)))
        process = ReplicatedLosses.start(family, settings, RNG, steps=10, dtype=torch.float64)
        assert {name.partition("/")[0] for name in process.states} == set(family.groups)
        trail = []
        for choice in (0, 1, 0):
            process = process.apply({"choice": torch.full((3,), choice)})
            trail.append(process.params)
        ends[grouping] = trail
    first, last = ([ends[grouping][place] for grouping in ("shared", "task")] for place in (0, 2))
    for name in first[0]:
        torch.testing.assert_close(first[0][name], first[1][name], rtol=1e-12, atol=1e-14)
    assert not torch.allclose(last[0]["shared.weight"], last[1]["shared.weight"], atol=1e-4)


def test_training_names_most_digits():
    family = MultitaskDigits(purpose="model")
    settings = Settings(dict.fromkeys(family.groups, Adam(3e-3)))
    process = ReplicatedLosses.start(family, settings, RNG, steps=400)
    driver = ScheduleDrives(ConstantRates((0.7, 0.1, 0.1, 0.1)), RNG)
    metrics = rollout(process, driver, driver.begin(), 400, record=frozenset()).process.judgement.metrics
    assert (metrics["test_accuracy"] > 0.87).all()
    assert (metrics["test"] < 0.5).all()


def test_a_task_that_is_not_trained_keeps_its_head():
    family = MultitaskDigits(hidden=6)
    settings = Settings(dict.fromkeys(family.groups, Adam(1e-3)))
    process = ReplicatedLosses.start(family, settings, RNG, steps=10)
    driver = ScheduleDrives(InTurn((0, 1), choices=4), RNG)
    after = rollout(process, driver, driver.begin(), 4, record=frozenset()).process.params
    kept = {name for name in after if torch.equal(after[name], process.params[name])}
    assert kept == {"large.weight", "large.bias", "pixels.weight", "pixels.bias"}


def test_what_does_not_fit_is_refused(family):
    with pytest.raises(ArgumentError, match="grouping is 'both'"):
        MultitaskDigits(grouping="both")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="leave some of the 1,797 images"):
        MultitaskDigits(sizes=(600, 600, 300, 297))
    params, batch = start(family)
    with pytest.raises(ArgumentError, match="'digit' does not reach the group 'parity'"):
        family.pair_value_and_grad(("digit", "parity"), params, {}, batch)
