"""Verdicts: a claim, the criterion written before the run, what was measured, and whether it passed."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2o import checkpoint
from l2o.errors import ArgumentError, DataError

_NON_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


@dataclass(frozen=True)
class Verdict:
    """One claim and what became of it.

    Args:
        claim: what is claimed, in a sentence.
        criterion: the rule that decides, written before the run.
        measured: the number that the criterion looks at, or a few words where it is not one number.
        runs: number of runs behind it.
        passed: whether the criterion holds. A failed claim is a result and stays in the record.
        interval: ends of the measured number's confidence interval.
        note: what a sceptic should know besides.
    """

    claim: str
    criterion: str
    measured: float | str
    runs: int
    passed: bool
    interval: tuple[float, float] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not self.claim or not self.criterion:
            raise ArgumentError(f"claim {self.claim!r} and criterion {self.criterion!r} must both be said")
        if self.runs < 1:
            raise ArgumentError(f"runs is {self.runs}; a verdict needs at least one run")


@dataclass(frozen=True)
class Verdicts:
    """The content of a `verdict.json`.

    Args:
        experiment: `PAPER/EXPERIMENT`.
        preset: "smoke", "laptop" or "paper".
        commit: of the source, see `provenance.source_commit`.
        seeds: of the runs.
        seconds: wall time of the experiment.
        machine: where it ran, see `provenance.machine`.
        verdicts: in the order of the claims.
    """

    experiment: str
    preset: str
    commit: str
    seeds: tuple[int, ...]
    seconds: float
    machine: str
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> int:
        """How many claims passed."""
        return sum(verdict.passed for verdict in self.verdicts)


def write_verdicts(
    path: Path,
    verdicts: Sequence[Verdict],
    *,
    experiment: str,
    preset: str,
    seeds: Sequence[int],
    seconds: float,
    commit: str,
    machine: str,
) -> None:
    """Writes `verdict.json`. Numbers that JSON cannot say are the strings "inf", "-inf" and "nan"."""
    content = {
        "experiment": experiment,
        "preset": preset,
        "commit": commit,
        "seeds": [int(seed) for seed in seeds],
        "seconds": _to_json(seconds),
        "machine": machine,
        "verdicts": [_verdict_to_json(verdict) for verdict in verdicts],
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    checkpoint.write_bytes(path, f"{text}\n".encode())


def read_verdicts(path: Path) -> Verdicts:
    """Reads what `write_verdicts` wrote.

    Raises:
        DataError: the file is not JSON, or not in this format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Verdicts(
            experiment=content["experiment"],
            preset=content["preset"],
            commit=content["commit"],
            seeds=tuple(content["seeds"]),
            seconds=_from_json(content["seconds"]),
            machine=content["machine"],
            verdicts=tuple(map(_verdict_from_json, content["verdicts"])),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a verdict file ({error!r}); write it again with write_verdicts") from error


def _verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    content: dict[str, Any] = {
        "claim": verdict.claim,
        "criterion": verdict.criterion,
        "measured": _to_json(verdict.measured),
        "runs": int(verdict.runs),
        "passed": bool(verdict.passed),
    }
    if verdict.interval is not None:
        content["interval"] = [_to_json(end) for end in verdict.interval]
    if verdict.note:
        content["note"] = verdict.note
    return content


def _verdict_from_json(content: dict[str, Any]) -> Verdict:
    interval = content.get("interval")
    if interval is not None:
        low, high = map(_from_json, interval)
        interval = (low, high)
    return Verdict(
        claim=content["claim"],
        criterion=content["criterion"],
        measured=_from_json(content["measured"]),
        runs=content["runs"],
        passed=content["passed"],
        interval=interval,
        note=content.get("note", ""),
    )


def _to_json(value: float | str) -> float | str:
    if isinstance(value, str):
        return value
    return float(value) if math.isfinite(value) else str(float(value))


def _from_json(value: Any) -> Any:
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value
