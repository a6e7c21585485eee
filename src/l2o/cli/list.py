"""`l2o list`: what there is to choose from."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from l2o.cli import choices
from l2o.tasks.data import DATASETS
from l2o.weights import load_card, shipped


@dataclass(frozen=True)
class List:
    """List tasks, data sets, learned optimizers, rules, methods, experiments and shipped weights."""

    threads: int | None = None
    """Torch threads; none leaves torch's choice."""

    def run(self) -> int:
        table = Table("what", "names", show_lines=True)
        rows = {
            "tasks": choices.TASKS,
            "data sets": DATASETS,
            "learned optimizers": choices.LEARNED,
            "rules": choices.RULES,
            "methods": choices.METHODS,
            "experiments": choices.EXPERIMENTS,
        }
        for what, names in rows.items():
            table.add_row(what, "\n".join(names))
        weights = [f"{name}: {load_card(name).optimizer} on {load_card(name).training_tasks}" for name in shipped()]
        table.add_row("shipped weights", "\n".join(weights) or "none")
        Console().print(table)
        return 0
