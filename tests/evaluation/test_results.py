"""Folders of results: described exactly, rendered from their own files, and clear about what is wrong with them."""

import dataclasses
import json

import pytest
import torch

from l2o.curves import Curves
from l2o.errors import DataError
from l2o.evaluation.compare import Comparison
from l2o.evaluation.plots import plot_curves
from l2o.evaluation.results import Compared, Description, Shown, read_description, render, write_description
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
