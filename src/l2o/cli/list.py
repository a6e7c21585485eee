"""`l2o list`: what there is to choose from."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from l2o.cli import choices
from l2o.tasks.data import DATASETS
from l2o.weights import Shelf, load_card, shipped


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
        shelves: tuple[Shelf, ...] = ("optimizers", "schedules")
        for shelf in shelves:
            cards = {name: load_card(name) for name in shipped(shelf)}
            lines = [f"{name}: {card.optimizer} on {card.training_tasks}" for name, card in cards.items()]
            table.add_row(f"shipped {shelf}", "\n".join(lines) or "none")
        Console().print(table)
        return 0
