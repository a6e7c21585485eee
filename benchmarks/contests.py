"""Who is timed against whom: the contests of a run, and the run itself."""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import candidates, control, memory, processes, schedules
from benchmarks.measurements import (
    ADAM_FOREACH,
    ADAM_FUSED,
    CHUNKED,
    COMPILED,
    IN_TURN,
    JAX,
    JAX_CHECKPOINT,
    LEARNED,
    LQG,
    MANY_RUNS,
    NATIVE,
    OBSERVED,
    ONE_PROCESS,
    ONE_RUN,
    PLAIN,
    PRODUCT,
    TWO_PROCESSES,
    UNCHUNKED,
    Measurements,
    Outcome,
)
from benchmarks.tasks import Shapes, Size, Workload
from benchmarks.timing import Candidate, race
from benchmarks.workers import LeftOutError, Worker, Workers
from l2o.provenance import machine, source_commit

STATE_BYTES = 320
"""Of L2O-DM's state, for each coordinate: what limits the size of a drop-in step."""


@dataclass(frozen=True)
class Contest:
    """Candidates that do the same.

    Args:
        title: in tables.
        coordinates: of all tasks together.
        steps: inner steps of one call.
        rounds: to be run.
        candidates: in the order of the tables.
    """

    title: str
    coordinates: int
    steps: int
    rounds: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Plan:
    """All contests of a run, by the part of `Measurements` that they fill and their name there."""

    contests: dict[tuple[str, str], Contest]
    notes: list[str]


def plan(size: Size, threads: int, most_threads: int) -> Plan:
    """Every contest at this size; those beyond the machine's memory are left out with a note."""
    contests = {("windows", title): contest for title, contest in _windows(size, threads)}
    for title, shapes in size.steps_of.items():
        contests["steps", title] = _step(title, shapes, size, threads)
    notes: list[str] = []
    for coordinates in size.step_scaling:
        need = 2.2 * 2 * STATE_BYTES * coordinates  # two states, and what is needed to make them
        if need > _free_bytes():
            notes.append(f"a step of {coordinates:,} coordinates needs {need / 1e9:.0f} GB of memory; left out")
            continue
        contests["by_coordinates", f"step {coordinates}"] = _scaled_step(coordinates, size, threads)
    for coordinates in size.window_scaling:
        workload = Workload("bowl", dimensions=coordinates)
        both = coordinates <= size.window_limit
        entrants = _native_and_chunked(workload, size, size.steps, threads)[: 2 if both else 1]
        title = f"window of {coordinates:,} coordinates"
        contests["by_coordinates", f"window {coordinates}"] = Contest(
            title, coordinates, size.steps, size.scaling_rounds, entrants
        )
    batch = Workload("quadratics", size.quadratics)
    for steps in size.lengths:
        entrants = _native_and_chunked(batch, size, steps, threads)
        contests["by_length", f"{steps}"] = Contest(
            f"window of {steps} steps", batch.coordinates(size), steps, size.scaling_rounds, entrants
        )
    contests["by_threads", "MLP-orig"] = _threads(size, most_threads)
    for title, contest in _schedules(size):
        contests["schedules", title] = contest
    states, steps = size.lqg
    entrants = (Candidate(LQG, "torch", 1, control.lqg, size.lqg),)
    title = f"LQG of {control.GROUPS} groups with {states} states"
    contests["methods", "LQG"] = Contest(title, 0, steps, size.rounds, entrants)
    entrants = tuple(
        Candidate(name, "torch", count, processes.training, (count, size))
        for name, count in ((ONE_PROCESS, 1), (TWO_PROCESSES, 2))
    )
    trajectories, windows, tasks = size.shared
    title = f"meta-training of L2O-DM on {tasks} tasks of MLP-orig, one thread for each process"
    steps = trajectories * windows * size.steps
    contests["methods", "processes"] = Contest(title, 0, steps, size.rounds, entrants)
    return Plan(contests, notes)


def measure(
    size: Size,
    threads: int,
    most_threads: int,
    tell: Callable[[str, int, int], None],
    *,
    hire: Callable[[int], Worker] = Worker,
) -> Measurements:
    """Runs everything, one thing at a time.

    Args:
        size: of everything.
        threads: of each candidate.
        most_threads: up to how many the scaling with threads goes.
        tell: is told what is going on, the number of the part, and of how many parts.
        hire: gives a worker with so many threads.
    """
    begin, before = time.perf_counter(), _load()
    todo = plan(size, threads, most_threads)
    notes = list(todo.notes)
    parts = len(todo.contests) + 1
    tell("memory of a window", 0, parts)
    megabytes = _memory(size, threads, notes, hire)
    found: dict[str, dict[str, Outcome]] = {"windows": {}, "steps": {}, "by_coordinates": {}, "by_length": {}}
    found |= {"by_threads": {}, "schedules": {}, "methods": {}}
    with Workers(hire) as workers:

        def worker_of(candidate: Candidate) -> Worker:
            return workers.get(candidate.library, candidate.threads)

        for number, ((part, name), contest) in enumerate(todo.contests.items(), start=1):
            heading = contest.title

            def say(what: str, heading: str = heading, number: int = number) -> None:
                tell(f"{heading}: {what}", number, parts)

            result = race(contest.candidates, worker_of, rounds=contest.rounds, turn=size.turn, tell=say)
            workers.end(COMPILED)  # code compiled for the sizes of one contest must not be made general by the next
            found[part][name] = Outcome.of(contest.title, contest.coordinates, contest.steps, result)
        software = workers.get("torch", threads).ask(machine)
    return Measurements(
        preset=size.name,
        machine=f"{software}, jax {_version('jax')}",
        commit=source_commit(),
        threads=threads,
        matrix=size.matrix,
        seconds=time.perf_counter() - begin,
        load=(before, _load()),
        megabytes=megabytes,
        notes=notes,
        **found,
    )


def _windows(size: Size, threads: int) -> Iterator[tuple[str, Contest]]:
    workloads = {
        "MLP-orig": Workload("MLP-orig"),
        "128 quadratics": Workload("quadratics", size.quadratics),
        "1 quadratic": Workload("quadratics"),
        "convolutional net": Workload("convolutional net"),
    }
    for title, workload in workloads.items():
        entrants = list(_torch_windows("L2O-DM", workload, size, threads))
        if size.compile:
            entrants.append(_window(COMPILED, "L2O-DM", workload, size, size.steps, threads, library=COMPILED))
        if title in size.jax:
            for name, checkpoint in ((JAX, False), (JAX_CHECKPOINT, True)):
                arguments = (checkpoint, workload, size, size.steps)
                entrants.append(Candidate(name, "jax", threads, candidates.jax_window, arguments))
        if title == "MLP-orig":
            entrants.append(Candidate(PRODUCT, "torch", threads, candidates.product, (size.matrix,)))
        yield title, Contest(f"window, {title}", workload.coordinates(size), size.steps, size.rounds, tuple(entrants))
    workload = workloads["MLP-orig"]
    entrants = tuple(_torch_windows("RNNprop", workload, size, threads))
    title = "MLP-orig, RNNprop"
    yield title, Contest(f"window, {title}", workload.coordinates(size), size.steps, size.rounds, entrants)


def _torch_windows(rule: str, workload: Workload, size: Size, threads: int) -> Iterator[Candidate]:
    yield _window(NATIVE, rule, workload, size, size.steps, threads)
    yield _window(CHUNKED, rule, workload, size, size.steps, threads)
    arguments = (rule, workload, size, size.steps)
    yield Candidate(UNCHUNKED, "torch", threads, candidates.autograd_window, arguments)


def _window(
    name: str, rule: str, workload: Workload, size: Size, steps: int, threads: int, *, library: str = "torch"
) -> Candidate:
    return Candidate(name, library, threads, candidates.window, (rule, _BACKENDS[name], workload, size, steps))


_BACKENDS: dict[str, candidates.Backend] = {NATIVE: "native", CHUNKED: "reference", COMPILED: "compiled"}


def _native_and_chunked(workload: Workload, size: Size, steps: int, threads: int) -> tuple[Candidate, ...]:
    return tuple(_window(name, "L2O-DM", workload, size, steps, threads) for name in (NATIVE, CHUNKED))


def _step(title: str, shapes: Shapes, size: Size, threads: int) -> Contest:
    entrants = [_learned_step(name, shapes, threads) for name in (NATIVE, CHUNKED)]
    if len(shapes) == 1:
        entrants.append(Candidate(UNCHUNKED, "torch", threads, candidates.whole_step, ("L2O-DM", shapes)))
        if size.compile:
            entrants.append(_learned_step(COMPILED, shapes, threads, library=COMPILED))
    for name, kind in ((ADAM_FOREACH, "foreach"), (ADAM_FUSED, "fused")):
        entrants.append(Candidate(name, "torch", threads, candidates.adam, (kind, shapes)))
    return Contest(title, _count(shapes), 1, size.rounds, tuple(entrants))


def _learned_step(name: str, shapes: Shapes, threads: int, *, library: str = "torch") -> Candidate:
    return Candidate(name, library, threads, candidates.step, ("L2O-DM", _BACKENDS[name], shapes))


def _scaled_step(coordinates: int, size: Size, threads: int) -> Contest:
    shapes = ((coordinates,),)
    entrants = [_learned_step(name, shapes, threads) for name in (NATIVE, CHUNKED)]
    entrants.append(Candidate(ADAM_FUSED, "torch", threads, candidates.adam, ("fused", shapes)))
    title = f"step of {coordinates:,} coordinates"
    return Contest(title, coordinates, 1, size.scaling_rounds, tuple(entrants))


def _threads(size: Size, most: int) -> Contest:
    workload = Workload("MLP-orig")
    entrants = []
    for threads in thread_counts(most):
        made: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
            (NATIVE, candidates.window, ("L2O-DM", "native", workload, size, size.steps)),
            (CHUNKED, candidates.window, ("L2O-DM", "reference", workload, size, size.steps)),
            (PRODUCT, candidates.product, (size.matrix,)),
        ]
        entrants += [Candidate(f"{name} @ {threads}", "torch", threads, make, given) for name, make, given in made]
    title = "threads, MLP-orig"
    return Contest(title, workload.coordinates(size), size.steps, size.scaling_rounds, tuple(entrants))


def _schedules(size: Size) -> Iterator[tuple[str, Contest]]:
    """On one thread: tensors are small."""
    ways = {PLAIN: "plain", OBSERVED: "observed", IN_TURN: "in turn", LEARNED: "learned"}
    entrants = [Candidate(name, "torch", 1, schedules.gan_steps, (way, size.gan_batch)) for name, way in ways.items()]
    title = f"two steps of a GAN on 14x14 images, batch {size.gan_batch}"
    yield "GAN step", Contest(title, 0, 2, size.rounds, tuple(entrants))
    runs = {ONE_RUN: 1, MANY_RUNS: 32}
    entrants = [
        Candidate(name, "torch", 1, schedules.replicas, (count, size.replica_steps)) for name, count in runs.items()
    ]
    title = f"{size.replica_steps} steps of the regression"
    yield "regression runs", Contest(title, 272, size.replica_steps, size.rounds, tuple(entrants))


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, ... and the most.

    Example:
        >>> thread_counts(6)
        [1, 2, 4, 6]
    """
    powers = [2**power for power in range(most.bit_length()) if 2**power < most]
    return [*powers, most]


def _memory(size: Size, threads: int, notes: list[str], hire: Callable[[int], Worker]) -> dict[str, dict[str, float]]:
    workload, small = Workload("MLP-orig"), Workload("quadratics")
    megabytes: dict[str, dict[str, float]] = {}
    for rule in size.memory:
        ways: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
            (NATIVE, candidates.window, (rule, "native")),
            (CHUNKED, candidates.window, (rule, "reference")),
            (UNCHUNKED, candidates.autograd_window, (rule,)),
        ]
        megabytes[rule] = {}
        for name, make, who in ways:
            worker = hire(threads)
            try:
                arguments, before = (*who, workload, size, size.steps), (*who, small, size, 2)
                megabytes[rule][name] = worker.ask(memory.extra_megabytes, make, arguments, before)
            except LeftOutError as error:
                notes.append(f"memory of {name}, {rule}: {error}")
            finally:
                worker.close()
    return megabytes


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _free_bytes() -> float:
    """Memory that is free now; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("inf")
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
