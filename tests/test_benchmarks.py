"""The benchmarks run from end to end at tiny sizes, and judge and show what they measured."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import candidates, contests, page
from benchmarks.criteria import CRITERIA, Cheap, Efficient, Equal, Faster, Prompt, judge, useful_operations
from benchmarks.measurements import (
    CHUNKED,
    IN_TURN,
    JAX,
    JAX_CHECKPOINT,
    LQG,
    NATIVE,
    ONE_PROCESS,
    PLAIN,
    PRODUCT,
    TWO_PROCESSES,
    UNCHUNKED,
    Measurements,
    Outcome,
)
from benchmarks.memory import extra_megabytes
from benchmarks.tasks import FULL, QUICK, Workload
from benchmarks.timing import Call, Candidate, prepare, race, ratios
from benchmarks.workers import LeftOutError, Worker, cores
from l2o.evaluation.verdicts import read_verdicts

ROOT = Path(__file__).parents[1]
HAS_JAX = find_spec("jax") is not None


class Here(Worker):
    """Does at once, in this process, what it is asked."""

    def __init__(self, threads: int) -> None:
        del threads

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            raise LeftOutError(str(error)) from error

    def close(self) -> None:
        pass


def outcome(milliseconds: dict[str, list[float]], coordinates: int = 1000, steps: int = 20) -> Outcome:
    return Outcome("a contest", coordinates, steps, milliseconds, dict.fromkeys(milliseconds, 0.0), {}, {}, {})


@pytest.fixture(scope="module")
def found() -> Measurements:
    return contests.measure(QUICK, 1, 1, lambda *_: None, hire=Here)


def test_every_candidate_runs_and_gives_the_same_meta_gradient(found: Measurements) -> None:
    torch_windows = {NATIVE, CHUNKED, UNCHUNKED}
    for key, window in found.windows.items():
        missing = set() if HAS_JAX else {JAX, JAX_CHECKPOINT} & window.left_out.keys()
        assert window.left_out.keys() - missing <= {NATIVE}, window.left_out  # no kernel was built: no native
        assert torch_windows - {NATIVE} <= window.milliseconds.keys()
        assert all(len(times) == QUICK.rounds for times in window.milliseconds.values())
        assert all(error < 1e-4 for error in window.errors.values()), (key, window.errors)  # float32
    if HAS_JAX:
        assert {JAX, JAX_CHECKPOINT} <= found.windows["1 quadratic"].errors.keys()
    assert found.megabytes["L2O-DM"].keys() >= {CHUNKED, UNCHUNKED}


def test_all_files_are_made_from_the_timings_alone(found: Measurements, tmp_path: Path) -> None:
    found.save(tmp_path / "timings.json")
    again = Measurements.load_from(tmp_path / "timings.json")
    verdicts = judge(again)
    paths = page.write(again, verdicts, tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "docs/performance.md",
        "docs/performance-ratios.png",
        "docs/performance-scaling.png",
        "results/bench/verdict.json",
        "results/bench/README.md",
    ]
    before = [path.read_bytes() for path in paths]
    page.write(Measurements.load_from(tmp_path / "timings.json"), verdicts, tmp_path)
    assert [path.read_bytes() for path in paths] == before
    assert [verdict.claim for verdict in read_verdicts(paths[3]).verdicts] == [each.claim for each in CRITERIA]
    text = paths[0].read_text()
    assert all(verdict.claim in text for verdict in verdicts)
    assert "its numbers mean nothing" in text


def test_a_machine_without_a_kernel_gets_tables_that_say_so(found: Measurements, tmp_path: Path) -> None:
    def without(outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
        return {
            key: replace(
                one,
                milliseconds={name: times for name, times in one.milliseconds.items() if not name.startswith(NATIVE)},
                left_out={**one.left_out, NATIVE: "no kernel here"},
            )
            for key, one in outcomes.items()
        }

    parts = ("windows", "steps", "by_coordinates", "by_length", "by_threads")
    bare = replace(found, megabytes={}, notes=[], **{part: without(getattr(found, part)) for part in parts})
    verdicts = judge(bare)
    text = page.write(bare, verdicts, tmp_path)[0].read_text()
    assert "not measured: no kernel here" in text
    engine = [
        verdict
        for verdict, each in zip(verdicts, CRITERIA, strict=True)
        if not isinstance(each, Equal | Cheap | Prompt)
    ]
    assert [verdict.passed for verdict in engine] == [False] * (len(CRITERIA) - 5)


def test_a_ratio_is_taken_within_each_round() -> None:
    # The third round met a busy machine: it doubles both times and leaves their ratio.
    assert ratios([30.0, 33.0, 60.0], [10.0, 10.0, 20.0]).middle == 3.0


def test_candidates_take_turns_and_one_that_fails_is_left_out_with_its_reason() -> None:
    done: list[str] = []

    def make(name: str) -> Call:
        if name == "broken":
            raise LeftOutError("no such library")
        return Call(lambda: done.append(name), "here")

    entrants = [Candidate(name, "torch", 1, make, (name,)) for name in ("a", "broken", "b")]
    here = Here(1)
    result = race(entrants, lambda _: here, rounds=2, turn=0.0, tell=lambda _: None)
    assert result.left_out == {"broken": "no such library"}
    assert {name: len(times) for name, times in result.milliseconds.items()} == {"a": 2, "b": 2}
    # Two calls each in preparation; then rounds of an untimed and a timed call, the second round in reverse.
    assert done == ["a", "a", "b", "b", *"aabb", *"bbaa"]


def test_a_worker_does_what_it_is_asked_in_another_process_and_survives_an_error() -> None:
    worker = Worker(1)
    try:
        assert worker.ask(os.getpid) != os.getpid()
        with pytest.raises(LeftOutError, match="ValueError"):
            worker.ask(math.sqrt, -1.0)
        assert worker.ask(os.getenv, "OMP_NUM_THREADS") == "1"
        with pytest.raises(LeftOutError, match="exit code 3"):
            worker.ask(os._exit, 3)
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("native", "passed", "remark"),
    [
        ([100.0, 100.0, 100.0], True, "100 ms against 300 ms of eager, unchunked"),
        ([110.0, 110.0, 110.0], False, "missed by 0.273 (9%), outside the spread"),
        ([90.0, 103.0, 120.0], False, "inside the spread"),
        ([90.0, 99.0, 120.0], True, "the threshold lies inside the spread"),
    ],
)
def test_a_criterion_looks_at_the_faster_rival_and_says_how_far_a_miss_is(
    found: Measurements, native: list[float], passed: bool, remark: str
) -> None:
    window = outcome({NATIVE: native, CHUNKED: [330.0] * 3, UNCHUNKED: [300.0] * 3})
    criterion = Faster("windows", "MLP-orig", "eager", (CHUNKED, UNCHUNKED), 3.0)
    verdict = criterion.judge(replace(found, windows={"MLP-orig": window}))
    assert verdict.passed == passed
    assert remark in verdict.note


def test_what_was_not_measured_fails_with_the_reason(found: Measurements) -> None:
    window = replace(outcome({UNCHUNKED: [1.0, 1.0]}), left_out={NATIVE: "no compiler"})
    verdict = CRITERIA[0].judge(replace(found, windows={"MLP-orig": window}))
    assert (verdict.passed, verdict.measured, verdict.note) == (False, "not measured", "native: no compiler")


def test_what_schedules_cost_is_judged_round_by_round_and_absent_from_older_runs(found: Measurements) -> None:
    assert all(len(times) == QUICK.rounds for one in found.schedules.values() for times in one.milliseconds.values())
    criterion = Cheap("GAN step", "a claim", IN_TURN, PLAIN, 1.05)
    slow = outcome({IN_TURN: [1.1, 2.2, 1.1], PLAIN: [1.0, 2.0, 1.0]})
    assert not criterion.judge(replace(found, schedules={"GAN step": slow})).passed
    quick = outcome({IN_TURN: [1.04, 2.08, 1.04], PLAIN: [1.0, 2.0, 1.0]})
    assert criterion.judge(replace(found, schedules={"GAN step": quick})).passed
    assert criterion.judge(replace(found, schedules={})).note == "not part of this run"


def test_processes_that_share_a_training_are_timed_where_there_are_cores(found: Measurements) -> None:
    contest, criterion = found.methods["processes"], next(each for each in CRITERIA if "share" in each.claim)
    expected = {ONE_PROCESS, TWO_PROCESSES} if cores() > 1 else {ONE_PROCESS}
    assert {name: len(times) for name, times in contest.milliseconds.items()} == dict.fromkeys(expected, QUICK.rounds)
    for milliseconds, passed in ((5.9, True), (6.1, False)):
        both = outcome({ONE_PROCESS: [10.0, 20.0], TWO_PROCESSES: [milliseconds, 2 * milliseconds]})
        assert criterion.judge(replace(found, methods={"processes": both})).passed == passed
    assert criterion.judge(replace(found, methods={})).note == "not part of this run"


def test_what_a_control_step_costs_is_judged_in_seconds_and_absent_from_older_runs(found: Measurements) -> None:
    assert len(found.methods["LQG"].milliseconds[LQG]) == QUICK.rounds
    assert FULL.lqg == (77, 400)  # as the claim says
    criterion = Prompt("LQG", "both passes", LQG, 3.0)
    verdict = criterion.judge(replace(found, methods={"LQG": outcome({LQG: [2800.0, 2900.0, 9000.0]})}))
    assert (verdict.passed, verdict.measured) == (True, 2.9)
    assert not criterion.judge(replace(found, methods={"LQG": outcome({LQG: [3100.0]})})).passed
    assert criterion.judge(replace(found, methods={})).note == "not part of this run"


def test_useful_arithmetic_is_counted_against_the_product_of_the_same_round(found: Measurements) -> None:
    assert useful_operations() == 29_560
    # 1,000 coordinates, 20 steps in 10 ms are 59.12 GFLOP/s; 2 * 1000^3 operations in 20 ms are 100 GFLOP/s.
    window = outcome({NATIVE: [10.0, 10.0], PRODUCT: [20.0, 20.0]})
    verdict = Efficient(0.45).judge(replace(found, windows={"MLP-orig": window}, matrix=1000))
    assert verdict.measured == pytest.approx(0.5912)
    assert verdict.passed


def test_the_workloads_have_the_sizes_of_the_papers() -> None:
    assert Workload("MLP-orig").coordinates(FULL) == 15_910
    assert Workload("quadratics", FULL.quadratics).coordinates(FULL) == 1_280
    assert Workload("convolutional net").coordinates(FULL) == 9_098


def test_memory_is_what_a_call_adds_at_its_peak() -> None:
    def make(megabytes: int) -> Call:
        return Call(lambda: (torch.ones(megabytes, 250_000), None)[1], "torch")  # 1 MB a row

    added = extra_megabytes(make, (300,), (1,))
    assert 290 < added < 330  # pages of other tests that were freed can be used again, or touched anew


@pytest.mark.slow
@pytest.mark.skipif(not HAS_JAX, reason="jax is not installed")
@pytest.mark.parametrize("family", ["MLP-orig", "quadratics", "convolutional net"])
def test_the_window_in_jax_computes_the_same(family: str) -> None:
    workload = Workload(family, tasks=3 if family == "quadratics" else 1)
    truth = prepare("truth", candidates.autograd_window, ("L2O-DM", workload, QUICK, QUICK.steps)).gradient
    for checkpoint in (False, True):
        found = prepare("jax", candidates.jax_window, (checkpoint, workload, QUICK, QUICK.steps)).gradient
        for name, leaf in truth.items():  # float32: 1.6e-6 of the whole gradient's norm was seen
            assert abs(found[name] - leaf).max() < 1e-4 * max(abs(part).max() for part in truth.values())


@pytest.mark.slow
def test_a_quick_run_from_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--threads", "1", "--into", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    timings = tmp_path / "results" / "bench" / "timings.json"
    assert json.loads(timings.read_text())["preset"] == "smoke"
    (tmp_path / "docs" / "performance.md").unlink()
    subprocess.run([*command, "--render"], cwd=ROOT, capture_output=True, check=True)
    assert (tmp_path / "docs" / "performance.md").exists()
