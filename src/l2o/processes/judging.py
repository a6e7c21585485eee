"""How a run with several losses is judged: by its best or last validation, and by how it ended."""

from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

from l2o import trees
from l2o.tasks.alternate import Goal
from l2o.trees import Tree


class Outcome(IntEnum):
    """How a run stands, or how it ended."""

    RUNNING = 0
    FINISHED = 1
    """No validation was better for as long as its patience allows."""
    DIVERGED = 2
    """A loss, a gradient or the metric it is judged by was not finite."""
    COLLAPSED = 3
    """Its schedule took the same choice too often in a row."""


@dataclass(frozen=True)
class Judgement:
    """What the validations of each run have shown so far.

    Args:
        first: the metric of the goal at the start, `[tasks]`.
        metrics: all metrics at the validation that counts, each `[tasks]`.
        step: the step of that validation, `[tasks]`.
        best: the best value of the goal's metric, `[tasks]`.
        waited: validations since then, `[tasks]`.
    """

    first: Tensor
    metrics: Tree
    step: Tensor
    best: Tensor
    waited: Tensor

    @classmethod
    def of(cls, metrics: Tree, goal: Goal) -> "Judgement":
        """After the validation at the start."""
        first = metrics[goal.metric]
        none = torch.zeros(len(first), dtype=torch.int64)
        return cls(first, metrics, none, first, none)

    def after(self, metrics: Tree, goal: Goal, step: int, alive: Tensor) -> "Judgement":
        """After another validation, which counts for the runs that are alive."""
        fresh = metrics[goal.metric]
        better = alive & ((fresh < self.best) if goal.better == "lower" else (fresh > self.best))
        counts = better if goal.at == "best" else alive
        return replace(
            self,
            metrics=trees.where_tasks(counts, metrics, self.metrics),
            step=torch.where(counts, step, self.step),
            best=torch.where(better, fresh, self.best),
            waited=torch.where(better, 0, self.waited + alive.long()),
        )

    def tree(self) -> Tree:
        """Everything in it, for a checkpoint."""
        plain = {name: getattr(self, name) for name in ("first", "step", "best", "waited")}
        return {**plain, **trees.join(metrics=self.metrics)}

    @classmethod
    def from_tree(cls, tree: Tree) -> "Judgement":
        """The inverse of `tree`."""
        return cls(tree["first"], trees.select(tree, "metrics"), tree["step"], tree["best"], tree["waited"])
