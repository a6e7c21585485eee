import base64
import hashlib
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from l2o.errors import ArgumentError
from l2o.evaluation import colours, figure
from l2o.evaluation.charts import Chart, trace
from l2o.evaluation.report import (
    CARD,
    DARK_CARD,
    SCRIPTS,
    Picture,
    Report,
    Table,
    duration,
    outcome,
    palette,
    write_report,
)
from l2o.evaluation.verdicts import Verdict

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Reads a page: its text, its tags with attributes, and whether every tag that opens is closed."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts.append(data)
        elif "style" not in self.open:
            self.words.append(data)

    @property
    def data(self) -> list[dict]:
        """The charts that the page draws."""
        return [json.loads(script) for script in self.scripts[: -len(SCRIPTS)]]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(path: Path, report: Report) -> Page:
    write_report(path / "report.html", report)
    return Page((path / "report.html").read_text(encoding="utf-8"))


def test_the_page_says_everything_that_the_report_holds(tmp_path: Path, report: Report) -> None:
    text = page(tmp_path, report).text
    for words in (
        "A learned optimizer & tuned rules",
        "Two optimizers on a bowl. 1 of 2 claims passed, 1 failed.",
        "✓ passed The learned optimizer is below Adam. criterion interval below 0 measured -0.51 [-0.8, -0.2] runs 10",
        "✗ failed It is below SGD. criterion median below 0 measured ∞ runs 10 note two of its runs failed",
        "Loss by step",
        "Losses optimizer column 1",
        "learned 0.25 [0.125, 0.5]",
        "In brackets: intervals.",
        "l2o reproduce paper/experiment --preset smoke",
        "experiment paper/experiment preset smoke seeds 1, 2 time 1 min 23 s machine a machine, 2 cores commit abc123",
        "version 1.2.3",
        "2 settings steps 49 network.hidden 20",
        "config.json : the full configuration",
        "the bowl is synthetic",
    ):
        assert words in text


def test_the_page_asks_nothing_of_anybody(tmp_path: Path, report: Report) -> None:
    read = page(tmp_path, report)
    markup = (tmp_path / "report.html").read_text()
    names = {"http://www.w3.org/2000/svg"}  # of a namespace: nothing is fetched from there
    assert set(re.findall(r"https?://[^\"\s]+|\"//[a-z]+\.[^\"]*", markup)) == names
    for part in ("@import", "url(", "fetch(", "XMLHttpRequest", "WebSocket", "sendBeacon", "import("):
        assert part not in markup.replace("url(#${", "")
    assert not [tag for tag, _ in read.tags if tag in ("iframe", "object", "embed")]
    for tag, attributes in read.tags:
        assert (attributes.get("src") or "data:").startswith("data:"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    links = {tag: attributes["href"] for tag, attributes in read.tags if "href" in attributes}
    assert links == {"link": "data:,", "a": "config.json"}


def test_the_pages_policy_allows_its_own_scripts_alone(tmp_path: Path, report: Report) -> None:
    read = page(tmp_path, report)
    (policy,) = [a["content"] or "" for _, a in read.tags if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digests = [hashlib.sha256(script.encode()).digest() for script in read.scripts[-len(SCRIPTS) :]]
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    assert rules == {
        "default-src": "'none'", "img-src": "data:", "style-src": "'unsafe-inline'", "script-src": allowed
    }  # fmt: skip
    assert len(read.scripts) == len(SCRIPTS) + 1


def test_a_figures_curves_are_data_of_the_page_beside_the_figure(tmp_path: Path, report: Report) -> None:
    (chart,) = page(tmp_path, report).data
    assert [line["name"] for line in chart["traces"]] == ["learned", "Adam"]
    assert chart["traces"][0]["x"] == [0, 1, 2]
    assert chart["traces"][1]["y"] == [2, None, 0.5]
    assert (chart["xlabel"], chart["ylabel"], chart["yscale"]) == ("step", "loss", "log")
    markup = (tmp_path / "report.html").read_text()
    assert re.search(r'<details class="picture" open>\s*<summary>As a picture</summary>\s*<figure><img', markup)


def test_a_figure_without_curves_stands_for_itself(tmp_path: Path, report: Report) -> None:
    read = page(tmp_path, replace(report, pictures=[replace(report.pictures[0], charts=())]))
    assert read.data == []
    assert len(read.scripts) == 1  # what draws charts is left out
    assert "summary" not in [tag for tag, attributes in read.tags if attributes.get("class") == "picture"]
    assert [tag for tag, _ in read.tags].count("figure") == 1


def test_the_page_has_landmarks_headings_in_order_and_names_for_what_can_be_reached(
    tmp_path: Path, report: Report
) -> None:
    read = page(tmp_path, report)
    names = [tag for tag, _ in read.tags]
    assert (names.count("header"), names.count("main"), names.count("h1")) == (1, 1, 1)
    assert names.index("h1") < names.index("h2")
    levels = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert dict(read.tags)["html"] == {"lang": "en"}
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in read.tags:
        assert attributes.get("aria-labelledby", ids[0]) in ids
    regions = [attributes for tag, attributes in read.tags if tag == "div" and "tabindex" in attributes]
    assert regions
    assert all("aria-labelledby" in attributes for attributes in regions)


def test_every_verdict_can_be_filtered_and_the_filter_counts_them(tmp_path: Path, report: Report) -> None:
    read = page(tmp_path, report)
    assert [a["data-verdict"] for _, a in read.tags if "data-verdict" in a] == ["passed", "failed"]
    buttons = [(a["data-show"], a["aria-pressed"]) for _, a in read.tags if "data-show" in a]
    assert buttons == [("all", "true"), ("passed", "false"), ("failed", "false")]
    assert "all 2 passed 1 failed 1" in read.text


def test_long_configurations_are_folded(tmp_path: Path, report: Report) -> None:
    def opened(settings: int) -> list[bool]:
        read = page(tmp_path, replace(report, config={f"c{place}": place for place in range(settings)}))
        return ["open" in a for tag, a in read.tags if tag == "details" and a.get("class") != "picture"]

    assert (opened(3), opened(40)) == ([True], [False])


def test_curves_have_the_colours_of_the_figures_as_far_as_they_can_be_seen() -> None:
    light, dark = (re.findall(r"--curve-\d: (#[0-9a-f]{6});", part) for part in palette().split("@media"))
    for colours_of_scheme, card, least in ((light, CARD, 3.0), (dark, DARK_CARD, 4.5)):
        assert len(set(colours_of_scheme)) == len(figure.COLOURS)
        assert min(colours.contrast(colour, card) for colour in colours_of_scheme) >= least
    same = [colour.lower() == shown for colour, shown in zip(figure.COLOURS, light, strict=True)]
    assert same == [True, True, True, True, False, False, True, True]


def test_cards_of_the_style_are_those_that_colours_are_chosen_for(tmp_path: Path, report: Report) -> None:
    page(tmp_path, report)
    assert re.findall(r"--card: (#[0-9a-f]{6});", (tmp_path / "report.html").read_text()) == [CARD, DARK_CARD]


def test_pictures_are_embedded_with_their_words(tmp_path: Path, report: Report) -> None:
    images = [attributes for tag, attributes in page(tmp_path, report).tags if tag == "img"]
    assert [image["alt"] for image in images] == ["the learned curve is below Adam's"]
    assert (images[0]["src"] or "").startswith("data:image/png;base64,iVBOR")


INJECTION = "\"'></script><!--<script>alert(1)</script><img src=x onerror=alert(1)>"


def test_no_text_becomes_markup(tmp_path: Path, report: Report) -> None:
    verdict = Verdict(INJECTION, INJECTION, INJECTION, 1, True, note=INJECTION)
    facts = {"experiment": INJECTION, "preset": INJECTION, "commit": INJECTION, "machine": INJECTION}
    line = trace(INJECTION, [1], [1], [1], [1], note=INJECTION)
    hostile = Chart(INJECTION, INJECTION, INJECTION, [line], [INJECTION], levels={INJECTION: 1.0})
    evil = Report(
        title=INJECTION,
        record=replace(report.record, **facts, verdicts=(verdict,)),
        summary=INJECTION,
        pictures=[replace(report.pictures[0], title=INJECTION, alternative=INJECTION, charts=[hostile])],
        tables=[Table(INJECTION, [{INJECTION: INJECTION, "x": INJECTION}], INJECTION)],
        config={INJECTION: INJECTION},
        data_notes=[INJECTION],
        version=INJECTION,
        command=INJECTION,
        files={INJECTION: INJECTION},
    )
    read = page(tmp_path, evil)
    names = [tag for tag, _ in read.tags]
    assert names.count("script") == 1 + len(SCRIPTS)
    assert names.count("img") == 1
    assert read.text.count("<script>alert(1)</script>") == 26  # shown as the words they are
    (chart,) = read.data
    assert chart["traces"][0]["name"] == chart["title"] == chart["notes"][0] == INJECTION
    assert "<script>alert" not in (tmp_path / "report.html").read_text()
    (link,) = [attributes["href"] or "" for tag, attributes in read.tags if tag == "a"]
    assert re.fullmatch(r"[\w%./()-]+", link)


def test_our_scripts_cannot_end_their_own_element() -> None:
    for name in SCRIPTS:
        text = resources.files("l2o.evaluation").joinpath(name).read_text(encoding="utf-8")
        assert text.startswith('"use strict";')
        assert "</script" not in text.lower()
        assert "<!--" not in text


def test_a_report_of_nothing_but_a_title_is_a_page(tmp_path: Path, report: Report) -> None:
    bare = Report("Bare", replace(report.record, verdicts=()))
    text = page(tmp_path, bare).text
    assert "No claim is tested here." in text
    for heading in ("Verdicts", "Command", "Configuration", "Data"):
        assert heading not in text


def test_the_same_report_is_the_same_file(tmp_path: Path, report: Report) -> None:
    write_report(tmp_path / "a.html", report)
    write_report(tmp_path / "b.html", report)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        ((), "No claim is tested here."),
        ((True,), "The claim passed."),
        ((False,), "The claim failed."),
        ((True, True), "All 2 claims passed."),
        ((False, False, False), "All 3 claims failed."),
        ((True, False, True), "2 of 3 claims passed, 1 failed."),
    ],
)
def test_the_outcome_counts_the_claims(report: Report, passed: tuple[bool, ...], words: str) -> None:
    verdicts = tuple(Verdict("c", "d", 0.0, 1, value) for value in passed)
    assert outcome(replace(report.record, verdicts=verdicts)) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(4.23, "4.2 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7500, "2 h 05 min"), (float("nan"), "unknown")],
)
def test_durations_are_told_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_file_that_is_no_png_is_refused(tmp_path: Path, report: Report) -> None:
    (tmp_path / "page.svg").write_text("<svg/>")
    with pytest.raises(ArgumentError, match="not a PNG file"):
        write_report(tmp_path / "report.html", replace(report, pictures=[Picture("t", tmp_path / "page.svg", "a")]))
    assert not (tmp_path / "report.html").exists()
