"""The examples run as they stand, and stay short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
EXPECTED = {
    "compare_and_plot.py": "RNNprop minus Adam",
    "gan_schedule.py": "mean distance of a generated digit",
    "meta_train_on_your_task.py": "saved sine-optimizer.safetensors",
    "multi_loss_schedule.py": "share of the penalty's steps in each third",
    "pretrained_in_your_loop.py": "test accuracy",
    "write_your_own_optimizer.py": "log_rate",
}


def test_there_are_six_of_under_sixty_lines():
    assert {path.name for path in EXAMPLES} == set(EXPECTED)
    assert all(len(path.read_text().splitlines()) < 60 for path in EXAMPLES)


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
    if path.name == "gan_schedule.py":  # digits are nearer to digits than half of noise's distance
        found, noise = (float(part.split(",")[0]) for part in done.stdout.rsplit("real one", 1)[1].split("of noise"))
        assert found < 0.6 * noise
