"""TensorBoard."""

from collections.abc import Sequence
from pathlib import Path

from l2o.errors import missing_extra
from l2o.tracking.base import Outcome, Point, Tracker


class TensorBoard(Tracker):
    """Scalars against the number of windows done, in `tensorboard/` of the run's directory. Needs the extra.

    TensorBoard keeps no files: those of a complete run stay where they are.

    Args:
        directory: of the run.
        every: seconds between writes.

    Raises:
        UnsupportedError: the package is missing.
    """

    service = "tensorboard"

    def __init__(self, directory: Path, *, every: float = 2.0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_extra("TensorBoard", "tensorboard", "leave it out") from error
        super().__init__(directory, every=every)
        self._writer_of, self._folder = SummaryWriter, directory / "tensorboard"

    def open(self, run: str | None) -> str:
        run = run or f"run-{1 + sum(1 for _ in self._folder.glob('run-*'))}"
        self._writer = self._writer_of(str(self._folder / run))
        return run

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            for name, value in point.values.items():
                self._writer.add_scalar(name, value, point.windows, walltime=point.time)
        self._writer.flush()

    def store(self, files: Sequence[Path]) -> None:
        pass

    def end(self, outcome: Outcome) -> None:
        self._writer.close()
