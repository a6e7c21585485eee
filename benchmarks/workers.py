"""Worker processes: each holds one library with the same number of threads and does what it is asked, one thing a time.

This module imports no library: a worker fixes its threads before it imports one.
"""

import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self


class LeftOutError(Exception):
    """Something cannot be measured here; the message says why."""


class Worker:
    """A process that runs importable functions.

    Args:
        threads: of its libraries; where the system allows it, the process is also bound to as many cores.
    """

    def __init__(self, threads: int) -> None:
        context = get_context("spawn")
        self._scratch = tempfile.mkdtemp(prefix="l2o-bench-")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, threads, self._scratch), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns there.

        Raises:
            LeftOutError: it raised, whatever it was: one library that fails does not end the run.
        """
        try:
            self._pipe.send((function, arguments))
            answer, failure = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(20)
            raise LeftOutError(f"its process died (exit code {self._process.exitcode})") from error
        if failure is not None:
            raise LeftOutError(failure)
        return answer

    def close(self) -> None:
        """Ends the process and removes its files."""
        try:
            self._pipe.send(None)
            self._pipe.close()
        except OSError:
            pass  # it is dead already
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()
        shutil.rmtree(self._scratch, ignore_errors=True)


class Workers:
    """The workers of a run, by library and threads, started when first needed."""

    def __init__(self, hire: Callable[[int], Worker]) -> None:
        self._hire = hire
        self._workers: dict[tuple[str, int], Worker] = {}

    def get(self, library: str, threads: int) -> Worker:
        if (library, threads) not in self._workers:
            self._workers[library, threads] = self._hire(threads)
        return self._workers[library, threads]

    def end(self, library: str) -> None:
        """Ends the workers of a library; the next one starts anew."""
        for key in [key for key in self._workers if key[0] == library]:
            self._workers.pop(key).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            worker.close()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _serve(pipe: Connection, threads: int, scratch: str) -> None:
    if "torch" in sys.modules:  # two threads would share one core, a hundred times slower
        raise RuntimeError(
            "torch was imported before its threads were set; the main module must not import it directly"
        )
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"):  # XLA reads the last one
        os.environ[name] = str(threads)
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Compile times are of a first compilation, not of a cache that an earlier run left.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = scratch
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        if message is None:
            return
        function, arguments = message
        try:
            answer = (function(*arguments), None)
        except Exception as error:
            lines = traceback.format_exception_only(error)[-1].strip().splitlines()
            answer = (None, str(error) if isinstance(error, LeftOutError) else lines[0])
        pipe.send(answer)
