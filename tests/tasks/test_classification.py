"""Sparse classification: the published draw, gradients in closed form, errors counted by hand, what L1 is for."""

import pytest
import torch
from sklearn.datasets import make_classification

from l2o import trees
from l2o.errors import ArgumentError
from l2o.optimizers.handcrafted import Adam
from l2o.processes.replicated_losses import ReplicatedLosses, Settings
from l2o.rng import Stream
from l2o.rollout import rollout
from l2o.schedules.base import ScheduleDrives
from l2o.schedules.fixed import InTurn
from l2o.tasks.alternate import AlternateFamily, Choice
from l2o.tasks.classification import RECIPES, SparseClassification

RNG = Stream(3, ("test",), tasks=range(3))
SMALL = (20, 30, 20, 30, 40)


@pytest.mark.parametrize("recipe", list(RECIPES))
@pytest.mark.parametrize("seed", [1, 2])
def test_the_data_are_the_draw_of_scikit_learn_under_the_legacy_seed(recipe, seed):
    features, informative, redundant = RECIPES[recipe]
    inputs, labels = make_classification(
        n_samples=3400, n_features=features, n_informative=informative, n_redundant=redundant,
        n_clusters_per_class=2, random_state=seed,
    )  # fmt: skip
    parts = SparseClassification(recipe=recipe, data_seed=seed).parts
    assert [len(found) for _, found in parts.values()] == [200, 1000, 200, 1000, 1000]
    assert torch.equal(torch.cat([found for found, _ in parts.values()]), torch.from_numpy(inputs))
    assert torch.equal(torch.cat([found for _, found in parts.values()]), torch.from_numpy(labels))


def test_a_larger_test_set_has_the_same_data_and_more_from_the_same_clusters():
    few, many = SparseClassification(), SparseClassification(test_size=60_000)
    for part, (inputs, labels) in few.parts.items():
        assert torch.equal(many.parts[part][0][: len(inputs)], inputs)
        assert torch.equal(many.parts[part][1][: len(labels)], labels)
    inputs, labels = (leaf[1000:] for leaf in many.parts["test"])
    assert len(labels) == 59_000
    every, classes = (torch.cat(leaves) for leaves in zip(*few.parts.values(), strict=True))
    for label in (0, 1):  # 1,700 of 3,400 points a class: the standard errors are about 0.03
        theirs, ours = inputs[labels == label], every[classes == label]
        assert (theirs.mean(0) - ours.mean(0)).abs().max() < 0.15
        assert (theirs.T.cov() - ours.T.cov()).abs().max() < 0.3


def test_closed_forms_are_the_gradients_of_the_losses():
    family = SparseClassification(0.3, hidden=5, sizes=SMALL)
    params = trees.map_leaves(lambda leaf: leaf * 3, family.init({}, RNG))
    for pair in family.pairs:
        values, grads = family.pair_value_and_grad(pair, params, {}, {})
        wanted, by_autograd = AlternateFamily.pair_value_and_grad(family, pair, params, {}, {})
        torch.testing.assert_close(values, wanted)
        assert grads.keys() == by_autograd.keys()
        for name in grads:
            torch.testing.assert_close(grads[name], by_autograd[name])


@pytest.mark.parametrize("purpose", ["controller", "model"])
def test_metrics_are_the_error_and_the_cross_entropy_of_the_purpose_s_parts(purpose):
    family = SparseClassification(purpose=purpose, hidden=5, sizes=SMALL)
    params = trees.map_leaves(lambda leaf: leaf * 5, family.init({}, RNG))
    found = family.metrics(params, {})
    for role in ("validation", "test"):
        part = "test" if role == "test" else {"controller": "controller validation", "model": "validation"}[purpose]
        inputs, labels = family.parts[part]
        for task in range(3):
            first, bias, second, last = (params[name][task] for name in family.groups["model"])
            logits = (inputs @ first.T + bias).relu() @ second.T + last
            error = (logits.argmax(1) != labels).double().mean()
            torch.testing.assert_close(found[role][task], error)
            entropy = torch.nn.functional.cross_entropy(logits, labels)
            torch.testing.assert_close(found[f"{role}_cross_entropy"][task], entropy)


def test_a_network_that_does_not_distinguish_is_wrong_half_the_time():
    """Its margin is exactly 0 everywhere: that must not count as right."""
    family = SparseClassification(sizes=SMALL)
    params = trees.map_leaves(torch.zeros_like, family.init({}, RNG))
    share = (family.parts["test"][1] == 1).double().mean()
    assert 0.3 < share < 0.7
    torch.testing.assert_close(family.metrics(params, {})["test"], share.expand(3))


def test_the_start_is_a_normal_cut_off_at_two_deviations():
    start = SparseClassification().init({}, Stream(0, tasks=range(40)))
    weights = trees.flatten({name: start[name] for name in ("layers.0.weight", "layers.1.weight")})
    assert 0.199 < weights.abs().max() <= 0.2
    # The deviation of a standard normal within +-2 is sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)) = 0.8796.
    assert weights.std().item() == pytest.approx(0.08796, rel=0.01)
    assert (start["layers.0.bias"] == 0.1).all()
    assert (start["layers.1.bias"] == 0.1).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ArgumentError, match="penalty is -1"):
        SparseClassification(-1.0)
    with pytest.raises(ArgumentError, match="recipe is 'paper'"):
        SparseClassification(recipe="paper")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="purpose is 'both'"):
        SparseClassification(purpose="both")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="hidden 0"):
        SparseClassification(hidden=0)
    with pytest.raises(ArgumentError, match="test_size is 10; it must be at least 1000"):
        SparseClassification(test_size=10)


def test_the_penalty_lowers_the_test_error():
    """Reference, Adam 1e-3, patience of 20 validations: 0.154 from the cross-entropy alone, 0.079 jointly."""

    def test_error(choice: Choice) -> torch.Tensor:
        family = SparseClassification(0.02, purpose="model")
        family.choices = (choice,)
        process = ReplicatedLosses.start(family, Settings({"model": Adam(1e-3)}, patience=20), RNG, steps=800)
        driver = ScheduleDrives(InTurn((0,)), RNG)
        record = rollout(process, driver, driver.begin(), 800, record=frozenset())
        return record.process.judgement.metrics["test"]

    alone = test_error(Choice("ce", (("ce", "model"),)))
    joint = test_error(Choice("joint", (("ce", "model"), ("l1", "model"))))
    assert ((alone - joint) > 0.03).all()
    assert alone.mean().item() == pytest.approx(0.154, abs=0.02)
    assert joint.mean().item() == pytest.approx(0.079, abs=0.012)
