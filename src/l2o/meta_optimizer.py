"""The optimizer of the meta-parameters: Adam or RMSprop, one set of moments for each kind of loss."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from l2o import trees
from l2o.agent import Agent, meta_parameters
from l2o.errors import ArgumentError
from l2o.trees import Tree


class Moments(Protocol):
    """The running averages of the meta-gradients of one kind of loss, and the step that they give."""

    def step(self, gradient: Mapping[str, Tensor], learning_rate: float) -> None:
        """Takes a meta-gradient up and moves the meta-parameters."""
        ...

    def tree(self) -> Tree:
        """The averages, `LEAF/PARAMETER`, for a checkpoint."""
        ...

    def load(self, tree: Tree) -> None:
        """Takes up what `tree` gave, in place of what is there."""
        ...


class MetaSettings(Protocol):
    """Settings of a meta-optimizer: they make its moments."""

    @property
    def learning_rate(self) -> float:
        """The step size at the start of the run."""
        ...

    def at(self, progress: float) -> float:
        """The step size when this share of the run is done, 0 to 1."""
        ...

    def moments_of(self, loss: str) -> str:
        """The name of the moments that a loss belongs to; losses of one name share them."""
        ...

    def fresh(self, parameters: Mapping[str, Tensor]) -> Moments:
        """Moments that have not seen a meta-gradient yet, to step these meta-parameters."""
        ...


@dataclass(frozen=True)
class MetaAdam:
    """Settings of Adam as the meta-optimizer, with moments of its own for each kind of loss.

    Args:
        learning_rate: step size, positive.
        final_learning_rate: the step size falls to it along half a cosine over the run; None keeps it constant, as the
            papers do.
        clip: largest norm of a meta-gradient, longer ones are scaled down to it; None for no clipping.

    Example:
        >>> settings = MetaAdam(3e-3, 3e-4, clip=1.0)
        >>> [round(settings.at(share), 5) for share in (0.0, 0.5, 1.0)]
        [0.003, 0.00165, 0.0003]

    Source: Kingma and Ba 2015, with their constants 0.9, 0.999 and 1e-8.
    """

    learning_rate: float = 1e-3
    final_learning_rate: float | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        _check_rates(self.learning_rate, self.final_learning_rate)
        if self.clip is not None and not self.clip > 0:
            raise ArgumentError(f"clip is {self.clip}; it must be positive, or None for no clipping")

    def at(self, progress: float) -> float:
        return _half_cosine(self.learning_rate, self.final_learning_rate, progress)

    def moments_of(self, loss: str) -> str:
        return loss

    def fresh(self, parameters: Mapping[str, Tensor]) -> Moments:
        return _AdamMoments(parameters, self.clip)


@dataclass(frozen=True)
class MetaRMSprop:
    """Settings of RMSprop as the meta-optimizer, in TensorFlow's form.

        g = clip(g, -element_clip, element_clip);  s = decay s + (1 - decay) g^2;  phi = phi - lr g / sqrt(s + epsilon)

    The mean square s starts at one, not at zero: as long as meta-gradients are small against one, a step is about
    lr g, and it grows to its full length, lr, only as s falls.

    Args:
        learning_rate: step size, positive. The public code has 1e-6, which moves a meta-parameter by about a millionth
            in each window.
        final_learning_rate: as in `MetaAdam`.
        decay: of the mean square, in [0, 1).
        epsilon: added to the mean square under the root, positive.
        element_clip: bound on every number of a meta-gradient, positive; None for no clipping.
        moments: "own" gives each kind of loss its own mean squares; "shared" lets all losses share one, as the public
            code of Chen et al. 2020 does when it trains L2O-Scale with imitation. A loss that is much smaller than the
            others is then hardly seen.

    Example:
        >>> MetaRMSprop(1e-4, moments="shared").moments_of("meta-loss") == MetaRMSprop(1e-4).moments_of("meta-loss")
        False

    Source: Wichrowska et al. 2017; the constants are those of the public code. Left out: momentum, which is 0 there.
    The public code replaces numbers that are not finite by 0 before it clips; here a window with such a meta-gradient
    is skipped and counted, under every meta-optimizer.
    """

    learning_rate: float = 1e-3
    final_learning_rate: float | None = None
    decay: float = 0.9
    epsilon: float = 1e-20
    element_clip: float | None = 1e4
    moments: Literal["own", "shared"] = "own"

    def __post_init__(self) -> None:
        _check_rates(self.learning_rate, self.final_learning_rate)
        if not 0 <= self.decay < 1:
            raise ArgumentError(f"decay is {self.decay}; it must lie in [0, 1)")
        if not self.epsilon > 0:
            raise ArgumentError(f"epsilon is {self.epsilon}; it must be positive")
        if self.element_clip is not None and not self.element_clip > 0:
            raise ArgumentError(f"element_clip is {self.element_clip}; it must be positive, or None for no clipping")
        if self.moments not in ("own", "shared"):
            raise ArgumentError(f"moments is {self.moments!r}; choose 'own' or 'shared'")

    def at(self, progress: float) -> float:
        return _half_cosine(self.learning_rate, self.final_learning_rate, progress)

    def moments_of(self, loss: str) -> str:
        return {"own": loss, "shared": "shared"}[self.moments]

    def fresh(self, parameters: Mapping[str, Tensor]) -> Moments:
        return _RMSpropMoments(parameters, self)


class MetaOptimizer:
    """Steps an agent's meta-parameters along meta-gradients.

    Args:
        agent: whose meta-parameters.
        settings: of Adam or RMSprop.
        losses: names of the kinds of loss whose meta-gradients will come: `Method.moments`.
    """

    def __init__(self, agent: Agent, settings: MetaSettings, losses: Iterable[str]) -> None:
        parameters = meta_parameters(agent)
        if not parameters:
            raise ArgumentError(f"{type(agent).__name__} has no meta-parameters: there is nothing to meta-train")
        self._settings = settings
        names = dict.fromkeys(settings.moments_of(loss) for loss in losses)
        self._moments = {name: settings.fresh(parameters) for name in names}

    def step(self, gradient: Mapping[str, Tensor], loss: str, *, progress: float) -> None:
        """One step with the moments of that loss, when the share `progress` of the run is done."""
        self._moments[self._settings.moments_of(loss)].step(gradient, self._settings.at(progress))

    def tree(self) -> Tree:
        """All moments, for a checkpoint."""
        return trees.join(**{name: moments.tree() for name, moments in self._moments.items()})

    def load(self, tree: Tree) -> None:
        """Takes up the moments that `tree` gave, in place of those it has."""
        for name, moments in self._moments.items():
            moments.load(trees.select(tree, name))


class _AdamMoments:
    """torch's Adam; its leaves are `step`, `exp_avg` and `exp_avg_sq`, none before the first meta-gradient."""

    def __init__(self, parameters: Mapping[str, Tensor], clip: float | None) -> None:
        self._parameters, self._clip = parameters, clip
        self._adam = torch.optim.Adam(parameters.values(), foreach=False)

    def step(self, gradient: Mapping[str, Tensor], learning_rate: float) -> None:
        for name, parameter in self._parameters.items():
            parameter.grad = gradient[name].detach().clone()
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._clip)
        self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def tree(self) -> Tree:
        return {
            f"{leaf}/{name}": value
            for name, parameter in self._parameters.items()
            for leaf, value in self._adam.state.get(parameter, {}).items()
        }

    def load(self, tree: Tree) -> None:
        self._adam.state.clear()
        for name, parameter in self._parameters.items():
            found = {
                leaf: tree[f"{leaf}/{name}"].clone()
                for leaf in ("step", "exp_avg", "exp_avg_sq")
                if f"{leaf}/{name}" in tree
            }
            if found:
                self._adam.state[parameter] = {**found, "step": found["step"].cpu()}


class _RMSpropMoments:
    """RMSprop as TensorFlow has it: torch's adds epsilon after the root and starts the mean square at zero."""

    def __init__(self, parameters: Mapping[str, Tensor], settings: MetaRMSprop) -> None:
        self._parameters, self._settings = parameters, settings
        self._mean_square = trees.map_leaves(torch.ones_like, parameters)

    @torch.no_grad()
    def step(self, gradient: Mapping[str, Tensor], learning_rate: float) -> None:
        decay, epsilon, bound = self._settings.decay, self._settings.epsilon, self._settings.element_clip
        for name, parameter in self._parameters.items():
            grad = gradient[name] if bound is None else gradient[name].clamp(-bound, bound)
            self._mean_square[name] = decay * self._mean_square[name] + (1 - decay) * grad.square()
            parameter -= learning_rate * grad / (self._mean_square[name] + epsilon).sqrt()

    def tree(self) -> Tree:
        return trees.join(mean_square=self._mean_square)

    def load(self, tree: Tree) -> None:
        self._mean_square = {name: tree[f"mean_square/{name}"].clone() for name in self._parameters}


def global_norm(gradient: Mapping[str, Tensor]) -> float:
    """The Euclidean norm over all meta-parameters."""
    return float(torch.stack([leaf.norm() for leaf in gradient.values()]).norm())


def snapshot(agent: Agent) -> Tree:
    """A copy of the agent's meta-parameters and buffers."""
    return trees.map_leaves(lambda leaf: leaf.detach().clone(), agent.state_dict())


def is_finite(gradient: Mapping[str, Tensor]) -> bool:
    """Whether every number of a meta-gradient is finite."""
    return all(bool(torch.isfinite(leaf).all()) for leaf in gradient.values())


def _check_rates(learning_rate: float, final_learning_rate: float | None) -> None:
    if not learning_rate > 0:
        raise ArgumentError(f"meta learning rate is {learning_rate}; it must be positive")
    if final_learning_rate is not None and not 0 < final_learning_rate <= learning_rate:
        raise ArgumentError(
            f"final meta learning rate is {final_learning_rate}; it must be positive and at most {learning_rate}, or "
            "None for a constant one"
        )


def _half_cosine(learning_rate: float, final_learning_rate: float | None, progress: float) -> float:
    if final_learning_rate is None:
        return learning_rate
    above = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return final_learning_rate + (learning_rate - final_learning_rate) * above
