"""One self-contained HTML page about an experiment: no script, no request to anywhere, readable on a phone."""

import base64
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from l2o import checkpoint
from l2o.errors import ArgumentError
from l2o.evaluation import tables
from l2o.evaluation.tables import Row
from l2o.evaluation.verdicts import Verdict, Verdicts

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A figure of a report.

    Args:
        title: its heading.
        path: a PNG file; its bytes become part of the page.
        alternative: what it shows, in words, for those who cannot see it.
    """

    title: str
    path: Path
    alternative: str


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Args:
        title: its heading.
        rows: all with the same headings; the first column names the row.
        note: what the numbers are.
    """

    title: str
    rows: Sequence[Row]
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What the page says.

    Args:
        title: its heading.
        record: the verdicts, and where and how they came about.
        summary: what was done, in a sentence or two, before the count of claims.
        pictures: shown in this order.
        tables: shown in this order.
        config: name to value; nested mappings are shown as `outer.inner`.
        data_notes: what there is to know about the data, see `TaskFamily.data_notes`.
        version: of the package, see `provenance.package_version`.
        command: that makes this result again.
    """

    title: str
    record: Verdicts
    summary: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    data_notes: Sequence[str] = ()
    version: str = ""
    command: str = ""


def write_report(path: Path, report: Report) -> None:
    """Writes the page. Every text in it is escaped: a title cannot become markup."""
    page = _template().render(
        report=report,
        record=report.record,
        outcome=outcome(report.record),
        pictures=[(picture, _embedded(picture.path)) for picture in report.pictures],
        tables=[(table, tables.headings(table.rows)) for table in report.tables],
        cell_parts=tables.cell_parts,
        verdict_measured=measured_parts,
        facts=_facts(report),
        config=_flat(report.config),
    )
    checkpoint.write_bytes(path, page.encode())


def outcome(record: Verdicts) -> str:
    """One sentence: how many of the claims passed."""
    total = len(record.verdicts)
    if total == 0:
        return "No claim is tested here."
    if total == 1:
        return "The claim passed." if record.passed else "The claim failed."
    if record.passed in (0, total):
        return f"All {total} claims passed." if record.passed else f"All {total} claims failed."
    return f"{record.passed} of {total} claims passed, {total - record.passed} failed."


def duration(seconds: float) -> str:
    """Wall time in words: `2 h 05 min`, `3 min 20 s`, `4.2 s`."""
    if not seconds < float("inf"):
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    return f"{minutes} min {round(seconds) % 60:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def measured_parts(verdict: Verdict) -> tuple[str, str]:
    """The measured value as text, and its interval."""
    value = verdict.measured if isinstance(verdict.measured, str) else tables.number(verdict.measured)
    ends = "" if verdict.interval is None else f"[{', '.join(map(tables.number, verdict.interval))}]"
    return value, ends


def _facts(report: Report) -> list[tuple[str, str]]:
    record = report.record
    seeds = ", ".join(map(str, record.seeds))
    facts = {
        "experiment": record.experiment,
        "preset": record.preset,
        "seeds": seeds,
        "time": duration(record.seconds),
        "machine": record.machine,
        "commit": record.commit,
        "version": report.version,
    }
    return [(name, value) for name, value in facts.items() if value]


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{name}.")
        else:
            lines.append((f"{prefix}{name}", str(value)))
    return lines


def _embedded(path: Path) -> str:
    blob = path.read_bytes()
    if not blob.startswith(_PNG):
        raise ArgumentError(f"{path} is not a PNG file; a report embeds only those")
    return f"data:image/png;base64,{base64.b64encode(blob).decode()}"


@functools.cache
def _template() -> jinja2.Template:
    text = resources.files("l2o.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)
