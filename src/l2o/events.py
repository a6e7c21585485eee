"""Where a meta-training tells what happens: a JSON-lines file; `tracking` has services, `progress` the bar."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Event = dict[str, Any]
"""A flat record with a `kind` ("window", "validation", "skipped"), its `number` in the run, a `trajectory`, and more
numbers."""

Listener = Callable[[Event], None]


class JsonLines:
    """Appends each event to a file, one JSON object a line. Numbers that are not finite are written as null.

    A resumed run rewinds the file to where it was at the checkpoint, so that no event stands there twice.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._path = path

    def __call__(self, event: Event) -> None:
        finite = {k: None if isinstance(v, float) and v - v != 0 else v for k, v in event.items()}
        with self._path.open("ab") as file:
            file.write(json.dumps(finite).encode() + b"\n")

    def position(self) -> int:
        """Bytes written so far."""
        return self._path.stat().st_size

    def rewind(self, position: int) -> None:
        """Forgets what was written after `position`."""
        if position < self.position():
            os.truncate(self._path, position)
