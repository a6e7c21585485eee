"""A schedule in a user's own training loop: it says what to do next, and is told what came of it."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from l2o.checkpoint import digest
from l2o.errors import ArgumentError, WeightsError
from l2o.processes.live_loop import LiveLoop, OnDivergence
from l2o.rng import Stream
from l2o.schedules.base import Execution, Schedule, ScheduleDrives
from l2o.tasks.alternate import Choice


def follow(
    schedule: Schedule,
    *,
    choices: Sequence[str | Choice],
    groups: Mapping[str, Iterable[Tensor]],
    steps: int,
    seed: int = 0,
    execution: Execution = "sample",
    on_divergence: OnDivergence = "raise",
) -> "Follower":
    """Follows a schedule in a training loop of one's own, with any modules, losses and optimizers.

    Args:
        schedule: who decides: from `load_schedule`, or a fixed one. A frozen copy is kept.
        choices: what it decides among, in the order that it counts them. A name stands for the loss of that name on the
            group of that name, or on the only group; `Choice` says anything else.
        groups: the parameters that the losses update, by name, in the names that the schedule was trained with.
        steps: choices of the whole run.
        seed: of the decisions, which have a random stream of their own.
        execution: how probabilities become a decision: "sample", "greedy" or "dither". Rates need the first or the
            last: the greedy decision of a rate is always the same.
        on_divergence: "raise" a `DivergedError` when a loss or gradient is not finite, or "ignore" it: it is counted,
            and the schedule goes on seeing what was measured before.

    Raises:
        ArgumentError: schedule, choices and groups do not fit each other.

    Example:
        >>> import torch
        >>> from l2o.schedules.fixed import InTurn
        >>> model = torch.nn.Linear(3, 1)
        >>> follower = follow(
        ...     InTurn.ratio(1, 2), choices=("error", "penalty"), groups={"model": model.parameters()}, steps=4
        ... )
        >>> for _ in range(4):
        ...     choice = follower.choose()
        ...     model.zero_grad()
        ...     loss = model(torch.ones(5, 3)).square().mean() if choice == "error" else model.weight.abs().sum()
        ...     loss.backward()
        ...     follower.took({choice: loss})
        >>> follower.decisions.tolist()
        [[0, 1, 1, 0]]
    """
    held = {name: tuple(parameters) for name, parameters in groups.items()}
    loop = LiveLoop(
        [choice if isinstance(choice, Choice) else _named(choice, held) for choice in choices],
        held,
        steps=steps,
        on_divergence=on_divergence,
    )
    return Follower(schedule, loop, seed=seed, execution=execution)


class Follower:
    """What `follow` gives: call `choose`, do it, and report with `took` before the optimizer steps.

    Under torch.distributed the first process decides for all, by its own losses and its gradients, which
    DistributedDataParallel has averaged by then; every process makes the same calls.

    Args:
        schedule: who decides.
        loop: what is known of the training loop.
        seed: of the decisions.
        execution: how probabilities become decisions.

    Example:
        >>> import l2o
        >>> parameter = torch.nn.Parameter(torch.tensor(2.0))
        >>> follower = l2o.follow(
        ...     l2o.InTurn([1, 0]), choices=("grow", "shrink"), groups={"model": [parameter]}, steps=4
        ... )
        >>> follower.choose(), follower.choice.pairs
        ('shrink', (('shrink', 'model'),))
        >>> loss = parameter.square()
        >>> loss.backward()
        >>> follower.took({"shrink": loss})
        >>> follower.choose(), follower.decisions.tolist(), follower.diverged
        ('grow', [[1, 0]], 0)
    """

    def __init__(self, schedule: Schedule, loop: LiveLoop, *, seed: int, execution: Execution) -> None:
        names = ", ".join(choice.name for choice in loop.choices)
        if schedule.choices != len(loop.choices):
            raise ArgumentError(
                f"the schedule decides among {schedule.choices} choices, and {len(loop.choices)} are named: {names}"
            )
        foreign = [name for name in schedule.measures if not name.startswith("metric/") and name not in loop.possible()]
        if foreign:
            raise ArgumentError(
                f"the schedule decides by {', '.join(foreign)}, and this loop can measure "
                f"{', '.join(sorted(loop.possible()))}; name losses and groups as the schedule was trained with"
            )
        self._schedule = copy.deepcopy(schedule).requires_grad_(False).cpu()
        self._driver = ScheduleDrives(self._schedule, Stream(seed, ("follow",)), execution)
        self._states = self._driver.begin()
        self._needed = frozenset(self._schedule.measures) - {"progress"}
        self._watches = any(name.partition("/")[0] in ("loss", "gradient", "age") for name in self._needed)
        self._loop = loop
        self._decisions: list[int] = []

    @property
    def decisions(self) -> Tensor:
        """The numbers of all choices so far, `[1, steps]`, as `distill` takes them."""
        return torch.tensor([self._decisions], dtype=torch.int64)

    @property
    def choice(self) -> Choice | None:
        """The choice that was taken last, None before the first."""
        return self._loop.choice

    @property
    def diverged(self) -> int:
        """Reports that were not finite and were ignored."""
        return self._loop.diverged

    @torch.no_grad()
    def choose(self) -> str:
        """Decides, and says the name of the choice to be taken now.

        Raises:
            ArgumentError: the run is over, or the schedule decides by something that has not been reported yet.
        """
        if self._loop.step >= self._loop.steps:
            raise ArgumentError(f"all {self._loop.steps} choices of the run are taken; pass a larger steps")
        number = self._decide() if _leads() else 0
        if distributed.is_available() and distributed.is_initialized():
            message = torch.tensor(number, device=self._loop.device)
            distributed.broadcast(message, src=0)
            number = int(message)
        self._loop.begin(number)
        self._decisions.append(number)
        return self._loop.choices[number].name

    def took(self, losses: Mapping[str, Tensor | float], *, scaler: torch.amp.GradScaler | None = None) -> None:
        """Reports the choice's losses after their backward: reads the gradients that lie in its groups.

        Call it before gradients are clipped and before `optimizer.step()`; after each backward of a choice that repeats
        its update. With mixed precision, call it before `scaler.unscale_` and pass the scaler.

        Args:
            losses: each loss of the choice by name, not scaled.
            scaler: the one that the gradients are still scaled by. A step that it leaves out is no divergence.

        Raises:
            ArgumentError: these are not the choice's losses, or one does not reach its group.
            DivergedError: a loss or gradient is not finite. Nothing has been stepped.
        """
        self._loop.took(losses, scaler=scaler, read=_leads())

    def measure(self, losses: Mapping[str, Tensor], *, scaler: torch.amp.GradScaler | None = None) -> None:
        """Measures losses and the gradients of all their pairs without touching `.grad`, one backward for each pair.

        A schedule that decides by losses or gradients needs it once, with all of them, before the first `choose`. A
        choice whose losses share a group is reported by it, before its backward, in place of `took`.

        Args:
            losses: losses by name, as computed, with their graphs.
            scaler: one to scale the losses by while their gradients are taken.
        """
        self._loop.measure(losses, scaler=scaler, read=_leads())

    def validated(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Reports a validation's metrics by name; before the first `choose` too, if the schedule decides by one."""
        self._loop.validated(metrics)

    def weights(self) -> Tensor:
        """The current choice as weights of the losses `[losses]`, 1 or 0, in the order in which the choices name them.

        For code that takes a weighted sum of losses, as strategies of multi-task libraries do.
        """
        if self._loop.choice is None:
            raise ArgumentError("weights() before the first choose(); call it after")
        taken = {loss for loss, _ in self._loop.choice.pairs}
        return torch.tensor([float(loss in taken) for loss in self._loop.losses], device=self._loop.device)

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on exactly: tensors and plain values."""
        return {
            "identity": self._identity(),
            "loop": self._loop.state(),
            "states": {name: dict(state) for name, state in self._states.items()},
            "decisions": self.decisions,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken.

        Raises:
            WeightsError: the state is of another schedule, seed, execution, or of other choices; the message says what
                differs.
        """
        mine = self._identity()
        differs = [f"{name} {state['identity'].get(name)!r}, here {value!r}" for name, value in mine.items()
                   if state["identity"].get(name) != value]  # fmt: skip
        if differs:
            raise WeightsError(f"the state is of another run: {'; '.join(differs)}; follow as it was followed")
        self._loop.restore(state["loop"])
        self._states = {name: {key: leaf.cpu() for key, leaf in tree.items()} for name, tree in state["states"].items()}
        self._decisions = state["decisions"][0].tolist()

    def _decide(self) -> int:
        self._check_measures()
        action, self._states = self._driver(self._loop.observe(), self._states)
        return int(action["choice"])

    def _check_measures(self) -> None:
        """Whether everything that the schedule declares is there and as new as it can be."""
        loop = self._loop
        if self._watches and loop.choice is not None and not loop.reported:
            raise ArgumentError(
                f"choose() again before took() told what came of {loop.choice.name!r}; call took({{name: loss}}) after "
                "each backward"
            )
        if self._needed <= loop.measured:
            return
        missing = [name for name in self._schedule.measures if name not in loop.measured]
        raise ArgumentError(
            f"the schedule decides by {', '.join(missing)}, not measured yet; before the first choose() call "
            f"measure({{...}}) with the losses {', '.join(loop.losses)}, and validated({{...}}) with the metrics"
        )

    def _identity(self) -> dict[str, Any]:
        """What a state is bound to."""
        return {
            "schedule": self._schedule.name,
            "meta_parameters": digest(self._schedule.state_dict()),
            "choices": [choice.name for choice in self._loop.choices],
            "steps": self._loop.steps,
            "seed": self._driver.rng.seed,
            "execution": self._driver.execution,
        }


def _leads() -> bool:
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def _named(name: str, groups: Mapping[str, Any]) -> Choice:
    """The choice that a name alone stands for."""
    if name in groups:
        return Choice(name, ((name, name),))
    if len(groups) != 1:
        raise ArgumentError(
            f"which group does the choice {name!r} update? There are {', '.join(groups) or 'none'}; name a group like "
            f"it, or pass l2o.Choice({name!r}, (({name!r}, GROUP),))"
        )
    return Choice(name, ((name, next(iter(groups))),))
