"""What a run measured, as it lies in `timings.json`: everything else is made from it."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import timing
from benchmarks.timing import Race, Spread
from l2o import checkpoint

NATIVE = "native"
CHUNKED = "eager, chunked"
UNCHUNKED = "eager, unchunked"
COMPILED = "torch.compile"
JAX = "JAX jit+scan"
JAX_CHECKPOINT = "JAX jit+scan+checkpoint"
ADAM_FOREACH, ADAM_FUSED = "Adam, foreach", "Adam, fused"
PRODUCT = "matrix product"
PLAIN, OBSERVED, IN_TURN, LEARNED = "plain loop", "observed", "following turns", "following a controller"
ONE_RUN, MANY_RUNS = "one run", "32 runs as one batch"
LQG = "backward and forward pass"
ONE_PROCESS, TWO_PROCESSES = "one process", "two processes"


@dataclass(frozen=True)
class Outcome:
    """What came of one contest.

    Args:
        title: of the contest.
        coordinates: of all tasks together.
        steps: inner steps of one call.
        milliseconds: of one call in each round, by candidate.
        first_seconds: of the very first call, compilation included.
        backends: visible names.
        errors: ||g - g_true|| / ||g_true|| of the meta-gradient against plain autograd, where there is one.
        left_out: why a candidate is missing, by name.
    """

    title: str
    coordinates: int
    steps: int
    milliseconds: dict[str, list[float]]
    first_seconds: dict[str, float]
    backends: dict[str, str]
    errors: dict[str, float]
    left_out: dict[str, str]

    @classmethod
    def of(cls, title: str, coordinates: int, steps: int, race: Race) -> "Outcome":
        truth = race.ready[UNCHUNKED].gradient if UNCHUNKED in race.ready else {}
        graded = {name: ready for name, ready in race.ready.items() if truth and ready.gradient and name != UNCHUNKED}
        return cls(
            title,
            coordinates,
            steps,
            race.milliseconds,
            {name: ready.first_seconds for name, ready in race.ready.items()},
            {name: ready.backend for name, ready in race.ready.items()},
            {name: timing.difference(ready.gradient, truth) for name, ready in graded.items()},
            race.left_out,
        )

    def time(self, name: str) -> Spread:
        """Milliseconds of one call."""
        return timing.spread(self.milliseconds[name])

    def ratio(self, slow: str, fast: str) -> Spread:
        """How many times as long as `fast` does `slow` take, round by round."""
        return timing.ratios(self.milliseconds[slow], self.milliseconds[fast])

    def nearest(self, rivals: tuple[str, ...]) -> str | None:
        """The rival that is most dangerous to native; None if native did not run, or none of them."""
        there = [name for name in rivals if name in self.milliseconds and NATIVE in self.milliseconds]
        return min(there, key=lambda name: self.ratio(name, NATIVE).middle) if there else None

    def nanoseconds(self, name: str) -> float:
        """Of one inner step of one coordinate."""
        return 1e6 * self.time(name).middle / (self.steps * self.coordinates)


@dataclass(frozen=True)
class Measurements:
    """Everything that one run measured.

    Args:
        preset: "laptop", or "smoke" for a quick run whose numbers mean nothing.
        machine: processor, cores, threads, software.
        commit: of the source.
        threads: of every candidate, the scaling with threads aside.
        matrix: side of the matrices of `PRODUCT`.
        seconds: of the whole run.
        load: the machine's load average over a minute, before and after.
        windows: by workload.
        steps: of the drop-in, by heading.
        by_coordinates: steps ("step 1000") and windows ("window 1000") of the scaling.
        by_length: windows, by their inner steps.
        by_threads: windows, by threads.
        megabytes: peak memory that a window adds, by rule and candidate.
        notes: what could not be measured, and why.
        schedules: what schedules cost; empty in older runs.
        methods: what parts of methods cost; empty in older runs.
    """

    preset: str
    machine: str
    commit: str
    threads: int
    matrix: int
    seconds: float
    load: tuple[float, float]
    windows: dict[str, Outcome]
    steps: dict[str, Outcome]
    by_coordinates: dict[str, Outcome]
    by_length: dict[str, Outcome]
    by_threads: dict[str, Outcome]
    megabytes: dict[str, dict[str, float]]
    notes: list[str]
    schedules: dict[str, Outcome] = field(default_factory=dict)
    methods: dict[str, Outcome] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        checkpoint.write_bytes(path, f"{json.dumps(_rounded(asdict(self)), indent=1, allow_nan=False)}\n".encode())

    @classmethod
    def load_from(cls, path: Path) -> "Measurements":
        content = json.loads(path.read_text(encoding="utf-8"))
        for part in ("windows", "steps", "by_coordinates", "by_length", "by_threads", "schedules", "methods"):
            content[part] = {name: Outcome(**entry) for name, entry in content.get(part, {}).items()}
        return cls(**{**content, "load": tuple(content["load"])})


def _rounded(value: object) -> object:
    """With numbers of six digits: more are noise."""
    match value:
        case float():
            return float(f"{value:.6g}") if math.isfinite(value) else str(value)
        case dict():
            return {name: _rounded(part) for name, part in value.items()}
        case list() | tuple():
            return [_rounded(part) for part in value]
    return value
