"""A progress bar for meta-training. Apart from `events`, so that importing the package does not import rich."""

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from l2o.events import Event


class ProgressBar:
    """A bar over the trajectories of a run, with rate, time left, meta-loss and best validation value."""

    def __init__(self, trajectories: int, description: str) -> None:
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
        note = f"meta-loss {self._meta_loss:.4g}  best validation {self._best:.4g}"
        self._progress.update(self._bar, completed=event["trajectory"], note=note)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{rate:.2f}/s")
