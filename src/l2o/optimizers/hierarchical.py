"""L2O-Scale: the hierarchical recurrent optimizer of Wichrowska et al. 2017."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from l2o import trees
from l2o.agent import Action
from l2o.errors import ArgumentError
from l2o.kernels.select import as_chosen
from l2o.nn import Linear, asinh
from l2o.optimizers.base import Config, LearnedOptimizer, zeros
from l2o.rng import Stream
from l2o.trees import Tree

_SMALLEST_SQUARE = 1e-12
_EPSILON = 1e-16
_LARGEST_GRADIENT = 1e18
"""Gradients beyond it count as it: their squares would overflow float32."""

_COORDINATE_LEAVES = ("h0", "average", "square", "log_rate", "scale_decay", "input_decay")


class GRUCell(nn.Module):
    """A gated recurrent unit with an injected bias beta; features are the first axis, `[features, ...]`.

        r, u = split(sigmoid([x, h] W_g + b_g + beta_ru), 2)
        c = tanh([x, r h] W_c + b_c + beta_c)
        h' = u h + (1 - u) c

    The gate u keeps the old state.

    Args:
        inputs: width of x.
        hidden: width of h.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = Linear(inputs + hidden, 2 * hidden)
        self.candidate = Linear(inputs + hidden, hidden)

    def forward(self, x: Tensor, h: Tensor, beta: Tensor | None = None) -> Tensor:
        """One step: x `[inputs, ...]`, h `[hidden, ...]`, beta `[3 * hidden, ...]` in the order r, u, c; returns h'."""
        gates, candidate = _affine(self.gates, torch.cat([x, h])), 0.0
        if beta is not None:
            gates, candidate = gates + beta[: 2 * self.hidden], beta[2 * self.hidden :]
        r, u = torch.sigmoid(gates).chunk(2)
        c = torch.tanh(_affine(self.candidate, torch.cat([x, r * h])) + candidate)
        return u * h + (1 - u) * c


class L2OScale(LearnedOptimizer):
    """Three levels of GRUs, over coordinates, tensors and the whole problem; 8,349 meta-parameters with the defaults.

    For a coordinate with gradient g, averages a_k and v_k on time scales k = 1, 2, ... whose decays d and s were the
    network's own outputs one step before, and a logarithmic learning rate l:

        d_1 = d,  d_(k+1) = sqrt(d_k);  a_k = d_k a_k + (1 - d_k) g;  v_k = s v_k + (1 - s) (a_k^2 + 1e-12)
        x_k = asinh(a_k / sqrt(v_k + 1e-16))
        z = [x_k, x_k x_(k+1), ln v_k - mean_k ln v_k, l - mean l]        mean l: over all coordinates of the problem
        h0 = GRU(z, h0, bias from h1 and h2)                              for each coordinate
        h1 = GRU(mean of [h0, z] over the tensor, h1, bias from h2)       for each tensor
        h2 = GRU(mean of h1 over the tensors, h2)                         for each problem
        e = h0 w_e + x w_x, divided by its root mean square over the tensor
        s = sigmoid(h0 w_s + b_s);  d = sigmoid(h0 w_d + b_d)             from the next step on
        l* = clip(l + h0 w_l + b_l, -limit, limit);  l = m l + (1 - m) l*,  m = sigmoid(rho)
        delta = -exp(l* + o) e

    The biases of a step come from the h1 and h2 of the step before. The clip passes gradients straight through. s and d
    start at 0, so that the first step's averages are the gradient and its square; h0, h1 and h2 start at learned
    vectors. The learning rates start at random: l = u + u', both uniform in [ln lowest_rate / 2, ln highest_rate / 2],
    u for each coordinate and u' once for each tensor.

    State, 21 numbers a coordinate, for each tensor: `h0/NAME` `[tasks, coordinates, units]`; `average/NAME` and
    `square/NAME` `[tasks, coordinates, scales]`; `log_rate/NAME`, `scale_decay/NAME` and `input_decay/NAME` `[tasks,
    coordinates]`; `h1/NAME` `[tasks, units]`; and for the problem `h2` `[tasks, units]`. A step works on all
    coordinates at once: its memory grows with the problem. `backend="compiled"` halves the time of a step and of a
    replay on a CPU, after a minute or more of compiling for each shape of problem.

    Args:
        lowest_rate: lower end of the learning rates at the start, before the factor exp(o); positive.
        highest_rate: upper end, at least `lowest_rate`.
        limit: bound on |l*|, positive.
        scales: time scales of the averages, at least 1.
        coordinate_units: width of h0.
        tensor_units: width of h1.
        problem_units: width of h2.
        seed: seed of the initial meta-parameters.

    Example:
        >>> sum(p.numel() for p in L2OScale().parameters())
        8349

    Source: Wichrowska et al. 2017, with the constants and the formulas of the released code: one s for all time scales,
    asinh. Its mistakes are not copied: h2 sees the mean over all tensors (there the last one alone), states start anew
    in each trajectory (there they go on), asinh is exact for large negative numbers. Left out: attention, that is
    gradients at a look-ahead point; the released code too has it off.
    """

    name = "L2O-Scale"
    couples_tensors = True

    def __init__(
        self,
        *,
        lowest_rate: float = 1e-6,
        highest_rate: float = 1e-2,
        limit: float = 33.0,
        scales: int = 4,
        coordinate_units: int = 10,
        tensor_units: int = 20,
        problem_units: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < lowest_rate <= highest_rate < math.inf:
            raise ArgumentError(
                f"lowest_rate is {lowest_rate} and highest_rate {highest_rate}; both must be positive and finite, and "
                "the lowest not above the highest"
            )
        if not 0 < limit < math.inf:
            raise ArgumentError(f"limit is {limit}; it must be positive and finite")
        if min(scales, coordinate_units, tensor_units, problem_units) < 1:
            raise ArgumentError(
                f"scales is {scales}, coordinate_units {coordinate_units}, tensor_units {tensor_units}, problem_units "
                f"{problem_units}; each must be at least 1"
            )
        self.lowest_rate, self.highest_rate, self.limit, self.scales = lowest_rate, highest_rate, limit, scales
        self.units = (coordinate_units, tensor_units, problem_units)
        features = 3 * scales
        self.cell0 = GRUCell(features, coordinate_units)
        self.cell1 = GRUCell(coordinate_units + features, tensor_units)
        self.cell2 = GRUCell(tensor_units, problem_units)
        self.bias0_from1 = Linear(tensor_units, 3 * coordinate_units)
        self.bias0_from2 = Linear(problem_units, 3 * coordinate_units)
        self.bias1_from2 = Linear(problem_units, 3 * tensor_units)
        self.initial0 = nn.Parameter(torch.zeros(coordinate_units))
        self.initial1 = nn.Parameter(torch.zeros(tensor_units))
        self.initial2 = nn.Parameter(torch.zeros(problem_units))
        self.direction = nn.Parameter(torch.zeros(coordinate_units))
        self.shortcut = nn.Parameter(torch.zeros(scales))
        self.heads = Linear(coordinate_units, 3)  # s, d and the change of l
        self.rate_decay = nn.Parameter(torch.tensor(3.2))
        self.offset = nn.Parameter(torch.tensor(-1.0))
        self._reset(Stream(seed, ("meta-parameters", "L2OScale")))

    def config(self) -> Config:
        return {
            "lowest_rate": self.lowest_rate,
            "highest_rate": self.highest_rate,
            "limit": self.limit,
            "scales": self.scales,
            "coordinate_units": self.units[0],
            "tensor_units": self.units[1],
            "problem_units": self.units[2],
        }

    def init_state(self, params: Tree, rng: Stream) -> Tree:
        tasks = len(rng.tasks)
        state = {"h2": self.initial2.expand(tasks, -1)}
        ends = {"low": math.log(self.lowest_rate) / 2, "high": math.log(self.highest_rate) / 2}
        for name, leaf in params.items():
            if len(leaf) != tasks:
                raise ArgumentError(f"{name} has {len(leaf)} tasks and the stream {tasks}; both must have the same")
            coordinates, draw = leaf[0].numel(), rng.child("log_rate").child(name)
            own, common = draw.child("coordinates").uniform((coordinates,), **ends), draw.uniform((1,), **ends)
            tensor = {
                "h0": self.initial0.expand(tasks, coordinates, -1),
                "h1": self.initial1.expand(tasks, -1),
                "average": zeros(leaf, tasks, coordinates, self.scales),
                "square": zeros(leaf, tasks, coordinates, self.scales),
                "log_rate": (own + common).to(leaf),
                "scale_decay": zeros(leaf, tasks, coordinates),
                "input_decay": zeros(leaf, tasks, coordinates),
            }
            state |= {f"{kind}/{name}": value for kind, value in tensor.items()}
        return state

    def forward(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        leaf = next(leaf for name, leaf in observation.items() if name.startswith("grad/"))
        return as_chosen(self, type(self)._step, leaf)(self, observation, state)

    def _step(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        grads = trees.select(observation, "grad")
        sizes = [leaf[0].numel() for leaf in grads.values()]
        now = {kind: _gathered(state[f"{kind}/{name}"] for name in grads) for kind in _COORDINATE_LEAVES}
        h1 = torch.stack([state[f"h1/{name}"].T for name in grads], dim=-1)  # [units, tasks, tensors]
        h2 = state["h2"].T.contiguous()[..., None]  # [units, tasks, 1]

        after, scaled, features = self._features(trees.flatten(grads), now)
        injected = _affine(self.bias0_from1, h1) + _affine(self.bias0_from2, h2)
        h0 = self.cell0(features, now["h0"], _spread(injected, sizes))
        h1 = self.cell1(_means(torch.cat([h0, features]), sizes), h1, _affine(self.bias1_from2, h2))
        h2 = self.cell2(h1.mean(-1, keepdim=True), h2)

        scale_decay, input_decay, change = _affine(self.heads, h0)
        wanted = now["log_rate"] + change
        wanted = wanted + (wanted.clamp(-self.limit, self.limit) - wanted).detach()
        keep = torch.sigmoid(self.rate_decay)
        after |= {
            "h0": h0,
            "log_rate": keep * now["log_rate"] + (1 - keep) * wanted,
            "scale_decay": torch.sigmoid(scale_decay),
            "input_decay": torch.sigmoid(input_decay),
        }
        direction = (self.direction @ h0.flatten(1) + self.shortcut @ scaled.flatten(1)).view_as(wanted)
        size = (_means(direction.square(), sizes) + _EPSILON).sqrt()
        update = -(wanted + self.offset).exp() * direction / _spread(size, sizes)

        new = {"h2": h2[..., 0].T}
        for kind, joined in after.items():
            parts = joined.split(sizes, dim=-1)
            new |= {f"{kind}/{name}": _features_last(part) for name, part in zip(grads, parts, strict=True)}
        new |= {f"h1/{name}": part.T for name, part in zip(grads, h1.unbind(-1), strict=True)}
        return trees.unflatten(update, grads), new

    def _features(self, grad: Tensor, now: Tree) -> tuple[Tree, Tensor, Tensor]:
        """The next averages, the scaled gradients, and all features `[3 * scales, tasks, coordinates]`."""
        grad = grad.clamp(-_LARGEST_GRADIENT, _LARGEST_GRADIENT)
        decays = [now["input_decay"]]
        for _ in range(1, self.scales):
            decays.append(decays[-1].sqrt())
        d, s = torch.stack(decays), now["scale_decay"]  # [scales, tasks, coordinates], [tasks, coordinates]
        average = d * now["average"] + (1 - d) * grad
        square = s * now["square"] + (1 - s) * (average.square() + _SMALLEST_SQUARE)
        scaled = asinh(average / (square + _EPSILON).sqrt())
        log_square = (square + _EPSILON).log()
        relative_rate = now["log_rate"] - now["log_rate"].mean(-1, keepdim=True)
        parts = [scaled, scaled[:-1] * scaled[1:], log_square - log_square.mean(0), relative_rate[None]]
        return {"average": average, "square": square}, scaled, torch.cat(parts)

    @torch.no_grad()
    def _reset(self, draw: Stream) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:  # [inputs, outputs]
                deviation = 0.5 / math.sqrt(parameter.shape[0])
                parameter.copy_(deviation * draw.child(name).normal(parameter.shape)[0])
        for cell in (self.cell0, self.cell1, self.cell2):
            cell.gates.bias.fill_(2.2)
        for name in ("initial0", "initial1", "initial2"):
            vector = self.get_parameter(name)
            vector.copy_(draw.child(name).uniform(vector.shape, low=-1.0, high=1.0)[0])
        deviation = 0.5 / math.sqrt(len(self.direction))
        self.direction.copy_(deviation * draw.child("direction").normal(self.direction.shape)[0])
        self.shortcut.copy_(0.25 + 0.05 * draw.child("shortcut").normal(self.shortcut.shape)[0])
        self.heads.weight[:, 2] = 0.0
        self.heads.bias.copy_(torch.tensor([3.2, 2.2, 0.0]))


def _affine(layer: Linear, x: Tensor) -> Tensor:
    """The layer with features as the first axis: x `[inputs, ...]` to `[outputs, ...]`."""
    return layer(x.flatten(1).T).T.unflatten(1, x.shape[1:])


def _gathered(leaves: Iterable[Tensor]) -> Tensor:
    """Leaves `[tasks, coordinates(, features)]` of all tensors as one `[(features, )tasks, coordinates]`."""
    return torch.cat([leaf.movedim(-1, 0) if leaf.ndim == 3 else leaf for leaf in leaves], dim=-1)


def _features_last(part: Tensor) -> Tensor:
    """The inverse of `_gathered` for the coordinates of one tensor."""
    return part.movedim(0, -1) if part.ndim == 3 else part


def _means(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Means over the coordinates of each tensor: `[..., coordinates]` to `[..., tensors]`; 0 for an empty tensor."""
    return torch.stack([part.sum(-1) / max(part.shape[-1], 1) for part in x.split(list(sizes), dim=-1)], dim=-1)


def _spread(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """A tensor's value for each of its coordinates: `[..., tensors]` to `[..., coordinates]`."""
    return torch.cat([x[..., i : i + 1].expand(*x.shape[:-1], size) for i, size in enumerate(sizes)], dim=-1)
