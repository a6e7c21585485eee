"""What the processes of tests/test_ranks.py do: a module of its own, which each of them runs.

    python tests/shared_runs.py FOLDER CASE=PORT ...      with RANK and WORLD_SIZE in the environment

A case is a function of its ranks and of a folder that all share; what it returns is kept as FOLDER/CASE-RANK.pt.
"""

import dataclasses
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import l2o
from l2o.cli.main import main
from l2o.ranks import ALONE, Ranks

Found = dict[str, Any]

PLAN = l2o.Plan(
    trajectories=3,
    horizon=l2o.ConstantHorizon(6, 3),
    tasks=5,
    meta_optimizer=l2o.MetaAdam(0.01),
    validate_every=2,
    validation_tasks=3,
    validation_last=2,
    checkpoint_every=1,
    seed=7,
    dtype="float64",
)


class StoppedError(Exception):
    pass


class Mortal(l2o.Quadratics):
    """Quadratics of which some die in the second trajectory of a training, each at its step."""

    def __init__(self, deaths: dict[int, int]) -> None:
        super().__init__(3)
        self.name, self.deaths = f"mortal-{deaths}", deaths

    def batch_indices(self, instance, rng):
        meant = rng.trajectory == 1 and "train" in rng.names
        return {"dead": torch.tensor([meant and rng.step >= self.deaths.get(task, 99) for task in rng.tasks])}

    def value_and_grad(self, params, instance, batch):
        losses, grads = super().value_and_grad(params, instance, {})
        return self.touched(losses, batch["dead"]), grads

    def losses(self, params, instance, batch):
        return self.touched(super().losses(params, instance, {}), batch["dead"])

    def touched(self, losses, dead):
        return torch.where(dead, torch.nan, losses)


class Sinking(Mortal):
    """Losses that fall below zero where those of the other fail to be finite."""

    def touched(self, losses, dead):
        return losses - 1e6 * dead


class Acting(l2o.Quadratics):
    """Quadratics at which one process, of several, does something in the second trajectory."""

    def __init__(self, act: Callable[[], None], *, rank: int = 1) -> None:
        super().__init__(3)
        self.act, self.rank = act, rank

    def batch_indices(self, instance, rng):
        if rng.trajectory == 1 and rng.step == 1 and "train" in rng.names and os.environ.get("RANK") == str(self.rank):
            self.act()
        return {}


class Fatal(l2o.Quadratics):
    """Quadratics that kill the second process in the third trajectory, once, if KILLED names a file that remembers."""

    def __init__(self) -> None:
        super().__init__(3)

    def batch_indices(self, instance, rng):
        mark = Path(os.environ.get("KILLED", "."))
        if os.environ["RANK"] == "1" and rng.trajectory == 2 and rng.step == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {}


COMMAND = ["train", "--task", "shared_runs:Fatal", "--optimizer", "dm-quadratics", "--trajectories", "4",
           "--tasks", "3", "--horizon", "6", "--window", "3", "--validation-tasks", "2", "--validation-last", "2",
           "--validate-every", "2", "--checkpoint-every", "1"]  # fmt: skip


def run(ranks: Ranks = ALONE, directory: Path | None = None, *, stop_at: int | None = None, **options: Any) -> Found:
    """One meta-training, and everything that came of it; a listener stops it at the event of that number."""
    events = []

    def listen(event):
        events.append(event)
        if len(events) == stop_at:
            raise StoppedError

    who = {"make": l2o.L2ODM.for_quadratics, "family": l2o.Quadratics(3), "method": l2o.MetaLoss(), "accept": False}
    who |= {name: options.pop(name) for name in who.keys() & options.keys()}
    trained = l2o.metatrain(
        who["make"](),
        who["family"],
        who["method"],
        dataclasses.replace(PLAN, **options),
        directory=directory,
        listeners=[listen],
        accept_changed_environment=who["accept"],
        ranks=ranks,
    )
    return {
        "weights": {name: leaf.clone() for name, leaf in trained.optimizer.state_dict().items()},
        "validations": [dataclasses.asdict(validation) for validation in trained.validations],
        "skipped": trained.skipped,
        "finished": trained.finished,
        "events": events,
    }


TEACHERS = {"adam": l2o.Adam(0.05)}
METHODS = {
    "meta-loss": l2o.MetaLoss(),
    "unrolled": l2o.Unrolled(),
    "imitation": l2o.Imitation(teachers=TEACHERS, ratio=0.6, corrections=0.7),
    "self-improving": l2o.SelfImproving(fade=4),
    "es": l2o.ES(sigma=0.05, pairs=2),
    "es of ranks": l2o.ES(sigma=0.05, pairs=3, shaping="ranks"),
    "pes": l2o.PES(sigma=0.05, pairs=2),
}
DYING = {0: 4, 3: 1, 4: 2}
RUNS: dict[str, dict[str, Any]] = {
    **{name: {"method": method} for name, method in METHODS.items()},
    "hierarchical": {"make": l2o.L2OScale},
    "curriculum": {"horizon": l2o.Curriculum((3, 6), window=3, periods=1, longest_stage=2), "validate_every": 1},
    "random lengths, a mixture": {
        "family": l2o.Mixture("both", [l2o.Quadratics(2), l2o.Quadratics(3)]),
        "horizon": l2o.RandomHorizon(1, 1.0, 2, 2.0, validation_steps=4),
    },
    "clipped": {"meta_optimizer": l2o.MetaAdam(0.01, clip=1.0)},
    "deaths, meta-loss": {"family": Mortal(DYING)},
    "deaths, imitation": {"family": Mortal(DYING), "method": METHODS["imitation"]},
    "deaths, es": {"family": Mortal(DYING), "method": METHODS["es"]},
    "deaths, pes": {"family": Mortal(DYING), "method": METHODS["pes"]},
    "no finite gradient in one share": {"family": Mortal({3: 1}), "method": METHODS["unrolled"]},
    "no finite value in one share": {"family": Sinking({3: 1}), "method": l2o.MetaLoss(objective="log")},
    "one share dies": {"family": Mortal({3: 0, 4: 1})},
    "everyone dies": {"family": Mortal(dict.fromkeys(range(5), 1))},
}
"""Runs that several processes must end as one does."""

KILLED = {"meta-loss": 3, "imitation": 3, "pes": 3, "hierarchical": 3}
"""Runs that are killed in the middle of a trajectory, at the event of this number, and go on."""


def runs(ranks: Ranks, folder: Path) -> Found:
    return {name: run(ranks, **options) for name, options in RUNS.items()}


def again(ranks: Ranks, folder: Path) -> Found:
    return {name: run(ranks, **RUNS[name]) for name in METHODS}


def few(ranks: Ranks, folder: Path) -> Found:
    return {name: run(ranks, **RUNS[name]) for name in ("meta-loss", "pes", "deaths, es", "one share dies")}


def killed(ranks: Ranks, folder: Path, *, name: str) -> Found:
    return run(ranks, folder / name, stop_at=KILLED[name], **RUNS[name])


def resumed(ranks: Ranks, folder: Path) -> Found:
    if ranks.leads:
        for name in KILLED:
            shutil.copytree(folder / name, folder / f"left {name}")  # for the parent
    return {name: run(ranks, folder / name, **RUNS[name]) for name in KILLED}


def exchanged(ranks: Ranks, folder: Path) -> Found:
    """Bytes that this process hands to the others in each of a training's windows, by method and meta-parameters."""
    gather, sent = torch.distributed.all_gather, []

    def counted(tensors, tensor):
        sent.append(tensor.nbytes)
        return gather(tensors, tensor)

    found = {}
    for name, method in METHODS.items():
        for hidden in (4, 32):
            sent.clear()
            with patch.object(torch.distributed, "all_gather", counted):
                run(ranks, make=partial(l2o.SmallFC, hidden=hidden), method=method, trajectories=1, checkpoint_every=9)
            found[name, hidden] = sent[1:3]  # after the first validation
    return found


def signalled(ranks: Ranks, folder: Path) -> Found:
    stop = partial(os.kill, os.getpid(), signal.SIGTERM)
    return run(ranks, folder / "signalled", family=Acting(stop))


def after_the_signal(ranks: Ranks, folder: Path) -> Found:
    return run(ranks, folder / "signalled", family=Acting(lambda: None))


def broken(ranks: Ranks, folder: Path) -> Found:
    def fail():
        raise ZeroDivisionError("nobody expects this")

    return run(ranks, family=Acting(fail))


def silent(ranks: Ranks, folder: Path) -> Found:
    def wait_for_the_other():
        for _ in range(600):
            if (folder / "silent-0.pt").exists():
                return
            time.sleep(0.1)

    return run(ranks, family=Acting(wait_for_the_other))


def different(ranks: Ranks, folder: Path) -> Found:
    return run(ranks, seed=ranks.rank)


def found(ranks: Ranks, folder: Path) -> Found:
    """Finds a checkpoint that the parent has left."""
    return run(ranks, folder / "of one process, pes", **RUNS["pes"])


def accepted(ranks: Ranks, folder: Path) -> Found:
    return {name: run(ranks, folder / f"of one process, {name}", accept=True, **RUNS[name]) for name in KILLED}


_CASES = (runs, again, few, resumed, exchanged, signalled, after_the_signal, broken, silent, different, found, accepted)
CASES: dict[str, Callable[[Ranks, Path], Found]] = {
    **{function.__name__: function for function in _CASES},
    **{f"killed {name}": partial(killed, name=name) for name in KILLED},
}


def command(folder: Path) -> Found:
    """The whole of what torchrun starts."""
    return {"status": main([*COMMAND, "--out", str(folder / "command")])}


TIMEOUTS = {"silent": 5.0}


def attempt(name: str, folder: Path) -> Found:
    """What came of a case, among processes that meet for it anew: after an error they have parted."""
    begin = time.monotonic()
    if name == "command":
        return command(folder)
    try:
        with l2o.joined(timeout=TIMEOUTS.get(name, 120.0)) as ranks:
            return CASES[name](ranks, folder)
    except Exception as error:
        return {"error": type(error).__name__, "words": str(error), "seconds": time.monotonic() - begin}


def run_cases(folder: Path, ports: dict[str, str]) -> None:
    torch.set_num_threads(1)
    for name, port in ports.items():
        os.environ["MASTER_PORT"] = port
        torch.save(attempt(name, folder), folder / f"{name}-{os.environ['RANK']}.pt")


if __name__ == "__main__":
    run_cases(Path(sys.argv[1]), dict(argument.split("=") for argument in sys.argv[2:]))
