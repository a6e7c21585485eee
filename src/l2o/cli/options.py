"""Options that several subcommands share."""

import dataclasses
import json
import shlex
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from l2o import checkpoint
from l2o.cli import choices
from l2o.errors import ArgumentError
from l2o.kernels.select import available
from l2o.optimizers.architectures import ARCHITECTURES, load
from l2o.optimizers.base import LearnedOptimizer
from l2o.provenance import machine, package_version, source_commit
from l2o.sweeps import Cluster, workers
from l2o.tasks.base import TaskFamily
from l2o.tasks.data import Split

Positional = tyro.conf.Positional

INTERRUPTED = 130
"""Exit status after a signal, as shells have it."""

TaskName = Annotated[str, tyro.conf.arg(metavar="NAME|MODULE:NAME")]


@dataclass(frozen=True)
class TaskOptions:
    """Which tasks."""

    task: TaskName = "mlp"
    """Task family: a name that `l2o list` shows, or module:Name of your own family or its class."""
    data: str = "digits"
    """Data set of tasks on images; digits needs no download."""
    split: Split = "train"
    """Images that the network of a task is trained on. The figures of Chen et al. 2020 are on test; there is no test
    accuracy then."""

    def family(self) -> TaskFamily:
        """The task family."""
        if self.task not in choices.ON_IMAGES:
            refuse_unused(self, "data", "split", reason=f"with --task {self.task}, which is not one of l2o's on images")
        return choices.task_family(self.task, self.data, self.split)


@dataclass(frozen=True)
class RunOptions:
    """How tasks are run."""

    steps: int = 100
    """Inner steps of a run."""
    tasks: int = 20
    """Tasks, each one run of every optimizer."""
    last: int = 1
    """Iterates at the end of a run whose mean loss is its final loss; 1 is the last step alone."""
    seed: int = 0
    """Seed of the tasks; tuning draws others from it."""
    device: str = "cpu"
    """Where it runs, for instance cpu or cuda."""
    dtype: Literal["float32", "float64"] = "float32"
    """Number type."""


WHO = ("workers", "cluster", "address")
"""Options that no result depends on."""


@dataclass(frozen=True)
class SweepOptions:
    """Who does the independent runs."""

    workers: int | None = None
    """Processes among which the independent runs are shared; the results do not depend on it. None is one, or all
    workers of a cluster."""
    cluster: Cluster = "processes"
    """Processes of this machine, or workers of Dask or Ray, each of which needs its extra."""
    address: str | None = None
    """Of a running cluster, for instance tcp://10.0.0.1:8786; none starts one on this machine."""

    def made(self) -> AbstractContextManager[None]:
        """The workers, for a `with` block."""
        alone = self.workers is None and self.cluster == "processes"
        return workers(1 if alone else self.workers, cluster=self.cluster, address=self.address)


def refuse_unused(options: Any, *names: str, reason: str) -> None:
    """An error if one of the options is not at its default, though it has no effect here."""
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    for name in names:
        value = getattr(options, name)
        if value != defaults[name]:
            flag = f"--{name.replace('_', '-')}"
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            raise ArgumentError(f"{flag} is {shown}, and has no effect {reason}")


def optimizer(name: str) -> LearnedOptimizer:
    """A learned optimizer from weights, a folder, or a repository as `user/name@revision`; or a rule as `adam:0.01`."""
    kind, _, rate = name.partition(":")
    if kind.lower() in choices.RULES and rate:
        return rule(name)
    source, _, revision = name.partition("@") if not Path(name).exists() else (name, "", "")
    return load(source, revision=revision or None, architectures=ARCHITECTURES)


def rule(name: str) -> LearnedOptimizer:
    """A hand-designed rule with its learning rate, as `adam:0.01`."""
    kind, _, rate = name.partition(":")
    if kind.lower() not in choices.RULES:
        raise ArgumentError(f"no rule is called {kind!r}; choose one of {', '.join(choices.RULES)}, as adam:0.01")
    try:
        return choices.RULES[kind.lower()].rule(float(rate))
    except ValueError as error:
        raise ArgumentError(f"{name!r}: write a rule with its learning rate, as adam:0.01 ({error})") from error


def command_line(command: str, options: Any, *, first: Sequence[str] = (), without: Collection[str] = ()) -> str:
    """The shortest command that gives these options, but for those of the names in `without`; `first` has no flags."""
    return shlex.join(["l2o", command, *first, *_words(options, without)])


def _words(options: Any, without: Collection[str]) -> list[str]:
    words: list[str] = []
    for each in dataclasses.fields(options):
        name, value, flag = each.name, getattr(options, each.name), each.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            words += _words(value, without)
        elif value != each.default and name not in without:
            match value:
                case bool():
                    words.append(f"--{flag}" if value else f"--no-{flag}")
                case tuple():
                    words += [f"--{flag}", *map(str, value)]
                case _:
                    words += [f"--{flag}", str(value)]
    return words


def save_configuration(folder: Path, command: str, options: Any) -> None:
    """Writes `options.json`: the resolved options of a command, and what it ran on."""
    content = {
        "command": command,
        "options": dataclasses.asdict(options),
        "version": package_version(),
        "commit": source_commit(),
        "machine": machine(),
        "back end": available(),
    }
    checkpoint.write_bytes(folder / "options.json", f"{json.dumps(content, indent=2, default=str)}\n".encode())
