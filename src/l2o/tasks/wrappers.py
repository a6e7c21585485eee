"""Changes to any task family that make training on it generalise better: scaling, easy coordinates, noise."""

from collections.abc import Mapping

import torch
from torch import Tensor

from l2o import trees
from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.trees import Tree

_CEILING = 10.0
"""The published bound of each clipped square of the regulariser."""


class RandomScaling(TaskFamily):
    """f_c(theta) = f(c theta), from the start theta_0 / c: each coordinate has its own unit of length.

    c_i = exp(u_i) with u_i ~ U(-spread, spread), drawn once per task and trajectory and kept as part of the instance,
    so that the optimizer sees the gradient c grad f. Metrics are those of the unscaled parameters c theta.

    Args:
        family: the family to scale.
        spread: r in the source, at least 0; 0 changes nothing.
        spreads: other spreads for the parameters whose names begin with the given prefixes; the longest one counts.

    Example:
        The two parts of the source's training problem have their own spreads:

        >>> from l2o.tasks.quadratic import Quadratics
        >>> family = RandomScaling(ConvexRegulariser(Quadratics(3)), spread=3.0, spreads={"regulariser/": 1.0})
        >>> {name: tuple(leaf.shape) for name, leaf in family.sample(Stream(0)).items() if name.startswith("scales/")}
        {'scales/family/x': (1, 3), 'scales/regulariser/z': (1, 20)}

    Source: Lv, Jiang and Li 2017, "random scaling".
    """

    def __init__(self, family: TaskFamily, spread: float = 3.0, *, spreads: Mapping[str, float] | None = None) -> None:
        chosen = {"": spread, **(spreads or {})}
        for prefix, value in chosen.items():
            if not 0 <= value < float("inf"):
                raise ArgumentError(f"the spread of {prefix + '*'!r} is {value}; it must be finite and not negative")
        rng = Stream(0)
        self._shapes = {name: leaf.shape[1:] for name, leaf in family.init(family.sample(rng), rng).items()}
        for prefix in chosen:
            if not any(name.startswith(prefix) for name in self._shapes):
                known = ", ".join(self._shapes)
                raise ArgumentError(f"spreads names {prefix!r}, but no parameter begins so; there are {known}")
        self.name = f"{family.name}-scaled"
        self.family, self.offers = family, family.offers
        self.spread_of = {
            name: chosen[max((prefix for prefix in chosen if name.startswith(prefix)), key=len)]
            for name in self._shapes
        }

    def sample(self, rng: Stream) -> Tree:
        scaling = rng.child(self.name)  # not the wrapped family's own stream: that one draws what it draws unwrapped
        scales = {
            name: scaling.child(name).uniform(shape, low=-self.spread_of[name], high=self.spread_of[name]).exp()
            for name, shape in self._shapes.items()
        }
        return trees.join(family=self.family.sample(rng), scales=scales)

    def init(self, instance: Tree, rng: Stream) -> Tree:
        start = self.family.init(trees.select(instance, "family"), rng)
        return trees.map_leaves(torch.div, start, trees.select(instance, "scales"))

    def batch_indices(self, instance: Tree, rng: Stream) -> Tree:
        return self.family.batch_indices(trees.select(instance, "family"), rng)

    def gather(self, indices: Tree) -> Tree:
        return self.family.gather(indices)

    def whole(self) -> Tree | None:
        return self.family.whole()

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        return self.family.loss(_unscaled(params, instance), trees.select(instance, "family"), batch)

    def losses(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        return self.family.losses(_unscaled(params, instance), trees.select(instance, "family"), batch)

    def value_and_grad(self, params: Tree, instance: Tree, batch: Tree) -> tuple[Tensor, Tree]:
        """The wrapped family's own, by the chain rule: the gradient is c grad f."""
        unscaled = _unscaled(params, instance)
        losses, grads = self.family.value_and_grad(unscaled, trees.select(instance, "family"), batch)
        return losses, trees.map_leaves(torch.mul, grads, trees.select(instance, "scales"))

    def optimum(self, instance: Tree) -> Tree | None:
        optimum = self.family.optimum(trees.select(instance, "family"))
        return None if optimum is None else trees.map_leaves(torch.div, optimum, trees.select(instance, "scales"))

    def gradient_noise(self, params: Tree, instance: Tree, rng: Stream) -> Tree:
        """The wrapped family's, times c as its gradient."""
        noise = self.family.gradient_noise(_unscaled(params, instance), trees.select(instance, "family"), rng)
        return trees.map_leaves(torch.mul, noise, trees.select(instance, "scales"))

    def metrics(self, params: Tree, instance: Tree) -> Tree:
        return self.family.metrics(_unscaled(params, instance), trees.select(instance, "family"))

    def data_notes(self) -> list[str]:
        return self.family.data_notes()


class ConvexRegulariser(TaskFamily):
    """F(theta, z) = f(theta) + 1/n sum_i clip((z_i - a_i)^2, 0, 10): easy coordinates beside the hard ones.

    a ~ U(-1, 1)^n is drawn once per task and trajectory; z starts at 0 and is optimized with the rest. Parameters of
    the family are named `family/<name>`, and z `[tasks, coordinates]` is `regulariser/z`.

    Args:
        family: the family to add to.
        coordinates: n, at least 1.

    Source: Lv, Jiang and Li 2017, "combination with convex functions"; 20 coordinates and the bound 10 as in its code.
    """

    def __init__(self, family: TaskFamily, coordinates: int = 20) -> None:
        if coordinates < 1:
            raise ArgumentError(f"coordinates is {coordinates}; the regulariser needs at least 1")
        self.name = f"{family.name}-regularised"
        self.family, self.offers = family, family.offers
        self.coordinates = coordinates

    def sample(self, rng: Stream) -> Tree:
        centre = rng.child(self.name).uniform((self.coordinates,), low=-1.0, high=1.0)
        return trees.join(family=self.family.sample(rng), regulariser={"centre": centre})

    def init(self, instance: Tree, rng: Stream) -> Tree:
        start = self.family.init(trees.select(instance, "family"), rng)
        return trees.join(family=start, regulariser={"z": torch.zeros_like(instance["regulariser/centre"])})

    def batch_indices(self, instance: Tree, rng: Stream) -> Tree:
        return self.family.batch_indices(trees.select(instance, "family"), rng)

    def gather(self, indices: Tree) -> Tree:
        return self.family.gather(indices)

    def whole(self) -> Tree | None:
        return self.family.whole()

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        own = self.family.loss(trees.select(params, "family"), trees.select(instance, "family"), batch)
        return own + _bowl(params, instance)

    def losses(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        own = self.family.losses(trees.select(params, "family"), trees.select(instance, "family"), batch)
        return own + _bowl(params, instance)

    def value_and_grad(self, params: Tree, instance: Tree, batch: Tree) -> tuple[Tensor, Tree]:
        """The wrapped family's own, and in closed form 2 (z - a) / n where (z - a)^2 is below the bound, else 0."""
        params = trees.map_leaves(Tensor.detach, params)
        family_params, family_instance = trees.select(params, "family"), trees.select(instance, "family")
        losses, grads = self.family.value_and_grad(family_params, family_instance, batch)
        offset = params["regulariser/z"] - instance["regulariser/centre"]  # [tasks, coordinates]
        slope = torch.where(offset.square() <= _CEILING, 2 / self.coordinates * offset, 0.0)
        return losses + _bowl(params, instance), trees.join(family=grads, regulariser={"z": slope})

    def optimum(self, instance: Tree) -> Tree | None:
        optimum = self.family.optimum(trees.select(instance, "family"))
        if optimum is None:
            return None
        return trees.join(family=optimum, regulariser={"z": instance["regulariser/centre"]})

    def gradient_noise(self, params: Tree, instance: Tree, rng: Stream) -> Tree:
        """The wrapped family's; z's own gradient has none."""
        noise = self.family.gradient_noise(trees.select(params, "family"), trees.select(instance, "family"), rng)
        return trees.join(family=noise)

    def metrics(self, params: Tree, instance: Tree) -> Tree:
        return self.family.metrics(trees.select(params, "family"), trees.select(instance, "family"))

    def data_notes(self) -> list[str]:
        return self.family.data_notes()


class NoisyGradients(TaskFamily):
    """The same tasks, but an optimizer sees grad f + s N(0, I), drawn anew in every step.

    A meta-loss differentiates the exact gradient: the noise is only in what the optimizer is shown.

    Args:
        family: the family whose gradients are noisy.
        deviation: s, the standard deviation of each coordinate's noise, at least 0.

    Example:
        >>> from l2o.tasks.quadratic import Quadratics
        >>> NoisyGradients(Quadratics(3), 0.5).name
        'quadratics-3d-noisy-0.5'

    Source: the ensemble of Wichrowska et al. 2017.
    """

    def __init__(self, family: TaskFamily, deviation: float) -> None:
        if not 0 <= deviation < float("inf"):
            raise ArgumentError(f"deviation is {deviation}; it must be finite and not negative")
        self.name = f"{family.name}-noisy-{deviation:g}"
        self.family, self.offers = family, family.offers
        self.deviation = deviation

    def sample(self, rng: Stream) -> Tree:
        return self.family.sample(rng)

    def init(self, instance: Tree, rng: Stream) -> Tree:
        return self.family.init(instance, rng)

    def batch_indices(self, instance: Tree, rng: Stream) -> Tree:
        return self.family.batch_indices(instance, rng)

    def gather(self, indices: Tree) -> Tree:
        return self.family.gather(indices)

    def whole(self) -> Tree | None:
        return self.family.whole()

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        return self.family.loss(params, instance, batch)

    def losses(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        return self.family.losses(params, instance, batch)

    def value_and_grad(self, params: Tree, instance: Tree, batch: Tree) -> tuple[Tensor, Tree]:
        return self.family.value_and_grad(params, instance, batch)

    def gradient_noise(self, params: Tree, instance: Tree, rng: Stream) -> Tree:
        own = rng.child(self.name)  # not the wrapped family's own stream: that one may have noise too
        noise = {name: own.child(name).normal(leaf.shape[1:]).to(leaf) for name, leaf in params.items()}
        inner = self.family.gradient_noise(params, instance, rng)
        return {name: self.deviation * leaf + inner.get(name, 0.0) for name, leaf in noise.items()}

    def optimum(self, instance: Tree) -> Tree | None:
        return self.family.optimum(instance)

    def metrics(self, params: Tree, instance: Tree) -> Tree:
        return self.family.metrics(params, instance)

    def data_notes(self) -> list[str]:
        return self.family.data_notes()


def _unscaled(params: Tree, instance: Tree) -> Tree:
    return trees.map_leaves(torch.mul, params, trees.select(instance, "scales"))


def _bowl(params: Tree, instance: Tree) -> Tensor:
    """The regulariser's own term, for one task or for all: `[]` or `[tasks]`."""
    offset = params["regulariser/z"] - instance["regulariser/centre"]  # [..., coordinates]
    return offset.square().clamp(max=_CEILING).mean(-1)
