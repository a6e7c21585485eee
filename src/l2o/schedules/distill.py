"""Recorded decisions, distilled to a fixed schedule."""

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.schedules.fixed import RatesInTime


def distill(decisions: Tensor, choices: int, *, parts: int = 10) -> RatesInTime:
    """How often each choice was taken in each part of the run, as a schedule that reads nothing but the progress.

    What a controller decides, less whatever it decided by: if the distilled schedule does as well, time alone was
    enough. Save it with `l2o.save` and load it with `load_schedule`.

    Args:
        decisions: `[runs, steps]`, numbers of choices, -1 where a run had ended: `ScheduledRun.choices`, or
            `Follower.decisions` of a whole run.
        choices: how many there are.
        parts: of the run, equally long; at most as many as it has steps.

    Raises:
        ArgumentError: the decisions are not `[runs, steps]`, or not of so many choices; or all runs ended before the
            first of some part.

    Example:
        >>> distill(torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]]), 2, parts=2).rates
        [[0.75, 0.25], [0.0, 1.0]]
    """
    if decisions.ndim != 2 or not 1 <= parts <= decisions.shape[1]:
        raise ArgumentError(
            f"decisions of shape {tuple(decisions.shape)} in {parts} parts; pass [runs, steps] and 1 to steps parts"
        )
    if int(decisions.max()) >= choices:
        raise ArgumentError(f"the decisions name choice {int(decisions.max())}; there are {choices}, counted from 0")
    decisions, steps = decisions.cpu(), decisions.shape[1]
    part = torch.arange(steps) * parts // steps  # [steps]
    counts = torch.zeros(parts, choices, dtype=torch.float64)
    for choice in range(choices):
        counts[:, choice].index_add_(0, part, (decisions == choice).double().sum(0))
    totals = counts.sum(1, keepdim=True)
    if not bool((totals > 0).all()):
        raise ArgumentError("all runs ended before some part of the time began; pass fewer parts, or longer runs")
    return RatesInTime((counts / totals).tolist())
