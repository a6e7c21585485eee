"""A batch of tasks being optimized, as a process."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from l2o import trees
from l2o.agent import Action
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.trees import Tree


@dataclass(frozen=True)
class Optimizee:
    """A batch of tasks of one family on their way down.

    What it draws is a function of its stream and its step alone. A task whose loss or gradient is not finite is dead
    from then on: it shows zeros, and its parameters stay as they are.

    Args:
        family: where the tasks come from; of a mixture, the member that was drawn.
        instance: the tasks' own data, leaves `[tasks, ...]`.
        params: current parameters, leaves `[tasks, ...]`.
        rng: the trajectory's stream.
        step: inner steps done so far.
        survivors: `[tasks]` bool, which tasks were alive before this step.
    """

    family: TaskFamily
    instance: Tree
    params: Tree
    rng: Stream
    step: int
    survivors: Tensor

    @classmethod
    def start(
        cls,
        family: TaskFamily,
        rng: Stream,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "Optimizee":
        """Draws the tasks of the stream, all of one member of the family, and their initial parameters."""
        family = family.member(rng)
        instance = family.sample(rng.child("instance"))
        params = family.init(instance, rng.child("init"))
        alive = torch.ones(len(rng.tasks), dtype=torch.bool, device=device)
        return cls(family, trees.to(instance, device, dtype), trees.to(params, device, dtype), rng, 0, alive)

    def batch(self) -> Tree:
        """The minibatch of the current step: leaves `[tasks, ...]`."""
        leaf = next(iter(self.params.values()))
        indices = self.family.batch_indices(self.instance, self.rng.child("batch").at(step=self.step))
        return trees.to(self.family.gather(indices), leaf.device, leaf.dtype)

    def shown(self, grads: Tree) -> Tree:
        """The gradients as an optimizer sees them at the current step: with the family's noise, if it has any."""
        noise = self.family.gradient_noise(self.params, self.instance, self.rng.child("noise").at(step=self.step))
        return {name: grad + noise[name] if name in noise else grad for name, grad in grads.items()}

    def observe(self) -> tuple[Tree, Tree]:
        return self._observed[:2]

    @property
    def alive(self) -> Tensor:
        return self._observed[2]

    def apply(self, action: Action) -> "Optimizee":
        moved = {name: leaf + action[name] for name, leaf in self.params.items()}
        params = trees.where_tasks(self.alive, moved, self.params)
        return replace(self, params=params, step=self.step + 1, survivors=self.alive)

    def snapshot(self) -> Tree:
        """What the stream cannot redraw, for a checkpoint."""
        return {**trees.join(params=self.params), "survivors": self.survivors}

    def restored(self, snapshot: Tree, step: int) -> "Optimizee":
        """This trajectory at the step at which `snapshot` was taken, its parameters in the order that they have here.

        A file gives the leaves back in any order, and the order is what a flat state of coordinates goes by.
        """
        params = {name: snapshot[f"params/{name}"] for name in self.params}
        return replace(self, params=params, survivors=snapshot["survivors"], step=step)

    @cached_property
    def _observed(self) -> tuple[Tree, Tree, Tensor]:
        losses, grads = self.family.value_and_grad(self.params, self.instance, self.batch())
        alive = self.survivors & torch.isfinite(losses) & trees.finite_tasks(grads)
        seen, hidden = (
            trees.where_tasks(alive, tree, trees.map_leaves(torch.zeros_like, tree))
            for tree in (trees.join(grad=self.shown(grads), params=self.params), trees.join(metagrad=grads))
        )
        losses = torch.where(alive, losses, 0.0)
        return {**seen, "loss": losses}, {**hidden, "loss": losses}, alive
