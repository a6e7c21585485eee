"""Folders of results: described exactly, rendered from their own files, and clear about what is wrong with them."""

import dataclasses
import json
import re

import pytest
import torch

from l2o.curves import Curves
from l2o.errors import DataError
from l2o.evaluation.compare import Comparison
from l2o.evaluation.dots import plot_bands
from l2o.evaluation.plots import plot_curves
from l2o.evaluation.results import Compared, Description, Shown, read_description, render, write_description
from l2o.evaluation.statistics import Interval
from l2o.evaluation.tuning import Tuning
from l2o.evaluation.verdicts import Verdict, write_verdicts

TUNING = Tuning("final", 0.1, {0.1: 1.5, 0.2: float("inf")}, evaluations=202, runs=4, widenings=0, on_edge=True)


@pytest.fixture
def folder(tmp_path):
    losses = torch.linspace(2, 1, 11, dtype=torch.float64).repeat(3, 1)
    curves = {name: Curves(losses * k, {}, 11, 1e-3, 8) for k, name in ((1, "learned"), (2, "Adam"))}
    comparison = Comparison(curves, "bowl", last=1)
    comparison.save(tmp_path / "curves.npz")
    plot_curves(comparison.losses, path=tmp_path / "curves.png", title="bowl")
    description = Description(
        experiment="paper/figure",
        preset="smoke",
        summary="What <was> done.",
        command="l2o reproduce paper/figure --preset smoke",
        configuration={"steps": 10, "nested": {"seed": 1}},
        data=["a part of it"],
        backend="reference",
        figures=[Shown("curves.png", "Curves", "Curves going down.")],
        comparisons=[Compared("curves.npz", "Bowls", {"Adam": TUNING})],
    )
    write_description(tmp_path, description)
    verdicts = [
        Verdict("it works", "below 0", -0.5, 3, True, (-0.6, -0.4)),
        Verdict("it always works", "in all runs", "2 of 3", 3, False),
    ]
    write_verdicts(
        tmp_path / "verdict.json", verdicts, experiment="paper/figure", preset="smoke", seeds=[1], seconds=90.0,
        commit="abc", machine="this one",
    )  # fmt: skip
    return tmp_path, description


def test_a_description_is_read_back_exactly(folder):
    path, description = folder
    assert read_description(path) == description


def test_both_pages_tell_verdicts_tables_data_and_command(folder):
    path, _ = folder
    assert render(path) == path / "report.html"
    readme, page = (path / "README.md").read_text(), (path / "report.html").read_text()
    for text in ("1 of 2 claims passed", "it always works", "a part of it", "--preset smoke", "abc"):
        assert text in readme
        assert text in page
    assert "**failed**" in readme
    assert "-0.5 [-0.6, -0.4]" in readme
    assert "0.1 (on the grid's edge)" in readme
    assert "What <was> done." not in page
    assert "nested.seed" in page


def test_a_figure_is_drawn_from_what_lies_beside_it(folder):
    path, description = folder
    page = (render(path)).read_text()
    charts = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page)]
    assert [[trace["name"] for trace in chart["traces"]] for chart in charts] == [["learned", "Adam"]]
    assert [trace["bold"] for trace in charts[0]["traces"]] == [True, False]  # Adam is the one that was tuned
    plot_curves({"a": torch.rand(2, 5)}, path=path / "other.png", title="other")
    marks = {"band": {1.0: Interval(1.0, 0.5, 1.5, 3), 2.0: Interval(2.0, 1.5, 2.5, 3)}}
    plot_bands(marks, path=path / "bands.png", title="bands", xlabel="x", ylabel="y", yscale="log")
    assert json.loads((path / "bands.charts.json").read_text())[0]["yscale"] == "log"
    figures = [*description.figures, Shown("other.png", "Other", "No data."), Shown("bands.png", "Bands", "Bands.")]
    write_description(path, dataclasses.replace(description, figures=figures))
    page = render(path).read_text()
    assert page.count('<script type="application/json">') == 2
    assert page.count("<img") == 3
    (path / "bands.charts.json").write_text("[]")
    with pytest.raises(DataError, match=r"bands\.charts\.json holds no charts"):
        render(path)


def test_baselines_tuned_for_the_area_are_not_drawn_at_first(folder):
    path, description = folder
    tunings = {"Adam": dataclasses.replace(TUNING, metric="area"), "SGD": TUNING}
    losses = torch.linspace(2, 1, 11, dtype=torch.float64).repeat(3, 1)
    curves = {name: Curves(losses, {}, 11, 1e-3, 8) for name in ("Adam", "SGD", "learned")}
    Comparison(curves, "bowl", last=1).save(path / "curves.npz")
    write_description(path, dataclasses.replace(description, comparisons=[Compared("curves.npz", "Bowls", tunings)]))
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', render(path).read_text())
    shown = {trace["name"]: trace["shown"] for trace in json.loads(text)["traces"]}
    assert list(shown.items()) == [("learned", True), ("SGD", True), ("Adam", False)]


def test_the_page_links_the_files_that_are_there(folder):
    path, _ = folder
    links = re.findall(r'<a href="([^"]*)">', render(path).read_text())
    assert links == ["config.json", "verdict.json", "curves.npz", "README.md"]
    (path / "options.json").write_text("{}")
    assert "options.json" in re.findall(r'<a href="([^"]*)">', render(path).read_text())


def test_rendering_twice_gives_the_same_pages(folder):
    path, _ = folder
    pages = []
    for _ in range(2):
        render(path)
        pages.append([(path / name).read_text() for name in ("README.md", "report.html")])
    assert pages[0] == pages[1]


def test_results_without_verdicts_render(folder):
    path, description = folder
    write_description(path, dataclasses.replace(description, preset=""))
    write_verdicts(
        path / "verdict.json", [], experiment="x", preset="", seeds=[], seconds=1, commit="abc", machine="this one"
    )
    render(path)
    assert "## Verdicts" not in (path / "README.md").read_text()


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "{}", '{"figures": [1], "comparisons": []}', '{"figures": [], "comparisons": []}']
)
def test_something_else_in_its_place_is_refused(folder, content):
    path, _ = folder
    (path / "config.json").write_text(content)
    with pytest.raises(DataError, match=r"config\.json does not describe results"):
        render(path)


def test_a_description_with_an_unknown_entry_is_refused(folder):
    path, _ = folder
    content = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**content, "surprise": 1}))
    with pytest.raises(DataError, match="surprise"):
        read_description(path)
