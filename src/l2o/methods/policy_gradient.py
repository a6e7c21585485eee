"""Policy gradients: a schedule's decisions are weighted by how much better than usual their run ended."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.kernels.targets import Chosen
from l2o.replay import replay_gradient
from l2o.rollout import Record
from l2o.schedules.base import Schedule
from l2o.trees import Tree

Time = Literal["mean", "sum"]
"""Whether a run's decisions are averaged or summed: with Adam as the meta-optimizer, a matter of scale."""


@dataclass(frozen=True)
class LeaveOneOut:
    """Each run's reward against the mean of the others': unbiased, for two runs or more.

    Args:
        standardise: divide by the standard deviation of the rewards, so that their unit does not matter.
        clip: bound on an advantage, or None.
    """

    standardise: bool = True
    clip: float | None = 3.0

    def advantages(self, rewards: Tensor) -> tuple[Tensor, "LeaveOneOut"]:
        """Advantages `[tasks]` of rewards `[tasks]`, and the baseline for the next batch: itself.

        Raises:
            ArgumentError: fewer than two runs, or a reward that is not finite.
        """
        _check(rewards)
        if len(rewards) < 2:
            raise ArgumentError("1 run has no others to be compared with; roll out at least 2, or use MovingAverage")
        others = (rewards.sum() - rewards) / (len(rewards) - 1)
        found = rewards - others
        if self.standardise:
            found = found / rewards.std().clamp(min=1e-12) if bool(rewards.std() > 0) else torch.zeros_like(found)
        return _clipped(found, self.clip), self


@dataclass(frozen=True)
class MovingAverage:
    """Rewards against B, where B = decay B + (1 - decay) reward afterwards; the first reward is the first B.

    Args:
        decay: in [0, 1).
        clip: bound on an advantage, or None.
        value: B; None before the first reward.

    Source: AutoLoss (Xu et al. 2019), equations 2 and 3. Its public code renews B before it subtracts it.
    """

    decay: float = 0.8
    clip: float | None = 20.0
    value: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ArgumentError(f"decay is {self.decay}; it must lie in [0, 1)")

    def advantages(self, rewards: Tensor) -> tuple[Tensor, "MovingAverage"]:
        """Advantages `[tasks]` of rewards `[tasks]`, all against the same B, and the baseline for the next batch."""
        _check(rewards)
        baseline = float(rewards[0]) if self.value is None else self.value
        value = baseline
        for reward in rewards.tolist():
            value = self.decay * value + (1 - self.decay) * reward
        return _clipped(rewards - baseline, self.clip), replace(self, value=value)


def policy_gradient(schedule: Schedule, record: Record, advantages: Tensor, *, time: Time = "mean") -> Tree:
    """The gradient that a meta-optimizer descends: minus the policy gradient.

        - mean over runs of advantage x (mean or sum over steps of grad log p(choice))

    Decisions after a run died do not count.

    Args:
        schedule: whose decisions they were.
        record: of a rollout that `ScheduleDrives` drove.
        advantages: `[tasks]`.
        time: over steps.

    Returns:
        One tensor for each meta-parameter, by name.

    Source: Williams 1992.
    """
    if time not in ("mean", "sum"):
        raise ArgumentError(f"time is {time!r}; choose 'mean' or 'sum'")
    choices = torch.stack([action["choice"] for action in record.actions])  # [steps, tasks]
    scale = len(advantages) * (record.steps if time == "mean" else 1)
    weights = -advantages / scale * record.alive[:, :-1].T.to(advantages.dtype)  # [steps, tasks]
    return replay_gradient(schedule, record, Chosen(choices, weights))


def _check(rewards: Tensor) -> None:
    if not bool(torch.isfinite(rewards).all()):
        raise ArgumentError(f"rewards are {rewards.tolist()}; a run that diverged needs a finite reward of its own")


def _clipped(advantages: Tensor, clip: float | None) -> Tensor:
    return advantages if clip is None else advantages.clamp(-clip, clip)
