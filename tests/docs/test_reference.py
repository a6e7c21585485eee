"""Every public name is in the API reference, with an example that runs."""

import re
import sys
from pathlib import Path

import l2o

REFERENCE = sorted((Path(__file__).parents[2] / "docs" / "reference").glob("*.md"))
ENTRY = re.compile(r"^::: (\S+)$(.*?)(?=^::: |\Z)", flags=re.MULTILINE | re.DOTALL)
NEEDS_LIGHTNING = {"lightning_callback"}
"""Its example is a module of Lightning; tests/schedules/test_lightning.py runs it."""


def entries():
    """Each name that the reference documents, and what the page says below it."""
    return {name: below for page in REFERENCE for name, below in ENTRY.findall(page.read_text(encoding="utf-8"))}


def documented(path):
    """What an entry is about: `l2o.Adam`, or `l2o.metatrain.metatrain` where a module has the name of its function."""
    module, _, name = path.rpartition(".")
    __import__(module)
    return getattr(sys.modules[module], name)


def test_every_public_name_is_in_the_reference_once():
    there = [documented(path) for path in entries()]
    for name in l2o.__all__:
        assert sum(found is getattr(l2o, name) for found in there) == 1, f"{name}: one line `::: l2o.{name}`"


def test_every_public_name_has_an_example():
    below = {id(documented(path)): text for path, text in entries().items()}
    for name in set(l2o.__all__) - NEEDS_LIGHTNING:
        found = getattr(l2o, name)
        shown = f"{found.__doc__}{below[id(found)]}"
        assert ">>>" in shown or "```python" in shown, f"{name}: an `Example:` in its docstring"
