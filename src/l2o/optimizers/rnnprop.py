"""RNNprop: the LSTM optimizer over Adam-like features of Lv, Jiang and Li 2017."""

import torch
from torch import Tensor

from l2o.agent import CellSpec
from l2o.errors import ArgumentError
from l2o.nn import Linear, LSTMCell, bias_correction, truncated_normal
from l2o.optimizers.base import Config, Coordinatewise, zeros
from l2o.optimizers.dm import two_layers
from l2o.rng import Stream
from l2o.trees import Tree


class RNNprop(Coordinatewise):
    """delta = alpha tanh(W h2 + b); a two-layer LSTM sees ELU([m~, g~] W_in + b_in), 6,641 meta-parameters.

        m = beta1 m + (1 - beta1) g             m~ = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
        v = beta2 v + (1 - beta2) g^2           g~ = g / (sqrt(v / (1 - beta2^t)) + eps)

    t counts from 1 over the whole trajectory.

    Args:
        alpha: largest possible update of a coordinate in one step.
        beta1: decay of the first moment, in [0, 1).
        beta2: decay of the second moment, in [0, 1).
        epsilon: added to the root of the second moment.
        hidden: units of each LSTM layer.
        seed: seed of the initial meta-parameters (Sonnet's initialisation; `lv` has its own).

    Example:
        >>> sum(p.numel() for p in RNNprop().parameters())
        6641

    Source: Lv, Jiang and Li 2017, section 4; defaults as Chen et al. 2020 use it. The papers disagree about the order
    of the two features and the sign of the output; ours are (m~, g~) and theta + delta.
    """

    name = "RNNprop"

    def __init__(
        self,
        *,
        alpha: float = 0.01,
        beta1: float = 0.95,
        beta2: float = 0.95,
        epsilon: float = 1e-8,
        hidden: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= beta1 < 1 or not 0 <= beta2 < 1:
            raise ArgumentError(f"beta1 is {beta1} and beta2 {beta2}; both must lie in [0, 1)")
        if not alpha > 0 or not epsilon > 0 or hidden < 1:
            raise ArgumentError(f"alpha is {alpha}, epsilon {epsilon}, hidden {hidden}; all must be positive")
        self.alpha, self.beta1, self.beta2, self.epsilon, self.hidden = alpha, beta1, beta2, epsilon, hidden
        self.input = Linear(2, hidden)
        self.cell1 = LSTMCell(hidden, hidden)
        self.cell2 = LSTMCell(hidden, hidden)
        self.output = Linear(hidden, 1)
        generator = Stream(seed, ("meta-parameters", "RNNprop")).torch_generator()
        for part in (self.input, self.cell1, self.cell2, self.output):
            part.reset(generator)

    @classmethod
    def chen(cls, *, seed: int = 0) -> "RNNprop":
        """The constants of Chen et al. 2020's code: alpha 0.01, Sonnet's initialisation."""
        return cls(alpha=0.01, seed=seed)

    @classmethod
    def lv(cls, *, seed: int = 0) -> "RNNprop":
        """The constants of Lv et al. 2017: alpha 0.1; weights truncated normal 0.1, biases 0."""
        optimizer = cls(alpha=0.1, seed=seed)
        generator = Stream(seed, ("meta-parameters", "RNNprop.lv")).torch_generator()
        with torch.no_grad():
            for parameter in optimizer.parameters():
                weight = parameter.ndim == 2
                parameter.copy_(truncated_normal(tuple(parameter.shape), 0.1, generator) if weight else parameter * 0)
        return optimizer

    def config(self) -> Config:
        return {
            "alpha": self.alpha,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "epsilon": self.epsilon,
            "hidden": self.hidden,
        }

    @property
    def cell(self) -> CellSpec:
        return CellSpec(
            "moments",
            self.hidden,
            self.alpha,
            bounded=True,
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
        )

    def init_coordinates(self, tasks: int, coordinates: int, like: Tensor) -> Tree:
        state = {leaf: zeros(like, tasks, coordinates, self.hidden) for leaf in ("h1", "c1", "h2", "c2")}
        moments = {leaf: zeros(like, tasks, coordinates) for leaf in ("m", "v")}
        return {**state, **moments, "step": zeros(like, tasks)}

    def update(self, grad: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        step = state["step"] + 1  # [tasks]
        m = self.beta1 * state["m"] + (1 - self.beta1) * grad
        v = self.beta2 * state["v"] + (1 - self.beta2) * grad.square()
        root = (v / bias_correction(self.beta2, step)[:, None]).sqrt() + self.epsilon
        momentum = m / bias_correction(self.beta1, step)[:, None] / root
        features = torch.stack([momentum.flatten(), (grad / root).flatten()]).T  # [tasks * coordinates, 2]
        h2, layers = two_layers(self.cell1, self.cell2, torch.nn.functional.elu(self.input(features)), state)
        update = self.alpha * torch.tanh(self.output(h2)).reshape(grad.shape)
        return update, {**layers, "m": m, "v": v, "step": step}
