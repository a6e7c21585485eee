"""Kills one meta-training with SIGKILL at many random moments and proves that it ends as if nothing had happened.

A run of RNNprop on perceptrons, which have several tensors, with a teacher that drives half of the trajectories, is
made twice, each time by the same command in a process of its own (`--child`): once uninterrupted, and once as a chain
in which every kill is followed by the same command, which goes on where the last checkpoint was taken. A divergence at
any kill would propagate to the end, where sha256 of the best and last weights, of the meta-optimizer's moments, of
what `metatrain` returned, of the validations and of the event log (it holds no times) must equal the uninterrupted
run's.

The kills are spread evenly: one random moment in each of as many equal parts of the run. A quarter of them are aimed at
a checkpoint's save and a quarter at a validation. To be hit, the child says what it is at: it wraps `checkpoint.write`
and the `run_curves` of validations so that a marker file exists while they run, and delays both a little, a save also
before each of its two `os.fsync`, so that kills fall before, during and after the replacement of the old checkpoint.

After each kill the checkpoint on disk must be whole (or not there yet), and the run may have lost at most the windows
between two checkpoints. A save that is killed leaves its temporary file behind (`.checkpoint.safetensors.*`); these are
counted, and must not disturb the next start.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import l2o
from l2o import checkpoint, sources, trees
from l2o.ranks import ALONE

HORIZON = l2o.ConstantHorizon(100, 20)
AIMS = ("saving", "validating")  # what the child announces, each by a marker file of this name
LASTS = {"saving": 3, "validating": 1}  # delays within each; a kill that comes later misses it, and waits for the next
DELAY = 0.05  # seconds by which the child delays what it announces, and each fsync


def train(
    trajectories: int, seed: int, directory: Path | None, *listeners: Callable, ranks: l2o.Ranks = ALONE
) -> l2o.MetaTrained:
    family = l2o.MLPClassifier(l2o.load_dataset("digits", "train"), hidden=(3,), batch=16)
    optimizer, method = l2o.RNNprop.lv(seed=seed), l2o.Imitation(teachers={"adam": l2o.Adam(0.01)}, ratio=0.5)
    settings = plan(trajectories, seed)
    return l2o.metatrain(optimizer, family, method, settings, directory=directory, listeners=listeners, ranks=ranks)


def plan(trajectories: int, seed: int) -> l2o.Plan:
    """About 40 checkpoints, most of them within a trajectory, and 20 validations."""
    every = max(2, trajectories * HORIZON.windows // 40)
    every += every % HORIZON.windows == 0
    often = max(1, trajectories // 20)
    return l2o.Plan(
        trajectories, HORIZON, 2, validate_every=often, validation_tasks=8, checkpoint_every=every, seed=seed
    )


def trajectories_in(seconds: float, seed: int) -> int:
    """So many that a run takes `seconds` of an idle core, from the processor time of the fastest of some windows."""
    times: list[float] = []
    train(4, seed, None, lambda event: times.append(time.process_time()))
    window = min(after - before for before, after in pairwise(times[1:-1]))  # the first and last are validations
    return max(5, round(1.1 * seconds / window / HORIZON.windows))


def child(directory: Path, trajectories: int, seed: int) -> None:
    """The command that is killed and started again."""
    with (
        patch.object(checkpoint, "write", announced(checkpoint.write, directory / "saving")),
        patch.object(sources, "run_curves", announced(sources.run_curves, directory / "validating")),
        patch.object(os, "fsync", announced(os.fsync, directory / "synchronising")),
    ):
        trained = train(trajectories, seed, directory)
    l2o.save(trained.optimizer, directory / "returned", trained.card)


def announced(function: Callable[..., Any], marker: Path) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        marker.touch()
        time.sleep(DELAY)
        result = function(*args, **options)
        marker.unlink()
        return result

    return call


def start(directory: Path, trajectories: int, seed: int) -> subprocess.Popen:
    directory.mkdir(exist_ok=True)
    for aim in AIMS:
        (directory / aim).unlink(missing_ok=True)
    options = ["--child", str(directory), "--trajectories", str(trajectories), "--seed", str(seed)]
    return subprocess.Popen([sys.executable, __file__, *options])


def strike(process: subprocess.Popen, directory: Path, windows: int, aim: str, moments: random.Random) -> None:
    """Kills the process a random moment after it has logged so many windows, while it is at what is aimed at."""

    def in_sight() -> bool:
        return windows_logged(directory) >= windows and (aim == "anything" or (directory / aim).exists())

    while process.poll() is None:
        if in_sight():
            time.sleep(moments.uniform(0, LASTS.get(aim, 1) * DELAY))
            if in_sight():
                process.kill()
        time.sleep(0.005)
    if process.wait() != -signal.SIGKILL:
        sys.exit(f"FAILED: the run ended with status {process.returncode} before it was killed")


def windows_logged(directory: Path) -> int:
    """How many windows the event log tells of in whole lines."""
    log = directory / "events.jsonl"
    if not log.exists():
        return 0
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().split(b"\n")
    if len(lines) < 3:
        return 0
    last = json.loads(lines[-2])
    return last["windows"] + (last["kind"] in ("window", "skipped"))  # an event has the windows before it


def kill_and_resume(directory: Path, run: tuple[int, int], kills: int, windows: int, interval: int) -> Counter:
    """The chain of kills, then the end of the run. Returns how many kills hit what, and the most windows lost."""
    moments, path = random.Random(run[1]), directory / "checkpoint.safetensors"
    aims = [*AIMS * max(1, kills // 4), *["anything"] * kills][:kills]
    moments.shuffle(aims)
    hits, reached = Counter(), 0
    for kill, aim in enumerate(aims):
        moment = round((kill + moments.random()) / kills * 0.95 * windows)
        strike(start(directory, *run), directory, max(moment, reached + 1), aim, moments)
        reached = windows_logged(directory)
        doing = next((doing for doing in AIMS if (directory / doing).exists()), "training")
        progress = checkpoint.read(path, kind="checkpoint")[1]["progress"] if path.exists() else {}
        saved = progress.get("windows", 0)
        print(
            f"kill {kill + 1:2} at window {reached:4} of {windows} ({reached / windows:4.0%}), {doing:10}: resumes in "
            f"trajectory {progress.get('trajectory', 0):3} from window {saved:4}; lost: {reached - saved:2} windows; "
            f"temporary files: {len(list(directory.glob(f'.{path.name}.*')))}",
            flush=True,
        )
        hits.update({doing: 1})
        hits["lost"] = max(hits["lost"], reached - saved)
        if not 0 <= reached - saved <= interval:
            sys.exit(f"FAILED: {reached - saved} windows lost, where a checkpoint is taken every {interval}")
    if status := start(directory, *run).wait():
        sys.exit(f"FAILED: the last resume ended with status {status}")
    return hits


def outcome(directory: Path) -> dict[str, str]:
    """Everything that a run leaves, as sha256, but for its times."""
    tensors, metadata = checkpoint.read(directory / "checkpoint.safetensors", kind="checkpoint")
    names = {"last weights": "meta", "best weights": "best", "moments": "moments"}
    found = {name: checkpoint.digest(trees.select(tensors, kind)) for name, kind in names.items()}
    found["returned weights"] = checkpoint.digest(l2o.load(directory / "returned.safetensors").state_dict())
    progress = {name: value for name, value in metadata["progress"].items() if name != "seconds"}
    events = [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]
    texts = {"validations": progress["validations"], "progress": progress, "event log": events}
    return found | {name: hashlib.sha256(json.dumps(value).encode()).hexdigest() for name, value in texts.items()}


def compare(folder: Path, trajectories: int, seed: int, kills: int) -> bool:
    """Makes both runs and prints what came out. Returns whether all is as it must be."""
    whole, killed = folder / "whole", folder / "killed"
    windows, interval = trajectories * HORIZON.windows, plan(trajectories, seed).checkpoint_every
    if status := start(whole, trajectories, seed).wait():
        sys.exit(f"FAILED: the uninterrupted run ended with status {status}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"uninterrupted: {trajectories} trajectories, {windows} windows, a checkpoint every {interval} of them, in "
        f"{used.ru_utime + used.ru_stime:.0f} s of processor time",
        flush=True,
    )
    hits = kill_and_resume(killed, (trajectories, seed), kills, windows, interval)
    expected, found = outcome(whole), outcome(killed)
    for name, value in expected.items():
        print(f"sha256 of {name:16} {value[:24]} uninterrupted, {found[name][:24]} killed and resumed")
    different = [name for name in expected if expected[name] != found[name]]
    enough = all(hits[aim] >= min(2, max(1, kills // 4)) for aim in AIMS)
    print(
        f"{'FAILED' if different or not enough else 'PASSED'}: {kills} kills, {hits['saving']} while saving and "
        f"{hits['validating']} while validating; at most {hits['lost']} windows lost by one, where a checkpoint is "
        f"taken every {interval}; different at the end: {', '.join(different) or 'nothing'}"
    )
    return enough and not different


def command(
    description: str,
    compare: Callable[[Path, int, int, int], bool],
    child: Callable[[Path, int, int], None],
    *,
    kills: int,
    least: int,
) -> None:
    """The command line of a script that kills runs; exits 1 if what `compare` has made is not as it must be."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the run in one process, on an idle core")
    parser.add_argument("--kills", type=int, default=kills, help=f"at least {least}")
    parser.add_argument("--seed", type=int, default=0, help="of the run and of the moments")
    parser.add_argument("--trajectories", type=int, help="length of the run, instead of --seconds")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.kills < least:
        parser.error(f"--kills is {arguments.kills}; it must be at least {least}")
    trajectories = arguments.trajectories or trajectories_in(arguments.seconds, arguments.seed)
    if arguments.child:
        return child(arguments.child, trajectories, arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        return sys.exit(not compare(Path(folder), trajectories, arguments.seed, arguments.kills))


if __name__ == "__main__":
    command("Kill a meta-training, resume it, and compare its end.", compare, child, kills=20, least=3)
