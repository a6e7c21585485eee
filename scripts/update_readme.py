"""Writes the table of results in README.md from the `verdict.json` files under results/; `--check` only compares."""

import argparse
import sys
from pathlib import Path

from l2o.evaluation.report import duration
from l2o.evaluation.tables import Row, markdown
from l2o.evaluation.verdicts import Verdicts, read_verdicts

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results: made by scripts/update_readme.py -->", "<!-- end of results -->"


def row(path: Path, record: Verdicts) -> Row:
    failed = "; ".join(verdict.claim for verdict in record.verdicts if not verdict.passed)
    return {
        "experiment": f"[{record.experiment}]({path.parent.relative_to(ROOT)}/README.md), {record.preset}",
        "claims that passed": f"{record.passed} of {len(record.verdicts)}",
        "claims that failed": failed or "none",
        "computing": duration(record.seconds),
    }


def table() -> str:
    paths = sorted((ROOT / "results").rglob("verdict.json"))
    return markdown([row(path, read_verdicts(path)) for path in paths])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the table is not up to date")
    check = parser.parse_args().check
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    new = f"{head}{BEGIN}\n\n{table()}\n\n{END}{tail}"
    if check:
        return int(new != text)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
