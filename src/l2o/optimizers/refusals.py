"""What a drop-in refuses: options, numbers, parameters, gradients, losses."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from l2o.errors import ArgumentError, MissingLossError, UnsupportedError
from l2o.optimizers import shards
from l2o.optimizers.base import LearnedOptimizer


def refuse_options(options: Mapping[str, Any]) -> None:
    """Raises for what torch's own optimizers can be asked for and this one cannot."""
    for name in ("foreach", "fused", "capturable", "differentiable"):
        if options.get(name):
            raise UnsupportedError(f"{name}={options[name]!r} has no implementation for learned rules; leave it out")


def check_numbers(group: Mapping[str, Any]) -> None:
    """Raises if a number of a parameter group is out of its range."""
    for name in ("lr", "weight_decay"):
        if torch.as_tensor(group[name]).numel() != 1:
            raise ArgumentError(f"Tensor {name} must be 1-element; it is {group[name]}")
        if not 0 <= group[name] < math.inf:
            raise ArgumentError(f"{name} is {group[name]}; it must be finite and at least 0")
    if group["horizon"] is not None and group["horizon"] < 1:
        raise ArgumentError(f"horizon is {group['horizon']}; pass the steps the rule was trained for, or None")


def check_gradient(name: str, p: Tensor) -> None:
    """Raises if a rule would see something else than the gradient of a parameter as the model has it."""
    if p.grad is not None and p.grad.layout is not torch.strided:
        raise UnsupportedError(f"the gradient of {name} is sparse; make it dense (Embedding: sparse=False)")
    if getattr(p, "_fsdp_flattened", False):  # torch's own mark
        raise UnsupportedError(
            f"{name} is a flat piece that FullyShardedDataParallel made, without the shape that a learned rule sees; "
            "shard with torch.distributed.fsdp.fully_shard, or use DistributedDataParallel"
        )


def check_finite(grads: Sequence[tuple[str, Tensor]]) -> None:
    """Raises if a gradient is not finite, in every process that holds parts of these gradients.

    A finite sum has finite terms, and costs a tenth of any norm.
    """
    parts = [(name, shards.part(grad)) for name, grad in grads]
    sums = [grad.sum(dtype=_summed_in(grad)).double() for _, grad in parts if grad.numel() > 0]
    found = None
    if sums and not bool(torch.isfinite(torch.stack([each.to(sums[0].device) for each in sums])).all()):
        found = next((name for name, grad in parts if not bool(torch.isfinite(grad).all())), None)  # or a sum too large
    if shards.anywhere(found is not None, [grad for _, grad in grads]):
        raise ArgumentError(
            f"the gradient of {found or 'a parameter, in another process,'} holds NaN or infinity; nothing was "
            "changed. Clip gradients, lower lr, or use torch.amp.GradScaler with half precision, which leaves such "
            "steps out."
        )


def checked_loss(rule: LearnedOptimizer, loss: Any, device: torch.device) -> Tensor | None:
    """The loss that a rule is shown, a scalar; None for one that does not read it.

    Processes that train one model have losses of their own: their mean belongs to the gradients that they share.
    """
    if "loss" not in rule.reads:
        return None
    if loss is None:
        raise MissingLossError(f"{rule.name} reads the loss; step with a closure that returns it, or step(loss=loss)")
    value = shards.whole(torch.as_tensor(loss).detach())
    if value.numel() == 1:
        value = shards.mean_over_processes(value.reshape(()).to(device))
    if value.numel() != 1 or not bool(torch.isfinite(value)):
        raise ArgumentError(f"the loss is {value}; {rule.name} needs one finite number. Nothing was changed.")
    return value


def _summed_in(grad: Tensor) -> torch.dtype:
    return torch.float64 if grad.dtype == torch.float64 else torch.float32
