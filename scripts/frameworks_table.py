"""Writes the table of docs/frameworks.md from the results of `make test-integrations`; `--check` only compares.

    python scripts/frameworks_table.py build/integrations.xml

A cell is what its tests have shown: all of them passed, some in which the optimizer had to refuse. A pair without a
test, and a test that failed, are errors.
"""

import argparse
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from l2o.evaluation.tables import markdown

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "frameworks.md"
BEGIN, END = "<!-- table: made by scripts/frameworks_table.py -->", "<!-- end of table -->"
PACKAGES = {"torch": "PyTorch", "lightning": "Lightning", "transformers": "transformers", "accelerate": "Accelerate"}

sys.path.insert(0, str(ROOT / "tests"))
from integrations.cases import FRAMEWORKS, OPTIMIZERS  # noqa: E402

Cells = Mapping[tuple[str, str], str]


class UnfinishedError(ValueError):
    """Results that do not fill the table."""


def cells(results: Path) -> Cells:
    """What a run has shown for each framework and optimizer."""
    found: dict[tuple[str, str], str] = {}
    for case in ElementTree.parse(results).iter("testcase"):
        told = {each.get("name", ""): each.get("value", "") for each in case.iter("property")}
        if any(case.find(outcome) is not None for outcome in ("failure", "error", "skipped")):
            raise UnfinishedError(f"{case.get('name')} did not pass; a page is made from a run in which all tests do")
        if "framework" in told:
            found[told["framework"], told["optimizer"]] = told["cell"]
    missing = [f"{row}, {column}" for row in FRAMEWORKS for column in OPTIMIZERS if (row, column) not in found]
    if missing:
        raise UnfinishedError(f"no test for {'; '.join(missing)}; run all of tests/integrations")
    return found


def section(found: Cells, versions: Sequence[str]) -> str:
    """The versions and the table, as they stand on the page."""
    rows = [{"": row, **{column: found[row, column] for column in OPTIMIZERS}} for row in FRAMEWORKS]
    return f"{BEGIN}\n\nWith {', '.join(versions)}:\n\n{markdown(rows)}\n\n{END}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JUnit file of tests/integrations")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page says something else")
    options = parser.parse_args()
    versions = [f"{name} {version(package).split('+')[0]}" for package, name in PACKAGES.items()]
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    new = head + section(cells(options.results), versions) + rest.split(END)[1]
    if not options.check:
        PAGE.write_text(new, encoding="utf-8")
    elif new != text:
        print(f"docs/frameworks.md says something else than this run: run {sys.argv[0]} {options.results}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
