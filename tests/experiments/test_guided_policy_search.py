"""The experiments of guided policy search, in the smallest preset, and how their claims are judged."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from l2o.curves import Curves
from l2o.evaluation.results import read_description
from l2o.evaluation.verdicts import read_verdicts
from l2o.experiments.guided_policy_search import EXPERIMENTS, drop_in, shared
from l2o.experiments.guided_policy_search.baselines import BASELINES, Baseline, tune
from l2o.experiments.guided_policy_search.figures import FIGURES, rank
from l2o.experiments.guided_policy_search.presets import FACES, training_family, true_objective
from l2o.experiments.guided_policy_search.shared import POLICY, UNROLLED, Panel, Shared, Trials
from l2o.rng import Stream
from l2o.tasks.data import load_dataset

VERDICTS = {"fig0": 13, "fig1": 3, "fig2": 2, "fig3": 3, "fig4": 3, "fig5": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guided")
    for name in VERDICTS:
        EXPERIMENTS[f"guided-policy-search/{name}"]("smoke", folder / "results", folder / "runs")
    return folder


def test_every_experiment_is_listed():
    assert {name.removeprefix("guided-policy-search/") for name in EXPERIMENTS} == {*VERDICTS, "drop-in"}


def test_the_drop_in_is_compared_with_tuned_optimizers(tmp_path):
    EXPERIMENTS["guided-policy-search/drop-in"]("smoke", tmp_path / "results", tmp_path / "runs")
    results = tmp_path / "results" / "guided-policy-search" / "drop-in" / "smoke"
    record, description = read_verdicts(results / "verdict.json"), read_description(results)
    (table,) = description.tables
    names = {str(row["optimizer"]).partition(":")[0] for row in table.rows}
    assert names == {"policy", "policy, tuned", "SGD", "Adam"}
    assert [verdict.runs for verdict in record.verdicts] == [2]
    assert (results / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def loop():
    data = load_dataset("digits", "train")
    settings = replace(drop_in.PRESETS["smoke"], steps=10, every=5)
    return drop_in._Loop(drop_in._standardised(data.inputs), data.labels, data.classes, settings)


def test_a_drop_in_run_that_diverges_is_held_at_ten_times_its_start(loop):
    found = loop.run(lambda params: torch.optim.SGD(params, lr=1e6), 0)
    assert found[1:] == [10 * found[0]] * 2
    assert all(value < 10 * found[0] for value in loop.run(lambda params: torch.optim.SGD(params, lr=0.1), 0))


def test_the_grid_of_a_drop_in_grows_past_its_edge(loop):
    best = drop_in._tuned(loop, lambda rate: lambda params: torch.optim.SGD(params, lr=rate), (1e-4, 1e-3))
    assert best > 1e-3


@pytest.mark.parametrize("name", VERDICTS)
def test_an_experiment_writes_everything_it_promises(folder, name):
    results = folder / "results" / "guided-policy-search" / name / "smoke"
    record, description = read_verdicts(results / "verdict.json"), read_description(results)
    assert len(record.verdicts) == VERDICTS[name]
    assert description.figures
    for shown in description.figures:
        assert (results / shown.file).read_bytes().startswith(b"\x89PNG")
    optimizers = {row["optimizer"] for table in description.tables for row in table.rows if "optimizer" in row}
    assert optimizers == {POLICY, UNROLLED, *BASELINES}
    assert f"l2o reproduce guided-policy-search/{name} --preset smoke" in (results / "README.md").read_text()


def test_what_is_done_is_not_done_again(folder, monkeypatch):
    def refuse(*given, **how):
        raise AssertionError("this has been run before")

    for name in ("tune", "metatrain"):
        monkeypatch.setattr(shared, name, refuse)
    again = Shared("smoke", folder / "results", folder / "runs")
    panel = Panel("blobs", steps=30)
    monkeypatch.setattr(Trials, "of", refuse)
    for name in (POLICY, UNROLLED, *BASELINES):
        assert again.trials(name, panel).losses.shape[1:] == (2, 7)
    with pytest.raises(AssertionError, match="has been run before"):
        again.trials("SGD", Panel("blobs", steps=20))


def _trials(*curves):
    losses = np.array(curves, dtype=float)[None]
    return Trials(
        losses, np.zeros(losses.shape[:2], dtype=bool), every=5, evaluations=1, loss_evaluations=0, seconds=0.0
    )


def test_measures_of_trials():
    trials = _trials([4.0, 2.0, 3.0, 1.0], [4.0, 1.0, 1.0, 1.0])
    assert trials.area.tolist() == [[2.5, 1.75]]
    assert trials.final.tolist() == [[1.0, 1.0]]
    assert trials.swing.tolist() == [[1.5, 1.0]]
    assert trials.at(10).tolist() == [[3.0, 1.0]]
    assert trials.steps.tolist() == [0, 5, 10, 15]


def test_ranks_count_who_is_lower():
    panel = {"a": _trials([1.0, 1.0]), "b": _trials([3.0, 0.5]), "c": _trials([2.0, 2.0])}
    assert [rank(panel, name, "area") for name in "abc"] == [1, 2, 3]
    assert [rank(panel, name, "final") for name in "abc"] == [2, 1, 3]


def _panel(policy, others=(4.0, 2.0, 2.0, 2.0)):
    return {POLICY: _trials(policy), **{name: _trials(list(others)) for name in (*BASELINES, UNROLLED)}}


@pytest.mark.parametrize(
    ("figure", "claim", "policy", "passed"),
    [
        ("fig1", 0, [4.0, 1.0, 1.0, 1.0], True),
        ("fig1", 0, [4.0, 3.0, 3.0, 1.0], False),
        ("fig1", 1, [4.0, 3.0, 3.0, 2.03], True),
        ("fig1", 1, [4.0, 1.0, 1.0, 2.05], False),
        ("fig2", 1, [4.0, 3.0, 3.0, 1.9], True),
        ("fig2", 1, [4.0, 1.0, 1.0, 2.1], False),
        ("fig4", 2, [4.0, 3.0, 3.0, 1.9], True),
        ("fig4", 2, [4.0, 1.0, 1.0, 2.1], False),
        ("fig5", 0, [4.0, 2.0, 2.0, 2.0], True),
        ("fig5", 0, [4.0, 2.0, 2.0, 2.5], False),
    ],
)
def test_claims_are_judged_by_their_criterion(figure, claim, policy, passed):
    panels = {name: _panel(policy) for name in (FACES, "CIFAR-10", "CIFAR-100")}
    assert FIGURES[figure].claims[claim].judge(panels).passed == passed


def test_a_run_that_diverges_fails_the_reduced_claim():
    panels = {name: _panel([4.0, 1.0, 1.0, 1.0]) for name in (FACES, "CIFAR-10", "CIFAR-100")}
    claim = FIGURES["fig1"].claims[2]
    assert claim.judge(panels).passed
    for panel in panels.values():
        panel[POLICY].diverged[:] = True
    assert not claim.judge(panels).passed


def test_tuning_goes_on_past_the_grids_edge():
    tried = []

    def variant(rate):
        def run(family, rng, *, steps, true_objective):
            tried.append(rate)
            score = (np.log10(rate) - 1.0) ** 2 + 1
            losses = score * np.ones((1, 2))
            return Curves(_tensor(losses), {}, 1, 0.0, 0, true_losses=_tensor(losses), true_every=1)

        return run

    made = training_family("smoke")
    found = tune(
        Baseline({"": variant}, [0.01, 0.1, 1.0]),
        made,
        Stream(0),
        steps=1,
        true_objective=true_objective("smoke", made),
    )
    assert found.rate == pytest.approx(10.0)
    assert tried == pytest.approx([0.01, 0.1, 1.0, 10.0, 100.0])
    assert not found.on_edge


def _tensor(values):
    return torch.from_numpy(np.asarray(values, dtype=float))
