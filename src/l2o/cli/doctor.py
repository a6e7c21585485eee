"""`l2o doctor`: is everything in order on this machine?"""

import os
import time
from dataclasses import dataclass
from importlib import metadata

import torch
from rich.console import Console
from rich.table import Table

from l2o.events import Event
from l2o.horizons import ConstantHorizon
from l2o.kernels.select import VARIABLE, available
from l2o.meta_optimizer import MetaAdam, snapshot
from l2o.metatrain import metatrain
from l2o.methods.meta_loss import MetaLoss
from l2o.optimizers.dm import L2ODM
from l2o.outer_loop import Plan
from l2o.provenance import machine, package_version, source_commit
from l2o.tasks.data import DATASETS
from l2o.tasks.data.catalogue import FOLDERS
from l2o.tasks.data.store import data_folder
from l2o.tasks.quadratic import Quadratics

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "safetensors", "matplotlib", "tensorboard", "mlflow", "wandb")


@dataclass(frozen=True)
class Doctor:
    """Show versions, threads, back end and data found, and check meta-training in ten seconds.

    Exit status 1 if the check fails.
    """

    threads: int | None = 1
    """Torch threads of the self-check."""

    def run(self) -> int:
        console = Console()
        table = Table("what", "found")
        table.add_row("l2o", f"{package_version()}, commit {source_commit()}")
        table.add_row("machine", machine())
        table.add_row("packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES))
        table.add_row("device", f"cuda {torch.version.cuda}" if torch.cuda.is_available() else "cpu only")
        table.add_row("back end", _backend())
        table.add_row("L2O_DATA", os.environ.get("L2O_DATA") or f"not set; using {data_folder()}")
        table.add_row("data", "\n".join(f"{name}: {_whereabouts(name)}" for name in DATASETS))
        console.print(table)
        begin = time.perf_counter()
        with console.status("meta-training for a few seconds"):
            checks = self_check()
        for claim, held in checks.items():
            console.print(f"{'[green]yes' if held else '[red]NO '}[/] {claim}")
        console.print(f"self-check in {time.perf_counter() - begin:.1f} s")
        return 0 if all(checks.values()) else 1


def self_check() -> dict[str, bool]:
    """Meta-trains on small quadratics and says what should hold and whether it does."""
    plan = Plan(
        trajectories=40,
        horizon=ConstantHorizon(40, 20),
        tasks=32,
        meta_optimizer=MetaAdam(1e-2),
        validate_every=40,
        validation_tasks=32,
    )
    events: list[Event] = []
    optimizer = L2ODM.for_quadratics()
    before = snapshot(optimizer)
    trained = metatrain(optimizer, Quadratics(5), MetaLoss(), plan, listeners=[events.append])
    after = trained.optimizer.state_dict()
    norms = [event["meta_gradient_norm"] for event in events if event["kind"] == "window"]
    first, last = trained.validations[0].value, trained.validations[-1].value
    return {
        "every meta-parameter moved": all(not torch.equal(before[name], after[name]) for name in before),
        "every meta-gradient was finite and not zero": len(norms) == 80 and all(0 < norm < 1e30 for norm in norms),
        f"the validation loss fell, from {first:.3g} to {last:.3g}": last < first,
    }


def _backend() -> str:
    override = os.environ.get(VARIABLE)
    return f"{available()}{f'; {VARIABLE}={override}' if override else ''}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _whereabouts(name: str) -> str:
    folders = [data_folder() / folder for folder in FOLDERS[name]]
    if not folders:
        return "comes with scikit-learn"
    there = [str(folder) for folder in folders if folder.is_dir()]
    return " and ".join(there) or "not here yet; fetched at first use"
