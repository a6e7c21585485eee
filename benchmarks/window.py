"""Ratios of speed and memory, measured side by side in one run: `make bench`; options --rounds, --threads, --out FILE.

A meta-training window by rollout and replay against plain autograd through the same unroll (after a check that their
meta-gradients agree), gradients of quadratics in closed form against autograd, one step of the drop-in against torch's
Adam. In every round each way of a contest runs in turn, so that a busy machine slows all of them alike; a ratio is
taken within a round. A window of replay has its first observation from the window before, as in a meta-training.
"""

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
import tyro
from rich.console import Console
from rich.table import Table

from l2o.agent import meta_parameters
from l2o.checkpoint import write_bytes
from l2o.meta_optimizer import global_norm
from l2o.methods.base import Trajectory
from l2o.methods.meta_loss import MetaLoss
from l2o.methods.unrolled import stopped_gradients, unroll
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.dm import L2ODM
from l2o.optimizers.rnnprop import RNNprop
from l2o.processes.optimizee import Optimizee
from l2o.provenance import machine, source_commit
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.tasks.data import Dataset
from l2o.tasks.mlp import MLPClassifier
from l2o.tasks.quadratic import Quadratics
from l2o.trees import Tree, map_leaves

Way = Callable[[], object]

STEPS = 20
"""Inner steps of the window."""
LEARNED: dict[str, Callable[[], LearnedOptimizer]] = {"L2O-DM": L2ODM.andrychowicz, "RNNprop": RNNprop.lv}


def by_replay(optimizer: LearnedOptimizer, trajectory: Trajectory) -> Tree:
    """The meta-gradient of a window by rollout and replay."""
    return MetaLoss().window(optimizer, trajectory, STEPS)[0].gradient


def by_autograd(optimizer: LearnedOptimizer, trajectory: Trajectory) -> Tree:
    """The same meta-gradient by autograd through the unroll."""
    losses, _ = unroll(optimizer, trajectory, STEPS, gradients=stopped_gradients)
    theta = meta_parameters(optimizer)
    return dict(zip(theta, torch.autograd.grad(losses.sum(1).mean(), list(theta.values())), strict=True))


WINDOWS = {"replay": by_replay, "autograd": by_autograd}


def perceptron() -> MLPClassifier:
    """MLP-orig, 784-20-10, on 1,000 images of noise."""
    pixels = Stream(0, ("pixels",)).integers(256, (1000, 28, 28))[0].to(torch.uint8)
    return MLPClassifier.orig(Dataset("noise", pixels, torch.arange(1000) % 10, classes=10, complete=True, note=""))


def begin(optimizer: LearnedOptimizer, family: TaskFamily) -> Trajectory:
    """A trajectory of one task at its start, already observed."""
    trajectory = MetaLoss().begin(optimizer, Optimizee.start(family, Stream(0)), Stream(0))
    trajectory.process.observe()
    return trajectory


def extra_megabytes(rule: str, way: str, threads: int) -> float:
    """Peak memory that a window adds to a new process which has run a small one before."""
    torch.set_num_threads(threads)
    optimizer = LEARNED[rule]()
    WINDOWS[way](optimizer, begin(optimizer, Quadratics(2)))
    trajectory = begin(optimizer, perceptron())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    WINDOWS[way](optimizer, trajectory)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit / 1e6


def windows(rule: str) -> dict[str, Way]:
    """Both ways to the meta-gradient of one window, after a check that they agree."""
    optimizer = LEARNED[rule]()
    trajectory = begin(optimizer, perceptron())
    replayed, truth = (window(optimizer, trajectory) for window in WINDOWS.values())
    error = global_norm(map_leaves(torch.sub, replayed, truth)) / global_norm(truth)
    if not error < 1e-3:  # float32 sums in another order
        raise ArithmeticError(f"the meta-gradients of {rule} differ by {error:.2g}; there is nothing to compare")
    return {name: lambda window=window: window(optimizer, trajectory) for name, window in WINDOWS.items()}


def quadratics() -> dict[str, Way]:
    """Losses and gradients of 128 quadratics."""
    process = Optimizee.start(Quadratics(), Stream(0, tasks=range(128)))
    family, at = process.family, (process.params, process.instance, process.batch())
    autograd = TaskFamily.value_and_grad
    return {"closed form": lambda: family.value_and_grad(*at), "autograd": lambda: autograd(family, *at)}


def drop_in(*shapes: tuple[int, ...]) -> dict[str, Way]:
    """One step on parameters of these shapes: torch's Adam, and the drop-in of each learned optimizer."""

    def parameters() -> list[torch.nn.Parameter]:
        made = [torch.nn.Parameter(Stream(0).normal(shape)[0].float()) for shape in shapes]
        for parameter in made:
            parameter.grad = 0.01 * parameter.detach()
        return made

    adam = torch.optim.Adam(parameters(), foreach=True)
    ways: dict[str, Way] = {"torch Adam": adam.step}
    return ways | {name: new().as_torch(parameters()).step for name, new in LEARNED.items()}


def timed(way: Way, calls: int) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    for _ in range(calls):
        way()
    return 1e3 * (time.perf_counter() - start) / calls


def race(ways: dict[str, Way], rounds: int) -> list[dict[str, float]]:
    """Milliseconds of every way in every round; quick ways are called for 20 ms. The first two calls do not count."""
    calls = {name: math.ceil(20 / min(timed(way, 1), timed(way, 1))) for name, way in ways.items()}
    return [{name: timed(way, calls[name]) for name, way in ways.items()} for _ in range(rounds)]


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    middle, low, high = (f"{v:.0f}" if v >= 100 else f"{v:.3g}" for v in (median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def run(rounds: int = 9, threads: int = 1, out: Path | None = None) -> None:
    """Measures and prints a table; `out` also gets all numbers as JSON. Fewer than 7 rounds make no median."""
    torch.set_num_threads(threads)
    memory: dict[str, dict[str, float]] = {}
    for rule in LEARNED:  # before anything large is here: a new process counts the peak of the one that starts it
        for way in WINDOWS:
            with ProcessPoolExecutor(1, get_context("spawn")) as child:
                memory.setdefault(rule, {})[way] = child.submit(extra_megabytes, rule, way, threads).result()
    contests = {f"window, {rule}": windows(rule) for rule in LEARNED}
    contests["128 quadratics"] = quadratics()
    contests["step, 15,910"] = drop_in((20, 784), (20,), (10, 20), (10,))
    contests["step, a million"] = drop_in((1000, 1000))
    milliseconds = {title: race(ways, rounds) for title, ways in contests.items()}
    table = Table("contest", "way", "milliseconds", "ratio to first", title=f"{rounds} rounds: median (range)")
    for title, rows in milliseconds.items():
        for name in rows[0]:
            ratios = [row[name] / next(iter(row.values())) for row in rows]
            table.add_row(title, name, spread([row[name] for row in rows]), spread(ratios))
        table.add_section()
    extra = Table("window", *WINDOWS, title="peak extra memory, MB")
    for rule, megabytes in memory.items():
        extra.add_row(rule, *(f"{value:.0f}" for value in megabytes.values()))
    Console().print(table, extra, machine())
    if out is not None:
        content = {"machine": machine(), "commit": source_commit(), "milliseconds": milliseconds, "megabytes": memory}
        write_bytes(out, f"{json.dumps(content, indent=2)}\n".encode())


if __name__ == "__main__":
    tyro.cli(run)
