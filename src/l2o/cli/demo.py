"""`l2o demo`: the main job on embedded data, in a few minutes."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from l2o.cli.options import INTERRUPTED
from l2o.errors import InterruptedRunError
from l2o.evaluation import statistics
from l2o.experiments import demo


@dataclass(frozen=True)
class Demo:
    """Meta-train an optimizer on embedded digits and compare it with five tuned ones on unseen starts.

    Takes a few minutes on two cores and needs no download. Prints a table; writes figures, weights and an HTML report.
    """

    out: Path = Path("demo")
    """Folder of the results."""
    work: Path = Path("runs")
    """Folder of checkpoints; may be deleted afterwards."""
    threads: int | None = 1
    """Torch threads; with small tensors one is as fast as several."""

    def run(self) -> int:
        console = Console()
        try:
            comparison = demo.run(self.out, self.work)
        except InterruptedRunError as stopped:
            console.print(str(stopped), soft_wrap=True)
            return INTERRUPTED
        table = Table("optimizer", "median loss", "mean loss", "area under ln loss", title="At step 100, unseen starts")
        for name in comparison.curves:
            final, area = comparison.measures(name, "final"), comparison.measures(name, "area")
            numbers = (statistics.median(final), statistics.mean(final), statistics.mean(area))
            style = "bold green" if name == demo.NAMED else None
            table.add_row(name, *(f"{float(number):.4f}" for number in numbers), style=style)
        console.print(table)
        console.print("Use it in your own loop:", style="bold")
        console.print(
            f'  optimizer = l2o.load("{self.out}/weights/{demo.NAMED}.safetensors").as_torch(model.parameters())',
            soft_wrap=True,
            highlight=False,
        )
        return 0
