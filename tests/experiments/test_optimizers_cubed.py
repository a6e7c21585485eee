"""The experiments of "Optimizers cubed" at their smoke size, and the demonstration in small."""

import dataclasses
import json

import pytest

import l2o
from l2o.evaluation.compare import Comparison
from l2o.evaluation.results import read_description, render
from l2o.evaluation.verdicts import read_verdicts
from l2o.experiments import demo
from l2o.experiments.optimizers_cubed import EXPERIMENTS, generalisation, mnist, quadratics
from l2o.horizons import ConstantHorizon
from l2o.outer_loop import Plan


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generalisation, "SETTINGS", generalisation.SETTINGS[1::3])  # twice the steps, and ReLU
        for name in ("quadratics", "mnist", "generalisation", "drop-in"):
            EXPERIMENTS[f"optimizers-cubed/{name}"]("smoke", folder / "results", folder / "runs")
    return folder / "results" / "optimizers-cubed"


@pytest.mark.parametrize(
    ("name", "verdicts"),
    [("quadratics", 10), ("mnist", 10), ("generalisation", 10), ("drop-in", 2)],
)
def test_an_experiment_writes_everything_it_promises(results, name, verdicts):
    folder = results / name / "smoke"
    record = read_verdicts(folder / "verdict.json")
    description = read_description(folder)
    assert record.experiment == f"optimizers-cubed/{name}"
    assert len(record.verdicts) == verdicts
    assert description.backend.startswith(("native (", "reference: "))
    assert record.seconds > 0
    for shown in description.figures:
        assert (folder / shown.file).read_bytes().startswith(b"\x89PNG")
    for compared in description.comparisons:
        comparison = Comparison.load(folder / compared.file)
        assert set(compared.tunings) < set(comparison.curves)
    readme = (folder / "README.md").read_text()
    assert "## Verdicts" in readme
    assert f"l2o reproduce optimizers-cubed/{name} --preset smoke" in readme


def test_the_pages_are_made_from_the_folder_alone(results):
    folder = results / "quadratics" / "smoke"
    before = [(folder / name).read_text() for name in ("README.md", "report.html")]
    for name in ("README.md", "report.html"):
        (folder / name).unlink()
    render(folder)
    assert [(folder / name).read_text() for name in ("README.md", "report.html")] == before


def test_weights_and_their_provenance_are_saved(results):
    card = l2o.load_card(results / "mnist" / "smoke" / "weights" / "RNNprop.safetensors")
    assert card.training_tasks == "mlp-20-sigmoid-digits"
    assert card.configuration["plan"]["trajectories"] == 4
    assert any("digits" in note for note in card.data)


def test_generalisation_uses_the_weights_of_mnist(results):
    assert not (results / "generalisation" / "smoke" / "weights").exists()


def test_generalisation_trains_when_there_are_no_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(generalisation, "SETTINGS", generalisation.SETTINGS[:1])
    EXPERIMENTS["optimizers-cubed/generalisation"]("smoke", tmp_path / "results", tmp_path / "runs")
    assert (tmp_path / "results/optimizers-cubed/generalisation/smoke/weights/RNNprop.safetensors").exists()


def test_running_again_resumes_and_gives_the_same_curves(results, tmp_path):
    EXPERIMENTS["optimizers-cubed/quadratics"]("smoke", tmp_path / "results", tmp_path / "runs")
    first = Comparison.load(results / "quadratics/smoke/curves-random-quadratics.npz")
    second = Comparison.load(tmp_path / "results/optimizers-cubed/quadratics/smoke/curves-random-quadratics.npz")
    for name, curves in first.curves.items():
        assert (curves.losses == second.curves[name].losses).all()


def test_tuning_and_reporting_never_share_seeds():
    for settings in (*quadratics.PRESETS.values(), *mnist.PRESETS.values()):
        tuning = l2o.Stream(settings.seed, ("tuning",), tasks=range(3)).child("init").normal((4,))
        reporting = l2o.Stream(settings.seed, ("reporting",), tasks=range(3)).child("init").normal((4,))
        assert not (tuning == reporting).any()


def test_the_demonstration_ends_with_a_report(tmp_path):
    plan = Plan(trajectories=4, horizon=ConstantHorizon(20, 10), validation_last=5, validate_every=2,
                validation_tasks=2)  # fmt: skip
    settings = demo.Settings(plan, steps=20, tuning_tasks=2, reporting_tasks=3, grid_every=6)
    comparison = demo.run(tmp_path / "demo", tmp_path / "runs", settings)
    assert comparison.runs == 3
    record = json.loads((tmp_path / "demo/verdict.json").read_text())
    assert record["verdicts"][0]["claim"].startswith("RNNprop's median loss is below tuned Adam's")
    assert (tmp_path / "demo/report.html").exists()
    assert dataclasses.asdict(settings)["plan"]["trajectories"] == 4
