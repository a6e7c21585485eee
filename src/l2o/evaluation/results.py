"""A folder of results: what lies in it, and the two pages, README.md and report.html, that are made from it alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from l2o import checkpoint
from l2o.errors import DataError
from l2o.evaluation.charts import Chart, beside, of_comparison, read_charts
from l2o.evaluation.compare import Comparison
from l2o.evaluation.report import Picture, Report, Table, duration, measured_parts, outcome, write_report
from l2o.evaluation.tables import Row, markdown
from l2o.evaluation.tuning import Tuning
from l2o.evaluation.verdicts import Verdict, Verdicts, read_verdicts
from l2o.provenance import package_version


@dataclass(frozen=True)
class Shown:
    """A figure in the folder: its file, its heading, and what it shows in words."""

    file: str
    title: str
    alternative: str


@dataclass(frozen=True)
class Compared:
    """A comparison in the folder: its file of curves, its heading, and how its baselines were tuned."""

    file: str
    title: str
    tunings: dict[str, Tuning]


@dataclass(frozen=True)
class Tabled:
    """A table that is written as it is: its heading, its rows of texts and numbers, what they are."""

    title: str
    rows: list[dict[str, str | float | None]]
    note: str = ""


@dataclass(frozen=True)
class Description:
    """What `config.json` says.

    Args:
        experiment: PAPER/EXPERIMENT, or what the results are of.
        preset: of the experiment, or "".
        summary: what was done, in a sentence or two.
        command: that makes the results again.
        configuration: everything that was chosen, as JSON values.
        data: which data was read.
        backend: which kernels computed it.
        figures: in the order of the pages.
        comparisons: in the order of the pages.
        tables: further ones, after those of the comparisons.
    """

    experiment: str
    preset: str
    summary: str
    command: str
    configuration: dict[str, Any]
    data: list[str]
    backend: str
    figures: list[Shown]
    comparisons: list[Compared]
    tables: list[Tabled] = field(default_factory=list)


def write_description(folder: Path, description: Description) -> None:
    """Writes `config.json`."""
    content = asdict(description)
    for compared, entry in zip(description.comparisons, content["comparisons"], strict=True):
        entry["tunings"] = {name: tuning_to_json(tuning) for name, tuning in compared.tunings.items()}
    checkpoint.write_bytes(folder / "config.json", f"{json.dumps(content, indent=2, allow_nan=False)}\n".encode())


def read_description(folder: Path) -> Description:
    """Reads what `write_description` wrote.

    Raises:
        DataError: there is no such file, or it is something else.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        figures = [Shown(**entry) for entry in content.pop("figures")]
        comparisons = [
            Compared(entry["file"], entry["title"], {k: tuning_from_json(v) for k, v in entry["tunings"].items()})
            for entry in content.pop("comparisons")
        ]
        tables = [Tabled(**entry) for entry in content.pop("tables", [])]
        return Description(**content, figures=figures, comparisons=comparisons, tables=tables)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not describe results ({error!r}); make them again") from error


def render(folder: Path) -> Path:
    """Makes README.md and report.html from the other files of the folder, and returns the path of the report.

    A figure is drawn by the page from the comparison or the charts that lie beside it under the same name.
    """
    description, record = read_description(folder), read_verdicts(folder / "verdict.json")
    tables: list[Table] = []
    drawn: dict[str, list[Chart]] = {}
    for compared in description.comparisons:
        comparison = Comparison.load(folder / compared.file)
        drawn[Path(compared.file).stem] = [_chart(comparison, compared.tunings)]
        tables.append(Table(compared.title, comparison.loss_rows(), comparison.note))
        tables.append(Table(f"{compared.title}: cost", comparison.cost_rows(compared.tunings)))
    tables += [Table(tabled.title, tabled.rows, tabled.note) for tabled in description.tables]
    title = f"{description.experiment}, preset {description.preset}" if description.preset else description.experiment
    pictures = []
    for shown in description.figures:
        path = folder / shown.file
        charts = read_charts(beside(path)) if beside(path).exists() else drawn.get(path.stem, [])
        pictures.append(Picture(shown.title, path, shown.alternative, charts))
    report = Report(
        title=title,
        record=record,
        summary=description.summary,
        pictures=pictures,
        tables=tables,
        config={**description.configuration, "back end": description.backend},
        data_notes=description.data,
        version=package_version(),
        command=description.command,
        files=_files(folder, description),
    )
    write_report(folder / "report.html", report)
    checkpoint.write_bytes(folder / "README.md", _readme(report, record).encode())
    return folder / "report.html"


def verdict_row(verdict: Verdict) -> Row:
    """A verdict as a row of a table."""
    return {
        "claim": verdict.claim,
        "measured": " ".join(filter(None, measured_parts(verdict))),
        "runs": verdict.runs,
        "verdict": "passed" if verdict.passed else "**failed**",
    }


def _chart(comparison: Comparison, tunings: Mapping[str, Tuning]) -> Chart:
    """A comparison's curves, of the baselines at first those that were tuned for the loss at the end, as in figures."""
    named = [name for name in comparison.curves if name not in tunings]
    finals = [name for name, tuning in tunings.items() if tuning.metric == "final"]
    return of_comparison(
        comparison,
        bold=named if tunings else list(comparison.curves)[:1],
        hidden=[name for name in tunings if finals and name not in finals],
    )


def _files(folder: Path, description: Description) -> dict[str, str]:
    files = {
        "config.json": "the full configuration, how baselines were tuned, and what stands on this page",
        "options.json": "the options of the command, and what it ran on",
        "verdict.json": "the verdicts",
        **{compared.file: f"every loss of every run: {compared.title}" for compared in description.comparisons},
        "README.md": "this page in Markdown",
    }
    return {name: meaning for name, meaning in files.items() if name == "README.md" or (folder / name).exists()}


def _readme(report: Report, record: Verdicts) -> str:
    lines = [
        f"# {report.title}",
        f"{report.summary} {outcome(record)}",
        f"Made by `{report.command}` in {duration(record.seconds)} of computing ({record.machine}; commit "
        f"{record.commit}). This page is generated; `report.html` has everything on one page.",
        *[f"![{picture.alternative}]({picture.path.name})" for picture in report.pictures[:1]],
        *_verdict_lines(record.verdicts),
        *[f"![{picture.alternative}]({picture.path.name})" for picture in report.pictures[1:]],
    ]
    for table in report.tables:
        lines += [f"## {table.title}", markdown(table.rows), *([table.note] if table.note else [])]
    lines.append(f"Data: {'; '.join(report.data_notes) or 'made by the experiment itself'}.")
    return "\n\n".join(lines) + "\n"


def _verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return []
    criteria = dict.fromkeys(verdict.criterion for verdict in verdicts)
    return [
        "## Verdicts",
        markdown([verdict_row(verdict) for verdict in verdicts]),
        "Criteria, written before the run:",
        "\n".join(f"- {criterion}" for criterion in criteria),
    ]


def tuning_to_json(tuning: Tuning) -> dict[str, Any]:
    """A tuning as JSON values; a value that diverged has no score."""
    scores = [[value, score if score < float("inf") else None] for value, score in tuning.scores.items()]
    return {**asdict(tuning), "scores": scores}


def tuning_from_json(content: dict[str, Any]) -> Tuning:
    """What `tuning_to_json` made."""
    scores = {value: float("inf") if score is None else score for value, score in content["scores"]}
    return Tuning(**{**content, "scores": scores})
