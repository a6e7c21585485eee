"""The optimizers that every contract test runs for, and the small problems that they run on."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.dm import L2ODM
from l2o.optimizers.handcrafted import Adam, Momentum
from l2o.optimizers.hierarchical import L2OScale
from l2o.optimizers.mlp import MLPLOpt
from l2o.optimizers.predicted_step import PredictedStep
from l2o.optimizers.rnnprop import RNNprop
from l2o.optimizers.small_fc import SmallFC
from l2o.optimizers.torch_optim import TorchOptimizer
from l2o.rng import Stream
from l2o.trees import Tree


def predicted_step() -> PredictedStep:
    """A small one whose steps no tolerance hides."""
    rule = PredictedStep(hidden=6)
    rule.rms.fill_(1.0)
    return rule


RULES: dict[str, Callable[[], LearnedOptimizer]] = {
    "L2ODM.chen": L2ODM.chen,
    "L2ODM.andrychowicz": L2ODM.andrychowicz,
    "L2ODM.for_quadratics": L2ODM.for_quadratics,
    "RNNprop.chen": RNNprop.chen,
    "RNNprop.lv": RNNprop.lv,
    "L2OScale": lambda: L2OScale(lowest_rate=1e-3, highest_rate=1.0),  # steps that no tolerance hides
    "PredictedStep": predicted_step,
    "MLPLOpt": lambda: MLPLOpt(scale=0.1),
    "SmallFC": lambda: SmallFC(scale=0.1),
    "Adam": lambda: Adam(1e-2),
    "Momentum": lambda: Momentum(1e-2),
}
"""One line adds an optimizer."""

SEPARATE = {name: make for name, make in RULES.items() if not make().couples_tensors}
"""Those that see each parameter by itself."""

BY_GRADIENT = {name: make for name, make in RULES.items() if "loss" not in make().reads}
"""Those that can be stepped without the loss."""

STEPS_TAKEN = 6
"""Long enough for every recurrent state to matter, short enough to run in milliseconds."""


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return Stream(seed, ("contract",)).normal(shape)[0].to(dtype)


def gradients(shape: Sequence[int], *, steps: int = STEPS_TAKEN, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Fixed gradients of very different sizes, `[*shape]` for each step."""
    return [numbers(*shape, seed=100 + step, dtype=dtype) * 10.0 ** (1 - step) for step in range(steps)]


def parameter(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(numbers(*shape, seed=seed, dtype=dtype))


def shown(optimizer: torch.optim.Optimizer, loss: Tensor | float = 1.0) -> dict[str, Any]:
    """What a step has to be given beside the gradients: the loss, for a rule that reads it."""
    return {"loss": loss} if isinstance(optimizer, TorchOptimizer) and "loss" in optimizer.rule.reads else {}


def step(optimizer: torch.optim.Optimizer, loss: Tensor | float = 1.0) -> Any:
    """A step as plain as the rule allows."""
    return optimizer.step(**shown(optimizer, loss))


def loss_behind(grad: Tensor) -> float:
    """A loss made up for a gradient that has none."""
    return float(grad.double().abs().mean())


def follow(optimizer: torch.optim.Optimizer, p: Tensor, grads: Iterable[Tensor]) -> Tensor:
    """Steps once for each gradient; a copy of where p ends."""
    for grad in grads:
        p.grad = grad.clone()
        step(optimizer, loss_behind(grad))
    return p.detach().clone()


@torch.no_grad()
def expected(rule: LearnedOptimizer, start: Tensor, grads: Sequence[Tensor], rates: Sequence[float]) -> Tensor:
    """Where the definition p = p + lr delta leads, with the rule called directly."""
    p, state = start.detach().clone(), rule.init_state({"p": start.detach()[None]}, Stream(0, ("torch",)))
    for grad, rate in zip(grads, rates, strict=True):
        loss = torch.tensor([loss_behind(grad)], dtype=grad.dtype)
        action, state = rule({"grad/p": grad[None], "params/p": p[None], "loss": loss}, state)
        p = p + rate * action["p"][0]  # a state may remember p itself
    return p


def net(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """49 parameters in four tensors."""
    made = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).to(dtype)
    with torch.no_grad():
        for index, p in enumerate(made.parameters()):
            p.copy_(0.3 * numbers(*p.shape, seed=10 * seed + index, dtype=dtype))
    return made


def loss_of(model: nn.Module, rows: slice = slice(None)) -> Tensor:
    p = next(model.parameters())
    x, y = numbers(8, 4, seed=50, dtype=p.dtype), numbers(8, 2, seed=51, dtype=p.dtype)
    return (model(x[rows]) - y[rows]).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = STEPS_TAKEN) -> list[Tensor]:
    """An ordinary training loop; copies of the parameters after it."""
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        step(optimizer, loss)
    return values(model)


def values(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def states(optimizer: torch.optim.Optimizer) -> list[Tree]:
    """Copies of the states, in the order of the parameters."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return [copy.deepcopy(dict(optimizer.state.get(p, {}))) for p in params]


def same(first: Any, second: Any) -> bool:
    """Whether nested lists and dicts of tensors and plain values agree, tensors to the last bit and in type."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return first == second


class LossScaled(LearnedOptimizer):
    """delta = -lr loss g: the smallest rule that reads the loss; its state remembers it."""

    name = "loss-scaled"
    reads = frozenset({"grad", "loss"})

    def config(self) -> dict[str, float | int | str | bool]:
        return {}

    def init_state(self, params: Tree, rng: Stream) -> Tree:
        return {"last": torch.zeros_like(next(iter(params.values()))[:, :0].sum(1))}

    def forward(self, observation: Tree, state: Tree) -> tuple[Tree, Tree]:
        loss = observation["loss"]
        return {"p": -0.1 * loss[:, None] * observation["grad/p"]}, {"last": loss}


class Delayed(LearnedOptimizer):
    """delta = -0.1 times the gradient two steps ago: its state hands leaves on under other names."""

    name = "delayed"

    def config(self) -> dict[str, float | int | str | bool]:
        return {}

    def init_state(self, params: Tree, rng: Stream) -> Tree:
        zeros = torch.zeros_like(next(iter(params.values())))
        return {"once": zeros, "twice": zeros}

    def forward(self, observation: Tree, state: Tree) -> tuple[Tree, Tree]:
        return {"p": -0.1 * state["twice"]}, {"once": observation["grad/p"], "twice": state["once"]}


class Decay(LearnedOptimizer):
    """delta = -0.1 p: a rule that reads the parameters."""

    name = "decay"
    reads = frozenset({"params"})

    def config(self) -> dict[str, float | int | str | bool]:
        return {}

    def init_state(self, params: Tree, rng: Stream) -> Tree:
        return {}

    def forward(self, observation: Tree, state: Tree) -> tuple[Tree, Tree]:
        return {"p": -0.1 * observation["params/p"]}, state
