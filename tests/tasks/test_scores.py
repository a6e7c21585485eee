"""Scores of generated images: known answers, invariances, numbers that underflow."""

import math

import pytest
import torch

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.scores import frechet_distance, inception_score


def logs(rows=60, classes=10):
    return (5 * Stream(1).normal((rows, classes))[0]).log_softmax(1)


def points(rows, dimensions=3, seed=0):
    return Stream(seed).normal((rows, dimensions))[0]


def of_moments(mean, covariance, rows=50):
    """Points whose sample mean and covariance are exactly these."""
    mean, covariance = (torch.tensor(value, dtype=torch.float64) for value in (mean, covariance))
    drawn = points(rows, len(mean))
    centred = drawn - drawn.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(centred.T.cov()), centred.T, upper=False).T
    return mean + white @ torch.linalg.cholesky(covariance).T


def test_sure_verdicts_on_all_classes_alike_score_the_number_of_classes():
    sure = torch.eye(10).repeat(20, 1).log()  # all other classes at minus infinity
    assert inception_score(sure).item() == pytest.approx(10, abs=1e-12)


def test_the_same_verdict_for_all_scores_one():
    assert inception_score(logs(1).expand(50, -1)).item() == pytest.approx(1, abs=1e-12)
    assert inception_score(torch.zeros(50, 10).log_softmax(1)).item() == pytest.approx(1, abs=1e-6)


def test_the_score_is_that_of_its_formula():
    p = logs().exp()
    mutual = (p * p.log()).sum(1).mean() - (p.mean(0) * p.mean(0).log()).sum()
    assert inception_score(logs()).item() == pytest.approx(mutual.exp().item(), rel=1e-12)


def test_the_order_of_samples_and_of_classes_does_not_matter():
    order, classes = (Stream(2).child(name).uniform((size,))[0].argsort() for name, size in (("a", 60), ("b", 10)))
    assert inception_score(logs()[order][:, classes]).item() == pytest.approx(inception_score(logs()).item(), rel=1e-12)


def test_probabilities_that_underflow_do_no_harm():
    certain = (1000 * torch.eye(10)).log_softmax(1)  # probabilities of exp(-1000) are 0 in any number type
    assert certain.exp().min() == 0
    assert inception_score(certain).item() == pytest.approx(10, abs=1e-9)


def test_splits_are_averaged_in_order():
    parts = [inception_score(part).item() for part in logs().tensor_split(4)]
    assert inception_score(logs(), splits=4).item() == pytest.approx(sum(parts) / 4, rel=1e-12)


def test_distance_of_a_set_to_itself_is_zero_with_singular_covariances_too():
    for rows in (100, 4):  # 4 points in 10 dimensions: rank 3
        assert frechet_distance(points(rows, 10), points(rows, 10)).item() == pytest.approx(0, abs=1e-9)


def test_distance_of_two_gaussians_is_the_closed_form():
    """Of diagonal covariances |m - n|^2 + sum (sqrt c - sqrt d)^2; of 2x2 ones tr sqrt(CD) = sqrt(tr + 2 sqrt det)."""
    first = of_moments([0.0, 1.0, 2.0], [[1.0, 0, 0], [0, 4.0, 0], [0, 0, 9.0]])
    second = of_moments([1.0, 1.0, 0.0], [[4.0, 0, 0], [0, 1.0, 0], [0, 0, 0.25]])
    assert frechet_distance(first, second).item() == pytest.approx(5 + 1 + 1 + 2.5**2, rel=1e-9)
    c, d = [[2.0, 0.5], [0.5, 1.0]], [[1.0, -0.3], [-0.3, 3.0]]
    product = torch.tensor(c, dtype=torch.float64) @ torch.tensor(d, dtype=torch.float64)
    mixed = math.sqrt(product.trace().item() + 2 * math.sqrt(product.det().item()))
    found = frechet_distance(of_moments([0.0, 0.0], c), of_moments([0.0, 3.0], d, rows=70))
    assert found.item() == pytest.approx(9 + 3 + 4 - 2 * mixed, rel=1e-9)


def test_distance_is_symmetric_and_does_not_depend_on_the_basis():
    first, second = points(40, 5), 2 * points(60, 5, seed=1) + 1
    turn = torch.linalg.qr(points(5, 5, seed=2)).Q
    distance = frechet_distance(first, second).item()
    assert frechet_distance(second, first).item() == pytest.approx(distance, rel=1e-12)
    assert frechet_distance(first @ turn, second @ turn).item() == pytest.approx(distance, rel=1e-12)


def test_what_is_not_finite_has_no_score():
    bad = logs()
    bad[3, 2] = torch.nan
    assert torch.isnan(inception_score(bad))
    assert torch.isnan(frechet_distance(bad, logs()))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ArgumentError, match="splits is 61"):
        inception_score(logs(), splits=61)
    with pytest.raises(ArgumentError, match=r"shape \(10,\)"):
        inception_score(logs()[0])
    with pytest.raises(ArgumentError, match="at least 2 samples"):
        frechet_distance(points(1), points(5))
    with pytest.raises(ArgumentError, match="with equal features"):
        frechet_distance(points(5, 3), points(5, 2))
