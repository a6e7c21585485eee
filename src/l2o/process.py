"""What is driven: a process shows an observation and takes an action."""

from typing import Protocol, Self

from torch import Tensor

from l2o.agent import Action
from l2o.trees import Tree


class Process(Protocol):
    """A process that an agent drives: a batch of tasks being optimized, or a training loop.

    `observe` gives two trees: what the agent sees, and what only the method sees. The second holds at least
    `loss` `[tasks]`, the clean loss, and `metagrad/<name>`, the gradient that a meta-loss differentiates. Both trees
    hold finite numbers only: a task that is not `alive` shows zeros. A process that only schedules drive
    has no meta-gradient to show.
    """

    @property
    def alive(self) -> Tensor:
        """Which tasks have neither diverged nor finished: `[tasks]` bool, as of the last observation."""
        ...

    def observe(self) -> tuple[Tree, Tree]:
        """What the agent sees, and what only the method sees."""
        ...

    def apply(self, action: Action) -> Self:
        """The process after the action."""
        ...

    @property
    def survivors(self) -> Tensor:
        """Which tasks were alive when they were last measured: `[tasks]` bool. Costs nothing."""
        ...

    def snapshot(self) -> Tree:
        """What the random streams cannot redraw, for a checkpoint."""
        ...

    def restored(self, snapshot: Tree, step: int) -> Self:
        """This process, at its start, taken to the step at which `snapshot` was taken."""
        ...
