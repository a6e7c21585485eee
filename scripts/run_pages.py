"""Runs the Python of pages, block after block, and writes what each block printed into the `text` block behind it.

    python scripts/run_pages.py docs/concepts.md docs/how_to/*.md

The blocks of a page are one program, and it runs in a folder of its own. A block is left out if the line before it says
`<!-- not run: REASON -->`, and all blocks of a page that says `<!-- no block of this page runs: REASON -->`.
"""

import argparse
import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = re.compile(
    r"(?P<skip><!-- not run: [^\n]+ -->\n+)?^```python\n(?P<code>.*?)^```$"
    r"(?P<shown>\n\n```text\n(?P<printed>.*?)^```$)?",
    flags=re.MULTILINE | re.DOTALL,
)
NONE_RUNS = "<!-- no block of this page runs: "
NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d*)?(e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """A block of Python on a page.

    Args:
        code: its lines.
        line: of the page, on which the code begins.
        printed: what the page says that it prints, or None.
        start: where `printed` begins in the page's text.
    """

    code: str
    line: int
    printed: str | None
    start: int


def blocks(text: str) -> list[Block]:
    """The blocks of a page that run, in order."""
    return [
        Block(found["code"], text.count("\n", 0, found.start("code")) + 1, found["printed"], found.start("printed"))
        for found in BLOCK.finditer(text)
        if not found["skip"] and NONE_RUNS not in text
    ]


def run(page: Path) -> Iterator[tuple[Block, str]]:
    """Runs a page's blocks one after the other in the working directory: each with what it printed."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        printed = io.StringIO()
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")  # errors name the line of the page
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        yield block, printed.getvalue()


def shape(printed: str) -> list[str]:
    """What was printed, without the numbers, which differ between machines in their last digits, and without widths."""
    return NUMBER.sub("#", printed).split()


def paste(page: Path) -> None:
    """Runs a page in a folder of its own and writes what it printed into it."""
    page, before = page.resolve(), Path.cwd()
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            ran = list(run(page))
        finally:
            os.chdir(before)
    for block, printed in reversed(ran):
        if block.printed is not None:
            text = text[: block.start] + printed + text[block.start + len(block.printed) :]
        elif printed:
            print(f"{page.name}:{block.line} prints what the page does not show:\n{printed}", file=sys.stderr)
    page.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="+")
    for page in parser.parse_args().pages:
        paste(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
