"""L2O-DM: the coordinate-wise LSTM optimizer of Andrychowicz et al. 2016."""

import math
from typing import Literal

import torch
from torch import Tensor

from l2o.agent import CellSpec
from l2o.errors import ArgumentError
from l2o.nn import Linear, LSTMCell
from l2o.optimizers.base import Config, Coordinatewise, zeros
from l2o.rng import Stream
from l2o.trees import Tree

_EPSILON = torch.finfo(torch.float32).eps


def log_and_sign(grad: Tensor, k: float) -> Tensor:
    """The published preprocessing, its two features as the last axis.

        x1 = max(ln(|g| + eps) / k, -1)        x2 = clip(g e^k, -1, 1)

    Args:
        grad: any shape.
        k: magnitudes below e^-k count as small.

    Returns:
        `[*grad.shape, 2]`.

    Example:
        >>> log_and_sign(torch.tensor([0.1]), 5.0)
        tensor([[-0.4605,  1.0000]])

    Source: Andrychowicz et al. 2016, appendix A, in the form of its public code: clamped below only.
    """
    magnitude = ((grad.abs() + _EPSILON).log() / k).clamp(min=-1.0)
    sign = (grad * math.exp(k)).clamp(-1.0, 1.0)
    return torch.stack([magnitude, sign]).movedim(0, -1)


class L2ODM(Coordinatewise):
    """delta = scale (W h2 + b), where h2 is the output of a two-layer LSTM over the preprocessed gradient.

    5,141 meta-parameters with the defaults; 5,061 with identity preprocessing (one input instead of two).

    Args:
        k: constant of the log-and-sign preprocessing, positive.
        scale: factor on the output.
        preprocess: "log_and_sign", or "identity" to feed the gradient itself.
        hidden: units of each LSTM layer.
        seed: seed of the initial meta-parameters.

    Example:
        >>> sum(p.numel() for p in L2ODM().parameters())
        5141

    Source: Andrychowicz et al. 2016, section 2.1; defaults as Chen et al. 2020 use it.
    """

    name = "L2O-DM"

    def __init__(
        self,
        *,
        k: float = 5.0,
        scale: float = 0.01,
        preprocess: Literal["log_and_sign", "identity"] = "log_and_sign",
        hidden: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not k > 0 or hidden < 1:
            raise ArgumentError(f"k is {k} and hidden {hidden}; both must be positive")
        if preprocess not in ("log_and_sign", "identity"):
            raise ArgumentError(f"preprocess is {preprocess!r}; choose 'log_and_sign' or 'identity'")
        self.preprocess: Literal["log_and_sign", "identity"] = preprocess
        self.k, self.scale, self.hidden = k, scale, hidden
        self.cell1 = LSTMCell(2 if preprocess == "log_and_sign" else 1, hidden)
        self.cell2 = LSTMCell(hidden, hidden)
        self.output = Linear(hidden, 1)
        generator = Stream(seed, ("meta-parameters", "L2ODM")).torch_generator()
        for part in (self.cell1, self.cell2, self.output):
            part.reset(generator)

    @classmethod
    def chen(cls, *, seed: int = 0) -> "L2ODM":
        """The constants of Chen et al. 2020 and of the public code: k 5, scale 0.01."""
        return cls(k=5.0, scale=0.01, seed=seed)

    @classmethod
    def andrychowicz(cls, *, seed: int = 0) -> "L2ODM":
        """The constants of Andrychowicz et al. 2016: k 10, scale 0.1."""
        return cls(k=10.0, scale=0.1, seed=seed)

    @classmethod
    def for_quadratics(cls, *, seed: int = 0) -> "L2ODM":
        """The public code's variant for quadratics: no preprocessing, scale 1."""
        return cls(preprocess="identity", scale=1.0, seed=seed)

    def config(self) -> Config:
        return {"k": self.k, "scale": self.scale, "preprocess": self.preprocess, "hidden": self.hidden}

    @property
    def cell(self) -> CellSpec:
        return CellSpec(self.preprocess, self.hidden, self.scale, k=self.k)

    def init_coordinates(self, tasks: int, coordinates: int, like: Tensor) -> Tree:
        return {leaf: zeros(like, tasks, coordinates, self.hidden) for leaf in ("h1", "c1", "h2", "c2")}

    def update(self, grad: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        if self.preprocess == "log_and_sign":
            features = log_and_sign(grad.flatten(), self.k)  # [tasks * coordinates, 2]
        else:
            features = grad.flatten()[:, None]
        h2, state = two_layers(self.cell1, self.cell2, features, state)
        return self.scale * self.output(h2).reshape(grad.shape), state


def two_layers(cell1: LSTMCell, cell2: LSTMCell, features: Tensor, state: Tree) -> tuple[Tensor, Tree]:
    """Two LSTM layers over all coordinates of all tasks as one batch.

    Args:
        cell1: the first layer.
        cell2: the second layer.
        features: `[tasks * coordinates, inputs]`.
        state: leaves h1, c1, h2, c2, each `[tasks, coordinates, hidden]`.

    Returns:
        The output of the second layer `[tasks * coordinates, hidden]`, and the next state.
    """
    batch = {leaf: state[leaf].flatten(0, 1) for leaf in ("h1", "c1", "h2", "c2")}
    h1, c1 = cell1(features, batch["h1"], batch["c1"])
    h2, c2 = cell2(h1, batch["h2"], batch["c2"])
    shape = state["h1"].shape[:2]
    new = {"h1": h1, "c1": c1, "h2": h2, "c2": c2}
    return h2, {leaf: value.unflatten(0, shape) for leaf, value in new.items()}
