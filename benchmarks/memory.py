"""Peak memory of a window, in a process of its own."""

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.timing import Call

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def extra_megabytes(make: Callable[..., Call], arguments: tuple[Any, ...], small: tuple[Any, ...]) -> float:
    """Peak resident memory that a window adds to a fresh process which has run a small one before.

    Args:
        make: makes the window.
        arguments: of `make`.
        small: of `make`, for the window that comes before: it loads what every window needs.
    """
    make(*small).run()
    call = make(*arguments)
    before = _resident()
    call.run()
    return (_peak() - before) / 1e6


def _resident() -> int:
    """Bytes resident now; the peak is counted from here on where the system allows it."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return _peak()
    return _status("VmRSS")


def _peak() -> int:
    """Bytes resident at most."""
    if _STATUS.exists():
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(field: str) -> int:
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
