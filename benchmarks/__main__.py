"""`make bench`: measures, prints, and writes docs/performance.md with its figures and results/bench/."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import contests, page, screen
from benchmarks.criteria import judge
from benchmarks.measurements import Measurements
from benchmarks.tasks import FULL, QUICK
from benchmarks.workers import cores

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Bench:
    """Measures the engine beside eager PyTorch, torch.compile and JAX: minutes, on an idle machine.

    Args:
        quick: tiny sizes and two rounds, to see that all of it runs: the numbers mean nothing.
        render: measures nothing; writes everything again from the timings.json that is there.
        threads: of every candidate; all cores by default.
        into: folder that gets docs/ and results/bench/; the project by default, with --quick a new temporary one.
    """

    quick: bool = False
    render: bool = False
    threads: int | None = None
    into: Path | None = None


def main(options: Bench) -> None:
    console = Console()
    into = options.into or (Path(tempfile.mkdtemp(prefix="l2o-bench-")) if options.quick else ROOT)
    timings = into / "results" / "bench" / "timings.json"
    if options.render:
        found = Measurements.load_from(timings)
    else:
        threads = options.threads or cores()
        with _Bar(console) as bar:
            found = contests.measure(QUICK if options.quick else FULL, threads, cores(), bar.tell)
        found.save(timings)
        found = Measurements.load_from(timings)  # what is shown is what was kept
    verdicts = judge(found)
    screen.show(found, verdicts, console)
    for path in page.write(found, verdicts, into):
        console.print(f"wrote {path}", soft_wrap=True)


class _Bar:
    """What is going on, and how much of it is done."""

    def __init__(self, console: Console) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self._console = console
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("")
        self._begin, self._last = time.perf_counter(), -1

    def tell(self, what: str, number: int, parts: int) -> None:
        self._progress.update(self._task, description=what, completed=number, total=parts)
        if not self._console.is_terminal and number != self._last:  # a log has no bar: a line for each part
            self._last = number
            heading = what.partition(": ")[0]
            self._console.print(f"{time.perf_counter() - self._begin:5.0f} s  {number}/{parts}  {heading}")
            self._console.file.flush()

    def __enter__(self) -> "_Bar":
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._progress.stop()


if __name__ == "__main__":
    main(tyro.cli(Bench))
