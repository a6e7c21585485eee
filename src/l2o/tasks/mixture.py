"""A mixture of task families whose parameters have different shapes."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NoReturn

from torch import Tensor

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.trees import Tree


class Mixture(TaskFamily):
    """Each trajectory meets tasks of one family out of several.

    The family is drawn from the trajectory's stream, for the first of its tasks: all tasks of a batch are of one
    family. In validations and curves each task has a family of its own, keyed by the task's number. Losses of different
    families have different sizes: validate with `Plan(validation_measure="log-ratio")`.

    A mixture has neither parameters nor a loss of its own; wrappers such as `RandomScaling` go around its families.

    Args:
        name: what the mixture is called; the variant below is added to it.
        families: what is mixed, with names of their own.
        weights: how often each is drawn in proportion to the others, not negative; by default all alike.
        trajectories_each: so many trajectories in a row meet one family, each with fresh tasks of it. The public code
            of Wichrowska et al. 2017 has 5, on a task that is the same but for its start.

    Example:
        >>> from l2o.tasks.quadratic import Quadratics
        >>> both = Mixture("both", [Quadratics(2), Quadratics(3)])
        >>> [both.member(Stream(0, trajectory=trajectory)).name for trajectory in range(3)]
        ['quadratics-3d', 'quadratics-3d', 'quadratics-2d']
    """

    def __init__(
        self,
        name: str,
        families: Sequence[TaskFamily],
        *,
        weights: Sequence[float] | None = None,
        trajectories_each: int = 1,
    ) -> None:
        names = [member.name for family in families for member in family.members()]
        if not names or len(set(names)) < len(names):
            raise ArgumentError(f"families {names}; pass at least one, each name once, and weights for some more often")
        shares = [1.0] * len(families) if weights is None else list(weights)
        if len(shares) != len(families) or not all(0 <= share < math.inf for share in shares) or not sum(shares) > 0:
            raise ArgumentError(
                f"weights {shares} for {len(families)} families; pass one number for each, not negative, not all 0"
            )
        if trajectories_each < 1:
            raise ArgumentError(f"trajectories_each is {trajectories_each}; it must be at least 1")
        weighted = "" if weights is None else "-weighted-" + ":".join(f"{share:g}" for share in shares)
        self.name = name + weighted + (f"-each-{trajectories_each}" if trajectories_each > 1 else "")
        self.families = tuple(families)
        self.offers = frozenset.intersection(*(family.offers for family in families))
        self.trajectories_each = trajectories_each
        self._bounds = list(accumulate(shares))  # where each family's part of [0, sum of the weights) ends

    def members(self) -> Sequence[TaskFamily]:
        return [member for family in self.families for member in family.members()]

    def member(self, rng: Stream) -> TaskFamily:
        own = rng.child(self.name).over(rng.tasks[:1]).at(trajectory=rng.trajectory // self.trajectories_each)
        place = bisect_right(self._bounds, float(own.uniform()) * self._bounds[-1])
        return self.families[place].member(rng)

    def init(self, instance: Tree, rng: Stream) -> Tree:
        self._refuse()

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        self._refuse()

    def data_notes(self) -> list[str]:
        return list(dict.fromkeys(note for family in self.families for note in family.data_notes()))

    def _refuse(self) -> NoReturn:
        raise ArgumentError(
            f"the mixture {self.name} has no tasks of its own, its families have; take one with member(rng), and put "
            "wrappers such as RandomScaling around the families, not around the mixture"
        )
