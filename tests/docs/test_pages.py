"""The code of the pages runs, prints what they show, and names commands and options that there are."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import tyro

from l2o.cli.main import COMMANDS
from scripts.run_pages import BLOCK, blocks, run, shape

ROOT = Path(__file__).parents[2]
NAVIGATION = re.findall(r"(?:: |- )(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
PAGES = [ROOT / "docs" / name for name in NAVIGATION if (ROOT / "docs" / name).exists()]
SHELL = re.compile(r"^```sh\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
RUNNING = [page for page in PAGES if blocks(page.read_text(encoding="utf-8"))]


def commands():
    """Every `l2o` command in the shell blocks of the pages and of the README."""
    for page in [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for block in SHELL.findall(page.read_text(encoding="utf-8")):
            for line in re.split(r"\n|; (?=l2o )", block.replace("\\\n", " ")):
                words = shlex.split(line, comments=True)
                if words[:1] == ["l2o"]:
                    yield words[1:]


def test_there_are_pages_and_commands():
    assert len(RUNNING) >= 11
    assert {"train", "compare", "demo", "doctor"} <= {words[0] for words in commands()}


@pytest.fixture
def as_before():
    """Pages seed torch and set its threads, as a user would."""
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(random)


@pytest.mark.parametrize("page", RUNNING, ids=[str(page.relative_to(ROOT / "docs")) for page in RUNNING])
def test_the_code_of_a_page_runs_and_prints_what_it_shows(page, tmp_path, monkeypatch, as_before):
    monkeypatch.chdir(tmp_path)
    for block, printed in run(page):
        where = f"{page.name}, line {block.line}; run: python scripts/run_pages.py {page.relative_to(ROOT)}"
        assert shape(printed) == shape(block.printed or ""), where


def test_a_block_that_does_not_run_says_why():
    for page in PAGES:
        for found in BLOCK.finditer(page.read_text(encoding="utf-8")):
            reason = found["skip"] or "<!-- not run: (it runs) -->"
            assert re.search(r"<!-- not run: .{4,} -->", reason)


@pytest.mark.parametrize("words", [words for words in commands() if words[-1] != "--help"], ids=" ".join)
def test_a_command_of_the_pages_is_one_that_l2o_understands(words):
    made = tyro.extras.subcommand_cli_from_dict(COMMANDS, args=words)
    assert type(made).__name__.lower() in (words[0], f"make{words[0]}")
