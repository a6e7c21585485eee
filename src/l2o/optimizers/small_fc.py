"""SmallFC: a perceptron for each coordinate over Adafactor's statistics, `small_fc_lopt` of Metz et al. 2022."""

import math

import torch
from torch import Tensor, nn

from l2o import trees
from l2o.agent import Action
from l2o.kernels.select import as_chosen
from l2o.optimizers.base import Config, LearnedOptimizer, zeros
from l2o.optimizers.mlp import Perceptron, checked_output, normalised
from l2o.rng import Stream
from l2o.trees import Tree

DECAYS = (0.9, 0.99, 0.999)
"""At first, of the momenta and of the factored squares."""

SQUARE_DECAY = 0.999
"""At first, of the square."""

_FEATURES = 28
_LARGEST_GRADIENT = 1e18
"""Gradients beyond it count as it: their squares would overflow float32."""


class SmallFC(LearnedOptimizer):
    """MLPLOpt's perceptron over 28 features of a coordinate and 11 of time: 2,402 weights, and 7 decays.

    With averages m_k of g, v of g^2, and r_k and c_k of the means of g^2 over the longest and the second longest axis
    of the tensor, k = 1, 2, 3, all of this step:

        x = [g, theta, m_k, v, m_k / sqrt(v + 1e-6), 1 / sqrt(v + 1e-6), g f_k, r_k, c_k,
             1 / sqrt(r_k + 1e-8), 1 / sqrt(c_k + 1e-8), m_k f_k]
        f_k = 1 / sqrt(max(r_k / (mean of r_k over the second longest axis + 1e-9), 1e-9) max(c_k, 1e-9))
        (a, b) = perceptron(x, each feature divided by sqrt(1e-5 + its mean square over the tensor); time)
        delta  = -scale a exp(exponent b)

    A tensor with fewer than two axes has the average of g^2 itself for r_k and c_k, g f_k = g / sqrt(r_k + 1e-9), and
    m_k f_k = m_k / sqrt(r_k + 1e-6). The decay of an average is a meta-parameter: 1 - (1 - d) exp(10 z), within [0, 1],
    with z = 0 at first and d = 0.9, 0.99, 0.999 for m_k and likewise for r_k and c_k, 0.999 for v.

    Features of time, normalisation and what couples with what are those of `MLPLOpt`. State, four numbers a coordinate
    and little more for matrices, seven for others: for each tensor `momentum/NAME` `[tasks, coordinates, 3]`,
    `square/NAME` `[tasks, coordinates]`, and `row/NAME` `[tasks, coordinates / longest, 3]` and `column/NAME` `[tasks,
    coordinates / second longest, 3]`, or `diagonal/NAME` `[tasks, coordinates, 3]`; `step` `[tasks]`.

    Args:
        scale: factor on the update, positive.
        exponent: factor on the logarithm of the update's size, not negative.
        hidden: units of each hidden layer, at least 1; 4 is the public code's default.
        seed: seed of the initial meta-parameters, drawn as those of `MLPLOpt`.

    Example:
        >>> sum(p.numel() for p in SmallFC().network.parameters())
        2402

    Source: Metz et al. 2022, "Practical tradeoffs between memory, compute, and performance in learned optimizers", with
    the formulas of the public code; 32 units as Therien et al. 2024 have it. There the decays of momenta are not kept
    within [0, 1], and gradients have no bound, where here those beyond 1e18 count as 1e18.
    """

    name = "SmallFC"
    reads = frozenset({"grad", "params"})

    def __init__(self, *, scale: float = 1e-3, exponent: float = 1e-3, hidden: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.scale, self.exponent, self.hidden = checked_output(scale, exponent, hidden)
        self.network = Perceptron(_FEATURES, hidden)
        self.network.reset(Stream(seed, ("meta-parameters", "SmallFC")).torch_generator())
        self.momentum_decays = nn.Parameter(torch.zeros(len(DECAYS)))
        self.square_decay = nn.Parameter(torch.zeros(1))
        self.factored_decays = nn.Parameter(torch.zeros(len(DECAYS)))

    def config(self) -> Config:
        return {"scale": self.scale, "exponent": self.exponent, "hidden": self.hidden}

    def init_state(self, params: Tree, rng: Stream) -> Tree:
        del rng
        state: Tree = {}
        for name, leaf in params.items():
            tasks, coordinates, axes = len(leaf), leaf[0].numel(), longest_axes(leaf.shape[1:])
            state |= {
                f"momentum/{name}": zeros(leaf, tasks, coordinates, len(DECAYS)),
                f"square/{name}": zeros(leaf, tasks, coordinates),
            }
            if axes is None:
                state[f"diagonal/{name}"] = zeros(leaf, tasks, coordinates, len(DECAYS))
            else:
                for kind, axis in zip(("row", "column"), axes, strict=True):
                    others = math.prod(size for place, size in enumerate(leaf.shape[1:]) if place != axis)
                    state[f"{kind}/{name}"] = zeros(leaf, tasks, others, len(DECAYS))
        like = next(iter(params.values()))
        return {**state, "step": zeros(like, len(like))}

    def forward(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        leaf = next(leaf for name, leaf in observation.items() if name.startswith("grad/"))
        return as_chosen(self, type(self)._step, leaf)(self, observation, state)

    def _step(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        grads, params = trees.select(observation, "grad"), trees.select(observation, "params")
        features, after = [], {"step": state["step"] + 1}
        for name, leaf in grads.items():
            own = {kind: state[f"{kind}/{name}"] for kind in _KINDS if f"{kind}/{name}" in state}
            grad = leaf.contiguous().clamp(-_LARGEST_GRADIENT, _LARGEST_GRADIENT)
            seen, new = self._features(grad, params[name], own)
            features.append(normalised(seen.flatten(2) if seen.ndim > 2 else seen[..., None]))
            after |= {f"{kind}/{name}": value for kind, value in new.items()}
        direction, size = self.network(torch.cat(features, dim=-1), state["step"])
        return trees.unflatten(-self.scale * direction * (self.exponent * size).exp(), grads), after

    def _features(self, grad: Tensor, theta: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        """The features of one tensor, `[28, *grad.shape]`, and its next state; grad and theta `[tasks, ...]`."""
        shape, axes = grad.shape, longest_axes(grad.shape[1:])
        squared = grad.square()
        momenta = _averaged(state["momentum"], self.momentum_decays, DECAYS, grad)
        square = _averaged(state["square"][..., None], self.square_decay, (SQUARE_DECAY,), squared)
        after = {"momentum": _stored(momenta), "square": _stored(square)[..., 0]}
        momenta, square = momenta.view(-1, *shape), square.view(-1, *shape)  # [averages, tasks, ...]
        if axes is None:
            rows = _averaged(state["diagonal"], self.factored_decays, DECAYS, squared + 1e-30)
            after["diagonal"] = _stored(rows)
            rows = columns = rows.view(-1, *shape)
            factors, momentum_factors = (rows + 1e-9).rsqrt(), (rows + 1e-6).rsqrt()
        else:
            means = [(squared + 1e-30).mean(axis + 1, keepdim=True) for axis in axes]
            rows, columns = (
                _averaged(state[kind], self.factored_decays, DECAYS, mean)
                for kind, mean in zip(("row", "column"), means, strict=True)
            )
            after |= {"row": _stored(rows), "column": _stored(columns)}
            rows, columns = (
                average.view(-1, *mean.shape) for average, mean in zip((rows, columns), means, strict=True)
            )
            relative = rows / (rows.mean(axes[1] + 2, keepdim=True) + 1e-9)
            factors = relative.clamp(min=1e-9).rsqrt() * columns.clamp(min=1e-9).rsqrt()
            momentum_factors = factors
        root = (square + 1e-6).rsqrt()
        parts = [grad[None], theta[None], momenta, square, momenta * root, root, grad * factors, rows, columns]
        parts += [(rows + 1e-8).rsqrt(), (columns + 1e-8).rsqrt(), momenta * momentum_factors]
        return torch.cat([part.expand(-1, *shape) for part in parts]), after


_KINDS = ("momentum", "square", "row", "column", "diagonal")


def longest_axes(shape: torch.Size) -> tuple[int, int] | None:
    """The longest and the second longest axis, the later one of two equals first; None for fewer than two axes."""
    if len(shape) < 2:
        return None
    order = sorted(range(len(shape)), key=lambda axis: (shape[axis], axis))
    return order[-1], order[-2]


def _averaged(average: Tensor, offsets: Tensor, decays: tuple[float, ...], new: Tensor) -> Tensor:
    """The next averages `[averages, tasks, coordinates]`, contiguous: no sum over them may depend on a layout.

    Args:
        average: the present ones, `[tasks, coordinates, averages]`.
        offsets: what the decays are moved by, `[averages]`.
        decays: where they are without.
        new: what is averaged, `[tasks, ...]`, as many coordinates.
    """
    first = torch.tensor(decays, dtype=offsets.dtype, device=offsets.device)
    decay = (1 - (1 - first) * (10 * offsets).exp()).clamp(0, 1)[:, None, None]
    return (decay * average.movedim(-1, 0) + (1 - decay) * new.reshape(average.shape[:2])).contiguous()


def _stored(averages: Tensor) -> Tensor:
    """Averages `[averages, tasks, coordinates]` as a state keeps them: `[tasks, coordinates, averages]`."""
    return averages.movedim(0, -1)
