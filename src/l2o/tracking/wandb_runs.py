"""Weights & Biases."""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from l2o.errors import UnsupportedError, missing_extra
from l2o.tracking.base import Outcome, Point, Tracker


class WandB(Tracker):
    """Numbers against the number of windows done, the configuration, and the files as one artifact. Needs the extra.

    What W&B keeps on this machine is in `wandb/` of the run's directory, or of the working directory if it has none.
    In the mode "offline" nothing leaves the machine; a resumed run is another folder there, of the same run, and
    `wandb sync` puts them together.

    Args:
        directory: of the run; None if it has none.
        configuration: kept with the run.
        project: its name; by default `WANDB_PROJECT`, or "l2o".
        name: of a new run; by default the directory's.
        mode: "online", "offline" or "disabled"; by default `WANDB_MODE`, or "online".
        every: seconds between batches.

    Raises:
        UnsupportedError: the package is missing, or nobody is logged in and the mode is "online".
    """

    service = "wandb"

    def __init__(
        self,
        directory: Path | None,
        *,
        configuration: Mapping[str, Any] | None = None,
        project: str | None = None,
        name: str | None = None,
        mode: str | None = None,
        every: float = 2.0,
    ) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise missing_extra("Weights & Biases", "wandb", "leave it out") from error
        super().__init__(directory, every=every)
        self._wandb, self._place = wandb, directory and directory.resolve()
        self._mode = mode or os.environ.get("WANDB_MODE") or "online"
        self._project = project or os.environ.get("WANDB_PROJECT") or "l2o"
        self._name = name or (directory.resolve().name if directory else None)
        self._configuration = dict(configuration or {})
        if self._mode == "online" and not wandb.login(prompt=False, verify=False):  # or it would ask, inside the run
            raise UnsupportedError("Weights & Biases knows no key: run `wandb login`, or set WANDB_MODE=offline")

    def open(self, run: str | None) -> str:
        run = run or secrets.token_hex(4)
        self._opened = self._wandb.init(
            id=run,
            project=self._project,
            name=self._name,
            dir=self._place,
            config=self._configuration,
            mode=self._mode,  # pyright: ignore[reportArgumentType]
            resume="allow",
            reinit="create_new",
        )
        self._opened.define_metric("windows")
        self._opened.define_metric("*", step_metric="windows")
        return run

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            self._opened.log({**point.values, "windows": point.windows}, step=point.number)

    def store(self, files: Sequence[Path]) -> None:
        artifact = self._wandb.Artifact(f"l2o-{self._opened.id}", type="weights")
        for file in files:
            artifact.add_file(str(file))
        self._opened.log_artifact(artifact)

    def end(self, outcome: Outcome) -> None:
        self._opened.finish(exit_code=0 if outcome == "complete" else 1)
