"""The native kernel: a shared object with a C interface, loaded by ctypes; nothing of torch's or CPython's ABI."""

import ctypes
import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor

from l2o import trees
from l2o.agent import Agent, CellSpec
from l2o.errors import ArgumentError, BackendError
from l2o.kernels.interface import PIECE, CoordinateRule
from l2o.kernels.layout import empty_leaves, is_packed, pack, row_stride
from l2o.kernels.reference import Reference
from l2o.kernels.targets import Target
from l2o.nn import bias_correction
from l2o.trees import Tree

HIDDEN = (20,)
"""Units of a layer that are compiled; other sizes run in the reference."""

_FEATURES = {"identity": 0, "log_and_sign": 1, "moments": 2}
_FEATURES_WIDE = {"identity": 1, "log_and_sign": 2}
_INPUT_WEIGHTS = 2
_LEAVES: tuple[str, ...] = ("h1", "c1", "h2", "c2", "m", "v")


class _Job(ctypes.Structure):
    """`Job` of lstm.cpp, field by field."""

    _fields_ = [
        ("coordinates", ctypes.c_int64),
        ("coordinates_per_task", ctypes.c_int64),
        ("steps", ctypes.c_int64),
        ("threads", ctypes.c_int32),
        ("features", ctypes.c_int32),
        ("bounded", ctypes.c_int32),
        ("squared", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("k", ctypes.c_float),
        ("sign_factor", ctypes.c_float),
        ("beta1", ctypes.c_float),
        ("beta2", ctypes.c_float),
        ("keep1", ctypes.c_float),
        ("keep2", ctypes.c_float),
        ("epsilon", ctypes.c_float),
        ("weights", ctypes.c_void_p * 8),
        ("gradients", ctypes.c_void_p),
        ("corrections", ctypes.c_void_p),
        ("state", ctypes.c_void_p * 6),
        ("state_stride", ctypes.c_int64 * 6),
        ("next", ctypes.c_void_p * 6),
        ("next_stride", ctypes.c_int64 * 6),
        ("update", ctypes.c_void_p),
        ("slopes", ctypes.c_void_p),
        ("importance", ctypes.c_void_p),
        ("weight_gradient", ctypes.c_void_p),
    ]


class Native:
    """The kernel of lstm.cpp: float32 on the CPU, for the networks that a `CellSpec` describes.

    Its numbers depend on the number of threads (`torch.get_num_threads()`) in the last bits, and on nothing else. A
    process that was forked off computes with one thread: OpenMP's pool does not survive a fork.
    """

    def __init__(self, library: ctypes.CDLL, instructions: str) -> None:
        self.name = f"native ({instructions})"
        self._step, self._window = library.l2o_step, library.l2o_window
        self._reference = Reference()

    def step(self, rule: CoordinateRule, grad: Tensor, state: Tree, *, owned: bool = False) -> tuple[Tensor, Tree]:
        cell = _cell(rule)
        tasks, coordinates = grad.shape
        same = {leaf: state[leaf] for leaf in cell.leaves}
        if owned and all(map(is_packed, same.values())):
            return self._run_step(rule, cell, grad, state, same), same | _counted(state)
        after: Tree = dict(zip(_LEAVES, empty_leaves(grad, 4, tasks, coordinates, cell.hidden), strict=False))
        if cell.features == "moments":
            after |= {leaf: torch.empty(tasks, coordinates) for leaf in _LEAVES[4:]}
        return self._run_step(rule, cell, grad, state, after), after | _counted(state)

    def advance(self, agent: Agent, observation: Tree, state: Tree) -> Tensor:
        grad = trees.flatten(trees.select(observation, "grad"))
        cell = _cell(agent)
        packed = {leaf: state[leaf] for leaf in cell.leaves}
        if not all(map(is_packed, packed.values())):
            packed = pack(packed)
        update = self._run_step(agent, cell, grad, {**state, **packed}, packed)
        for name, leaf in {**packed, **_counted(state)}.items():
            if leaf is not state[name]:
                state[name].copy_(leaf)
        return update

    def window_vjp(
        self, agent: Agent, observations: list[Tree], state: Tree, target: Target, *, piece: int = PIECE
    ) -> Tree:
        arrays = target.arrays()
        if arrays is None:
            return self._reference.window_vjp(agent, observations, state, target, piece=piece)
        cell = _cell(agent)
        grads = torch.stack([trees.flatten(trees.select(seen, "grad")) for seen in observations])
        weights = _weights(agent, cell)
        gradient = torch.zeros(sum(weight.numel() for weight in weights), dtype=torch.float64)
        if grads.numel() > 0:
            slopes, importance = (None if a is None else _fitting(a, grads.shape, "a target") for a in arrays)
            job, kept = _job(cell, weights, grads, state)
            job.slopes, job.squared = _address(slopes), importance is not None
            job.importance, job.weight_gradient = _address(importance), _address(gradient)
            _check(self._window(ctypes.byref(job)))
            del kept
        parts = gradient.to(grads.dtype).split([weight.numel() for weight in weights])
        return {name: part.view_as(weight) for name, part, weight in zip(cell.weights, parts, weights, strict=True)}

    def _run_step(self, rule: object, cell: CellSpec, grad: Tensor, state: Tree, after: Tree) -> Tensor:
        update = torch.empty(grad.shape)
        if grad.numel() > 0:
            job, kept = _job(cell, _weights(rule, cell), grad[None], state)
            for index, leaf in enumerate(cell.leaves):
                job.next[index], job.next_stride[index] = _address(after[leaf]), row_stride(after[leaf])
            job.update = _address(update)
            _check(self._step(ctypes.byref(job)))
            del kept
        return update


@cache
def load(instructions: str | None = None) -> Native | str:
    """The native kernel for this processor, or in a sentence why there is none.

    Args:
        instructions: "avx2" or "avx512"; by default the widest that the processor has (torch's own judgement, which
            `ATEN_CPU_CAPABILITY` limits).
    """
    widest = {"AVX2": "avx2", "AVX512": "avx512"}.get(torch.backends.cpu.get_cpu_capability())
    instructions = instructions or widest
    if instructions is None:
        return f"no native kernel for this processor ({torch.backends.cpu.get_cpu_capability()})"
    folder = Path(os.environ.get("L2O_KERNEL_FOLDER") or Path(__file__).parent)
    path = folder / f"_lstm_{instructions}.so"
    if not path.exists():
        return "this installation was built without a native kernel: install a C++ compiler and install l2o again"
    try:
        library = ctypes.CDLL(str(path))
        matches = library.l2o_job_bytes() == ctypes.sizeof(_Job)
    except (OSError, AttributeError) as error:
        return f"{path} cannot be loaded ({error}); install l2o again"
    return Native(library, instructions) if matches else f"{path} was built from other sources; install l2o again"


def misfit(cell: CellSpec | None, device: torch.device | str, dtype: torch.dtype) -> str | None:
    """Why the native kernel does not cover a case, in words; None if it does."""
    if cell is None:
        return "it declares no cell that the native kernel knows"
    if cell.hidden not in HIDDEN:
        return f"it has {cell.hidden} hidden units; compiled are {', '.join(map(str, HIDDEN))}"
    if torch.device(device).type != "cpu" or dtype != torch.float32:
        return f"it computes in {dtype} on {torch.device(device).type}; the native kernel does float32 on the cpu"
    return None


_forked = False


def _count_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_count_fork)


def _job(cell: CellSpec, weights: Sequence[Tensor], grads: Tensor, state: Tree) -> tuple[_Job, list[Tensor]]:
    """A job over `grads` `[steps, tasks, coordinates]`, and the tensors that must outlive it."""
    steps, tasks, coordinates = grads.shape
    kept = [_fitting(grads, grads.shape, "a gradient"), *weights]
    job = _Job(
        coordinates=tasks * coordinates,
        coordinates_per_task=coordinates,
        steps=steps,
        threads=1 if _forked else torch.get_num_threads(),
        features=_FEATURES[cell.features],
        bounded=cell.bounded,
        scale=cell.scale,
        k=cell.k,
        sign_factor=math.exp(min(cell.k, 88.0)),
        beta1=cell.beta1,
        beta2=cell.beta2,
        keep1=1 - cell.beta1,
        keep2=1 - cell.beta2,
        epsilon=cell.epsilon,
        gradients=_address(kept[0]),
    )
    first = 0 if cell.features == "moments" else _INPUT_WEIGHTS
    for index, weight in enumerate(weights, first):
        job.weights[index] = _address(weight)
    sizes = (cell.hidden, cell.hidden, cell.hidden, cell.hidden, None, None)
    for leaf, size in zip(cell.leaves, sizes, strict=False):
        _check_fit(state[leaf], (tasks, coordinates) if size is None else (tasks, coordinates, size), leaf)
    leaves = {leaf: state[leaf] for leaf in cell.leaves}
    if not all(map(is_packed, leaves.values())):
        leaves = pack(leaves)
    for index, leaf in enumerate(leaves.values()):
        job.state[index], job.state_stride[index] = _address(leaf), row_stride(leaf)
    kept += leaves.values()
    if cell.features == "moments":
        counts = state["step"].double() + torch.arange(1, steps + 1, dtype=torch.float64)[:, None]  # [steps, tasks]
        table = torch.stack([bias_correction(beta, counts) for beta in (cell.beta1, cell.beta2)], dim=-1).float()
        job.corrections = _address(table)
        kept.append(table)
    return job, kept


def _cell(rule: CoordinateRule | Agent) -> CellSpec:
    cell = rule.cell
    assert cell is not None, "select.py gives the native kernel only to rules with a cell"
    return cell


def _weights(rule: object, cell: CellSpec) -> list[Tensor]:
    weights = attrgetter(*cell.weights)(rule)
    shapes = _weight_shapes(cell)
    return [_fitting(w, shape, name) for w, shape, name in zip(weights, shapes, cell.weights, strict=True)]


@cache
def _weight_shapes(cell: CellSpec) -> list[tuple[int, ...]]:
    inputs, gates = (cell.hidden if cell.features == "moments" else _FEATURES_WIDE[cell.features]), 4 * cell.hidden
    layer = [(2, cell.hidden), (cell.hidden,)] if cell.features == "moments" else []
    cells = [(inputs + cell.hidden, gates), (gates,), (2 * cell.hidden, gates), (gates,)]
    return [*layer, *cells, (cell.hidden, 1), (1,)]


def _fitting(tensor: Tensor, shape: Sequence[int], what: str) -> Tensor:
    """The tensor, contiguous, after a check: the kernel reads memory and would not notice."""
    _check_fit(tensor, shape, what)
    return tensor.contiguous()


def _check_fit(tensor: Tensor, shape: Sequence[int], what: str) -> None:
    if tensor.dtype != torch.float32 or not tensor.is_cpu or tensor.shape != torch.Size(shape):
        raise ArgumentError(
            f"{what} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}; the native kernel needs float32 "
            f"{tuple(shape)} on the cpu. Bring rule, state and gradients to one type, or set backend='reference'."
        )


def _counted(state: Mapping[str, Tensor]) -> Tree:
    return {"step": state["step"] + 1} if "step" in state else {}


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _check(code: int) -> None:
    if code != 0:
        raise BackendError(
            f"the native kernel returned {code} (1: no memory); shorten the window, or set L2O_BACKEND=reference"
        )
