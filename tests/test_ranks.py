"""Several processes that share the tasks of a meta-training: they end as one does, and they end together."""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import shared_runs
import torch
from shared_runs import CASES, COMMAND, KILLED, METHODS, PLAN, RUNS, run

import l2o
from l2o import checkpoint
from l2o.cli.main import main
from l2o.errors import ArgumentError, CheckpointError, RankError
from l2o.methods.guided_policy.search import GuidedPolicySearch
from l2o.ranks import Ranks, agreed_name

TESTS = Path(__file__).parent


def start(folder: Path, cases: list[str], *, processes: int) -> list[dict[str, dict]]:
    """Runs the cases in so many processes; what each of them found, by case."""
    sockets = [socket.socket() for _ in cases]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [f"{name}={one.getsockname()[1]}" for name, one in zip(cases, sockets, strict=True)]
    for one in sockets:
        one.close()
    command = [sys.executable, str(TESTS / "shared_runs.py"), str(folder), *ports]
    common = {**os.environ, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    children = [subprocess.Popen(command, env={**common, "RANK": str(rank)}) for rank in range(processes)]
    try:
        assert [child.wait(timeout=600) for child in children] == [0] * processes
    finally:
        for child in children:
            child.kill()
    return [{name: torch.load(folder / f"{name}-{rank}.pt") for name in cases} for rank in range(processes)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    for name, event in KILLED.items():
        directory = folder / f"of one process, {name}"
        with pytest.raises(shared_runs.StoppedError):
            run(directory=directory, stop_at=event, **RUNS[name])
        shutil.copy(directory / "checkpoint.safetensors", folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, dict]]:
    order = ["runs", "again", *(name for name in CASES if name.startswith("killed")), "resumed"]
    others = [name for name in CASES if name not in [*order, "few"]]
    return start(folder, [*order, *others, "command"], processes=2)


@pytest.fixture(scope="module")
def alone() -> dict[str, dict]:
    return {name: run(**options) for name, options in RUNS.items()}


def numbers(event: dict) -> dict[str, float]:
    return {name: value for name, value in event.items() if isinstance(value, float)}


def assert_as_one(shared: dict, alone: dict) -> None:
    """The same but for rounding, and the same decisions."""
    torch.testing.assert_close(shared["weights"], alone["weights"], rtol=1e-7, atol=1e-9)
    for name in ("skipped", "finished"):
        assert shared[name] == alone[name]
    assert len(shared["events"]) == len(alone["events"])
    for mine, theirs in zip(shared["events"], alone["events"], strict=True):
        assert {k: v for k, v in mine.items() if k not in numbers(mine)} == {
            k: v for k, v in theirs.items() if k not in numbers(theirs)
        }
        assert numbers(mine) == pytest.approx(numbers(theirs), rel=1e-7, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_of_uneven_shares_end_as_one_does(name, two, alone):
    leader, other = (found["runs"][name] for found in two)
    assert_as_one(leader, alone[name])
    torch.testing.assert_close(other["weights"], leader["weights"], rtol=0, atol=0)
    assert other["validations"] == leader["validations"]
    assert other["events"] == []  # only the first tells of them


def test_the_runs_meet_what_they_are_meant_to(alone):
    for name in METHODS:
        assert any(numbers(event).get("meta_gradient_norm", 0) > 0 for event in alone[name]["events"])
    diverged = {name: max(event.get("diverged", 0) for event in alone[name]["events"]) for name in RUNS}
    assert diverged["deaths, meta-loss"] == diverged["deaths, pes"] == pytest.approx(3 / 5)
    assert (diverged["one share dies"], diverged["everyone dies"]) == (pytest.approx(2 / 5), 1)
    skipped = {name: alone[name]["skipped"] for name in RUNS}
    assert (skipped["no finite gradient in one share"], skipped["no finite value in one share"]) == (2, 2)
    assert len(alone["everyone dies"]["events"]) == len(alone["meta-loss"]["events"]) - 1
    stages = {validation["stage"] for validation in alone["curriculum"]["validations"]}
    assert stages == {0, 1}


@pytest.mark.parametrize("name", METHODS)
def test_a_repeat_has_the_same_bits(name, two):
    first, second = two[0]["runs"][name], two[0]["again"][name]
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    assert first["events"] == second["events"]


@pytest.mark.parametrize("name", KILLED)
def test_processes_that_were_stopped_in_a_trajectory_resume_to_the_same_bits(name, two):
    first, second = (found[f"killed {name}"] for found in two)
    assert (first["error"], second["error"]) == ("StoppedError", "RankError")
    for rank, found in enumerate(two):
        resumed, whole = found["resumed"][name], found["runs"][name]
        torch.testing.assert_close(resumed["weights"], whole["weights"], rtol=0, atol=0)
        assert resumed["validations"] == whole["validations"], rank


@pytest.mark.parametrize("name", KILLED)
def test_a_checkpoint_of_two_processes_holds_what_that_of_one_holds(name, folder, two):
    (mine, about_mine), (theirs, about_theirs) = (
        checkpoint.read(path, kind="checkpoint")
        for path in (folder / f"left {name}" / "checkpoint.safetensors", folder / f"{name}.safetensors")
    )
    assert any(leaf.startswith("process/") for leaf in theirs)  # a trajectory was under way
    assert name != "imitation" or any(leaf.startswith("teacher/") for leaf in theirs)
    torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)
    for about, processes in ((about_mine, 2), (about_theirs, 1)):
        assert about["environment"].pop("processes") == processes
    kept = {"identity", "environment", "states"}
    assert {key: about_mine[key] for key in kept} == {key: about_theirs[key] for key in kept}


def test_perturbed_copies_are_told_of_by_their_losses_alone(two):
    for rank in (0, 1):
        sent = two[rank]["exchanged"]
        for name in ("es", "es of ranks", "pes"):
            assert sent[name, 4] == sent[name, 32]  # however many meta-parameters there are
            assert 0 < max(sent[name, 32]) < 1000
        few, many = (sum(leaf.numel() for leaf in l2o.SmallFC(hidden=hidden).parameters()) for hidden in (4, 32))
        for name in ("meta-loss", "unrolled", "imitation", "self-improving"):
            assert {b - a for a, b in zip(sent[name, 4], sent[name, 32], strict=True)} == {8 * (many - few)}


def test_a_signal_to_any_process_ends_all_of_them_cleanly(two, alone):
    for found in two:
        assert not found["signalled"]["finished"]
        assert found["after_the_signal"]["finished"]
        torch.testing.assert_close(
            found["after_the_signal"]["weights"], found["runs"]["meta-loss"]["weights"], rtol=0, atol=0
        )


def test_an_error_in_one_process_ends_all_at_once_and_is_told(two):
    leader, other = (found["broken"] for found in two)
    assert other["error"] == "ZeroDivisionError"
    assert leader["error"] == "RankError"
    assert leader["words"] == "process 1 of 2 failed: ZeroDivisionError: nobody expects this"
    assert leader["seconds"] < 60  # of a timeout of 120


def test_a_process_that_does_not_answer_is_given_up(two):
    leader, other = (found["silent"] for found in two)
    assert (leader["error"], other["error"]) == ("RankError", "RankError")
    assert leader["words"].startswith("process 0 of 2 has lost another one, which was killed or did not answer in time")


def test_processes_that_were_started_differently_are_refused(two):
    leader, other = (found["different"] for found in two)
    assert other["error"] == "ArgumentError"
    assert "'seed': 0" in other["words"]
    assert "'seed': 1" in other["words"]
    assert "in process 1); start all with the same command" in other["words"]
    assert leader["words"] == f"process 1 of 2 failed: ArgumentError: {other['words']}"


def test_another_number_of_processes_is_refused(folder, two, tmp_path):
    for rank in (0, 1):
        assert two[rank]["found"]["error"] == "CheckpointError"
        assert "of another environment (processes: 1 there, 2 here)" in two[rank]["found"]["words"]
    assert "torchrun --nproc-per-node" in two[0]["found"]["words"]
    shutil.copytree(folder / "left pes", tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"processes: 2 there, 1 here"):
        run(directory=tmp_path / "run", **RUNS["pes"])


@pytest.mark.parametrize("name", KILLED)
def test_another_number_of_processes_that_is_accepted_changes_rounding_alone(name, folder, two, alone, tmp_path):
    shutil.copytree(folder / f"left {name}", tmp_path / "run")
    from_two = run(directory=tmp_path / "run", accept=True, **RUNS[name])
    for found, changed in ((two[0]["accepted"][name], "1 there, 2 here"), (from_two, "2 there, 1 here")):
        told, *others = found["events"]
        assert (told["kind"], told["changed"]) == ("environment", f"processes: {changed}")
        assert all(event["kind"] != "environment" for event in others)
        torch.testing.assert_close(found["weights"], alone[name]["weights"], rtol=1e-7, atol=1e-9)
    logged = [json.loads(line)["kind"] for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert logged.count("environment") == 1
    assert [kind for kind in logged if kind != "environment"] == [event["kind"] for event in alone[name]["events"]]


def test_three_processes_end_as_one_does(tmp_path, alone):
    for found in start(tmp_path, ["few"], processes=3):  # of 2, 2 and 1 tasks
        for name, trained in found["few"].items():
            torch.testing.assert_close(trained["weights"], alone[name]["weights"], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("tasks", [3, 7, 12])
def test_shares_are_neighbours_even_and_in_order(tasks):
    shares = [Ranks(rank, 3).share(tasks) for rank in range(3)]
    assert [task for share in shares for task in share] == list(range(tasks))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_alone_gives_back_what_it_has():
    tree, ranks = {"x": torch.arange(6).view(3, 2)}, Ranks()
    by_task, stacked = ranks.gather(tree, {"y": torch.tensor(2.0)}, tasks=3)
    assert by_task["x"] is tree["x"]
    assert ranks.mean(stacked, tasks=3) == {"y": torch.tensor(2.0)}
    assert ranks.own(tree, tasks=3)["x"] is tree["x"]
    assert ranks.any(True, False) == (True, False)
    assert ranks.first(lambda: b"bytes") == b"bytes"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"tasks": 2},
            "there are 2 tasks for 3 processes, and each needs one; take at least 3 tasks, or start at",
        ),
        ({"validation_tasks": 1}, "there are 1 tasks for 3 processes"),
        ({"method": l2o.ES(pairs=1), "tasks": 1}, "there are 1 tasks for 3 processes"),
    ],
)
def test_fewer_tasks_than_processes_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        run(Ranks(0, 3), **options)


class Own(l2o.MetaLoss):
    shares = False


def test_a_method_that_does_not_share_is_refused():
    horizon = l2o.ConstantHorizon(6, 6)
    for method in (Own(), l2o.Imitation(Own(), teachers=shared_runs.TEACHERS), GuidedPolicySearch()):
        with pytest.raises(ArgumentError, match=r"cannot share its tasks among 2 processes; start it in one, without"):
            run(Ranks(0, 2), method=method, horizon=horizon)


@pytest.mark.parametrize("method", [l2o.PolicyGradient(), l2o.PPO()])
def test_schedules_are_trained_by_one_process(method):
    family = l2o.QuadraticRegression()
    settings = l2o.Settings({"model": l2o.Adam(0.01)})
    controller = l2o.Controller(l2o.MeasureFeatures(["progress"]), 2, critic=[4])
    with pytest.raises(ArgumentError, match="cannot share its tasks among 2 processes"):
        l2o.train_schedule(controller, family, settings, method, PLAN, ranks=Ranks(0, 2))


@pytest.mark.parametrize("timeout", [0.0, -1.0, math.inf, math.nan])
def test_a_timeout_without_meaning_is_refused(timeout):
    with pytest.raises(ArgumentError, match="timeout is"), l2o.joined(timeout=timeout):
        pass


def test_processes_that_do_not_meet_say_so(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(RankError, match="the 2 processes of a run did not meet; start them with"),
        l2o.joined(),
    ):
        pass


def test_processes_of_today_agree_on_a_name_though_the_board_is_full_of_dead_ones():
    board, used = torch.distributed.HashStore(), set()
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):  # in which they come, each time anew
        with ThreadPoolExecutor(3) as threads:
            coming = []
            for rank in order:
                coming.append(threads.submit(agreed_name, board, rank, 3, timeout=60.0))
                time.sleep(0.1)
            (name,) = {each.result() for each in coming}
        assert name not in used
        used.add(name)
    with pytest.raises(TimeoutError, match="waited 0 seconds for the others"):
        agreed_name(board, 1, 3, timeout=0.1)


def test_a_command_that_does_not_share_its_work_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["list"]) == 1
    assert "only l2o train shares its work among several" in " ".join(capsys.readouterr().err.split())


def test_torchrun_starts_a_run_again_that_lost_a_process_and_it_ends_with_the_same_bits(folder, two, tmp_path):
    assert [found["command"] for found in two] == [{"status": 0}] * 2
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "--max-restarts", "1", "-m", "l2o", *COMMAND, "--out", str(tmp_path / "run")],
        env={
            **os.environ,
            "KILLED": str(tmp_path / "killed"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "killed").exists()
    assert "exitcode: -9" in done.stderr
    assert done.stdout.count("Wrote") == 1  # by the first process alone
    (killed, about_killed), (whole, about_whole) = (
        checkpoint.read(path / "checkpoint.safetensors", kind="checkpoint")
        for path in (tmp_path / "run", folder / "command")
    )
    torch.testing.assert_close(killed, whole, rtol=0, atol=0)
    for about in (about_killed, about_whole):
        assert about["progress"].pop("seconds") > 0
    assert about_killed == about_whole
    logs = [(path / "events.jsonl").read_text() for path in (tmp_path / "run", folder / "command")]
    assert logs[0] == logs[1]
