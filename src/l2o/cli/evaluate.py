"""`l2o evaluate`: run one optimizer on tasks and show how it does."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from l2o.cli.compare import Compare
from l2o.cli.options import Positional, RunOptions, TaskOptions


@dataclass(frozen=True)
class Evaluate:
    """Run one optimizer on tasks: curves, a table, a report.

    Example: l2o evaluate runs/mnist/weights.safetensors --task mlp --data mnist
    """

    optimizer: Positional[str]
    """A weights file, the name of shipped weights, or a rule with its learning rate as adam:0.01."""
    task: Annotated[TaskOptions, tyro.conf.arg(name="")] = field(default_factory=TaskOptions)
    run_options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    out: Path = Path("runs/evaluate")
    """Folder of the results."""
    threads: int | None = None
    """Torch threads; none leaves torch's choice."""

    def run(self) -> int:
        return Compare((self.optimizer,), self.task, self.run_options, self.out, self.threads).run()
