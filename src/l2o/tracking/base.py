"""A tracker: a listener that keeps a run in a tracking service, over interruptions, and never stops it."""

import json
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from l2o import checkpoint
from l2o.errors import ArgumentError, CheckpointError
from l2o.events import Event

Outcome = Literal["complete", "stopped", "failed"]
"""How a run was left: at its end; before it, to go on later; by an error."""

_PLACES = ("number", "trajectory", "windows", "window")


@dataclass(frozen=True)
class Point:
    """What an event says, for a service.

    Args:
        number: of the event in its run, counted from 0.
        windows: how many were done.
        time: seconds since 1970.
        values: finite numbers by `kind/name`.
    """

    number: int
    windows: int
    time: float
    values: dict[str, float]


class Tracker(ABC):
    """A listener that keeps the numbers of a run in a service, and at its end its files.

        with MLflow(directory) as tracker:
            trained = l2o.metatrain(..., directory=directory, listeners=[tracker])
            l2o.save(trained.optimizer, directory / "weights", trained.card)
            tracker.complete(directory / "weights.safetensors", directory / "weights.toml")

    A resumed run goes on in the same run of the service. Which one that is, and how many events it has got, stands in
    the run's directory: an event that is told again is left out, and those that were told while the service was away
    are taken from `events.jsonl`. A run that begins again from its start is another run of the service.

    Whatever a service raises in the middle of a run becomes one warning, and the tracker is silent from then on: no
    meta-training is lost to it. Beside what the events say there is `tasks_per_second`, by trajectories, validations
    aside.

    A service is a subclass that says how a run of it is opened, written to, given files, and left.

    Args:
        directory: of the run, as `metatrain` gets it; None if the run has none, and cannot be resumed.
        every: seconds between batches, not negative.
    """

    service: ClassVar[str]
    """What it is called, in file names and messages."""

    def __init__(self, directory: Path | None, *, every: float = 2.0) -> None:
        if not 0 <= every < math.inf:
            raise ArgumentError(f"every is {every}; pass a number of seconds, not negative")
        self._directory, self._every = directory, every
        self._run, self._heard = self._remembered()
        self._points: list[Point] = []
        self._pace = _Pace()
        self._sent = -math.inf
        self._entered = self._is_open = self._failed = False
        self._outcome: Outcome = "stopped"

    @abstractmethod
    def open(self, run: str | None) -> str:
        """Opens the run of that identifier, or a new one for None; returns the identifier."""

    @abstractmethod
    def log(self, points: Sequence[Point]) -> None:
        """Adds points to the open run. No point comes twice, and their numbers rise."""

    @abstractmethod
    def store(self, files: Sequence[Path]) -> None:
        """Keeps files with the open run, if the service can."""

    @abstractmethod
    def end(self, outcome: Outcome) -> None:
        """Leaves the open run."""

    def __call__(self, event: Event) -> None:
        if not self._entered:
            raise ArgumentError(f"a tracker of {self.service} needs its block: with ...(directory) as tracker: ...")
        self._guarded(lambda: self._hear(event))

    def complete(self, *files: Path) -> None:
        """Tells that the run is at its end, and which files of it are to be kept: weights, card, figure."""
        self._guarded(lambda: self._complete(files))

    def __enter__(self) -> Self:
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, Exception):
            self._outcome = "failed"
        self._guarded(self._leave)
        self._entered = False

    def _hear(self, event: Event) -> None:
        number = event["number"]
        if 0 < number < self._heard:
            return
        if number == 0 and self._heard > 0:
            self._leave()
            self._run, self._heard, self._pace = None, 0, _Pace()
        self._catch_up(number)
        pace = self._pace(event)
        self._points.append(_point(event, {} if pace is None else {"tasks_per_second": pace}))
        self._heard = number + 1
        if time.monotonic() - self._sent >= self._every:
            self._send()

    def _complete(self, files: Sequence[Path]) -> None:
        self._catch_up(math.inf)
        self._send()
        self._reach()
        self.store(files)
        self._outcome = "complete"

    def _catch_up(self, number: float) -> None:
        """Takes events before `number` that were not heard from the log, which a resumed run has cut back to itself."""
        log = self._directory / "events.jsonl" if self._directory else None
        if number <= self._heard or log is None or not log.exists():
            return
        events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        missed = [event for event in events if self._heard <= event.get("number", -1) < number]
        self._points += [_point(event, {}) for event in missed]
        self._heard = max([self._heard, *(event["number"] + 1 for event in missed)])

    def _send(self) -> None:
        points, self._points = self._points, []
        self._sent = time.monotonic()
        if points:
            self._reach()
            self._remember()  # before they are sent: what a crash cuts off is missing, and never there twice
            self.log(points)

    def _reach(self) -> None:
        if not self._is_open:
            self._run = self.open(self._run)
            self._is_open = True
            self._remember()

    def _leave(self) -> None:
        self._send()
        if self._is_open:
            self._is_open = False
            self.end(self._outcome)

    def _guarded(self, act: Callable[[], None]) -> None:
        """Does it, until something fails: that is one warning, and then nothing is done any more."""
        if self._failed:
            return
        try:
            act()
        except Exception as error:
            self._failed = True
            log = f"{self._directory / 'events.jsonl'} has" if self._directory else "other listeners get"
            warnings.warn(
                f"{self.service} failed and is told no more; the meta-training goes on, and {log} every event. "
                f"{type(error).__name__}: {error}",
                stacklevel=4,
            )

    @property
    def _path(self) -> Path | None:
        return self._directory / f"tracking-{self.service}.json" if self._directory else None

    def _remember(self) -> None:
        if self._path:
            checkpoint.write_json(self._path, {"run": self._run, "events": self._heard})

    def _remembered(self) -> tuple[str | None, int]:
        if self._path is None or not self._path.exists():
            return None, 0
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            return str(kept["run"]), int(kept["events"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self._path} does not say which run of {self.service} this is ({error!r}); delete it, and the run "
                "goes on as another one there"
            ) from error


class _Pace:
    """Tasks in a second, for each trajectory that was heard from its first window to its end."""

    def __init__(self) -> None:
        self._before: float | None = None
        self._trajectory, self._tasks, self._seconds, self._whole = -1, 0, 0.0, False

    def __call__(self, event: Event) -> float | None:
        now = time.perf_counter()
        passed, self._before = (None if self._before is None else now - self._before), now
        found = None
        if event["trajectory"] != self._trajectory:
            if self._whole and self._seconds > 0:
                found = self._tasks / self._seconds
            self._trajectory, self._seconds, self._whole = event["trajectory"], 0.0, False
        if "window" in event and passed is not None:
            self._whole |= event["window"] == 0
            self._seconds += passed
            self._tasks = event["tasks"]
        return found


def _point(event: Event, more: dict[str, float]) -> Point:
    """All finite numbers of an event that do not say where it stands."""
    numbers = {f"{event['kind']}/{k}": v for k, v in event.items() if isinstance(v, int | float) and k not in _PLACES}
    finite = {name: float(value) for name, value in {**numbers, **more}.items() if math.isfinite(value)}
    return Point(event["number"], event["windows"], time.time(), finite)


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested entries side by side, their names joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
