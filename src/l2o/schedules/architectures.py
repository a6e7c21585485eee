"""Schedules from their weights files."""

from collections.abc import Mapping
from pathlib import Path

from l2o.schedules.base import Schedule
from l2o.schedules.controllers import Controller
from l2o.schedules.fixed import ConstantRates, InTurn, RatesInTime, Recorded, Threshold
from l2o.weights import rebuild

SCHEDULES: Mapping[str, type[Schedule]] = {
    kind.__name__: kind for kind in (Controller, InTurn, ConstantRates, RatesInTime, Threshold, Recorded)
}
"""The classes that a schedule's file may name."""


def load_schedule(
    source: str | Path, *, revision: str | None = None, architectures: Mapping[str, type[Schedule]] = SCHEDULES
) -> Schedule:
    """Loads a schedule from a weights file or a repository, or a shipped one by name (`shipped()` lists them).

    Args:
        source: as for `load`.
        revision: as for `load`.
        architectures: classes that the file may name; a controller of your own features is a subclass of `Controller`
            whose `from_config` knows them.

    Raises:
        WeightsError: as for `load`.
        UnsupportedError: as for `load`.

    Example:
        >>> import l2o, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = l2o.save(ConstantRates.coin(0.8), f"{folder}/coin")
        ...     load_schedule(f"{folder}/coin.safetensors").name
        'rates 0.8 0.2'
    """
    return rebuild(source, architectures, revision=revision)
