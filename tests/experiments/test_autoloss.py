"""AutoLoss's experiments, in the smallest preset: what they promise is there, nulls too, and nothing is run twice."""

from dataclasses import replace

import numpy as np
import pytest

from l2o.evaluation.results import read_description
from l2o.evaluation.verdicts import read_verdicts
from l2o.experiments.autoloss import EXPERIMENTS
from l2o.experiments.autoloss import trials as trials_module
from l2o.experiments.autoloss.contest import best_weight, hold, rates
from l2o.experiments.autoloss.problems import regression
from l2o.experiments.autoloss.trials import Trials
from l2o.schedules.fixed import InTurn

VERDICTS = {
    "rate": 2,
    "table1-reg": 5,
    "table1-cls": 4,
    "fig1-lambda": 4,
    "fig2-gan": 4,
    "fig3-samples": 1,
    "fig4a-transfer-data": 2,
    "fig4b-transfer-arch": 1,
    "fig4c-transfer-cifar": 2,
    "drop-in": 2,
    "mtl": 3,
    "null-audit": 12,
}

NULLS = {
    "in turn",
    "best constant rate",
    "untrained controller",
    "learned, from time alone",
    "its decisions of another trial",
    "its probabilities, shuffled in time",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoloss")
    for name in VERDICTS:
        EXPERIMENTS[f"autoloss/{name}"]("smoke", folder / "results", folder / "runs")
    return folder


def test_every_experiment_is_listed():
    assert {name.removeprefix("autoloss/") for name in EXPERIMENTS} == set(VERDICTS)


@pytest.mark.parametrize("name", VERDICTS)
def test_an_experiment_writes_everything_it_promises(folder, name):
    results = folder / "results" / "autoloss" / name / "smoke"
    record, description = read_verdicts(results / "verdict.json"), read_description(results)
    assert record.experiment == f"autoloss/{name}"
    assert len(record.verdicts) == VERDICTS[name]
    assert description.figures
    for shown in description.figures:
        assert (results / shown.file).read_bytes().startswith(b"\x89PNG")
    assert f"l2o reproduce autoloss/{name} --preset smoke" in (results / "README.md").read_text()


@pytest.mark.parametrize("name", ["table1-reg", "table1-cls", "fig2-gan", "mtl", "null-audit"])
def test_every_table_of_schedules_shows_the_nulls(folder, name):
    description = read_description(folder / "results" / "autoloss" / name / "smoke")
    shown = [{row["schedule"] for row in table.rows} for table in description.tables if "runs spent" in table.rows[0]]
    assert shown
    for names in shown:
        assert names >= NULLS
        assert names & {"coin", "equal rates"}


def test_what_is_done_is_not_run_again_and_what_has_changed_is(folder, monkeypatch):
    problem, trials = regression("smoke"), Trials("smoke", folder / "results", folder / "runs")
    first = hold(problem, trials)

    def refuse(*given, **how):
        raise AssertionError("this has been run before")

    monkeypatch.setattr(trials_module, "train_schedule", refuse)
    monkeypatch.setattr(trials_module, "run_schedule", refuse)
    again = hold(problem, trials)
    for name, row in first.rows.items():
        assert (row.values("test") == again.rows[name].values("test")).all()
    longer = replace(problem, sizes=replace(problem.sizes, steps=problem.steps + 1))
    with pytest.raises(AssertionError, match="has been run before"):
        trials.run(longer, "in turn", lambda: InTurn([0, 1]))


def test_the_search_for_a_weight_refines_twice(tmp_path, monkeypatch):
    problem, trials = regression("smoke"), Trials("laptop", tmp_path / "results", tmp_path / "runs")
    tried = []

    def pretend(problem, name, schedule, **how):
        tried.append(weight := float(name.removeprefix("weight-")))
        return type("Ran", (), {"metrics": {"validation": _array((weight - 0.37) ** 2)}, "cost": _array(0.0)})

    monkeypatch.setattr(trials, "run", pretend)
    assert best_weight(problem, trials, "model") == pytest.approx(0.37, abs=0.01)
    assert len(tried) == len(set(tried))
    assert 47 <= len(tried) <= 50  # a finer grid may meet a point of a coarser one


def test_rates_share_the_rest_equally():
    assert rates(4, 1, 0.4).probabilities == pytest.approx((0.2, 0.4, 0.2, 0.2))


def _array(value):
    return np.array([value])
