"""A user's own training loop with several losses, seen from outside: what it reports becomes what schedules read."""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Literal

import torch
from torch import Tensor

from l2o.errors import ArgumentError, DivergedError, UnsupportedError
from l2o.tasks.alternate import Choice, Pair
from l2o.trees import Tree

OnDivergence = Literal["raise", "ignore"]
"""What a loss or gradient that is not finite does: end the run, or count and leave the last measure as it was."""


class LiveLoop:
    """Assembles the measures that `ReplicatedLosses` shows, from what a training loop reports.

    It owns nothing: it reads losses that it is given and the `.grad` of the groups' parameters. `progress` is the share
    of the choices that are taken; `loss/LOSS`, `gradient/LOSS:GROUP`, the norm of the gradient divided by the root of
    the group's size, and `age/LOSS`, choices since the loss was measured; `metric/NAME` are those of the last
    validation, `validated` is 1 right after one, and `cost` is that of all choices so far. A measure is there once it
    has been reported.

    Args:
        choices: the admissible actions, in the order in which the schedule counts them.
        groups: the parameters of each group; groups may overlap.
        steps: choices of the whole run, at least 1.
        on_divergence: what a number that is not finite does.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        groups: Mapping[str, Iterable[Tensor]],
        *,
        steps: int,
        on_divergence: OnDivergence = "raise",
    ) -> None:
        if steps < 1:
            raise ArgumentError(f"steps is {steps}; a run takes at least 1")
        if on_divergence not in ("raise", "ignore"):
            raise ArgumentError(f"on_divergence is {on_divergence!r}; choose 'raise' or 'ignore'")
        self.choices, self.steps, self.on_divergence = tuple(choices), steps, on_divergence
        self.groups = {name: tuple(parameters) for name, parameters in groups.items()}
        names = [choice.name for choice in self.choices]
        if not names or len(set(names)) < len(names):
            raise ArgumentError(f"choices are {', '.join(names) or 'none'}; name at least one, each once")
        for name, parameters in self.groups.items():
            if not parameters:
                raise ArgumentError(
                    f"the group {name!r} has no parameters; an iterator can be read only once, pass a list of them"
                )
        self.pairs = tuple(dict.fromkeys(pair for choice in self.choices for pair in choice.pairs))
        self.losses = tuple(dict.fromkeys(loss for loss, _ in self.pairs))
        for loss, group in self.pairs:
            if group not in self.groups:
                raise ArgumentError(
                    f"the loss {loss!r} is to update the group {group!r}; there are {', '.join(self.groups)}"
                )
        self._roots = {name: math.sqrt(sum(p.numel() for p in group)) for name, group in self.groups.items()}
        self._measures: dict[str, float] = {"cost": 0.0, "validated": 0.0}
        self.step = 0
        self.diverged = 0
        self.choice: Choice | None = None
        self.reported = True

    @property
    def device(self) -> torch.device:
        """Where the first group's parameters are."""
        return next(iter(self.groups.values()))[0].device

    @property
    def measured(self) -> Set[str]:
        """The names of what has been measured; `progress` is always known."""
        return self._measures.keys()

    def possible(self) -> Set[str]:
        """The names of all measures that such a loop can have, metrics aside."""
        losses = {f"{kind}/{loss}" for kind in ("loss", "age") for loss in self.losses}
        return {"progress", *self.measured} | losses | {_gradient(pair) for pair in self.pairs}

    def observe(self) -> Tree:
        """What a schedule sees, leaves `[1]` float64: `progress` and everything that has been measured."""
        shown = {"progress": self.step / self.steps, **self._measures}
        values = torch.tensor(list(shown.values()), dtype=torch.float64)
        return dict(zip(shown, values.unsqueeze(1).unbind(), strict=True))

    def begin(self, number: int) -> None:
        """A choice is taken: everything measured is a step older."""
        if self.step >= self.steps:
            raise ArgumentError(f"all {self.steps} choices of the run are taken; pass a larger steps")
        self.choice = self.choices[number]
        self.reported = not self.choice.pairs
        for name in self._measures:
            if name.startswith("age/"):
                self._measures[name] += 1
        self._measures["cost"] += self.choice.repeat * self.choice.cost
        self._measures["validated"] = 0.0
        self.step += 1

    def took(
        self, losses: Mapping[str, Tensor | float], *, scaler: torch.amp.GradScaler | None = None, read: bool = True
    ) -> None:
        """After a choice's backward: its losses, and the gradients that now lie in its groups' parameters.

        Args:
            losses: each loss of the choice, a number.
            scaler: the one that the gradients are still scaled by.
            read: False only checks the names: another process does the measuring.
        """
        choice = self._choice_of(losses)
        shared = {group for _, group in choice.pairs if sum(other == group for _, other in choice.pairs) > 1}
        if shared:
            raise ArgumentError(
                f"the gradients of {' and '.join(losses)} add up in the group {shared.pop()!r}; before the backward "
                "call measure(...) with these losses instead, which takes them one by one"
            )
        self.reported = True
        if read:
            grads = {pair: [p.grad for p in self.groups[pair[1]] if p.grad is not None] for pair in choice.pairs}
            self._renew(losses, grads, _scale(scaler), skips=scaler is not None)

    def measure(
        self, losses: Mapping[str, Tensor], *, scaler: torch.amp.GradScaler | None = None, read: bool = True
    ) -> None:
        """Before any backward: the losses, and the gradient of every pair that they are in, one backward for each.

        `.grad` stays as it is. It is for the start, where everything is measured once, and for choices whose losses
        share a group.

        Args:
            losses: any of the losses, with their graphs.
            scaler: one to scale the losses by while their gradients are taken, against underflow.
            read: False only checks the names: another process does the measuring.
        """
        unknown = [name for name in losses if name not in self.losses]
        if unknown:
            raise ArgumentError(f"no loss {', '.join(unknown)}; there are {', '.join(self.losses)}")
        if self.choice is not None and all(loss in losses for loss, _ in self.choice.pairs):
            self.reported = True
        if not read:
            return
        scale = _scale(scaler)
        found = {}
        for loss, group in self.pairs:
            if loss in losses:
                if not losses[loss].requires_grad:
                    raise ArgumentError(f"the loss {loss!r} has no graph; pass it as computed, before its backward")
                leaves = [p for p in self.groups[group] if p.requires_grad]
                grads = torch.autograd.grad(losses[loss] * scale, leaves, retain_graph=True, allow_unused=True)
                found[loss, group] = [grad for grad in grads if grad is not None]
        self._renew(losses, found, scale, skips=scaler is not None)

    def validated(self, metrics: Mapping[str, Tensor | float]) -> None:
        """The metrics of a validation, by name."""
        values = _numbers(list(metrics.values())) if metrics else []
        found = {f"metric/{name}": value for name, value in zip(metrics, values, strict=True)}
        self._keep({**found, "validated": 1.0})

    def state(self) -> dict[str, Any]:
        """What `restore` needs, in plain values."""
        kept = {"step": self.step, "diverged": self.diverged, "reported": self.reported}
        return {**kept, "choice": None if self.choice is None else self.choice.name, "measures": dict(self._measures)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken."""
        self.step, self.diverged, self.reported = state["step"], state["diverged"], state["reported"]
        self.choice = next((choice for choice in self.choices if choice.name == state["choice"]), None)
        self._measures = dict(state["measures"])

    def _choice_of(self, losses: Mapping[str, Any]) -> Choice:
        """The choice that was taken, whose losses these must be."""
        if self.choice is None:
            raise ArgumentError("took() before the first choose(); what is known at the start goes to measure(...)")
        wanted = {loss for loss, _ in self.choice.pairs}
        if wanted != losses.keys():
            raise ArgumentError(
                f"the choice {self.choice.name!r} has the losses {', '.join(sorted(wanted)) or 'none'}, and took() got "
                f"{', '.join(losses) or 'none'}; pass these, by name"
            )
        return self.choice

    def _renew(
        self,
        losses: Mapping[str, Tensor | float],
        grads: Mapping[Pair, Sequence[Tensor]],
        scale: float,
        *,
        skips: bool,
    ) -> None:
        """Renews the measures of these losses and pairs; waits for the device once.

        Where a scaler `skips` steps, a gradient that is not finite is its business: the last measure stays.
        """
        norms = {pair: _norms(those, pair) for pair, those in grads.items()}
        numbers = iter(_numbers([*losses.values(), *(norm for those in norms.values() for norm in those)]))
        found = {}
        for loss in losses:
            found[f"loss/{loss}"], found[f"age/{loss}"] = next(numbers), 0.0
        for pair, those in norms.items():
            value = math.hypot(*(next(numbers) for _ in those)) / (scale * self._roots[pair[1]])
            if math.isfinite(value) or not skips:
                found[_gradient(pair)] = value
        self._keep(found)

    def _keep(self, found: Mapping[str, float]) -> None:
        wrong = [name for name, value in found.items() if not math.isfinite(value)]
        if not wrong:
            self._measures |= found
            return
        self.diverged += 1
        if self.on_divergence == "raise":
            raise DivergedError(
                f"{wrong[0]} is {found[wrong[0]]} at step {self.step} of {self.steps}. Lower the learning rate, "
                "look at the data, or pass on_divergence='ignore' to go on with what was measured before"
            )


def _gradient(pair: Pair) -> str:
    return f"gradient/{pair[0]}:{pair[1]}"


def _scale(scaler: torch.amp.GradScaler | None) -> float:
    return 1.0 if scaler is None else scaler.get_scale()


def _norms(grads: Sequence[Tensor], pair: Pair) -> Sequence[Tensor]:
    """The Euclidean norm of each of a group's gradients, in one call: on small models calls are what costs."""
    if not grads:
        raise ArgumentError(
            f"the loss {pair[0]!r} does not reach the group {pair[1]!r}: none of its parameters has a gradient. Report "
            "after backward and before zero_grad, or name another pair"
        )
    if any(grad.is_sparse for grad in grads):
        raise UnsupportedError("a gradient is sparse; use Embedding(sparse=False) to have its norm read")
    half = (torch.float16, torch.bfloat16)  # whose own norm would overflow, or keep two digits
    whole = [grad.float() if grad.dtype in half else grad for grad in grads]
    return torch._foreach_norm(whole)  # pyright: ignore[reportPrivateImportUsage]


def _numbers(values: Sequence[Tensor | float]) -> list[float]:
    """Scalars from their device, in one transfer; from the processor's memory as they are, which costs less."""
    scalars = [torch.as_tensor(value) for value in values]
    for value in scalars:
        if value.numel() != 1:
            raise ArgumentError(f"a number of shape {tuple(value.shape)} was reported; take the mean over the batch")
    away = [value.device for value in scalars if value.device.type != "cpu"]
    if not away:
        return [float(value.item()) for value in scalars]
    with torch.no_grad():
        return torch.stack([value.reshape(()).to(away[0]) for value in scalars]).tolist()
