"""What a schedule's run is worth, by the metric that it is judged by."""

from typing import Protocol

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.processes.judging import Outcome
from l2o.processes.replicated_losses import ReplicatedLosses
from l2o.tasks.alternate import Goal


class Reward(Protocol):
    """From a metric and what was spent, both `[tasks]`, to rewards `[tasks]`, higher for better."""

    def __call__(self, metric: Tensor, goal: Goal, cost: Tensor) -> Tensor: ...


class LogReward:
    """-ln of a metric that is to be low, ln of one that is to be high: the metric's unit does not matter.

    The metric must be positive.
    """

    def __call__(self, metric: Tensor, goal: Goal, cost: Tensor) -> Tensor:
        del cost
        return -metric.log() if goal.better == "lower" else metric.log()


class NegativeReward:
    """A metric that is to be high as it is, and minus one that is to be low: for metrics of any sign.

    Args:
        price: of a unit of cost, taken off; not negative.
    """

    def __init__(self, price: float = 0.0) -> None:
        if not 0 <= price < float("inf"):
            raise ArgumentError(f"price is {price}; it must be finite and not negative")
        self.price = price

    def __call__(self, metric: Tensor, goal: Goal, cost: Tensor) -> Tensor:
        return (-metric if goal.better == "lower" else metric) - self.price * cost


class PublishedReward:
    """The published rewards: C / error, -C / (1 - error) with 1 - error at least 1/2, and C score^2.

    Args:
        form: "error", for a mean squared error; "accuracy", for a classifier's share of errors; "score", for an
            inception score.
        factor: C.

    Source: AutoLoss (Xu et al. 2019), section 4; constants 20,000, 1,000 and 10 in its public code. The second rises
    with the accuracy, though it is always negative.
    """

    def __init__(self, form: str, factor: float) -> None:
        if form not in ("error", "accuracy", "score"):
            raise ArgumentError(f"form is {form!r}; choose 'error', 'accuracy' or 'score'")
        if not factor > 0:
            raise ArgumentError(f"factor is {factor}; it must be positive")
        self.form, self.factor = form, factor

    def __call__(self, metric: Tensor, goal: Goal, cost: Tensor) -> Tensor:
        del goal, cost
        if self.form == "error":
            return self.factor / metric
        if self.form == "accuracy":
            return -self.factor / (1 - metric).clamp(min=0.5)
        return self.factor * metric.square()


def describe(reward: Reward) -> dict[str, object]:
    """Its class and settings, in JSON."""
    return {"kind": type(reward).__name__, **vars(reward)}


def rewards(process: ReplicatedLosses, reward: Reward) -> Tensor:
    """What each run has earned so far, `[tasks]`; one that diverged or collapsed is worth what its start was.

    Raises:
        ArgumentError: a reward is not finite.
    """
    goal, judgement = process.family.goal, process.judgement
    lost = (process.outcome == Outcome.DIVERGED) | (process.outcome == Outcome.COLLAPSED)
    metric = torch.where(lost, judgement.first, judgement.metrics[goal.metric])
    found = reward(metric, goal, process.measures["cost"])
    if not bool(torch.isfinite(found).all()):
        worst = metric[~torch.isfinite(found)][0]
        raise ArgumentError(
            f"a run with {goal.metric} {float(worst):.4g} has no finite reward by {type(reward).__name__}; take "
            "another reward, NegativeReward for metrics that can be 0 or negative"
        )
    return found
