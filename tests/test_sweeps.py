"""Independent runs spread over workers: the same results wherever they come from, and nothing lost that is done."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import joblib
import pytest
import torch

import l2o
from l2o import sweeps
from l2o.cli.main import main
from l2o.curves import Curves
from l2o.errors import ArgumentError, CheckpointError, UnsupportedError, WorkerError
from l2o.evaluation.compare import compare
from l2o.evaluation.kept_curves import curves_of
from l2o.evaluation.tuning import tune
from l2o.experiments.autoloss import rate
from l2o.sweeps import run_all, workers

GRID = [2.0**-power for power in range(1, 6)]
TASKS = l2o.Stream(3, ("sweep",), tasks=range(3))
LISTENING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background of a shell ignore it
from l2o.cli.main import main
sys.exit(main())
"""


def tuned(**options):
    return tune(l2o.Adam, l2o.Quadratics(4), TASKS, steps=20, grid=GRID, metric="final", **options)


def process_and_threads() -> tuple[int, int, bool]:
    return os.getpid(), torch.get_num_threads(), threading.current_thread() is threading.main_thread()


def fails() -> None:
    raise ArgumentError("no such thing")


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# ---- who computes


def test_without_workers_all_happens_here() -> None:
    found = run_all({"a": process_and_threads, "b": process_and_threads})
    assert {process for process, _, _ in found.values()} == {os.getpid()}


def test_workers_are_other_processes_with_the_threads_of_this_one() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        with workers(2):
            found = run_all({str(number): process_and_threads for number in range(4)})
    finally:
        torch.set_num_threads(threads)
    assert os.getpid() not in {process for process, _, _ in found.values()}
    assert {(threads, main) for _, threads, main in found.values()} == {(threads + 1, True)}


def test_results_come_in_the_order_of_the_calls_and_are_told_as_they_come_in() -> None:
    told: dict[str, int] = {}
    calls = {name: partial(len, name) for name in ("ccc", "a", "bb")}
    with workers(2):
        found = run_all(calls, done=told.__setitem__)
    assert list(found.items()) == [("ccc", 3), ("a", 1), ("bb", 2)]
    assert told == found


def test_a_worker_spreads_nothing_further() -> None:
    def inner() -> set[int]:
        return {process for process, _, _ in run_all({"a": process_and_threads, "b": process_and_threads}).values()}

    with workers(2):
        found = run_all({"first": inner, "second": inner})
    assert all(len(processes) == 1 for processes in found.values())


# ---- results


def test_tuning_is_the_same_with_any_number_of_workers() -> None:
    alone = tuned()
    with workers(2):
        assert tuned() == alone
    with joblib.parallel_config(backend="loky", n_jobs=2):
        assert tuned() == alone


def test_comparison_is_the_same_to_the_last_bit() -> None:
    optimizers = {"RNNprop": l2o.RNNprop.lv(), "Adam": l2o.Adam(0.1), "SGD": l2o.SGD(0.01)}
    alone = compare(optimizers, l2o.Quadratics(4), TASKS, steps=20)
    with workers(2):
        spread = compare(optimizers, l2o.Quadratics(4), TASKS, steps=20)
    assert list(spread.curves) == list(optimizers)
    for name, curves in alone.curves.items():
        assert torch.equal(curves.losses, spread.curves[name].losses)


def test_an_experiment_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rate.PRESETS, "smoke", replace(rate.PRESETS["smoke"], seeds=(1, 2)))
    for count in ("1", "2"):
        folders = ["--out", str(tmp_path / count), "--work", str(tmp_path / f"work-{count}")]
        assert main(["reproduce", "autoloss/rate", "--preset", "smoke", "--workers", count, *folders]) == 0
    files = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*.safetensors"))
    assert len(files) == 2
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()


# ---- what is done is kept


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rates of the runs that are made from now on."""
    found: list[float] = []
    real = l2o.run_curves

    def counted(optimizer: l2o.Adam, *arguments, **options) -> Curves:
        found.append(optimizer.lr)
        return real(optimizer, *arguments, **options)

    monkeypatch.setattr("l2o.evaluation.kept_curves.run_curves", counted)
    return found


def test_kept_curves_are_not_made_again(tmp_path: Path, made: list[float]) -> None:
    def stop(trial) -> None:
        if len(made) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(directory=tmp_path, progress=stop)
    assert len(list(tmp_path.glob("*.l2o"))) == 2
    resumed = tuned(directory=tmp_path)
    assert sorted(made) == sorted(resumed.scores)
    assert resumed == tuned()


@pytest.mark.parametrize(
    "other",
    [
        {"steps": 21},
        {"rng": TASKS.child("other")},
        {"rng": TASKS.over((0, 1))},
        {"family": l2o.Quadratics(5)},
        {"dtype": torch.float64},
    ],
    ids=["steps", "stream", "tasks", "family", "type"],
)
def test_curves_of_something_else_are_not_taken(other: dict, tmp_path: Path, made: list[float]) -> None:
    usual = {"family": l2o.Quadratics(4), "rng": TASKS, "steps": 20, "dtype": torch.float32}
    for settings in (usual, {**usual, **other}):
        curves_of({"Adam": l2o.Adam(0.1)}, directory=tmp_path, **settings)
    assert made == [0.1, 0.1]


def test_kept_curves_are_exact(tmp_path: Path) -> None:
    family = l2o.MLPClassifier.orig(l2o.load_dataset("digits", "train"), test=l2o.load_dataset("digits", "test"))
    first, second = (curves_of({"Adam": l2o.Adam(0.1)}, family, TASKS, steps=4, directory=tmp_path) for _ in range(2))
    assert first["Adam"].metrics
    assert torch.equal(first["Adam"].losses, second["Adam"].losses)
    for name, values in first["Adam"].metrics.items():
        assert torch.equal(values, second["Adam"].metrics[name])
    assert first["Adam"].seconds_per_step == second["Adam"].seconds_per_step


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    tuned(directory=tmp_path)
    file = next(tmp_path.glob("*.l2o"))
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=file.name):
        tuned(directory=tmp_path)


def test_an_interrupted_command_goes_on_to_the_same_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = ["--low", "0.002", "--high", "0.064", "--per-octave", "1"]
    task = ["tune", "sgd", "--task", "quadratics", "--steps", "8000", "--tasks", "4", *grid, "--workers", "2"]
    folder = tmp_path / "stopped"
    command = [sys.executable, "-c", LISTENING, *task, "--out", str(folder)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    kept: set[Path] = set()
    while len(kept) < 2 and started.poll() is None:
        time.sleep(0.05)
        kept = set((folder / "kept").glob("*.l2o"))
    started.send_signal(signal.SIGINT)
    output, errors = started.communicate(timeout=60)
    assert started.returncode == 130, output + errors
    times = {path: path.stat().st_mtime_ns for path in (folder / "kept").glob("*.l2o")}
    assert len(times) >= 2
    assert main([*task, "--out", str(folder)]) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    resumed = capsys.readouterr().out
    assert main([*task[:-2], "--out", str(tmp_path / "whole")]) == 0
    whole = capsys.readouterr().out
    assert (
        resumed.split("best learning rate")[1].split("Wrote")[0]
        == (whole.split("best learning rate")[1].split("Wrote")[0])
    )


# ---- what goes wrong


def test_an_error_says_in_which_run() -> None:
    with workers(2), pytest.raises(ArgumentError, match="no such thing") as found:
        run_all({"good": os.getpid, "bad": fails})
    assert found.value.__notes__ == ["in the run 'bad'"]


def test_a_lost_worker_is_an_error_with_a_remedy() -> None:
    with workers(2), pytest.raises(WorkerError, match="fewer workers"):
        run_all({"good": os.getpid, "bad": dies})


def test_a_worker_with_other_versions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"a": os.getpid, "b": os.getpid}
    monkeypatch.setattr(sweeps, "package_version", lambda: "0.0")
    with workers(2), pytest.raises(WorkerError, match=r"a worker has torch .* and 0\.0; .* install the same"):
        run_all(calls)


def test_what_cannot_be_sent_is_refused_with_its_name() -> None:
    lock = threading.Lock()
    with workers(2), pytest.raises(ArgumentError, match="'locked' cannot be sent"):
        run_all({"free": os.getpid, "locked": lambda: lock})


def test_threads_are_refused() -> None:
    with joblib.parallel_config(backend="threading", n_jobs=2), pytest.raises(ArgumentError, match="ThreadingBackend"):
        run_all({"a": os.getpid, "b": os.getpid})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count is 0"),
        ({"count": 2, "address": "tcp://127.0.0.1:1"}, "processes have none"),
        ({"cluster": "slurm"}, "cluster is 'slurm'"),
    ],
)
def test_bad_workers_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message), workers(**arguments):
        pass


@pytest.mark.parametrize(("extra", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_missing_extra_is_named(extra: sweeps.Cluster, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnsupportedError, match=rf"l2o\[{extra}\]"), workers(2, cluster=extra):
        pass
