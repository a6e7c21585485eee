"""A meta-training by several processes, as it is timed: each has one thread and one core, and a share of the tasks."""

import os
import socket
import subprocess
import sys
import weakref
from pathlib import Path

import torch

from benchmarks.tasks import FULL, QUICK, Size, perceptron
from benchmarks.timing import Call
from benchmarks.workers import LeftOutError, cores
from l2o.horizons import ConstantHorizon
from l2o.kernels import backend_name
from l2o.metatrain import metatrain
from l2o.methods.meta_loss import MetaLoss
from l2o.optimizers.dm import L2ODM
from l2o.outer_loop import Plan
from l2o.ranks import Ranks, joined

_ROOT = Path(__file__).resolve().parents[1]
_GO, _DONE = b"go\n", b"done\n"


def training(processes: int, size: Size) -> Call:
    """A short meta-training of L2O-DM on MLP-orig, its validations included, by processes that are there already.

    Raises:
        LeftOutError: there are not as many cores, or the processes do not start.
    """
    if cores() < processes:
        raise LeftOutError(f"{processes} processes need as many cores; there are {cores()}")
    crew = [_start(rank, processes, port, size) for port in (_free_port(),) for rank in range(processes)]

    def run() -> None:
        for process in crew:
            assert process.stdin is not None
            process.stdin.write(_GO)
        for process in crew:
            assert process.stdout is not None
            if process.stdout.readline() != _DONE:
                raise LeftOutError(f"one of {processes} processes ended")

    weakref.finalize(run, _end, crew)
    optimizer = L2ODM.andrychowicz()
    return Call(run, backend_name(optimizer, torch.device("cpu"), torch.float32))


def serve(size: Size) -> None:
    """What each process does: a meta-training whenever it is told to go."""
    with joined() as ranks:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, [sorted(os.sched_getaffinity(0))[ranks.rank]])
        torch.set_num_threads(1)
        while sys.stdin.buffer.readline() == _GO:
            _train(size, ranks)
            sys.stdout.buffer.write(_DONE)
            sys.stdout.buffer.flush()


def _train(size: Size, ranks: Ranks) -> None:
    trajectories, windows, tasks = size.shared
    plan = Plan(
        trajectories,
        ConstantHorizon(windows * size.steps, size.steps),
        tasks,
        validate_every=trajectories,
        validation_tasks=tasks,
        validation_last=1,
    )
    metatrain(L2ODM.andrychowicz(), perceptron(size), MetaLoss(), plan, ranks=ranks)


def _start(rank: int, processes: int, port: int, size: Size) -> subprocess.Popen:
    place = {"RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "benchmarks.processes", size.name]
    environment = {**os.environ, **place, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, bufsize=0, cwd=_ROOT, env=environment, stdin=pipe, stdout=pipe)


def _end(crew: list[subprocess.Popen]) -> None:
    for process in crew:
        process.communicate()  # the end of its input is the end of its work


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    serve({size.name: size for size in (FULL, QUICK)}[sys.argv[1]])
