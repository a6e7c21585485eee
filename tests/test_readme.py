"""The README's table of results is the one that the committed verdicts give."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_table_of_results_is_up_to_date():
    done = subprocess.run([sys.executable, ROOT / "scripts" / "update_readme.py", "--check"], check=False)
    assert done.returncode == 0, "run: python scripts/update_readme.py"


def test_every_picture_and_page_it_links_to_is_there():
    text = (ROOT / "README.md").read_text()
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
