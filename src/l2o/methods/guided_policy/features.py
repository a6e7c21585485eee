"""What the local models of guided policy search see of a coordinate: its last 125 steps, five at a time.

Every index of a feature is congruent to the step modulo 5, so that all but the newest features of a step are those of
five steps before, shifted by one. Five banks, one for each phase, therefore hold everything, and a step computes three
numbers a coordinate instead of 76.

Source: Li and Malik 2017, section 3.2. The text lost a bar in the first family, and calls two indices by one name.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.optimizers.base import zeros
from l2o.trees import Tree

STRIDE = 5
"""Steps between the averages that a feature compares."""

_AVERAGED = 3
_SMALLEST_LOSS = 1e-8
_SMALLEST_STEP = 0.1


@dataclass(frozen=True)
class StateFeatures:
    """The state of a coordinate at step t, from averages over the last three steps of loss, gradient and parameters.

        u_i = (f(t-5i) - f(t-5i-5)) / f(t-5i-5)
        v_i = g(t-5i) / (|g(t-5i-5)| + 1)
        w_i = |x(t-5i-5) - x(t-5i-10)| / (|x(t-5i) - x(t-5i-5)| + 0.1)

    for i = 0, 1, ... A feature whose numerator, or whose denominator in u and w, reaches before the first step is 0;
    where only a comparison does, the coordinate is compared with itself: v = g / (|g| + 1), w = q / (q + 0.1).

    Args:
        history: how many u, v and w there are; the paper's are 25, 26 and 25.
        position: whether x itself comes first. The policy does not see it, so a controller that uses it cannot be
            imitated; the paper has it.
    """

    history: tuple[int, int, int] = (25, 26, 25)
    position: bool = False

    def __post_init__(self) -> None:
        if min(self.history) < 1:
            raise ArgumentError(f"history is {self.history}; each family needs at least 1 feature")

    @property
    def states(self) -> int:
        """Length of a coordinate's state."""
        return int(self.position) + sum(self.history)

    @property
    def gradients(self) -> slice:
        """Where the v stand in a state."""
        start = int(self.position) + self.history[0]
        return slice(start, start + self.history[1])

    def begin(self, tasks: int, coordinates: int, like: Tensor) -> Tree:
        """What is remembered before the first step, on the device and with the dtype of `like`."""
        losses, gradients, moves = self.history
        remembered: Tree = {"step": zeros(like, tasks)}
        for back in range(1, _AVERAGED):
            remembered |= {f"loss/{back}": zeros(like, tasks)}
            remembered |= {f"{kind}/{back}": zeros(like, tasks, coordinates) for kind in ("grad", "x")}
        for phase in range(STRIDE):
            remembered |= {f"mean loss/{phase}": zeros(like, tasks), f"u/{phase}": like.new_zeros(tasks, losses)}
            remembered |= {f"{kind}/{phase}": zeros(like, tasks, coordinates) for kind in ("mean grad", "mean x", "q")}
            remembered |= {f"v/{phase}": like.new_zeros(tasks, coordinates, gradients)}
            remembered |= {f"w/{phase}": like.new_zeros(tasks, coordinates, moves)}
        return remembered

    def observe(self, grad: Tensor, x: Tensor, loss: Tensor, remembered: Tree) -> tuple[Tensor, Tree]:
        """The states at one step.

        Args:
            grad: `[tasks, coordinates]`.
            x: parameters, `[tasks, coordinates]`.
            loss: `[tasks]`.
            remembered: from `begin`, or from the step before.

        Returns:
            `[tasks, coordinates, states]`, and what is remembered.
        """
        step = int(remembered["step"].max())  # those of dead tasks stand still
        phase = step % STRIDE
        mean_loss, mean_grad, mean_x = (
            _mean([now, *(remembered[f"{kind}/{back}"] for back in range(1, _AVERAGED))][: step + 1])
            for kind, now in (("loss", loss), ("grad", grad), ("x", x))
        )
        earlier = {kind: remembered[f"{kind}/{phase}"] for kind in ("mean loss", "mean grad", "mean x", "q")}
        if step >= STRIDE:
            before = earlier["mean loss"]
            guarded = torch.where(before < 0, -1.0, 1.0) * before.abs().clamp(min=_SMALLEST_LOSS)
            u = (mean_loss - before) / guarded
            v = mean_grad / (earlier["mean grad"].abs() + 1)
            q = (mean_x - earlier["mean x"]).abs()
            w = (earlier["q"] if step >= 2 * STRIDE else q) / (q + _SMALLEST_STEP)
        else:
            u, q, w = torch.zeros_like(mean_loss), torch.zeros_like(mean_x), torch.zeros_like(mean_x)
            v = mean_grad / (mean_grad.abs() + 1)
        banks = {
            f"{kind}/{phase}": torch.cat([new[..., None], remembered[f"{kind}/{phase}"][..., :-1]], dim=-1)
            for kind, new in (("u", u), ("v", v), ("w", w))
        }
        families = [banks[f"u/{phase}"][:, None].expand(*x.shape, -1), banks[f"v/{phase}"], banks[f"w/{phase}"]]
        states = torch.cat([x[..., None], *families] if self.position else families, dim=-1)
        means = {"mean loss": mean_loss, "mean grad": mean_grad, "mean x": mean_x, "q": q}
        recent = {
            f"{kind}/{back}": now if back == 1 else remembered[f"{kind}/{back - 1}"]
            for kind, now in (("loss", loss), ("grad", grad), ("x", x))
            for back in range(1, _AVERAGED)
        }
        moved = {f"{kind}/{phase}": leaf for kind, leaf in means.items()}
        return states, {**remembered, **banks, **moved, **recent, "step": remembered["step"] + 1}


def _mean(recent: list[Tensor]) -> Tensor:
    return torch.stack(recent).mean(0)
