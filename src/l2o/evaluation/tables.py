"""Tables of results: rows of numbers and intervals, and how they are written."""

import math
from collections.abc import Mapping, Sequence

from l2o.errors import ArgumentError
from l2o.evaluation.statistics import Interval

Cell = str | int | float | Interval | None
Row = Mapping[str, Cell]
"""One line of a table: column heading to cell. All rows of a table have the same headings."""


def number(value: float) -> str:
    """Three significant digits; whole numbers in full, infinity as a sign."""
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    digits, _, exponent = f"{value:.3g}".partition("e")
    return f"{digits}e{int(exponent)}" if exponent else digits


def cell_parts(cell: Cell) -> tuple[str, str]:
    """A cell as text: the value, and what stands small beside it (an interval's ends)."""
    match cell:
        case None:
            return "", ""
        case str():
            return cell, ""
        case Interval(runs=1):
            return number(cell.estimate), "one run"
        case Interval(low=math.inf):
            return number(cell.estimate), ""
        case Interval():
            return number(cell.estimate), f"[{number(cell.low)}, {number(cell.high)}]"
        case bool():
            return ("yes" if cell else "no"), ""
        case _:
            return number(cell), ""


def in_words(cell: Cell) -> str:
    """A cell as one text."""
    return " ".join(filter(None, cell_parts(cell)))


def headings(rows: Sequence[Row]) -> list[str]:
    """The headings that all rows share.

    Raises:
        ArgumentError: no rows, or rows with different headings.
    """
    if not rows:
        raise ArgumentError("a table needs at least one row")
    first = list(rows[0])
    for row in rows:
        if list(row) != first:
            raise ArgumentError(f"rows have different headings: {first} and {list(row)}; give every row every column")
    return first


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table.

    Example:
        >>> print(markdown([{"optimizer": "Adam", "loss": 0.25}]))
        | optimizer | loss |
        | --- | --- |
        | Adam | 0.25 |
    """
    columns = headings(rows)
    lines = [columns, ["---"] * len(columns)]
    lines += [[in_words(row[column]) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |" for line in lines)
