"""The examples run as they stand, and stay short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
EXPECTED = {
    "compare_and_plot.py": "RNNprop minus Adam",
    "meta_train_on_your_task.py": "saved sine-optimizer.safetensors",
    "pretrained_in_your_loop.py": "test accuracy",
    "write_your_own_optimizer.py": "log_rate",
}


def test_there_are_four_of_under_forty_lines():
    assert {path.name for path in EXAMPLES} == set(EXPECTED)
    assert all(len(path.read_text().splitlines()) < 40 for path in EXAMPLES)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_an_example_runs(path, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert EXPECTED[path.name] in done.stdout
    if path.name == "pretrained_in_your_loop.py":
        assert float(done.stdout.rsplit("test accuracy", 1)[1]) > 0.9
