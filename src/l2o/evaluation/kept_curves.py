"""Curves of several optimizers on the same tasks, spread over workers; what is done is kept, and not done again."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from l2o import checkpoint
from l2o.curves import Curves, run_curves
from l2o.errors import CheckpointError
from l2o.kernels.select import backend_name
from l2o.optimizers.base import LearnedOptimizer
from l2o.provenance import package_version, source_commit
from l2o.rng import Stream
from l2o.sources import digest
from l2o.sweeps import run_all
from l2o.tasks.base import TaskFamily

_KIND = "curves"


def curves_of(
    optimizers: Mapping[str, LearnedOptimizer],
    family: TaskFamily,
    rng: Stream,
    *,
    steps: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    directory: Path | None = None,
    done: Callable[[str, Curves], None] | None = None,
) -> dict[str, Curves]:
    """Runs every optimizer on the stream's tasks; each is one run of a sweep, see `l2o.sweeps`.

    Args:
        optimizers: name to optimizer.
        family: where the tasks come from.
        rng: seeds and tasks.
        steps: inner steps of a run.
        device: where the runs happen.
        dtype: of parameters and data.
        directory: keeps the curves of each optimizer as they come in, and takes those that it has of the same
            optimizer, tasks, settings and versions. What neither a family's name nor a drawn task, start and minibatch
            show is not noticed.
        done: called with an optimizer's name and curves as they come in; first those that are kept.

    Raises:
        CheckpointError: a kept file is damaged.
        WorkerError: a worker was lost.

    Example:
        >>> from l2o import Adam, Quadratics
        >>> rules = {"slow": Adam(0.01), "fast": Adam(0.1)}
        >>> found = curves_of(rules, Quadratics(3), Stream(0, tasks=range(2)), steps=10)
        >>> found["fast"].losses.shape
        torch.Size([2, 11])
    """
    tell = done or (lambda name, curves: None)
    files: dict[str, Path] = {}
    if directory is not None:
        common = {
            "family": family.name,
            "task": digest(family, rng.child("identity").over((0,))),
            "stream": asdict(replace(rng, tasks=list(rng.tasks))),
            "steps": steps,
            "device": str(device),
            "dtype": str(dtype),
            "threads": torch.get_num_threads(),
            "versions": [torch.__version__, package_version(), source_commit()],
        }
        files = {name: _file(directory, made, common, device, dtype) for name, made in optimizers.items()}
    found = {name: _read(file) for name, file in files.items() if file.exists()}
    for name, curves in found.items():
        tell(name, curves)

    def keep(name: str, curves: Curves) -> None:
        if name in files:
            _write(files[name], curves)
        tell(name, curves)

    calls = {
        name: partial(run_curves, optimizer, family, rng, steps=steps, device=device, dtype=dtype)
        for name, optimizer in optimizers.items()
        if name not in found
    }
    found |= run_all(calls, title=f"runs on {family.name}", done=keep)
    return {name: found[name] for name in optimizers}


def _file(
    directory: Path,
    optimizer: LearnedOptimizer,
    common: Mapping[str, Any],
    device: torch.device | str,
    dtype: torch.dtype,
) -> Path:
    """A file named after all that its curves depend on."""
    identity = {
        **common,
        "optimizer": type(optimizer).__qualname__,
        "config": optimizer.config(),
        "weights": checkpoint.digest(optimizer.state_dict()),
        "backend": backend_name(optimizer, device, dtype),
    }
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return directory / f"{name[:32]}.l2o"


def _write(path: Path, curves: Curves) -> None:
    leaves = {"losses": curves.losses, **{f"metrics/{name}": leaf.cpu() for name, leaf in curves.metrics.items()}}
    plain = {name: getattr(curves, name) for name in ("evaluations", "seconds_per_step", "state_bytes")}
    checkpoint.write(path, leaves, plain, kind=_KIND)


def _read(path: Path) -> Curves:
    leaves, plain = checkpoint.read(path, kind=_KIND)
    try:
        metrics = {name.removeprefix("metrics/"): leaf for name, leaf in leaves.items() if name != "losses"}
        return Curves(losses=leaves["losses"], metrics=metrics, **plain)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} lacks a part ({error}); delete it, and its runs are made again") from error
