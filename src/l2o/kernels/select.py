"""Which kernel computes: by device, precision, network and mode; overridden by a keyword or `L2O_BACKEND`."""

import os
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar, get_args

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue] - torch has no public question for this

from l2o.agent import Agent, Backend
from l2o.errors import ArgumentError, BackendError
from l2o.kernels import native
from l2o.kernels.compiled import Compiled
from l2o.kernels.interface import Kernel
from l2o.kernels.reference import Reference

P = ParamSpec("P")
T = TypeVar("T")

VARIABLE = "L2O_BACKEND"

_REFERENCE = Reference()
_COMPILED = Compiled()


def checked(backend: str, source: str = "backend") -> Backend:
    """The backend, or an error that names the choices."""
    for choice in get_args(Backend):
        if backend == choice:
            return choice
    raise ArgumentError(f"{source} is {backend!r}; choose one of {', '.join(get_args(Backend))}")


def kernel_for(agent: Agent, device: torch.device | str, dtype: torch.dtype) -> Kernel:
    """The kernel that rolls out, replays and steps `agent` on a device in a precision.

    Raises:
        BackendError: the agent asks for the native kernel and cannot have it.
        ArgumentError: a backend that does not exist.
    """
    own = checked(agent.backend)
    wanted = checked(os.environ.get(VARIABLE) or "auto", VARIABLE) if own == "auto" else own
    if wanted == "reference":
        return _REFERENCE
    if wanted == "compiled":
        return _COMPILED
    loaded, misfit = native.load(), native.misfit(agent.cell, device, dtype)
    if isinstance(loaded, native.Native) and misfit is None:
        return loaded
    if wanted == "native" and not isinstance(loaded, native.Native):
        raise BackendError(f"the native kernel was asked for: {loaded}")
    if own == "native":
        raise BackendError(f"{type(agent).__name__} asks for the native kernel, but {misfit}; set backend to 'auto'")
    return _REFERENCE


def kernel_for_step(agent: Agent, grad: Tensor) -> Kernel:
    """The kernel of one step of `agent` on a gradient, where the mode allows it.

    Where gradients are recorded, under `torch.func` transforms and under `torch.compile`, the agent's own code runs.
    """
    if torch.compiler.is_compiling() or _functorch.peek_interpreter_stack() is not None:
        return _REFERENCE
    kernel = kernel_for(agent, grad.device, grad.dtype)
    return _REFERENCE if torch.is_grad_enabled() and kernel is not _COMPILED else kernel


def as_chosen(agent: Agent, method: Callable[P, T], grad: Tensor) -> Callable[P, T]:
    """A method of the class of an agent that no kernel knows: as it is, or compiled where that was asked for."""
    return _COMPILED.form(agent, method) if kernel_for_step(agent, grad) is _COMPILED else method


def backend_name(agent: Agent, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> str:
    """The name of the kernel in use for an agent, as records show it."""
    return kernel_for(agent, device, dtype).name


def backends_in_words(
    agents: Mapping[str, Agent], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> str:
    """Which kernel serves which of several agents: `native (avx2): RNNprop; reference: Adam, SGD`."""
    served: dict[str, list[str]] = {}
    for name, agent in agents.items():
        served.setdefault(backend_name(agent, device, dtype), []).append(name)
    return "; ".join(f"{backend}: {', '.join(names)}" for backend, names in served.items())


def available() -> str:
    """What "auto" can take on this machine, in words: the native kernel's name, or "reference" and why."""
    loaded = native.load()
    return f"reference ({loaded})" if isinstance(loaded, str) else loaded.name
