"""The tables on the screen."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks import rows
from benchmarks.measurements import Measurements
from l2o.evaluation.report import duration
from l2o.evaluation.tables import Row, cell_parts, headings
from l2o.evaluation.verdicts import Verdict


def show(found: Measurements, verdicts: Sequence[Verdict], console: Console) -> None:
    """Prints all tables."""
    tables = {
        f"Windows of meta-training, {found.threads} threads": rows.window_rows(found),
        "Drop-in steps": rows.step_rows(found),
        "Memory of a window, MLP-orig": rows.memory_rows(found),
        "ns per coordinate and inner step": rows.coordinate_rows(found),
        "Length of the window": rows.length_rows(found),
        "Threads": rows.thread_rows(found),
        "Criteria": rows.verdict_rows(verdicts),
    }
    for title, lines in tables.items():
        if lines:
            console.print(_table(title, lines))
    for note in found.notes:
        console.print(note)
    console.print(found.machine)
    console.print(f"load average {found.load[0]:.2g} before and {found.load[1]:.2g} after; {duration(found.seconds)}")


def _table(title: str, lines: Sequence[Row]) -> Table:
    table = Table(title=title)
    columns = headings(lines)
    for column in columns:
        table.add_column(column)
    before = None
    grouped = len({str(row[columns[0]]) for row in lines}) < len(lines)
    for row in lines:
        first, *others = (" ".join(filter(None, cell_parts(row[column]))).replace("**", "") for column in columns)
        if grouped and first != before:
            table.add_section()
        table.add_row("" if first == before else first, *others)
        before = first
    return table
