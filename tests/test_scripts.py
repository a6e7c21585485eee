"""Quick versions of the evidence: the scripts that kill runs and damage files, with few kills and cases."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


def run(script: str, *options: str) -> list[str]:
    command = [sys.executable, str(SCRIPTS / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "default"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_hundred_damaged_files_are_refused_or_harmless():
    *_, summary = run("corrupt_files.py", "--cases", "100")
    assert summary.startswith("PASSED: 100 damaged files: ")
    assert summary.endswith(" 0 failures")


@pytest.mark.slow
def test_a_run_killed_three_times_ends_with_the_same_bits():
    lines = run("kill_and_resume.py", "--trajectories", "6", "--kills", "3")
    assert sum(line.startswith("kill ") for line in lines) == 3
    assert lines[-1].startswith("PASSED: 3 kills, ")
    assert lines[-1].endswith("different at the end: nothing")


@pytest.mark.slow
def test_a_shared_run_that_loses_three_processes_ends_with_the_same_bits():
    lines = run("kill_a_rank.py", "--trajectories", "6", "--kills", "3")
    assert sum("torchrun starts again" in line for line in lines) == 2
    assert sum("torchrun gave up" in line for line in lines) == 1
    assert lines[-1] == "PASSED: 3 kills of one of 2 processes; different at the end: nothing"


@pytest.mark.slow
def test_the_score_network_for_digits_is_trained_again(tmp_path):
    (line,) = run("train_score_networks.py", "digits", "--folder", str(tmp_path))
    assert line.startswith("score network digits, test accuracy 0.98")
    assert {path.name for path in tmp_path.iterdir()} == {"digits.safetensors", "digits.toml"}
