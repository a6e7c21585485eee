"""`l2o reproduce`: run an experiment of a paper."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from l2o.cli import choices
from l2o.cli.options import INTERRUPTED, Positional, SweepOptions
from l2o.errors import InterruptedRunError


@dataclass(frozen=True)
class Reproduce:
    """Run an experiment of a paper and write its figures, tables and verdicts.

    Results go to OUT/PAPER/EXPERIMENT/PRESET, checkpoints to WORK; stopped with Ctrl-C, the same command goes on.

    Example: l2o reproduce optimizers-cubed/quadratics --preset smoke
    """

    experiment: Positional[str]
    """PAPER/EXPERIMENT, as `l2o list` shows them."""
    preset: Literal["smoke", "laptop", "paper"] = "laptop"
    """smoke: seconds; laptop: up to an hour on two cores; paper: the published sizes."""
    out: Path = Path("results")
    """Folder of all results."""
    work: Path = Path("runs")
    """Folder of checkpoints; may be deleted afterwards."""
    sweep: Annotated[SweepOptions, tyro.conf.arg(name="")] = field(default_factory=SweepOptions)
    threads: int | None = 1
    """Torch threads of each worker; with small tensors one is as fast as several. The last bits of the results depend
    on it."""

    def run(self) -> int:
        experiment = choices.chosen(choices.EXPERIMENTS, self.experiment, "experiment")
        try:
            with self.sweep.made():
                experiment(self.preset, self.out, self.work)
        except InterruptedRunError as stopped:
            Console().print(str(stopped), soft_wrap=True)
            return INTERRUPTED
        return 0
