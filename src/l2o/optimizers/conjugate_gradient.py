"""Nonlinear conjugate gradient as an ordinary `torch.optim.Optimizer` that steps with a closure."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from l2o.errors import ArgumentError, MissingLossError, UnsupportedError

TRIALS = 10
"""Steps that a line search tries at most."""

_SUFFICIENT = 1e-4
"""Armijo's constant: the share of the slope's promise that a decrease has to keep."""

_CLOSE = 0.999
"""A trial that is as near as this to the parabola's lowest point is not moved there: it would cost an evaluation."""


class ConjugateGradient(torch.optim.Optimizer):
    """theta = theta + a d with d = -g + max(0, beta) d', beta = < g, g - g' > / < g', g' >  (Polak-Ribiere+).

    A prime marks the step before. d starts anew at -g where it would not point downhill (< d, g > >= 0) and at every
    50th step. The step a is lr, or the first of at most 10 trials, lr and then smaller ones, with
    f(theta + a d) <= f(theta) + 1e-4 a < d, g > (Armijo): the next trial is the lowest point of the parabola through
    what is known, kept within 1/10 and 1/2 of the last one. If that parabola has its lowest point short of an accepted
    trial, it is a trial too, and the lower one is taken: conjugacy is about minima along d, and on a quadratic this is
    the minimum, wherever lr lies beyond it. Where no trial is accepted, the parameters stay, and d starts anew.

    Args:
        params: as for any torch optimizer, in one group.
        lr: the step, or the line search's longest.
        line_search: None or "armijo".
        restart: d starts anew at every so many steps.

    Raises:
        ArgumentError: a number has no meaning.
        UnsupportedError: there are several parameter groups.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([3.0, 1.0], dtype=torch.float64))
        >>> optimizer = ConjugateGradient([x], lr=1.0, line_search="armijo")
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = x[0] ** 2 + 10 * x[1] ** 2
        ...     if loss.requires_grad:
        ...         loss.backward()
        ...     return loss
        >>> for _ in range(2):
        ...     _ = optimizer.step(closure)
        >>> closure().item() < 1e-20
        True

    Source: Polak and Ribiere 1969; Gilbert and Nocedal 1992 for the restart at negative beta; Nocedal and Wright 2006,
    section 3.5, for the line search.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        line_search: Literal["armijo"] | None = None,
        restart: int = 50,
    ) -> None:
        if not 0 < lr < math.inf:
            raise ArgumentError(f"lr is {lr}; it must be positive and finite")
        if line_search not in (None, "armijo"):
            raise ArgumentError(f"line_search is {line_search!r}; choose None or 'armijo'")
        if restart < 1:
            raise ArgumentError(f"restart is {restart}; it must be at least 1 step")
        super().__init__(params, {"lr": lr, "line_search": line_search, "restart": restart})
        if len(self.param_groups) > 1:
            raise UnsupportedError(
                f"there are {len(self.param_groups)} parameter groups; a direction is one for all, pass one group"
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step.

        Args:
            closure: gives the loss at the parameters as they are, a scalar, and fills their gradients. It is called
                once with gradients enabled, first of all, and in a line search up to 10 times with gradients disabled:
                it must then be content with the loss, hence the `if loss.requires_grad` of the example.

        Returns:
            The loss before the step.

        Raises:
            MissingLossError: there is no closure.
        """
        if closure is None:
            raise MissingLossError("ConjugateGradient steps with a closure; pass one that gives loss and gradients")
        with torch.enable_grad():
            loss = closure()
        group = self.param_groups[0]
        params, state = group["params"], self.state[group["params"][0]]
        start = [p.clone() for p in params]
        grad = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in params])
        direction, age = _direction(grad, state, restart=group["restart"])

        def loss_after(step: float) -> float:
            _place(params, start, step * direction)
            return closure().item()

        step = group["lr"]
        if group["line_search"] is not None:
            step = _search(loss_after, loss.item(), float(grad @ direction), longest=step)
        _place(params, start, step * direction)
        if step:
            state.update({"direction": direction, "grad": grad, "age": age})
        else:
            state.clear()
        return loss


def _direction(grad: Tensor, state: dict[str, Any], *, restart: int) -> tuple[Tensor, int]:
    """The direction to go `[coordinates]`, and how many steps ago the directions began anew."""
    if not state or state["age"] + 1 >= restart:
        return -grad, 0
    before = state["grad"]
    beta = (grad @ (grad - before) / (before @ before)).clamp(min=0)
    direction = beta * state["direction"] - grad
    # Also where beta is not a number, after a gradient of 0.
    return (direction, state["age"] + 1) if grad @ direction < 0 else (-grad, 0)


def _search(loss_after: Callable[[float], float], loss: float, slope: float, *, longest: float) -> float:
    """The step to take along a direction of this slope, 0 if no trial is accepted."""
    step = longest
    for trial in range(TRIALS):
        found = loss_after(step)
        lowest = _lowest(loss, slope, step, found)
        if found <= loss + _SUFFICIENT * step * slope:
            better = lowest < _CLOSE * step and trial + 1 < TRIALS and loss_after(lowest) < found
            return lowest if better else step
        step = min(max(lowest, step / 10), step / 2)
    return 0.0


def _lowest(loss: float, slope: float, step: float, found: float) -> float:
    """Where the parabola through `loss` at 0, with this slope, and `found` at `step` is lowest, infinite if nowhere."""
    if not math.isfinite(found):
        return 0.0
    excess = found - loss - slope * step
    return -slope * step**2 / (2 * excess) if excess > 0 else math.inf


def _place(params: list[Tensor], start: list[Tensor], update: Tensor) -> None:
    parts = update.split([p.numel() for p in params])
    for p, before, part in zip(params, start, parts, strict=True):
        p.copy_(before + part.view_as(p))
