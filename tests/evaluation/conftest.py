"""A report with everything in it, drawn once."""

from pathlib import Path

import numpy as np
import pytest

from l2o.evaluation.charts import Chart, trace
from l2o.evaluation.plots import plot_curves
from l2o.evaluation.report import Picture, Report, Table
from l2o.evaluation.statistics import Interval
from l2o.evaluation.verdicts import Verdict, Verdicts


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("figures") / "curves.png"
    curves = {"learned": np.exp(-np.linspace(0, 5, 50))[None], "Adam": np.exp(-np.linspace(0, 2, 50))[None]}
    plot_curves(curves, path=path, title="Descent", learned=["learned"])
    return path


@pytest.fixture
def report(picture: Path) -> Report:
    verdicts = (
        Verdict("The learned optimizer is below Adam.", "interval below 0", -0.51, 10, True, (-0.8, -0.2)),
        Verdict("It is below SGD.", "median below 0", float("inf"), 10, False, note="two of its runs failed"),
    )
    cell = Interval(0.25, 0.125, 0.5, runs=10)
    lines = [
        trace("learned", [0, 1, 2], [1, 0.5, 0.25], [0.9, 0.4, 0.2], [1.1, 0.6, 0.3], bold=True),
        trace("Adam", [0, 1, 2], [2, np.nan, 0.5], [2, np.nan, 0.5], [2, np.nan, 0.5]),
    ]
    chart = Chart("", "step", "loss", lines, ["mean of 10 runs"])
    rows = [{"optimizer": "learned", **{f"column {place}": cell for place in range(1, 12)}}]
    return Report(
        title="A learned optimizer & tuned rules",
        record=Verdicts("paper/experiment", "smoke", "abc123", (1, 2), 83.0, "a machine, 2 cores", verdicts),
        summary="Two optimizers on a bowl.",
        pictures=[Picture("Loss by step", picture, "the learned curve is below Adam's", [chart])],
        tables=[Table("Losses", rows, "In brackets: intervals.")],
        config={"steps": 49, "network": {"hidden": 20}},
        data_notes=["the bowl is synthetic"],
        version="1.2.3",
        command="l2o reproduce paper/experiment --preset smoke",
        files={"config.json": "the full configuration"},
    )
