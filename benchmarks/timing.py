"""Interleaved timing: in every round each candidate has its turn, and a ratio is taken within a round.

A machine that is busy for a while slows a round as a whole, which a ratio within it does not see.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.workers import LeftOutError, Worker

Gradient = dict[str, np.ndarray]

SHORT = 0.25
"""A call below so many seconds has an untimed one before its turn, after which the caches hold its data."""


@dataclass(frozen=True)
class Call:
    """Something to be timed, as it lies ready in a worker.

    Args:
        run: does it once; the arrays that it returns by name are the meta-gradient of a window.
        backend: visible name of what computes it.
    """

    run: Callable[[], Mapping[str, Any] | None]
    backend: str


@dataclass(frozen=True)
class Ready:
    """What the worker tells of a call that it has prepared.

    Args:
        first_seconds: of the first call, compilation included.
        seconds: of the second call.
        gradient: the meta-gradient of the first call; empty where there is none.
        backend: visible name of what computes it.
    """

    first_seconds: float
    seconds: float
    gradient: Gradient
    backend: str


@dataclass(frozen=True)
class Candidate:
    """One way to do what a contest asks for.

    Args:
        name: in tables.
        library: name of the worker that holds it.
        threads: of this worker.
        make: importable function that gives the `Call`.
        arguments: of `make`.
    """

    name: str
    library: str
    threads: int
    make: Callable[..., Call]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Race:
    """What came of a contest.

    Args:
        milliseconds: of one call in each round, by candidate.
        ready: what was told of each candidate before.
        left_out: why a candidate is missing, by its name.
    """

    milliseconds: dict[str, list[float]]
    ready: dict[str, Ready]
    left_out: dict[str, str]


def race(
    candidates: Sequence[Candidate],
    worker_of: Callable[[Candidate], Worker],
    *,
    rounds: int,
    turn: float,
    tell: Callable[[str], None],
) -> Race:
    """Prepares every candidate, then times all of them in turn, in every second round in reverse.

    Args:
        candidates: at least one.
        worker_of: the worker that holds a candidate.
        rounds: how often each has its turn.
        turn: seconds that short calls are repeated for.
        tell: is told what is going on.
    """
    ready: dict[str, Ready] = {}
    left_out: dict[str, str] = {}
    for candidate in candidates:
        tell(f"preparing {candidate.name}")
        try:
            ready[candidate.name] = worker_of(candidate).ask(
                prepare, candidate.name, candidate.make, candidate.arguments
            )
        except LeftOutError as error:
            left_out[candidate.name] = str(error)
    racing = [candidate for candidate in candidates if candidate.name in ready]
    milliseconds: dict[str, list[float]] = {candidate.name: [] for candidate in racing}
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}")
        for candidate in racing if number % 2 == 0 else racing[::-1]:
            name, seconds = candidate.name, ready[candidate.name].seconds
            calls, warm = max(1, math.ceil(turn / seconds)), seconds < SHORT
            try:
                milliseconds[name].append(1e3 * worker_of(candidate).ask(timed, name, calls, warm))
            except LeftOutError as error:
                left_out[name] = str(error)
        racing = [candidate for candidate in racing if candidate.name not in left_out]
    for candidate in racing:
        worker_of(candidate).ask(forget, candidate.name)
    there = [candidate.name for candidate in racing]
    return Race({name: milliseconds[name] for name in there}, {name: ready[name] for name in there}, left_out)


_CALLS: dict[str, Call] = {}
"""What lies ready in this process."""


def prepare(name: str, make: Callable[..., Call], arguments: tuple[Any, ...]) -> Ready:
    """In a worker: makes a call and runs it twice."""
    call = make(*arguments)
    start = time.perf_counter()
    result = call.run()
    middle = time.perf_counter()
    gradient = {key: np.asarray(value).astype(np.float64) for key, value in (result or {}).items()}
    again = time.perf_counter()
    call.run()
    _CALLS[name] = call
    return Ready(middle - start, time.perf_counter() - again, gradient, call.backend)


def timed(name: str, calls: int, warm: bool) -> float:
    """In a worker: seconds of one call, the mean of some."""
    run = _CALLS[name].run
    if warm:
        run()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def forget(name: str) -> None:
    """In a worker: drops a call, and its memory."""
    del _CALLS[name]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some rounds."""

    middle: float
    low: float
    high: float
    rounds: int


def spread(values: Sequence[float]) -> Spread:
    """Of the values of all rounds.

    Example:
        >>> spread([1.0, 2.0, 3.0, 4.0, 9.0])
        Spread(middle=3.0, low=2.0, high=4.0, rounds=5)
    """
    low, middle, high = (float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
    return Spread(middle, low, high, len(values))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Of the ratios taken within each round."""
    return spread([top / bottom for top, bottom in zip(numerators, denominators, strict=True)])


def difference(gradient: Gradient, truth: Gradient) -> float:
    """||gradient - truth|| / ||truth|| over all arrays."""
    away = math.sqrt(sum(float(np.square(gradient[name] - leaf).sum()) for name, leaf in truth.items()))
    return away / math.sqrt(sum(float(np.square(leaf).sum()) for leaf in truth.values()))
