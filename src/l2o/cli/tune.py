"""`l2o tune`: find the learning rate of a hand-designed rule."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from l2o.cli import choices
from l2o.cli.options import Positional, RunOptions, SweepOptions, TaskOptions, save_configuration
from l2o.evaluation.plots import plot_tuning
from l2o.evaluation.tuning import log_grid, tune
from l2o.rng import Stream


@dataclass(frozen=True)
class Tune:
    """Tune the learning rate of a hand-designed rule on a logarithmic grid, widened while its edge is best.

    Example: l2o tune adam --task mlp --data mnist --metric area
    """

    rule: Positional[str]
    """sgd, momentum, nesterov, rmsprop, adam or adagrad."""
    task: Annotated[TaskOptions, tyro.conf.arg(name="")] = field(default_factory=TaskOptions)
    run_options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    sweep: Annotated[SweepOptions, tyro.conf.arg(name="")] = field(default_factory=SweepOptions)
    metric: Literal["final", "log-final", "area"] = "final"
    """What a run is judged by: final loss, its logarithm, or the mean of ln loss over the steps."""
    low: float | None = None
    """Smallest learning rate of the grid; none takes the rule's usual one."""
    high: float | None = None
    """Largest learning rate of the grid; none takes the rule's usual one."""
    per_octave: int = 2
    """Grid points for each factor of two."""
    out: Path = Path("runs/tune")
    """Folder of the figure, the options and the curves of every value that was tried; stopped, the same command goes on
    from these."""
    threads: int | None = None
    """Torch threads of each worker; none leaves torch's choice."""

    def run(self) -> int:
        baseline = choices.chosen(choices.RULES, self.rule.lower(), "rule")
        options, family = self.run_options, self.task.family()
        low = min(baseline.grid) if self.low is None else self.low
        high = max(baseline.grid) if self.high is None else self.high
        console = Console()
        with self.sweep.made(), console.status(f"tuning {self.rule} on {family.name}"):
            tuning = tune(
                baseline.rule,
                family,
                Stream(options.seed, ("tune",), tasks=range(options.tasks)),
                steps=options.steps,
                grid=log_grid(low, high, per_octave=self.per_octave),
                metric=self.metric,
                last=options.last,
                device=options.device,
                dtype=getattr(torch, options.dtype),
                directory=self.out / "kept",
            )
        table = Table("learning rate", self.metric, title=f"{self.rule} on {family.name}")
        for value, score in tuning.scores.items():
            table.add_row(f"{value:.6g}", f"{score:.6g}", style="bold green" if value == tuning.best else None)
        console.print(table)
        plot_tuning(
            {self.rule: tuning},
            path=self.out / "tuning.png",
            title=f"{self.rule} on {family.name}",
            ylabel=self.metric,
            scale="log" if self.metric == "final" else "linear",
        )
        save_configuration(self.out, "tune", self)
        edge = " It lies on the edge of what was tried: widen the grid." if tuning.on_edge else ""
        console.print(
            f"best learning rate {tuning.best:.6g} after {tuning.evaluations:,} gradient evaluations in {tuning.runs} "
            f"runs; {tuning.widenings} values added beyond the grid.{edge} Wrote {self.out}/tuning.png."
        )
        return 0
