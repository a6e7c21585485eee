"""Progress bars, of meta-training and of runs. Apart from `events`: importing the package does not import rich."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from l2o.events import Event

_ROW = "{:>5} {:>12} {:>16} {:>12} {:>12} {:>9}"


class ProgressBar:
    """A bar over the trajectories of a run, with rate, time left, meta-loss and best validation value.

    Args:
        trajectories: of the run.
        description: what stands before the bar.
        periods: also print a row for each validation, as a table that grows above the bar: for a curriculum.
    """

    def __init__(self, trajectories: int, description: str, *, periods: bool = False) -> None:
        self._periods = periods
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bar = self._progress.add_task(description, total=trajectories, note="")
        self._meta_loss = self._best = float("nan")

    def __call__(self, event: Event) -> None:
        if event["kind"] == "window":
            self._meta_loss = event["meta_loss"]
        elif event["kind"] == "validation":
            self._best = event["best"]
            if self._periods:
                numbers = (event["value"], event["best"], event["diverged"])
                row = (event["stage"], event["trajectory"], event["steps"], *(f"{number:.4g}" for number in numbers))
                self._progress.console.print(_ROW.format(*row))
        note = f"meta-loss {self._meta_loss:.4g}  best validation {self._best:.4g}"
        self._progress.update(self._bar, completed=event["trajectory"], note=note)

    def __enter__(self) -> Self:
        if self._periods:
            heading = _ROW.format("stage", "trajectories", "validation steps", "value", "best", "diverged")
            self._progress.console.print(heading)
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()


@contextmanager
def runs_bar(runs: int, title: str) -> Iterator[Callable[[], None]]:
    """A bar over independent runs, with rate and time left, on terminals alone; call what it gives after each run.

    Args:
        runs: how many.
        title: what stands before the bar.
    """
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=runs)
        yield lambda: progress.advance(bar)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{rate:.2f}/s")
