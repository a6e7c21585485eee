"""How good generated images are, by what a classifier makes of them: inception score and Fréchet distance."""

import torch
from torch import Tensor

from l2o.errors import ArgumentError


def inception_score(log_probabilities: Tensor, *, splits: int = 1) -> Tensor:
    """exp(mean over samples of KL(p(class | sample) || p(class))): from 1 to the number of classes.

    It is high where the classifier is sure of each sample and all classes come up. It says nothing about variety
    within a class, and images that only fool the classifier score as high as good ones.

    Args:
        log_probabilities: `[samples, classes]`, from a log-softmax: the logarithm of a probability that has become 0
            would not be finite.
        splits: the samples are cut into so many parts, in their order, and the score is the mean of the parts' scores;
            from 1 to the number of samples.

    Returns:
        A scalar in float64; NaN where a log-probability is.

    Example:
        >>> inception_score(torch.eye(10).log())
        tensor(10.0000, dtype=torch.float64)

    Source: Salimans et al. 2016, section 4.
    """
    samples = len(log_probabilities)
    if log_probabilities.ndim != 2 or not 1 <= splits <= samples:
        raise ArgumentError(
            f"log_probabilities have shape {tuple(log_probabilities.shape)} and splits is {splits}; pass [samples, "
            "classes] and 1 to samples parts"
        )
    scores = [_inception_score(part) for part in log_probabilities.double().tensor_split(splits)]
    return torch.stack(scores).mean()


def _inception_score(logs: Tensor) -> Tensor:
    together = logs.logsumexp(0) - torch.tensor(float(len(logs)), dtype=logs.dtype).log()  # [classes]
    # A class that one sample excludes altogether adds 0 to its divergence, not 0 times minus infinity.
    terms = torch.where(logs == -torch.inf, 0.0, logs.exp() * (logs - together))
    return terms.sum(1).mean().exp()


def frechet_distance(features: Tensor, others: Tensor) -> Tensor:
    """The squared Fréchet distance of the normal distributions with the mean and covariance of two sets.

        |m - n|^2 + tr(C + D - 2 (C D)^(1/2)),   tr((C D)^(1/2)) = sum of the singular values of C^(1/2) D^(1/2)

    The roots are those of symmetric matrices; so the distance of a set to itself is 0 to the last digits, also where a
    covariance is singular. Covariances are divided by one less than the number of samples.

    Args:
        features: `[samples, features]`, at least 2 samples.
        others: `[samples, features]`, at least 2, not necessarily as many.

    Returns:
        A scalar in float64; NaN where a feature is not finite.

    Example:
        >>> corners = torch.tensor([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0]])
        >>> frechet_distance(corners, corners + 1).round(decimals=9)
        tensor(2., dtype=torch.float64)

    Source: Dowson and Landau 1982; Heusel et al. 2017, with features of a network of our own.
    """
    for values in (features, others):
        if values.ndim != 2 or len(values) < 2 or values.shape[1:] != features.shape[1:]:
            raise ArgumentError(
                f"features have shapes {tuple(features.shape)} and {tuple(others.shape)}; pass two [samples, features] "
                "with equal features and at least 2 samples"
            )
    if not (torch.isfinite(features).all() and torch.isfinite(others).all()):
        return torch.full((), torch.nan, dtype=torch.float64, device=features.device)
    means, covariances = zip(*(_moments(values.double()) for values in (features, others)), strict=True)
    mixed = torch.linalg.svdvals(_root(covariances[0]) @ _root(covariances[1])).sum()
    spread = covariances[0].trace() + covariances[1].trace() - 2 * mixed
    return ((means[0] - means[1]).square().sum() + spread).clamp(min=0.0)


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    mean = values.mean(0)
    centred = values - mean
    return mean, centred.T @ centred / (len(values) - 1)


def _root(matrix: Tensor) -> Tensor:
    """The symmetric root of a symmetric matrix, whose eigenvalues are not negative but for rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T
