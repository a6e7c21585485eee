"""Predicted step descent: the recurrent optimizer of Li and Malik 2017, one network for each group of coordinates."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from l2o import trees
from l2o.agent import Action, Piece
from l2o.errors import ArgumentError
from l2o.nn import truncated_normal
from l2o.optimizers.base import Config, LearnedOptimizer, zeros
from l2o.rng import Stream
from l2o.trees import Tree

GROUPS = ("first weight", "first bias", "last weight", "last bias")
"""The groups of coordinates, each with a network of its own. Layers in the middle use those of the first."""

FEATURES = 3
"""What a network sees of a coordinate."""

_SMALLEST_LOSS = 1e-8
_SMALLEST_STEP = 0.1
_LEAST_DEVIATION = 1e-3
_LEAST_STEP = 1e-8


def tensor_groups(shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The group that each tensor belongs to, as its number in `GROUPS`.

    A tensor of two axes or more is the weight of a layer, any other one belongs to the layer of the last weight before
    it. A network with one layer has a last one.

    Args:
        shapes: of all parameters, in the order of the network.

    Example:
        >>> tensor_groups({"a": (4, 3), "b": (4,), "c": (4, 4), "d": (4,), "e": (2, 4), "f": (2,)})
        {'a': 0, 'b': 1, 'c': 0, 'd': 1, 'e': 2, 'f': 3}
    """
    layers = sum(len(shape) > 1 for shape in shapes.values())
    groups, layer = {}, 0
    for name, shape in shapes.items():
        layer += len(shape) > 1
        groups[name] = (2 if max(layer, 1) == max(layers, 1) else 0) + (len(shape) <= 1)
    return groups


class PredictedStep(LearnedOptimizer):
    """delta = r W h, where h is the output of an LSTM over three features of a coordinate's last two steps.

    With f the loss on a minibatch, g its gradient and x the parameters at step t:

        (f_t - f_{t-1}) / f_{t-1},     g_t / (|g_{t-1}| + 1),     |x_{t-1} - x_{t-2}| / (|x_t - x_{t-1}| + 0.1)

    At step 0 the first and the third are 0 and the second takes g_0 twice; at step 1 the third takes x_1 - x_0 twice.
    The cell is that of `l2o.nn.LSTMCell`. Features are standardised by constants, and r is one; `calibrate` sets them
    before a meta-training, from then on they stay. 270,852 meta-parameters with the defaults.

    Args:
        hidden: units of each network.
        share: "group" has a network for each of `GROUPS`; "all" has one, told the group by four more inputs.
        limit: a standardised feature counts as at most so large, in deviations. Where a loss is nearly 0 its relative
            change is not: without a limit the policy takes wild steps there.
        seed: seed of the initial meta-parameters.

    Example:
        >>> import l2o
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = l2o.PredictedStep(hidden=4).as_torch(model.parameters())
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = model(torch.ones(2)).square().sum()
        ...     loss.backward()
        ...     return loss
        >>> before = model.weight.clone()
        >>> _ = optimizer.step(closure)  # it reads the loss
        >>> torch.equal(before, model.weight)
        False

    Source: Li and Malik 2017, sections 3.2 and 4. Of the paper's two readings of the last feature only this one fits
    its other features. There features have no limit, and the LSTM has two biases (272,900 meta-parameters) and is
    initialised in another way.
    """

    name = "Predicted Step Descent"
    reads = frozenset({"grad", "loss", "params"})
    couples_coordinates = False

    mean: Tensor
    deviation: Tensor
    rms: Tensor

    def __init__(self, *, hidden: int = 128, share: str = "group", limit: float = 5.0, seed: int = 0) -> None:
        super().__init__()
        if hidden < 1:
            raise ArgumentError(f"hidden is {hidden}; a network needs at least 1 unit")
        if share not in ("group", "all"):
            raise ArgumentError(f"share is {share!r}; choose 'group' or 'all'")
        if not limit > 0:
            raise ArgumentError(f"limit is {limit}; it must be positive, math.inf for none")
        self.hidden, self.share, self.limit = hidden, share, limit
        networks = len(GROUPS) if share == "group" else 1
        inputs = FEATURES + hidden + (0 if share == "group" else len(GROUPS))
        generator = Stream(seed, ("meta-parameters", "PredictedStep")).torch_generator()
        deviation = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(truncated_normal((networks, inputs, 4 * hidden), deviation, generator))
        self.bias = nn.Parameter(truncated_normal((networks, 4 * hidden), deviation, generator))
        small = 0.1 / math.sqrt(hidden)  # begins with small steps
        self.output_weight = nn.Parameter(truncated_normal((networks, hidden), small, generator))
        self.output_bias = nn.Parameter(torch.zeros(networks))
        self.register_buffer("mean", torch.zeros(len(GROUPS), FEATURES))
        self.register_buffer("deviation", torch.ones(len(GROUPS), FEATURES))
        self.register_buffer("rms", torch.full((len(GROUPS),), 0.01))

    def config(self) -> Config:
        return {"hidden": self.hidden, "share": self.share, "limit": self.limit}

    def calibrate(self, observations: Sequence[Tree], actions: Tensor, group: Tensor) -> None:
        """Sets, for each group that there is, mean and deviation of the features and the actions' root mean square."""
        seen = _stacked(observations)
        tasks, coordinates = seen[0].shape[1:]
        features = observe(*seen, memory(tasks, coordinates, seen[0]))[0].double()
        for number in group.unique().tolist():
            place = group == number
            deviation, mean = torch.std_mean(features[:, :, place].flatten(0, 2), dim=0)
            rms = actions[:, :, place].double().square().mean().sqrt()
            self.mean[number] = mean.to(self.mean)
            self.deviation[number] = deviation.clamp(min=_LEAST_DEVIATION).to(self.mean)
            self.rms[number] = rms.clamp(min=_LEAST_STEP).to(self.mean)

    def init_state(self, params: Tree, rng: Stream) -> Tree:
        """The state before the first step; `group` `[tasks, coordinates]` is told from the shapes of all parameters."""
        del rng
        like = next(iter(params.values()))
        tasks = like.shape[0]
        group = self.coordinate_groups({name: leaf.shape[1:] for name, leaf in params.items()})
        coordinates = len(group)
        return {
            "h": zeros(like, tasks, coordinates, self.hidden),
            "c": zeros(like, tasks, coordinates, self.hidden),
            "group": group.to(like.device).repeat(tasks, 1),
            **memory(tasks, coordinates, like),
        }

    def tensor_groups(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        return tensor_groups(shapes)

    def forward(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        features, remembered = observe(*_stacked([observation]), state)
        update, h, c = self.step(features[0], state["group"][0], state["h"], state["c"])
        action = trees.unflatten(update, trees.select(observation, "grad"))
        return action, {"h": h, "c": c, "group": state["group"], **remembered}

    def run(self, observations: list[Tree], state: Tree) -> tuple[list[Action], Tree]:
        """A window by torch's own LSTM: on a few hundred coordinates three times as fast as step by step."""
        features, remembered = observe(*_stacked(observations), state)
        group, h, c = state["group"][0], state["h"], state["c"]
        inputs, updates = self._inputs(features, group), features.new_empty(features.shape[:3])
        for number in group.unique().tolist():
            place = (group == number).nonzero()[:, 0]
            parts = self._window_of(number, inputs[:, :, place], h[:, place], c[:, place])
            updates, h, c = (
                leaf.index_copy(dim, place, part)
                for leaf, dim, part in zip((updates, h, c), (2, 1, 1), parts, strict=True)
            )
        like = trees.select(observations[0], "grad")
        actions = [trees.unflatten(update, like) for update in updates]
        return actions, {"h": h, "c": c, "group": state["group"], **remembered}

    def _inputs(self, features: Tensor, group: Tensor) -> Tensor:
        """What the networks see of features `[..., coordinates, 3]`: scaled; one network for all is told the group."""
        scaled = ((features - self.mean[group]) / self.deviation[group]).clamp(-self.limit, self.limit)
        if self.share == "group":
            return scaled
        told = torch.eye(len(GROUPS), dtype=scaled.dtype, device=scaled.device)[group]
        return torch.cat([scaled, told.expand(*scaled.shape[:-1], -1)], dim=-1)

    def step(self, features: Tensor, group: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The networks alone.

        Args:
            features: `[tasks, coordinates, 3]`.
            group: of each coordinate, `[coordinates]`.
            h: `[tasks, coordinates, hidden]`.
            c: the same shape.

        Returns:
            The update `[tasks, coordinates]`, and the next h and c.
        """
        inputs = self._inputs(features, group)
        places = [(group == number).nonzero()[:, 0] for number in range(len(GROUPS))]
        present = [number for number, place in enumerate(places) if len(place) > 0]
        if len(present) == 1:
            return self._step_of(present, inputs, h, c)
        if len({len(places[number]) for number in present}) == 1:  # one batch of matrices is five times faster
            batches = [(present, torch.cat([places[number] for number in present]))]
        else:
            batches = [([number], places[number]) for number in present]
        whole = (inputs.new_empty(inputs.shape[:2]), torch.empty_like(h), torch.empty_like(c))
        for numbers, place in batches:
            parts = self._step_of(numbers, inputs[:, place], h[:, place], c[:, place])
            whole = tuple(leaf.index_copy(1, place, part) for leaf, part in zip(whole, parts, strict=True))
        return whole[0], whole[1], whole[2]

    def _step_of(self, groups: list[int], inputs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `step`, for coordinates that come group after group, of each group the same number.

        The networks have the coordinates as their last axis, so that each gate is one contiguous block.
        """
        tasks, coordinates, _ = inputs.shape
        networks = groups if self.share == "group" else [0] * len(groups)

        def by_group(leaf: Tensor) -> Tensor:  # [tasks, coordinates, width] to [groups, width, tasks * coordinates]
            split = leaf.reshape(tasks, len(groups), coordinates // len(groups), leaf.shape[2])
            return split.permute(1, 3, 0, 2).flatten(2)

        def together(leaf: Tensor) -> Tensor:  # the way back
            split = leaf.unflatten(2, (tasks, coordinates // len(groups)))
            return split.permute(2, 0, 3, 1).reshape(tasks, coordinates, leaf.shape[1])

        rows = torch.cat([by_group(inputs), by_group(h)], dim=1)  # [groups, inputs, batch]
        gates = torch.baddbmm(self.bias[networks][:, :, None], self.weight[networks].mT, rows)
        i, j, f, o = gates.chunk(4, dim=1)
        cell = torch.sigmoid(f + 1.0) * by_group(c) + torch.sigmoid(i) * torch.tanh(j)
        output = torch.tanh(cell) * torch.sigmoid(o)  # [groups, hidden, batch]
        head = (self.output_weight[networks][:, :, None] * output).sum(1) + self.output_bias[networks][:, None]
        update = self.rms[groups][:, None] * head  # [groups, batch]
        return together(update[:, None])[..., 0], together(output), together(cell)

    def _window_of(self, group: int, inputs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A group's updates and its last h and c, from inputs `[steps, tasks, coordinates, inputs]`."""
        network = group if self.share == "group" else 0
        shape, width = inputs.shape[:3], inputs.shape[3]
        gates = torch.cat([self.weight[network], self.bias[network][None]])
        i, j, f, o = gates.T.chunk(4)
        gates = torch.cat([i, f, j, o])  # as torch has them, [4 * hidden, inputs + hidden + 1]
        forget = torch.zeros_like(gates[:, -1])
        forget[self.hidden : 2 * self.hidden] = 1.0
        weights = [gates[:, :width].contiguous(), gates[:, width:-1].contiguous(), gates[:, -1].contiguous(), forget]
        start = (h.flatten(0, 1)[None], c.flatten(0, 1)[None])
        output, h, c = torch.lstm(inputs.flatten(1, 2), start, weights, True, 1, 0.0, False, False, False)
        update = self.rms[group] * (output @ self.output_weight[network] + self.output_bias[network])
        return update.view(shape), h[0].unflatten(0, shape[1:]), c[0].unflatten(0, shape[1:])

    def pieces(self, observations: list[Tree], state: Tree, size: int) -> Iterator[Piece]:
        """Any slice of the coordinates can be run by itself."""
        grads, params = (
            [trees.flatten(trees.select(seen, kind)) for seen in observations] for kind in ("grad", "params")
        )
        losses = [seen["loss"] for seen in observations]
        tasks, coordinates = grads[0].shape
        width = max(1, size // tasks)
        for start in range(0, max(coordinates, 1), width):  # a tensor without coordinates has its steps counted
            part = slice(start, min(start + width, coordinates))
            yield Piece(
                part,
                [
                    {"grad/coordinates": grad[:, part], "params/coordinates": x[:, part], "loss": loss}
                    for grad, x, loss in zip(grads, params, losses, strict=True)
                ],
                {name: leaf[:, part] if leaf.ndim > 1 else leaf for name, leaf in state.items()},
            )


def memory(tasks: int, coordinates: int, like: Tensor) -> Tree:
    """What the features remember, before the first step: the last loss, gradient, parameters and size of the step."""
    flat = {name: zeros(like, tasks, coordinates) for name in ("grad", "x", "moved")}
    return {**flat, "loss": zeros(like, tasks), "step": zeros(like, tasks)}


def observe(grads: Tensor, xs: Tensor, losses: Tensor, state: Tree) -> tuple[Tensor, Tree]:
    """The three features of each coordinate, at each of some steps.

    Args:
        grads: `[steps, tasks, coordinates]`.
        xs: parameters, `[steps, tasks, coordinates]`.
        losses: `[steps, tasks]`.
        state: as `memory` gives it; further leaves are left alone.

    Returns:
        `[steps, tasks, coordinates, 3]`, and the next memory.
    """
    steps = len(losses)
    number = state["step"] + torch.arange(steps, dtype=state["step"].dtype, device=losses.device)[:, None]
    first, second = number == 0, number == 1  # [steps, tasks]

    def before(name: str, now: Tensor) -> Tensor:
        return torch.cat([state[name][None], now[:-1]])

    last = torch.where(first, losses, before("loss", losses))
    guarded = torch.where(last < 0, -1.0, 1.0) * last.abs().clamp(min=_SMALLEST_LOSS)
    change = torch.where(first, 0.0, (losses - last) / guarded)  # [steps, tasks]
    size = torch.where(first[..., None], grads, before("grad", grads)).abs() + 1
    moved = torch.where(first[..., None], 0.0, (xs - before("x", xs)).abs())
    earlier = torch.where(second[..., None], moved, before("moved", moved))
    features = torch.stack(
        [change[..., None].expand_as(grads), grads / size, earlier / (moved + _SMALLEST_STEP)], dim=3
    )
    after = {"grad": grads[-1], "x": xs[-1], "moved": moved[-1], "loss": losses[-1], "step": state["step"] + steps}
    return features, after


def _stacked(observations: Sequence[Tree]) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients and parameters `[steps, tasks, coordinates]`, and losses `[steps, tasks]`."""
    grads, params = (
        torch.stack([trees.flatten(trees.select(seen, kind)) for seen in observations]) for kind in ("grad", "params")
    )
    return grads, params, torch.stack([seen["loss"] for seen in observations])
