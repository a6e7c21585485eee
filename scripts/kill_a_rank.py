"""Kills processes of a meta-training that two share, one at a time, and proves that it ends as if nothing had happened.

The run of `kill_and_resume.py` is made twice by `torchrun --nproc-per-node 2`: once uninterrupted, and once as a chain
in which a random process is killed with SIGKILL at random moments, one in each of as many equal parts of the run.
`--max-restarts 1` lets torchrun start both processes again after every other kill; after the ones between it has none
left, must end with an error within a minute and leave no process behind, and the same command is given again. At the
end sha256 of everything that a run leaves must equal the uninterrupted run's, its times aside.
"""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from kill_and_resume import HORIZON, command, outcome, plan, train, windows_logged

import l2o
from l2o import checkpoint

PROCESSES = 2
PATIENCE = 60.0
"""Seconds within which all has ended after a kill that nobody restarts from."""


def child(directory: Path, trajectories: int, seed: int) -> None:
    """What each process does."""
    with l2o.joined() as ranks:
        checkpoint.write_bytes(mark(directory, ranks.rank), str(os.getpid()).encode())  # whole, or not there
        trained = train(trajectories, seed, directory, ranks=ranks)
        if ranks.leads:
            l2o.save(trained.optimizer, directory / "returned", trained.card)


def mark(directory: Path, rank: int) -> Path:
    return directory / f"process-{rank}"


def start(directory: Path, run: tuple[int, int]) -> subprocess.Popen:
    directory.mkdir(exist_ok=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
    options = ["--child", str(directory), "--trajectories", str(run[0]), "--seed", str(run[1])]
    return subprocess.Popen(
        [*launch, "--max-restarts", "1", __file__, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def strike(torchrun: subprocess.Popen, directory: Path, windows: int, rank: int) -> None:
    """Kills the process of that rank once so many windows are logged."""
    while torchrun.poll() is None:
        if windows_logged(directory) >= windows and mark(directory, rank).exists():
            victim = int(mark(directory, rank).read_text())
            for one in range(PROCESSES):
                mark(directory, one).unlink(missing_ok=True)  # those that come after it have others
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                return
        time.sleep(0.005)
    sys.exit(f"FAILED: torchrun ended with status {torchrun.returncode} before window {windows}")


def kill_and_resume(directory: Path, run: tuple[int, int], kills: int, windows: int, interval: int) -> None:
    """The chain of kills, then the end of the run."""
    moments, path, reached = random.Random(run[1]), directory / "checkpoint.safetensors", 0
    torchrun = start(directory, run)
    for kill in range(kills):
        moment, rank = round((kill + moments.random()) / kills * 0.9 * windows), moments.randrange(PROCESSES)
        strike(torchrun, directory, max(moment, reached + 1), rank)
        saved = checkpoint.read(path, kind="checkpoint")[1]["progress"]["windows"] if path.exists() else 0
        reached = windows_logged(directory)
        if not 0 <= reached - saved <= interval:
            sys.exit(f"FAILED: {reached - saved} windows lost, where a checkpoint is taken every {interval}")
        restarts, begin = kill % 2 == 0, time.monotonic()
        if not restarts:
            end(torchrun)
            torchrun = start(directory, run)
        print(
            f"kill {kill + 1:2} of process {rank} at window {reached:4} of {windows} ({reached / windows:4.0%}): lost: "
            f"{reached - saved:2} windows; "
            + ("torchrun starts again" if restarts else f"torchrun gave up in {time.monotonic() - begin:.0f} s; again"),
            flush=True,
        )
    if status := torchrun.wait():
        sys.exit(f"FAILED: the last resume ended with status {status}")


def end(torchrun: subprocess.Popen) -> None:
    """Waits for a torchrun without restarts to give up."""
    try:
        status = torchrun.wait(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        torchrun.kill()
        sys.exit(f"FAILED: torchrun was still there {PATIENCE:.0f} seconds after a kill without a restart")
    if status == 0:
        sys.exit("FAILED: torchrun ended with status 0, though a process was killed")


def compare(folder: Path, trajectories: int, seed: int, kills: int) -> bool:
    """Makes both runs and prints what came out. Returns whether all is as it must be."""
    whole, killed = folder / "whole", folder / "killed"
    windows, interval = trajectories * HORIZON.windows, plan(trajectories, seed).checkpoint_every
    if status := start(whole, (trajectories, seed)).wait():
        sys.exit(f"FAILED: the uninterrupted run ended with status {status}")
    print(f"uninterrupted: {trajectories} trajectories, {windows} windows, a checkpoint every {interval}", flush=True)
    kill_and_resume(killed, (trajectories, seed), kills, windows, interval)
    expected, found = outcome(whole), outcome(killed)
    for name, value in expected.items():
        print(f"sha256 of {name:16} {value[:24]} uninterrupted, {found[name][:24]} killed and resumed")
    different = [name for name in expected if expected[name] != found[name]]
    print(
        f"{'FAILED' if different else 'PASSED'}: {kills} kills of one of {PROCESSES} processes; different at the end: "
        f"{', '.join(different) or 'nothing'}"
    )
    return not different


if __name__ == "__main__":
    command("Kill processes of a shared meta-training, and compare its end.", compare, child, kills=10, least=1)
