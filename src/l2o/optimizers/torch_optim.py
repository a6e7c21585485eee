"""A rule as an ordinary `torch.optim.Optimizer`."""

import copy
import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2o.agent import Backend
from l2o.checkpoint import digest
from l2o.errors import ArgumentError, UnsupportedError, WeightsError
from l2o.kernels.layout import pack
from l2o.kernels.select import checked, kernel_for
from l2o.optimizers import refusals, shards
from l2o.optimizers.base import LearnedOptimizer
from l2o.rng import Stream
from l2o.trees import Tree

STEPS = "steps_taken"
"""The leaf that counts a parameter's steps, beside the rule's own leaves. It stays on the CPU: reading it is free."""

OVERRUN = 2
"""The warning about the horizon comes after this many horizons."""


class _Move(NamedTuple):
    """A parameter with a gradient, spread over processes as it is; `place` is its position among all parameters."""

    group: dict[str, Any]
    place: int
    name: str
    p: Tensor
    grad: Tensor


class TorchOptimizer(torch.optim.Optimizer):
    """p = (1 - lr weight_decay) p + lr delta, with delta from the rule; each parameter is a batch of one task.

    A rule that couples tensors sees all parameters as one task; on several devices, in float32 beside float64, or
    maximized beside minimized, those that agree are one task each. A rule that has groups of tensors tells them from
    the shapes of all parameters in the order in which they are passed: pass them as the model has them.

    `self.state[p]` is the rule's state for p as a flat dict of tensors, plus `STEPS`. It lives on the device of p, in
    float64 for a float64 parameter and in float32 for any other. What a rule that takes each coordinate by itself keeps
    of p has the shape of p, and more axes after it; all else has the rule's own shapes. What a coupling rule keeps for
    the whole task is there with each parameter, in equal copies. Meta-parameters are not in the state: each group
    carries their sha256, so that a state cannot be continued by another rule.

    Where torch's own optimizers would spread NaN or infinity from a gradient, a step raises and changes nothing; the
    check waits for the device once per step. A parameter without a gradient, or with `requires_grad=False`, is skipped.
    A first step without a loss at lr 0, with gradients that are all zero, makes the states and no more: it is how
    distributed checkpoints ask for them.

    Of parameters that `fully_shard` spreads over processes, a rule that takes each coordinate by itself steps the part
    that lies here, and its state is spread likewise. Any other rule is shown whole tensors: every process gathers the
    gradients, keeps the whole state and computes the whole step. A rule that reads the loss is shown its mean over all
    processes of a distributed run, as their gradients are averaged.

    Args:
        params: as for any torch optimizer: tensors, named tensors, or parameter groups. A group may have its own lr,
            weight_decay, horizon and maximize.
        rule: the learned optimizer. A frozen copy is kept: training it further does not change this optimizer.
        lr: multiplies every update, at least 0; 1.0 is the behaviour that was meta-trained.
        weight_decay: decoupled decay per step, multiplied by lr; at least 0.
        horizon: inner steps that the rule was meta-trained for; beyond twice as many it warns, once.
        maximize: climb instead of descending: the rule is shown the negated gradient and loss.
        backend: who computes a step; "auto" keeps the rule's own `backend`.
        foreach: refused, as are fused, capturable and differentiable: they are arguments so that they fail by name.

    Raises:
        ArgumentError: a number is out of its range; in a step: a gradient, or the loss, is not finite.
        UnsupportedError: a complex parameter, a sparse gradient, flat pieces of FullyShardedDataParallel, or one of the
            refused arguments.

    Example:
        >>> from l2o.optimizers.handcrafted import SGD
        >>> p = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = TorchOptimizer([p], SGD(0.5))
        >>> (p**2).sum().backward()
        >>> optimizer.step()
        >>> p.data
        tensor([0.])
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]],
        rule: LearnedOptimizer,
        *,
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        horizon: int | None = None,
        maximize: bool = False,
        backend: Backend = "auto",
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        refusals.refuse_options(
            {"foreach": foreach, "fused": fused, "capturable": capturable, "differentiable": differentiable}
        )
        self.rule = copy.deepcopy(rule).requires_grad_(False)
        if checked(backend) != "auto":
            self.rule.backend = backend
        self._placed: dict[tuple[torch.device, torch.dtype], LearnedOptimizer] = {}
        self._by_coordinate = _coordinate_leaves(self.rule)
        self._warned = False
        defaults = {"lr": lr, "weight_decay": weight_decay, "horizon": horizon, "maximize": maximize}
        super().__init__(params, {**defaults, **_identity(self.rule)})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as in torch; the caller's dict is left alone."""
        refusals.refuse_options(param_group)
        refusals.check_numbers({**self.defaults, **param_group})
        super().add_param_group({**param_group, **_identity(self.rule)})
        added = self.param_groups[-1]
        for index, p in enumerate(added["params"]):
            if p.is_complex():
                self.param_groups.pop()
                raise UnsupportedError(f"{_name(added, index)} is complex; pass real and imaginary part as parameters")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Tensor | float | None = None) -> Any:
        """One step of every parameter that has a gradient.

        Args:
            closure: computes the loss anew, back-propagates it and returns it; runs with gradients enabled.
            loss: the loss, for a rule that reads it and is stepped without a closure that returns it.

        Returns:
            What the closure returned, or None.

        Raises:
            MissingLossError: the rule reads the loss and got none.
        """
        returned = None
        if closure is not None:
            with torch.enable_grad():
                returned = closure()
        if returned is not None and loss is not None:
            raise ArgumentError("step got a loss and a closure that returns one; pass one of them")
        moves = list(self._moves())
        if closure is None and loss is None and self._asks_for_states(moves):
            for move in moves:
                self._make_state(move)
            return None
        device = next((p.device for *_, p in self._places()), torch.device("cpu"))
        shown = refusals.checked_loss(self.rule, returned if loss is None else loss, device)
        refusals.check_finite([(move.name, move.grad) for move in moves])
        self._warn_past_horizon(moves)
        problems: dict[Hashable, list[_Move]] = {}
        for move in moves:
            self._make_state(move)
            self.state[move.p][STEPS] += 1
            if move.p.numel() > 0:
                problems.setdefault(self._problem(move.group, move.place, move.p), []).append(move)
        with ExitStack() as full_precision:
            for kind in {move.p.device.type for move in moves}:
                full_precision.enter_context(torch.autocast(kind, enabled=False))  # it would round a rule's networks
            for together in problems.values():
                self._apply(together, shown)
        return returned

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` gave, in the state's own precision, as copies: the argument stays as it is.

        Raises:
            WeightsError: the state belongs to another rule, or does not fit the parameters.
        """
        state: dict[Tensor, Tree] = {}

        def withhold(_: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
            state.update(self._restored(saved))
            groups = [{**self.defaults, **group} for group in saved["param_groups"]]  # an old file may lack a number
            return {**saved, "state": {}, "param_groups": groups}  # torch would cast the state to the parameters' types

        hooks = (
            self.register_load_state_dict_pre_hook(withhold),
            self.register_load_state_dict_post_hook(lambda _: self.state.update(state), prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule, "_warned": self._warned}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._placed = {}
        self._by_coordinate = _coordinate_leaves(self.rule)

    def _moves(self) -> Iterator[_Move]:
        for group, place, name, p in self._places():
            if p.grad is None or not p.requires_grad:
                continue
            refusals.check_gradient(name, p)
            yield _Move(group, place, name, p, shards.aligned(p.grad.detach(), p))

    def _places(self) -> Iterator[tuple[dict[str, Any], int, str, Tensor]]:
        """All parameters: group, position, name, parameter."""
        found = ((group, index, p) for group in self.param_groups for index, p in enumerate(group["params"]))
        for place, (group, index, p) in enumerate(found):
            yield group, place, _name(group, index), p

    def _problem(self, group: Mapping[str, Any], place: int, p: Tensor) -> Hashable:
        """What parameters have in common that the rule sees together."""
        return (p.device, _working_type(p), group["maximize"]) if self.rule.couples_tensors else place

    def _asks_for_states(self, moves: list[_Move]) -> bool:
        """Whether a step without a loss is to make states and no more: the first, at lr 0, with gradients of zero."""
        if any(self.state.values()) or any(float(group["lr"]) != 0 for group in self.param_groups):
            return False
        grads = [move.grad for move in moves]
        return not shards.anywhere(any(bool(shards.part(grad).any()) for grad in grads), grads)

    def _make_state(self, move: _Move) -> None:
        """Makes the state before a parameter's first step; what a task shares comes from its other parameters."""
        state = self.state[move.p]
        if not state:
            others = self._sharing(move)
            state.update(self._fresh_state(move.p, move.place))
            for leaf, value in _shared(others[0] if others else {}).items():
                state[leaf].copy_(value)

    def _sharing(self, move: _Move) -> list[Tree]:
        """The states of all parameters that share leaves with this one, itself among them, gradient or not."""
        if not self.rule.couples_tensors:
            return []
        problem = self._problem(move.group, move.place, move.p)
        states = ((self.state.get(p), self._problem(group, place, p)) for group, place, _, p in self._places())
        return [state for state, its in states if state and its == problem]

    def _apply(self, moves: list[_Move], loss: Tensor | None) -> None:
        """One step of the parameters that the rule sees together."""
        group, _, _, p, _ = moves[0]
        dtype, sign = _working_type(p), -1 if group["maximize"] else 1
        rule = self._rule_on(p.device, dtype)
        observation, state, shapes = {}, _shared(self._rows(p)), []
        for move in moves:
            name, grad = "p" if len(moves) == 1 else str(move.place), self._seen(move.grad)
            shapes.append(grad.shape)
            observation[f"grad/{name}"] = sign * grad.to(dtype)[None]
            if "params" in rule.reads:
                observation[f"params/{name}"] = self._seen(move.p.detach()).to(dtype)[None]
            state |= {f"{kind}/{name}": leaf for kind, leaf in _own(self._rows(move.p)).items()}
        if loss is not None:
            observation["loss"] = sign * loss.to(p.device, dtype)[None]
        update = kernel_for(rule, p.device, dtype).advance(rule, observation, state)  # overwrites the state
        for other in self._sharing(moves[0]):
            for leaf, value in _shared(other).items():
                value.copy_(state[leaf])
        for move, shape, delta in zip(moves, shapes, update.split(list(map(math.prod, shapes)), dim=1), strict=True):
            own, delta = shards.part(move.p.detach()), delta.reshape(shape)
            if self.rule.couples_coordinates:
                delta = shards.part(shards.aligned(delta, move.p))
            lr, weight_decay = move.group["lr"], move.group["weight_decay"]
            if weight_decay != 0:
                own.mul_(1 - lr * weight_decay)
            own.add_(lr * delta)

    def _seen(self, tensor: Tensor) -> Tensor:
        """What the rule sees of a tensor that may be spread over processes."""
        return shards.whole(tensor) if self.rule.couples_coordinates else shards.part(tensor)

    def _rows(self, p: Tensor) -> Tree:
        """The state of a parameter in the rule's own shapes, in the same memory."""
        rows = dict(self.state[p])
        for name in self._by_coordinate:
            leaf = shards.part(rows[name])
            rows[name] = leaf.view(1, math.prod(leaf.shape[: p.ndim]), *leaf.shape[p.ndim :])
        return rows

    def _rule_on(self, device: torch.device, dtype: torch.dtype) -> LearnedOptimizer:
        if (device, dtype) not in self._placed:
            self._placed[device, dtype] = copy.deepcopy(self.rule).to(device, dtype)
        return self._placed[device, dtype]

    def _fresh_state(self, p: Tensor, place: int) -> Tree:
        dtype, rng = _working_type(p), Stream(0, ("torch",), tasks=(place,))
        seen = self._seen(p.detach())
        state = self._rule_on(p.device, dtype).init_state({"p": seen.to(dtype)[None]}, rng)
        if "group" in state:  # a tensor by itself does not tell its part in the model
            shapes = {str(number): other.shape for _, number, _, other in self._places()}
            state["group"].fill_(self.rule.tensor_groups(shapes)[str(place)])
        state = pack(state)
        for name in self._by_coordinate:
            state[name] = shards.joined(state[name].view((*seen.shape, *state[name].shape[2:])), p)
        return {**state, STEPS: torch.zeros((), dtype=torch.int64, device="cpu")}

    def _restored(self, saved: Mapping[str, Any]) -> dict[Tensor, Tree]:
        """The saved state by parameter, copied into the places and types of a fresh one."""
        mine = _identity(self.rule)
        for group in saved["param_groups"]:
            theirs = {key: group.get(key, "(not stated)") for key in mine}
            if theirs != mine:
                raise WeightsError(
                    f"the state belongs to {' with meta-parameters '.join(theirs.values())}; this optimizer is "
                    f"{' with meta-parameters '.join(mine.values())}. Build it from the rule the state was saved with."
                )
        keys = [key for group in saved["param_groups"] for key in group["params"]]
        restored = {}
        for key, (_, place, name, p) in zip(keys, self._places(), strict=False):  # torch refuses unequal lengths, next
            if key not in saved["state"]:
                continue
            restored[p], leaves = self._fresh_state(p, place), saved["state"][key]
            if _shapes(leaves) != _shapes(restored[p]):
                raise WeightsError(
                    f"{name} needs a state of {_shapes(restored[p])}; the saved one has {_shapes(leaves)}"
                )
            for leaf, value in restored[p].items():
                shards.part(value).copy_(shards.part(shards.aligned(leaves[leaf], value)))
        return restored

    def _warn_past_horizon(self, moves: list[_Move]) -> None:
        for move in moves:
            horizon = move.group["horizon"]
            taken = int(self.state[move.p][STEPS]) if self.state.get(move.p) else 0
            if not self._warned and horizon and taken >= OVERRUN * horizon:
                self._warned = True
                warnings.warn(
                    f"{self.rule.name} was meta-trained for {horizon} steps and is now beyond {OVERRUN} times as many, "
                    "where its behaviour was never trained. Lower lr, change the optimizer, or raise horizon.",
                    stacklevel=5,  # past step, its no_grad and the profiling hook that torch wraps around it
                )


def _own(state: Tree) -> Tree:
    """What a rule keeps for this tensor among others, by kind: its leaves `kind/p`."""
    return {name.removesuffix("/p"): leaf for name, leaf in state.items() if name.endswith("/p")}


def _shared(state: Tree) -> Tree:
    """What a rule keeps for the whole task: of a rule that couples no tensors, everything."""
    return {name: leaf for name, leaf in state.items() if not name.endswith("/p") and name != STEPS}


def _coordinate_leaves(rule: LearnedOptimizer) -> frozenset[str]:
    """What a rule that takes each coordinate by itself keeps of each: none of any other rule."""
    if rule.couples_coordinates:
        return frozenset()
    state = rule.init_state({"p": torch.zeros(1, 1)}, Stream(0, tasks=(0,)))
    return frozenset(name for name, leaf in state.items() if leaf.ndim > 1)


def _working_type(p: Tensor) -> torch.dtype:
    return torch.float64 if p.dtype == torch.float64 else torch.float32


def _identity(rule: LearnedOptimizer) -> dict[str, str]:
    """What a state is bound to: the rule with its constants, and its meta-parameters."""
    constants = ", ".join(f"{name}={value!r}" for name, value in sorted(rule.config().items()))
    return {"optimizer": f"{rule.name}({constants})", "meta_parameters": digest(rule.state_dict())}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in state.items()}


def _name(group: Mapping[str, Any], index: int) -> str:
    if "param_names" in group:
        return group["param_names"][index]
    return f"parameter {index} of shape {tuple(group['params'][index].shape)}"
