"""One self-contained HTML page about an experiment: no request to anywhere, works from disk, readable on a phone.

Curves are drawn by scripts of our own, `SCRIPTS`, which are part of the page; without JavaScript it shows the PNG
files. A library was weighed: uPlot, the smallest that is well kept, is about 50 kB in each page and draws on a canvas.
Legend buttons, keyboard, wheel and pinch, reading by touch, refusals of a logarithmic axis and the dark scheme would be
ours all the same, about half of these 700 lines, and minified code that nobody here reads would lie in every folder of
results. What is drawn as SVG takes the page's colours, prints, and can be read by a test. The page's policy allows the
scripts by their digests, and nothing else.
"""

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from l2o import checkpoint
from l2o.errors import ArgumentError
from l2o.evaluation import colours, figure, tables
from l2o.evaluation.charts import Chart
from l2o.evaluation.tables import Row
from l2o.evaluation.verdicts import Verdict, Verdicts

SCRIPTS = ("scales.js", "drawing.js", "chart.js", "gestures.js", "report.js")
"""Of a page with charts, in this order: each uses what those before it define. Without charts the last is enough."""

CARD, DARK_CARD = "#ffffff", "#1a2029"
"""What curves are drawn on, in the light and in the dark scheme."""

_FOLDED = 12
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A figure of a report.

    Args:
        title: its heading.
        path: a PNG file; its bytes become part of the page.
        alternative: what it shows, in words, for those who cannot see it.
        charts: its curves, which are drawn in its place where there is JavaScript.
    """

    title: str
    path: Path
    alternative: str
    charts: Sequence[Chart] = ()


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
        files: beside the page, to what they are; linked, not embedded.
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
    files: Mapping[str, str] = field(default_factory=dict)


def write_report(path: Path, report: Report) -> None:
    """Writes the page. Every text in it is escaped: a title cannot become markup."""
    drawn = any(picture.charts for picture in report.pictures)
    scripts = [_part(name) for name in (SCRIPTS if drawn else SCRIPTS[-1:])]
    page = _template().render(
        report=report,
        record=report.record,
        outcome=outcome(report.record),
        style=f"{palette()}\n{_part('report.css')}",
        scripts=scripts,
        digests=[_digest(script) for script in scripts],
        pictures=[
            (picture, _embedded(picture.path), [asdict(chart) for chart in picture.charts])
            for picture in report.pictures
        ],
        tables=[(table, tables.headings(table.rows)) for table in report.tables],
        cell_parts=tables.cell_parts,
        verdict_measured=measured_parts,
        facts=_facts(report),
        config=_flat(report.config),
        folded=_FOLDED,
        files=[(quote(name), name, meaning) for name, meaning in report.files.items()],
    )
    checkpoint.write_bytes(path, page.encode())


def palette() -> str:
    """The colours of curves as CSS variables, `--curve-0` and so on: those of figures, changed as far as must be.

    On white the lighter ones are darkened until they have the contrast that graphics need. On the dark card the darker
    ones are lightened until they have that of text: thin lines are lost there sooner.
    """
    light, dark = (
        " ".join(f"--curve-{n}: {colours.visible(each, card, least=least)};" for n, each in enumerate(figure.COLOURS))
        for card, least in ((CARD, colours.GRAPHICS), (DARK_CARD, colours.TEXT))
    )
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


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


def _digest(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


@functools.cache
def _part(name: str) -> str:
    return resources.files("l2o.evaluation").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # `tojson` escapes what could end a script element.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.from_string(_part("report.html.j2"))
