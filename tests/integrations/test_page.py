"""The examples of docs/frameworks.md run as they stand."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "frameworks.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
PROGRAMS = {block.split(":")[0].removeprefix("# "): block for block in BLOCKS if block.startswith("# ")}


def test_the_snippets_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = [block for block in BLOCKS if not block.startswith("# ")]
    assert len(snippets) == 6
    names: dict[str, object] = {"__name__": "page"}
    for snippet in snippets:
        exec(compile(snippet, PAGE.name, "exec"), names)


@pytest.mark.parametrize("name", ["ddp.py", "fsdp.py"])
def test_a_program_runs_in_two_processes(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(PROGRAMS[name], encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", name]
    pipe = subprocess.PIPE
    started = subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        output, errors = started.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)  # its two processes would go on waiting for each other
        raise
    assert started.returncode == 0, errors
    if name == "ddp.py":
        weights = re.findall(r"process \d: (\[\[.*?\]\])", output)
        assert len(weights) == 2
        assert weights[0] == weights[1]
    else:
        assert (tmp_path / "runs" / "checkpoint" / ".metadata").is_file()
