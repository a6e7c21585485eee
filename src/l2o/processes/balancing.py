"""Published rules that make one gradient of several losses' gradients."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.optimizers.handcrafted import Adam
from l2o.rng import Stream
from l2o.trees import Tree


@dataclass(frozen=True)
class Balanced:
    """How one step balances the losses.

    Args:
        weights: of each loss, `[tasks, losses]`: what parameters that one loss alone reaches are stepped with.
        gradient: what the shared parameters are stepped with, `[tasks, coordinates]`.
        state: the rule's next state.
    """

    weights: Tensor
    gradient: Tensor
    state: Tree


class Balancing(ABC):
    """A rule that makes one gradient of several. Pure: what it remembers is in its state, leaves `[tasks, ...]`."""

    name: str
    """What reports call it."""

    def begin(self, values: Tensor) -> Tree:
        """The state before the first step, from the losses there, `[tasks, losses]`; empty by default."""
        del values
        return {}

    @abstractmethod
    def balance(self, values: Tensor, gradients: Tensor, state: Tree, rng: Stream) -> Balanced:
        """One step.

        Args:
            values: the losses, `[tasks, losses]`.
            gradients: of each loss to the shared parameters, `[tasks, losses, coordinates]`.
            state: the rule's own.
            rng: the step's stream.
        """


class EqualWeights(Balancing):
    """The sum of all losses."""

    name = "equal weights"

    def balance(self, values: Tensor, gradients: Tensor, state: Tree, rng: Stream) -> Balanced:
        return _weighted(torch.ones_like(values), gradients, state)


class RandomLossWeighting(Balancing):
    """Weights softmax(z) with z ~ N(0, I) drawn at every step (Lin, Ye, Zhang and Tsang 2022, "RLW").

    Its limit of one loss at a time, drawn uniformly, is a schedule of constant rates.
    """

    name = "RLW"

    def balance(self, values: Tensor, gradients: Tensor, state: Tree, rng: Stream) -> Balanced:
        drawn = rng.normal((values.shape[1],)).to(values)
        return _weighted(drawn.softmax(1), gradients, state)


class UncertaintyWeighting(Balancing):
    """Minimises  sum_k L_k / (2 s_k) + log(s_k) / 2  over the variances s_k too (Kendall, Gal and Cipolla 2018).

    At its stationary point s_k = L_k. The paper's form for a squared error is taken for every loss, as is usual.

    Args:
        lr: of Adam on log s_k, which starts at 0; in the paper the network's own.
    """

    name = "uncertainty weighting"

    def __init__(self, lr: float = 1e-3) -> None:
        self.rule = Adam(lr)

    def begin(self, values: Tensor) -> Tree:
        tasks, losses = values.shape
        return {"log_variances": torch.zeros_like(values), **self.rule.init_coordinates(tasks, losses, values)}

    def balance(self, values: Tensor, gradients: Tensor, state: Tree, rng: Stream) -> Balanced:
        precisions = (-state["log_variances"]).exp()
        step, adam = self.rule.update((1 - precisions * values) / 2, state)
        after = {"log_variances": state["log_variances"] + step, **adam}
        return _weighted(precisions / 2, gradients, after)


class DynamicWeightAverage(Balancing):
    """Weights  K softmax(r_k / T)  with r_k the ratio of a loss's last mean to the one before (Liu et al. 2019, "DWA").

    Means are over periods of some steps, the paper's epochs; the weights of the first two are 1.

    Args:
        period: steps of a mean.
        temperature: T; the larger, the more even.

    Raises:
        ArgumentError: a loss is negative, when it is balanced.
    """

    name = "DWA"

    def __init__(self, period: int = 10, *, temperature: float = 2.0) -> None:
        if period < 1 or not temperature > 0:
            raise ArgumentError(f"period {period} must be at least 1 and temperature {temperature} positive")
        self.period, self.temperature = period, temperature

    def begin(self, values: Tensor) -> Tree:
        none, one = torch.zeros_like(values), torch.ones_like(values)
        return {"sum": none, "last": one, "before": one, "step": torch.zeros_like(values[:, 0])}

    def balance(self, values: Tensor, gradients: Tensor, state: Tree, rng: Stream) -> Balanced:
        _check_sign(self.name, values)
        ratios = state["last"] / state["before"].clamp_min(torch.finfo(values.dtype).tiny)
        weights = values.shape[1] * (ratios / self.temperature).softmax(1)
        total, step = state["sum"] + values, state["step"] + 1
        done = (step % self.period == 0)[:, None]
        mean = total / self.period
        before = torch.where((step == self.period)[:, None], mean, state["last"])  # after the first, a ratio of 1
        after = {
            "sum": torch.where(done, 0.0, total),
            "last": torch.where(done, mean, state["last"]),
            "before": torch.where(done, before, state["before"]),
            "step": step,
        }
        return _weighted(weights, gradients, after)


class GradNorm(Balancing):
    """Learns weights at which all losses pull the shared parameters alike (Chen, Badrinarayanan, Lee, Rabinovich 2018).

        minimise over w  sum_k | w_k |g_k| - c_k |,  c_k = mean_i(w_i |g_i|) r_k^alpha held fixed,
        r_k = (L_k / L_k at the start) / mean_i(L_i / L_i at the start);  then w is scaled to the sum K

    Where we differ: the norm is over all shared parameters, not those of the last shared layer; weights are kept above
    1e-3, as nothing else keeps them positive.

    Args:
        lr: of Adam on the weights.
        alpha: how much faster the losses that lag behind are to be trained.

    Raises:
        ArgumentError: a loss is negative, or 0 at the start, when it is balanced.
    """

    name = "GradNorm"

    def __init__(self, lr: float = 0.025, *, alpha: float = 1.5) -> None:
        self.rule, self.alpha = Adam(lr), alpha

    def begin(self, values: Tensor) -> Tree:
        if bool((values == 0).any()):
            raise ArgumentError(f"{self.name} divides by the losses at the start, and one is 0; leave it out")
        tasks, losses = values.shape
        fresh = self.rule.init_coordinates(tasks, losses, values)
        return {"first": values, "weights": torch.ones_like(values), **fresh}

    def balance(self, values: Tensor, gradients: Tensor, state: Tree, rng: Stream) -> Balanced:
        _check_sign(self.name, values)
        weights, norms = state["weights"], gradients.norm(dim=2)  # [tasks, losses]
        left = values / state["first"]
        rates = left / left.mean(1, keepdim=True)
        wanted = (weights * norms).mean(1, keepdim=True) * rates**self.alpha
        step, adam = self.rule.update((weights * norms - wanted).sign() * norms, state)
        moved = (weights + step).clamp_min(1e-3)
        moved = moved * values.shape[1] / moved.sum(1, keepdim=True)
        return _weighted(weights, gradients, {"first": state["first"], "weights": moved, **adam})


class PCGrad(Balancing):
    """Takes from each loss's gradient what conflicts with another's, and adds them up (Yu et al. 2020, algorithm 1).

    for each i, for j != i in random order:  if g . g_j < 0 then g = g - (g . g_j / |g_j|^2) g_j,  g = g_i at first
    """

    name = "PCGrad"

    def balance(self, values: Tensor, gradients: Tensor, state: Tree, rng: Stream) -> Balanced:
        projected = project_conflicts(gradients, rng)
        return Balanced(torch.ones_like(values), projected.sum(1), state)


def project_conflicts(gradients: Tensor, rng: Stream) -> Tensor:
    """The gradients `[tasks, losses, coordinates]`, each without what conflicts with another (see `PCGrad`)."""
    losses = gradients.shape[1]
    products = gradients @ gradients.mT  # [tasks, losses, losses]
    squares = products.diagonal(dim1=1, dim2=2).clamp_min(torch.finfo(gradients.dtype).tiny)
    orders = rng.uniform((losses, losses)).to(gradients.device).argsort(2)  # [tasks, losses, losses]
    # Row i says which sum of the gradients loss i's has become: all products follow from the few known ones.
    sums = torch.eye(losses).to(gradients).repeat(len(gradients), 1, 1)
    for place in range(losses):
        other = torch.nn.functional.one_hot(orders[:, :, place], losses).to(gradients)  # [tasks, losses, losses]
        other = other * (1 - torch.eye(losses).to(gradients))  # not with itself
        product = (sums @ products * other).sum(2)  # [tasks, losses]
        share = product.clamp_max(0) / torch.where(other.any(2), (other * squares[:, None]).sum(2), 1.0)
        sums = sums - share[:, :, None] * other
    return sums @ gradients


def _check_sign(name: str, values: Tensor) -> None:
    """Refuses a rule that compares ratios of losses where a loss is below 0; what is not finite has diverged."""
    if bool(((values < 0) & torch.isfinite(values)).any()):
        least = float(values[torch.isfinite(values)].min())
        raise ArgumentError(
            f"{name} compares ratios of losses, and one is {least:.4g}; add a constant to it or choose another rule"
        )


def _weighted(weights: Tensor, gradients: Tensor, state: Tree) -> Balanced:
    return Balanced(weights, (weights[:, None] @ gradients)[:, 0], state)
