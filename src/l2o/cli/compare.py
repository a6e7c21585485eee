"""`l2o compare`: run several optimizers on the same tasks."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console

from l2o.cli import choices
from l2o.cli.options import (
    WHO,
    Positional,
    RunOptions,
    SweepOptions,
    TaskOptions,
    command_line,
    optimizer,
    save_configuration,
)
from l2o.errors import ArgumentError
from l2o.evaluation.compare import compare
from l2o.evaluation.plots import plot_curves
from l2o.evaluation.results import Compared, Description, Shown, render, write_description
from l2o.evaluation.statistics import Interval
from l2o.evaluation.tables import markdown
from l2o.evaluation.tuning import Tuning, tune
from l2o.evaluation.verdicts import Verdict, write_verdicts
from l2o.kernels.select import backends_in_words
from l2o.optimizers.base import LearnedOptimizer
from l2o.provenance import machine, source_commit
from l2o.rng import Stream


@dataclass(frozen=True)
class Compare:
    """Run several optimizers on the same tasks, starts and minibatches: curves, tables, a report.

    The first one is compared with each of the others, run by run. A rule without a learning rate is tuned first, on
    other tasks of the same family.

    Example: l2o compare runs/mnist/weights.safetensors adam momentum rmsprop:0.01 --task mlp --data mnist
    """

    optimizers: Positional[tuple[str, ...]]
    """Weights files, names of shipped weights, and rules: `adam` is tuned, `adam:0.01` is taken as it is."""
    task: Annotated[TaskOptions, tyro.conf.arg(name="")] = field(default_factory=TaskOptions)
    run_options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    out: Path = Path("runs/compare")
    """Folder of the results, and of the curves that are done; stopped, the same command goes on from these."""
    threads: int | None = None
    """Torch threads of each worker; none leaves torch's choice."""
    sweep: Annotated[SweepOptions, tyro.conf.arg(name="")] = field(default_factory=SweepOptions)

    def run(self) -> int:
        with self.sweep.made():
            return self._run()

    def _run(self) -> int:
        begin, console = time.perf_counter(), Console()
        options, family = self.run_options, self.task.family()
        dtype = getattr(torch, options.dtype)
        stream = Stream(options.seed, ("compare",), tasks=range(options.tasks))
        made: dict[str, LearnedOptimizer] = {}
        tunings: dict[str, Tuning] = {}
        for name in self.optimizers:
            if name.lower() in choices.RULES:
                baseline = choices.RULES[name.lower()]
                with console.status(f"tuning {name}"):
                    tunings[name] = tune(
                        baseline.rule, family, stream, steps=options.steps, grid=baseline.grid, metric="final",
                        last=options.last, device=options.device, dtype=dtype, directory=self.out / "kept",
                    )  # fmt: skip
                made[name] = baseline.rule(tunings[name].best)
            else:
                made[name] = optimizer(name).to(options.device, dtype)
        if len(made) < len(self.optimizers):
            raise ArgumentError(f"an optimizer is named twice in {', '.join(self.optimizers)}; name each once")
        with console.status("comparing"):
            comparison = compare(
                made, family, stream, steps=options.steps, last=options.last, device=options.device, dtype=dtype,
                directory=self.out / "kept",
            )  # fmt: skip
        comparison.save(self.out / "curves.npz")
        title, first = f"{self.optimizers[0]} on {family.name}", self.optimizers[0]
        plot_curves(comparison.losses, path=self.out / "curves.png", title=family.name, learned=[first])
        verdicts = [_verdict(first, other, comparison.paired("final", first, other)) for other in self.optimizers[1:]]
        save_configuration(self.out, "compare", self)
        description = Description(
            experiment=f"comparison on {family.name}",
            preset="",
            summary=f"{title}, {comparison.runs} tasks of {comparison.steps} steps.",
            command=command_line("compare", self, first=self.optimizers, without=("optimizers", *WHO)),
            configuration={"optimizers": list(self.optimizers), **asdict(self.task), **asdict(options)},
            data=family.data_notes(),
            backend=backends_in_words(made, options.device, dtype),
            figures=[Shown("curves.png", title, "Mean loss against step with its 95 % interval.")],
            comparisons=[Compared("curves.npz", title, tunings)],
        )
        write_description(self.out, description)
        write_verdicts(
            self.out / "verdict.json", verdicts, experiment=description.experiment, preset="", seeds=[options.seed],
            seconds=time.perf_counter() - begin, commit=source_commit(), machine=machine(),
        )  # fmt: skip
        console.print(markdown(comparison.loss_rows()), soft_wrap=True)
        console.print(f"wrote {render(self.out)}")
        return 0


def _verdict(first: str, other: str, interval: Interval) -> Verdict:
    return Verdict(
        claim=f"{first} ends below {other}",
        criterion="95 % bootstrap interval of the mean paired difference in final loss lies below 0",
        measured=interval.estimate,
        runs=interval.runs,
        passed=interval.high < 0,
        interval=(interval.low, interval.high),
    )
