"""The rows of the tables."""

from collections.abc import Sequence

from benchmarks.criteria import useful_operations
from benchmarks.figures import speedups
from benchmarks.measurements import ADAM_FUSED, CHUNKED, NATIVE, PRODUCT, Measurements, Outcome
from benchmarks.timing import Spread
from l2o.evaluation.report import duration, measured_parts
from l2o.evaluation.tables import Row, number
from l2o.evaluation.verdicts import Verdict

NOT_MEASURED = "not measured"


def verdict_rows(verdicts: Sequence[Verdict]) -> list[Row]:
    return [
        {
            "claim": verdict.claim,
            "measured": " ".join(filter(None, measured_parts(verdict))),
            "verdict": "passed" if verdict.passed else "**missed**",
            "remark": verdict.note,
        }
        for verdict in verdicts
    ]


def window_rows(found: Measurements) -> list[Row]:
    return _even([row for key, outcome in found.windows.items() for row in _window_rows(key, outcome)])


def step_rows(found: Measurements) -> list[Row]:
    rows: list[Row] = []
    for key, outcome in found.steps.items():
        rows += [
            {
                "step": f"{key} ({outcome.coordinates:,})",
                "way": name,
                "ms": shown(outcome.time(name)),
                "ns per coordinate": plain(outcome.nanoseconds(name)),
                "in times of native": _ratio(outcome, name, NATIVE),
                "in times of fused Adam": _ratio(outcome, name, ADAM_FUSED),
                "first call": duration(outcome.first_seconds[name]),
            }
            for name in outcome.milliseconds
        ]
        rows += [_left_out({"step": key}, name, why) for name, why in outcome.left_out.items()]
    return _even(rows)


def memory_rows(found: Measurements) -> list[Row]:
    return [
        {"rule": rule, "way": name, "MB added at the peak": plain(value)}
        for rule, ways in found.megabytes.items()
        for name, value in ways.items()
    ]


def coordinate_rows(found: Measurements) -> list[Row]:
    return [
        {
            "": outcome.title,
            NATIVE: _nanoseconds(outcome, NATIVE),
            CHUNKED: _nanoseconds(outcome, CHUNKED),
            ADAM_FUSED: _nanoseconds(outcome, ADAM_FUSED),
            f"{CHUNKED} / {NATIVE}": _ratio(outcome, CHUNKED, NATIVE),
        }
        for outcome in found.by_coordinates.values()
    ]


def length_rows(found: Measurements) -> list[Row]:
    return [
        {
            "inner steps": outcome.steps,
            **{f"{name}, ms per step": _per_step(outcome, name) for name in (NATIVE, CHUNKED)},
            f"{CHUNKED} / {NATIVE}": _ratio(outcome, CHUNKED, NATIVE),
        }
        for outcome in found.by_length.values()
    ]


def thread_rows(found: Measurements) -> list[Row]:
    rows: list[Row] = []
    for outcome in found.by_threads.values():
        counts = sorted({int(name.rpartition("@ ")[2]) for name in outcome.milliseconds})
        gains = {name: dict(speedups(outcome, name)) for name in (NATIVE, CHUNKED, PRODUCT)}
        for threads in counts:
            row: dict[str, str | int] = {"threads": threads}
            for name, gain in gains.items():
                key = f"{name} @ {threads}"
                there = key in outcome.milliseconds
                row[f"{name}, ms"] = plain(outcome.time(key).middle) if there else NOT_MEASURED
                row[f"{name}, times faster than 1 thread"] = plain(gain[threads]) if threads in gain else ""
            rows.append(row)
    return rows


def plain(value: float) -> str:
    """Three digits, and no powers of ten for large numbers.

    Example:
        >>> plain(12345.6)
        '12,346'
    """
    return f"{value:,.0f}" if value >= 1000 else number(value)


def shown(value: Spread) -> str:
    """Median and quartiles.

    Example:
        >>> shown(Spread(2.0, 1.5, 2.5, 9))
        '2 [1.5, 2.5]'
    """
    return f"{plain(value.middle)} [{plain(value.low)}, {plain(value.high)}]"


def _window_rows(key: str, outcome: Outcome) -> list[Row]:
    rows: list[Row] = []
    for name in outcome.milliseconds:
        if name == PRODUCT:
            continue
        error = outcome.errors.get(name)
        per_second = useful_operations() * outcome.coordinates * outcome.steps / outcome.time(name).middle / 1e6
        rows.append(
            {
                "window": f"{key} ({outcome.coordinates:,})",
                "way": name,
                "ms": shown(outcome.time(name)),
                "in times of native": _ratio(outcome, name, NATIVE),
                "useful GFLOP/s": "" if "RNNprop" in key else plain(per_second),
                "first call": duration(outcome.first_seconds[name]),
                "gradient error": "truth" if error is None else number(error),
            }
        )
    return rows + [_left_out({"window": key}, name, why) for name, why in outcome.left_out.items()]


def _left_out(start: Row, name: str, why: str) -> Row:
    return {**start, "way": name, "ms": f"{NOT_MEASURED}: {why}"}


def _even(rows: Sequence[Row]) -> list[Row]:
    """Every row with every column, blank where it has nothing."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [{column: row.get(column, "") for column in columns} for row in rows]


def _ratio(outcome: Outcome, name: str, base: str) -> str:
    if name not in outcome.milliseconds or base not in outcome.milliseconds:
        return ""
    return "1" if name == base else shown(outcome.ratio(name, base))


def _nanoseconds(outcome: Outcome, name: str) -> str:
    return plain(outcome.nanoseconds(name)) if name in outcome.milliseconds else ""


def _per_step(outcome: Outcome, name: str) -> str:
    return plain(outcome.time(name).middle / outcome.steps) if name in outcome.milliseconds else NOT_MEASURED
