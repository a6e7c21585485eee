"""The experiments of "Training stronger baselines" at their smoke size, and how their verdicts judge."""

import dataclasses
import json
import math

import numpy as np
import pytest

from l2o import checkpoint
from l2o.evaluation.long_runs import LongRuns
from l2o.evaluation.results import read_description, render
from l2o.evaluation.verdicts import read_verdicts
from l2o.experiments.stronger_baselines import EXPERIMENTS, optimizees, recipes, shared
from l2o.experiments.stronger_baselines.page import Page
from l2o.experiments.stronger_baselines.shared import Shared
from l2o.horizons import Curriculum
from l2o.metatrain import MetaTrained
from l2o.outer_loop import Validation
from l2o.weights import Card, load_card, save

VERDICTS = {"fig2": 26, "fig3": 12, "fig5": 21, "fig6": 3, "fig7": 10, "logits": 14}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results and work of all figures, in an order in which later ones find what earlier ones computed."""
    folder = tmp_path_factory.mktemp("results")
    for name in VERDICTS:
        EXPERIMENTS[f"stronger-baselines/{name}"]("smoke", folder / "results", folder / "runs")
    return folder


def test_figure_4_tests_the_best_of_every_part(folder):
    EXPERIMENTS["stronger-baselines/fig4"]("smoke", folder / "results", folder / "runs")
    results = folder / "results" / "stronger-baselines" / "fig4" / "smoke"
    assert len(read_verdicts(results / "verdict.json").verdicts) == 3
    assert (results / "figure.png").read_bytes().startswith(b"\x89PNG")
    tables = {table.title: table.rows for table in read_description(results).tables}
    assert {title: [row["trajectories"] for row in rows] for title, rows in tables.items()} == {
        "Trajectories of 10 steps": ["2", "4"],
        "Trajectories of 20 steps": ["2", "4"],
    }
    kept = folder / "results" / "stronger-baselines" / "shared" / "smoke" / "weights"
    assert len({load_card(kept / f"fig4-10-at-{mark}.safetensors").sha256 for mark in (2, 4)}) == 2


@pytest.mark.parametrize("figure", VERDICTS)
def test_a_figure_writes_everything_it_promises(folder, figure):
    results = folder / "results" / "stronger-baselines" / figure / "smoke"
    record, description = read_verdicts(results / "verdict.json"), read_description(results)
    assert record.experiment == f"stronger-baselines/{figure}"
    assert len(record.verdicts) == VERDICTS[figure]
    assert record.seconds > 0
    assert record.seeds == (1, 2)
    assert (results / "figure.png").read_bytes().startswith(b"\x89PNG")
    readme = (results / "README.md").read_text()
    assert f"l2o reproduce stronger-baselines/{figure} --preset smoke" in readme
    assert "## Meta-training" in readme
    assert "digits: the last 500" in readme  # what the optimizees are trained on: test images
    assert description.tables[-1].title == "Meta-training"


def test_the_table_of_meta_trainings_says_what_each_was_trained_on(folder):
    rows = read_description(folder / "results" / "stronger-baselines" / "fig2" / "smoke").tables[-1].rows
    trained = {
        row["optimizer"]: (row["trained on"], "mean ln of last by first loss" in row["best validation"]) for row in rows
    }
    assert trained["L2O-DM"] == ("mlp-20-sigmoid-digits", False)
    assert trained["L2O-Scale-Meta"] == ("scale-core-each-5", True)


def test_the_pages_are_made_from_the_folder_alone(folder):
    results = folder / "results" / "stronger-baselines" / "fig7" / "smoke"
    before = [(results / name).read_text() for name in ("README.md", "report.html")]
    for name in ("README.md", "report.html"):
        (results / name).unlink()
    render(results)
    assert [(results / name).read_text() for name in ("README.md", "report.html")] == before


def test_nothing_that_is_there_is_computed_again(folder, monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("computed again")

    for name in ("metatrain", "run_curves", "tune"):
        monkeypatch.setattr(shared, name, fail)
    EXPERIMENTS["stronger-baselines/fig7"]("smoke", folder / "results", folder / "runs")


def test_a_meta_training_that_another_process_is_at_is_waited_for(folder, monkeypatch):
    again = Shared("smoke", folder / "results", folder / "runs")
    record = again.folder / "weights" / "L2O-DM-1.json"
    kept = record.read_bytes()
    record.unlink()
    waits = []
    holding = checkpoint.held(again.work / "L2O-DM-1")
    holding.__enter__()

    def wait(seconds):
        waits.append(seconds)
        holding.__exit__(None, None, None)
        record.write_bytes(kept)

    monkeypatch.setattr(shared.time, "sleep", wait)
    assert again.train("L2O-DM", 1).name == "L2O-DM"
    assert waits == [10.0]


def test_long_runs_of_other_weights_are_computed_anew(folder, monkeypatch):
    again = Shared("smoke", folder / "results", folder / "runs")
    kept = again.folder / "runs" / "mlp-orig" / "L2O-DM-1.l2o"
    original = kept.read_bytes()
    runs = LongRuns.load(kept)
    dataclasses.replace(runs, about=[{**runs.about[0], "weights": "those of somebody else"}]).save(kept)
    computed = []
    run_curves = shared.run_curves
    monkeypatch.setattr(shared, "run_curves", lambda *given, **how: computed.append(1) or run_curves(*given, **how))
    found = again.learned("L2O-DM", "MLP-orig")
    assert computed == [1]
    assert np.array_equal(found.log_means[:1], runs.log_means)
    kept.write_bytes(original)


def test_every_meta_training_has_weights_a_card_and_a_record(folder):
    found = Shared("smoke", folder / "results", folder / "runs")
    for name in found.recipes:
        record = found.record(name, 2)
        card = load_card(found.folder / "weights" / f"{name}-2.safetensors")
        assert card.seed == record.seed == 2
        assert card.training_tasks.startswith("mlp-20-sigmoid-digits") or "Meta" in name
        assert record.windows > 0
        assert record.training_steps == 10 * record.windows or "Meta" in name
        assert len(record.validations) > 1
        json.dumps(dataclasses.asdict(record), allow_nan=False)


def test_optimizees_are_trained_on_test_images_and_optimizers_on_training_images():
    tested = optimizees.OPTIMIZEES["MLP-orig"].family("smoke")
    trained = optimizees.training_family("smoke")
    assert "last" in tested.data_notes()[0]
    assert "first" in trained.data_notes()[0]


def test_the_published_constants_of_the_paper_preset():
    found = recipes.recipes("paper")
    assert found["L2O-DM"].plan.trajectories == 10_000
    assert found["L2O-DM"].optimizer(0).config()["k"] == 5.0
    assert found["L2O-DM-CL"].plan.horizon == Curriculum((100, 200, 500, 1000, 1500, 2000, 2500, 3000))
    assert found["L2O-DM-CL"].plan.validate_every == 100
    assert found["L2O-DM-CL-IL"].method.describe()["ratios"] == (0.0, 0.1, 0.3, 0.3)
    assert list(found["L2O-DM-IL"].method.describe()["teachers"]) == ["adam", "sgd", "adagrad"]
    assert found["RNNprop-CL-IL"].plan.validate_every == 10
    assert found["RNNprop"].optimizer(0).config()["alpha"] == 0.01
    assert {name: tested.steps["paper"] for name, tested in optimizees.OPTIMIZEES.items()} == dict.fromkeys(
        optimizees.OPTIMIZEES, 10_000
    )
    assert shared.PRESETS["paper"].runs == 10


def page_of(tmp_path, **finals):
    """A page with one panel of runs that end at these ln losses, `[seeds, runs]`, after one block at 0.8."""
    page = Page("fig7", "smoke", tmp_path / "results", tmp_path / "runs")
    page.panels["MLP-orig"] = {
        name: LongRuns(
            means=np.exp(np.stack([np.full_like(final, 0.8), final], axis=-1)),
            log_means=np.stack([np.full_like(final, 0.8), final], axis=-1),
            diverged=np.zeros(final.shape, dtype=bool),
            block=10,
            about=[{} for _ in final],
        )
        for name, final in ((name, np.array(values)) for name, values in finals.items())
    }
    return page


def test_below_needs_an_interval_below_zero_over_seeds_and_runs(tmp_path):
    page = page_of(tmp_path, low=[[-2.0, -2.1], [-1.5, -1.4]], high=[[-1.0, -1.1], [-0.5, -0.4]], near=[[-1.9, -1.7]])
    verdict = page.below("MLP-orig", "low", "high")
    assert verdict.passed
    assert verdict.measured == pytest.approx(-1.0)
    assert verdict.note == "every seed of the first below every seed of the second"
    assert not page.below("MLP-orig", "low", "near").passed
    assert not page.below("MLP-orig", "high", "low").passed


@pytest.mark.parametrize(("finals", "trained"), [((0.5, 0.5, 0.9), True), ((0.5, 0.8, 0.9), False)])
def test_a_network_is_trained_where_two_thirds_of_the_runs_end_below_chance_by_a_margin(tmp_path, finals, trained):
    page = page_of(tmp_path, mine=[finals])
    assert math.exp(0.5) < math.log(10) - 0.3 < math.exp(0.8)
    assert page.trains("MLP-orig", "mine", expected=True).passed == trained
    assert page.trains("MLP-orig", "mine", expected=False).passed != trained


def test_a_curve_rises_where_it_ends_half_a_nat_above_its_lowest_block(tmp_path):
    page = page_of(tmp_path, up=[[1.5, 1.4]], down=[[0.2, -1.0]])
    assert page.rises("MLP-orig", "up").passed
    assert not page.rises("MLP-orig", "down").passed


def test_a_run_that_failed_counts_as_an_infinite_rise_even_in_its_first_block(tmp_path):
    page = page_of(tmp_path, late=[[math.nan, -1.0]], early=[[-1.0, -1.0]])
    page.panels["MLP-orig"]["early"].log_means[0, 0] = math.nan
    for name in ("late", "early"):
        verdict = page.rises("MLP-orig", name)
        assert verdict.passed
        assert verdict.measured == math.inf


def test_steadier_compares_deviations(tmp_path):
    page = page_of(tmp_path, narrow=[[0.1, 0.2]], wide=[[-1.0, 1.0]])
    page.steadier("narrow", "wide", needed=1)
    page.steadier("wide", "narrow", needed=1)
    assert [verdict.passed for verdict in page.verdicts] == [True, False]


def test_a_count_of_verdicts_needs_as_many_as_it_says(tmp_path):
    page = page_of(tmp_path, low=[[-2.0, -2.1]], high=[[-1.0, -1.1]])
    single = [page.below("MLP-orig", "low", "high"), page.below("MLP-orig", "high", "low")]
    page.count("one of two", single, 1)
    page.count("both", single, 2)
    assert [verdict.passed for verdict in page.verdicts[2:]] == [True, False]


def weights_of(folder, name, seed, **changes):
    """Weights of a recipe, as if meta-trained, with another setting here and there."""
    found = Shared("smoke", folder / "results", folder / "runs")
    optimizer, method, plan = found.recipes[name].seeded(seed)
    plan = {**dataclasses.asdict(plan), **changes}
    configuration = {"config": optimizer.config(), "method": method.describe(), "plan": plan}
    card = Card(configuration=json.loads(json.dumps(configuration)))
    save(optimizer, found.folder / "weights" / f"{name}-{seed}", card)
    return found


def test_weights_of_a_recipe_that_has_changed_since_say_so(tmp_path):
    assert weights_of(tmp_path, "RNNprop-CL-IL", 1).departures("RNNprop-CL-IL", 1) == []
    other = {"trajectories": 7, "horizon": {"steps": [10, 20], "validation_steps": [20, 30], "longest_stage": 10}}
    assert weights_of(tmp_path, "RNNprop-CL-IL", 2, **other).departures("RNNprop-CL-IL", 2) == [
        "plan horizon longest_stage was 10, is 2",
        "plan trajectories was 7, is 8",
    ]


def test_a_meta_training_whose_best_validation_diverged_has_a_record_without_it(tmp_path, monkeypatch):
    def diverged(optimizer, family, method, plan, *, directory, listeners):
        event = {"kind": "window", "trajectory": 0, "steps": 10, "moments": "meta-loss", "meta_loss": 1.0}
        (directory / "events.jsonl").write_text(json.dumps(event))
        worst = Validation(0, math.inf, 1.0, 0, 20)
        card = Card(configuration={"method": method.describe()})
        return MetaTrained([worst], worst, finished=True, skipped=0, seconds=1.0, card=card, optimizer=optimizer)

    found = Shared("smoke", tmp_path / "results", tmp_path / "runs")
    (found.work / "L2O-DM-1").mkdir(parents=True)
    monkeypatch.setattr(shared, "metatrain", diverged)
    monkeypatch.setattr(shared, "draw_meta_training", lambda *given, **how: None)
    found.train("L2O-DM", 1)
    record = found.record("L2O-DM", 1)
    assert record.best is None
    assert record.validations == [(0, 0, 20, None)]


def test_a_tuning_of_other_runs_or_steps_is_made_anew(tmp_path, monkeypatch):
    found = Shared("smoke", tmp_path / "results", tmp_path / "runs")
    calls = []
    tune = shared.tune
    monkeypatch.setattr(shared, "tune", lambda *given, **how: calls.append(how["steps"]) or tune(*given, **how))
    monkeypatch.setitem(optimizees.OPTIMIZEES, "MLP-orig", optimizees.OPTIMIZEES["MLP-ReLU"])
    first = found.tuning("SGD", "MLP-orig")
    assert found.tuning("SGD", "MLP-orig") == first
    assert calls == [10]
    longer = dataclasses.replace(optimizees.OPTIMIZEES["MLP-ReLU"], steps={"smoke": 15})
    monkeypatch.setitem(optimizees.OPTIMIZEES, "MLP-orig", longer)
    found.tuning("SGD", "MLP-orig")
    assert calls == [10, 15]
    found.settings = dataclasses.replace(found.settings, tuning_runs=2)
    found.tuning("SGD", "MLP-orig")
    found.settings = dataclasses.replace(found.settings, grid_every=4)
    found.tuning("SGD", "MLP-orig")
    assert calls == [10, 15, 15, 15]
