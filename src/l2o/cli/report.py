"""`l2o report`: make the pages of a folder of results again."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from l2o.cli.options import Positional
from l2o.evaluation.results import render


@dataclass(frozen=True)
class MakeReport:
    """Make README.md and report.html of a folder of results again, from its other files alone.

    Example: l2o report results/optimizers-cubed/quadratics/laptop
    """

    folder: Positional[Path]
    """A folder that `l2o reproduce`, `compare`, `evaluate` or `demo` wrote."""
    threads: int | None = None
    """Torch threads; none leaves torch's choice."""

    def run(self) -> int:
        Console().print(f"wrote {render(self.folder)}")
        return 0
