"""docs/frameworks.md fits the runs inside frameworks that there are, which themselves need the extra `integrations`."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from integrations.cases import FRAMEWORKS, OPTIMIZERS, REFUSALS, framework

from l2o.optimizers import handcrafted
from l2o.optimizers.architectures import ARCHITECTURES

ROOT = Path(__file__).parents[1]
INTEGRATIONS = ROOT / "tests" / "integrations"


def table() -> list[list[str]]:
    """The cells of the page's table, its headings first."""
    text = (ROOT / "docs" / "frameworks.md").read_text(encoding="utf-8")
    section = text.split("<!-- table: made by scripts/frameworks_table.py -->")[1].split("<!-- end of table -->")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("| ---")]


def test_the_table_has_the_rows_and_columns_of_the_tests() -> None:
    (_, *columns), *rows = table()
    assert columns == list(OPTIMIZERS)
    assert [row[0] for row in rows] == list(FRAMEWORKS)


def test_every_cell_is_what_the_tests_show() -> None:
    (_, *columns), *rows = table()
    for row, *cells in rows:
        for column, cell in zip(columns, cells, strict=True):
            refusal = REFUSALS.get((row, column))
            assert cell == ("works" if refusal is None else f"refuses: {refusal.reason}")


def test_every_row_has_tests_of_its_own() -> None:
    named = []
    for path in INTEGRATIONS.glob("test_*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
                calls = [each for each in function.decorator_list if isinstance(each, ast.Call)]
                named += [ast.literal_eval(call.args[0]) for call in calls if ast.unparse(call.func) == "framework"]
    assert set(named) == set(FRAMEWORKS)
    assert REFUSALS.keys() <= {(row, column) for row in FRAMEWORKS for column in OPTIMIZERS}


def test_the_columns_are_all_learned_optimizers() -> None:
    made = {name: make() for name, make in OPTIMIZERS.items()}
    assert {name: rule.name for name, rule in made.items()} == {name: name for name in made}
    learned = {kind for name, kind in ARCHITECTURES.items() if name not in vars(handcrafted)}
    assert {type(rule) for rule in made.values()} == learned


def test_an_unknown_row_is_refused() -> None:
    with pytest.raises(ValueError, match="no row"):
        framework("JAX")


SKIPS = {
    "a test": "import pytest\n\ndef test_skipped():\n    pytest.skip('no such thing')\n",
    "a whole file": "import pytest\npytest.importorskip('no_such_package')\n\ndef test_skipped():\n    pass\n",
}


@pytest.mark.parametrize("skipped", SKIPS)
def test_a_skip_fails_the_run(skipped: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from integrations.conftest import *\n")
    (tmp_path / "test_it.py").write_text(SKIPS[skipped])
    paths = os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests")))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "counts as failed here" in done.stdout
    assert "no_such_package" in done.stdout or "no such thing" in done.stdout
