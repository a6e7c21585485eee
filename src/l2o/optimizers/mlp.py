"""MLPLOpt: a perceptron for each coordinate, over momenta that are normalised in each tensor (Metz et al. 2019)."""

import math

import torch
from torch import Tensor, nn

from l2o import trees
from l2o.agent import Action
from l2o.errors import ArgumentError
from l2o.kernels.select import as_chosen
from l2o.nn import Linear
from l2o.optimizers.base import Config, LearnedOptimizer, zeros
from l2o.rng import Stream
from l2o.trees import Tree

DECAYS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
"""Of the momenta."""

TIME_SCALES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)
"""Of the features of time, in steps."""

_EPSILON = 1e-5


class MLPLOpt(LearnedOptimizer):
    """A perceptron of two hidden layers sees each coordinate: 1,762 meta-parameters with the defaults.

        m_k = d_k m_k + (1 - d_k) g                                  six momenta, d = 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999
        x   = [g, theta, m_1 .. m_6], each divided by sqrt(1e-5 + its mean square over the tensor)
        t   = [tanh(step / tau - 1)], tau = 1, 3, 10, ..., 100,000   11 features that all coordinates share
        (a, b) = W_3 relu(W_2 relu(W_1 [x, t] + b_1) + b_2) + b_3
        delta  = -scale a exp(exponent b)

    Steps are counted from 0. The normalisation couples the coordinates of a tensor, and tensors not at all. Nothing in
    it is recurrent but the momenta; a step works on all coordinates at once, so that its memory grows with them.

    State, six numbers a coordinate: `momentum/NAME` `[tasks, coordinates, 6]` for each tensor; `step` `[tasks]`.

    Args:
        scale: factor on the update, positive.
        exponent: factor on the logarithm of the update's size, not negative.
        hidden: units of each hidden layer, at least 1.
        seed: seed of the initial meta-parameters: weights truncated normal, 1 / sqrt(inputs), biases 0.

    Example:
        >>> sum(p.numel() for p in MLPLOpt().parameters())
        1762

    Source: Metz et al. 2019, "Understanding and correcting pathologies in the training of learned optimizers", with
    the features and constants of the public code.
    """

    name = "MLPLOpt"
    reads = frozenset({"grad", "params"})

    def __init__(self, *, scale: float = 1e-3, exponent: float = 1e-3, hidden: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.scale, self.exponent, self.hidden = checked_output(scale, exponent, hidden)
        self.network = Perceptron(2 + len(DECAYS), hidden)
        self.network.reset(Stream(seed, ("meta-parameters", "MLPLOpt")).torch_generator())

    def config(self) -> Config:
        return {"scale": self.scale, "exponent": self.exponent, "hidden": self.hidden}

    def init_state(self, params: Tree, rng: Stream) -> Tree:
        del rng
        leaves = {name: trees.row(leaf) for name, leaf in params.items()}
        state = {f"momentum/{name}": zeros(leaf, *leaf.shape, len(DECAYS)) for name, leaf in leaves.items()}
        like = next(iter(leaves.values()))
        return {**state, "step": zeros(like, len(like))}

    def forward(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        leaf = next(leaf for name, leaf in observation.items() if name.startswith("grad/"))
        return as_chosen(self, type(self)._step, leaf)(self, observation, state)

    def _step(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        grads, params = trees.select(observation, "grad"), trees.select(observation, "params")
        decays = torch.tensor(DECAYS, dtype=state["step"].dtype, device=state["step"].device)[:, None, None]
        features, after = [], {"step": state["step"] + 1}
        for name, leaf in grads.items():
            grad, theta = trees.row(leaf), trees.row(params[name])  # [tasks, coordinates]
            momenta = decays * state[f"momentum/{name}"].movedim(-1, 0) + (1 - decays) * grad
            after[f"momentum/{name}"] = momenta.movedim(0, -1)
            features.append(normalised(torch.cat([grad[None], theta[None], momenta])))
        direction, size = self.network(torch.cat(features, dim=-1), state["step"])
        return trees.unflatten(-self.scale * direction * (self.exponent * size).exp(), grads), after


class Perceptron(nn.Module):
    """Two hidden layers of rectified units over features of a coordinate and of time; two outputs.

    Args:
        features: width of what differs between coordinates; the features of time come on top.
        hidden: units of each hidden layer.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.features = features
        self.layer1 = Linear(features + len(TIME_SCALES), hidden)
        self.layer2 = Linear(hidden, hidden)
        self.output = Linear(hidden, 2)

    def forward(self, features: Tensor, step: Tensor) -> Tensor:
        """From features `[features, tasks, coordinates]` and `step` `[tasks]` to `[2, tasks, coordinates]`.

        What the first layer makes of time is the same for all coordinates of a task: it is computed once.
        """
        weight = self.layer1.weight
        time = time_features(step) @ weight[self.features :] + self.layer1.bias  # [tasks, hidden]
        own = (weight[: self.features].T @ features.flatten(1)).unflatten(1, features.shape[1:])
        hidden = torch.relu(own + time.T[..., None]).flatten(1)  # [hidden, tasks * coordinates]
        hidden = torch.relu(self.layer2(hidden.T))
        return self.output(hidden).T.unflatten(1, features.shape[1:])

    def reset(self, generator: torch.Generator) -> None:
        """Weights truncated normal 1 / sqrt(inputs), biases 0."""
        for layer in (self.layer1, self.layer2, self.output):
            layer.reset(generator)


def time_features(step: Tensor) -> Tensor:
    """tanh(step / tau - 1) for each time scale: `[tasks]` to `[tasks, 11]`."""
    scales = torch.tensor(TIME_SCALES, dtype=step.dtype, device=step.device)
    return torch.tanh(step[:, None] / scales - 1)


def normalised(features: Tensor) -> Tensor:
    """Each feature by its root mean square over the tensor, 1e-5 added under the root.

    Args:
        features: `[features, tasks, coordinates]` of one tensor.
    """
    return features * torch.rsqrt(_EPSILON + features.square().mean(-1, keepdim=True))


def checked_output(scale: float, exponent: float, hidden: int) -> tuple[float, float, int]:
    """The constants of the output and the width, or an error."""
    if not 0 < scale < math.inf or not 0 <= exponent < math.inf:
        raise ArgumentError(
            f"scale is {scale} and exponent {exponent}; both must be finite, scale positive, exponent not negative"
        )
    if hidden < 1:
        raise ArgumentError(f"hidden is {hidden}; a layer needs at least 1 unit")
    return scale, exponent, hidden
