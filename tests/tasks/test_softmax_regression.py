"""Softmax regression on two clouds against a written-out cross-entropy and the optimal classifier."""

import math
from statistics import NormalDist

import pytest
import torch

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.softmax_regression import SoftmaxRegression

STREAM = Stream(0, tasks=range(3))


def test_the_loss_is_the_logarithm_of_the_odds() -> None:
    """-ln p of the right class with p = 1 / (1 + exp(other logit - right logit))."""
    family = SoftmaxRegression(3, samples=10, batch=4)
    instance = family.sample(STREAM)
    params = family.init(instance, STREAM.child("init"))
    batch = family.batch_indices(instance, STREAM.child("batch"))
    losses = family.losses(params, instance, batch)
    for task in range(3):
        terms = []
        for point in batch["examples"][task].tolist():
            logits = params["weight"][task].T @ instance["inputs"][task, point] + params["bias"][task]
            right = int(instance["labels"][task, point])
            terms.append(math.log1p(math.exp(logits[1 - right] - logits[right])))
        assert float(losses[task]) == pytest.approx(sum(terms) / 4, rel=1e-12)


def test_the_classes_are_two_clouds_around_opposite_centres() -> None:
    """Projected on the line between the centres, a point lies on its side with the probability of a normal number."""
    instance = SoftmaxRegression(50, samples=20_000).sample(Stream(1))
    inputs, labels = instance["inputs"][0], instance["labels"][0]
    assert int(labels.sum()) == 10_000
    means = torch.stack([inputs[labels == kind].mean(0) for kind in (0, 1)])
    torch.testing.assert_close(means[0], -means[1], rtol=0, atol=0.08)  # a standard error is 0.014
    torch.testing.assert_close((inputs - means[labels]).std(0), torch.ones(50).double(), rtol=0.04, atol=0)
    centre = (means[1] - means[0]) / 2
    right = ((inputs @ centre > 0) == (labels == 1)).double().mean()
    assert float(right) == pytest.approx(NormalDist().cdf(float(centre.norm())), abs=0.02)


def test_weights_start_at_the_published_scale_and_biases_at_0() -> None:
    family = SoftmaxRegression(100)
    params = family.init({}, Stream(0, tasks=range(50)))
    assert float(params["weight"].std()) == pytest.approx(0.12, rel=0.05)  # a standard error is 0.7 %
    assert not params["bias"].any()


@pytest.mark.parametrize("wrong", [{"dimensions": 0}, {"samples": 1}, {"batch": 0}, {"start_scale": -1.0}])
def test_nonsense_is_refused(wrong: dict) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        SoftmaxRegression(**wrong)
