"""The table of frameworks and learned optimizers, and the small problem that each pair of them is run on."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from contract.optimizer_cases import numbers, predicted_step
from torch import Tensor, nn

import l2o
from l2o.errors import L2OError, MissingLossError
from l2o.optimizers.base import LearnedOptimizer

OPTIMIZERS: dict[str, Callable[[], LearnedOptimizer]] = {
    "L2O-DM": lambda: l2o.load("dm-quadratics"),
    "RNNprop": lambda: l2o.load("rnnprop-mnist"),
    "L2O-Scale": lambda: l2o.L2OScale(lowest_rate=1e-3, highest_rate=1.0),  # steps that no tolerance hides, here too
    "Predicted Step Descent": predicted_step,
    "MLPLOpt": lambda: l2o.MLPLOpt(scale=0.1),
    "SmallFC": lambda: l2o.SmallFC(scale=0.1),
}
"""The columns: every learned optimizer by its name. One line adds another."""

DESCENDING = ("L2O-DM", "RNNprop")
"""Those that are shipped trained: with them the loss has to fall."""

FRAMEWORKS = (
    "Lightning, automatic optimization",
    "Lightning, manual optimization",
    "Lightning, 16-mixed with a GradScaler",
    "Hugging Face Trainer",
    "Accelerate, gradient accumulation",
    "Accelerate, mixed precision",
    "DistributedDataParallel",
    "FSDP2 (fully_shard)",
    "distributed.checkpoint",
    "distributed.checkpoint with FSDP2",
    "torch.compile of the model",
    "GradScaler",
    "every lr_scheduler",
    "parameter groups",
    "freezing in the middle of a run",
)
"""The rows."""


class Refusal(NamedTuple):
    """What an optimizer raises where a framework cannot serve it, and why."""

    error: type[L2OError]
    reason: str


_NO_LOSS = Refusal(MissingLossError, "it reads the loss, and is stepped without one")

REFUSALS: dict[tuple[str, str], Refusal] = {
    ("Lightning, 16-mixed with a GradScaler", "Predicted Step Descent"): _NO_LOSS,
    ("Hugging Face Trainer", "Predicted Step Descent"): _NO_LOSS,
}
"""The cells that are no "works", by row and column."""


def framework(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Puts a test into a row: it runs for every optimizer, and where the table says so, it has to be refused."""
    if name not in FRAMEWORKS:
        raise ValueError(f"{name!r} is no row of FRAMEWORKS")

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def promised(optimizer: str, **fixtures: Any) -> None:
            refusal = REFUSALS.get((name, optimizer))
            if refusal is None:
                test(optimizer, **fixtures)
            else:
                with pytest.raises(refusal.error):
                    test(optimizer, **fixtures)

        return pytest.mark.framework(name)(pytest.mark.parametrize("optimizer", OPTIMIZERS)(promised))

    return decorate


def made(name: str, params: Any, **options: Any) -> torch.optim.Optimizer:
    """The optimizer of a column as a drop-in."""
    return OPTIMIZERS[name]().as_torch(params, **options)


EXAMPLES, BATCH = 24, 4


def model() -> nn.Sequential:
    """31 parameters in four tensors, none of which two processes can halve: one has a single number."""
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    with torch.no_grad():
        for index, p in enumerate(net.parameters()):
            p.copy_(0.3 * numbers(*p.shape, seed=index))
    return net


def data() -> tuple[Tensor, Tensor]:
    """Inputs `[24, 4]` and targets `[24, 1]`."""
    inputs = numbers(EXAMPLES, 4, seed=50)
    return inputs, torch.tanh(inputs.sum(1, keepdim=True))


def batches(steps: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """So many minibatches, epoch after epoch in the same order, from one step on."""
    inputs, targets = data()
    for step in range(first, first + steps):
        start = step * BATCH % EXAMPLES
        yield inputs[start : start + BATCH], targets[start : start + BATCH]


def loss_of(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (net(batch[0]) - batch[1]).square().mean()


def whole_loss(net: nn.Module) -> float:
    with torch.no_grad():
        return loss_of(net, data()).item()


def values(net: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]
