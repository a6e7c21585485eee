"""MLflow."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from l2o.errors import missing_extra
from l2o.tracking.base import Outcome, Point, Tracker, flattened

_STATUS = {"complete": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_METRICS, _PARAMETERS = 1000, 100
"""The most of each that MLflow takes at once."""


class MLflow(Tracker):
    """Metrics against the number of windows done, parameters, and the files as artifacts. Needs the extra `mlflow`.

    Nothing of MLflow's global state is touched: a run of your own may be active.

    Args:
        directory: of the run; None if it has none.
        configuration: what is kept as parameters of a new run; nested entries get dotted names.
        uri: of the tracking server or store, as `sqlite:///mlflow.db`; by default MLflow's own, which is that of
            `MLFLOW_TRACKING_URI` if it is set.
        experiment: its name; by default `MLFLOW_EXPERIMENT_NAME`, or "l2o".
        name: of a new run; by default the directory's.
        every: seconds between batches.

    Raises:
        UnsupportedError: the package is missing.
    """

    service = "mlflow"

    def __init__(
        self,
        directory: Path | None,
        *,
        configuration: Mapping[str, Any] | None = None,
        uri: str | None = None,
        experiment: str | None = None,
        name: str | None = None,
        every: float = 2.0,
    ) -> None:
        try:
            from mlflow import MlflowClient, entities  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise missing_extra("MLflow", "mlflow", "leave it out") from error
        super().__init__(directory, every=every)
        self._client_of, self._entities, self._uri = MlflowClient, entities, uri
        self._experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "l2o"
        self._name = name or (directory.resolve().name if directory else None)
        self._configuration = flattened(configuration or {})

    def open(self, run: str | None) -> str:
        self._client = self._client_of(tracking_uri=self._uri)
        if run is not None:
            self._client.update_run(run, status="RUNNING")
            self._id = run
            return run
        found = self._client.get_experiment_by_name(self._experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(self._experiment)
        self._id = self._client.create_run(experiment, run_name=self._name).info.run_id
        parameters = [self._entities.Param(name, str(value)) for name, value in self._configuration.items()]
        for start in range(0, len(parameters), _PARAMETERS):
            self._client.log_batch(self._id, params=parameters[start : start + _PARAMETERS])
        return self._id

    def log(self, points: Sequence[Point]) -> None:
        metrics = [
            self._entities.Metric(name, value, int(1000 * point.time), point.windows)
            for point in points
            for name, value in point.values.items()
        ]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._id, metrics=metrics[start : start + _METRICS])

    def store(self, files: Sequence[Path]) -> None:
        for file in files:
            self._client.log_artifact(self._id, str(file))

    def end(self, outcome: Outcome) -> None:
        self._client.set_terminated(self._id, status=_STATUS[outcome])
