import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from l2o.errors import ArgumentError
from l2o.evaluation.report import Picture, Report, Table, duration, outcome, write_report
from l2o.evaluation.verdicts import Verdict

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Reads a page: its text, its tags with attributes, and whether every tag that opens is closed."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
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
        self.words.append(data)

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
        "steps 49 network.hidden 20",
        "the bowl is synthetic",
    ):
        assert words in text


def test_the_page_asks_nothing_of_anybody(tmp_path: Path, report: Report) -> None:
    read = page(tmp_path, report)
    markup = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?://|//[a-z]+\.", markup)
    assert "@import" not in markup
    assert not [tag for tag, _ in read.tags if tag in ("script", "iframe", "object", "embed")]
    for tag, attributes in read.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    policies = [a["content"] for _, a in read.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_pictures_are_embedded_with_their_words(tmp_path: Path, report: Report) -> None:
    images = [attributes for tag, attributes in page(tmp_path, report).tags if tag == "img"]
    assert [image["alt"] for image in images] == ["the learned curve is below Adam's"]
    assert (images[0]["src"] or "").startswith("data:image/png;base64,iVBOR")


INJECTION = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>"


def test_no_text_becomes_markup(tmp_path: Path, report: Report) -> None:
    verdict = Verdict(INJECTION, INJECTION, INJECTION, 1, True, note=INJECTION)
    facts = {"experiment": INJECTION, "preset": INJECTION, "commit": INJECTION, "machine": INJECTION}
    evil = Report(
        title=INJECTION,
        record=replace(report.record, **facts, verdicts=(verdict,)),
        summary=INJECTION,
        pictures=[replace(report.pictures[0], title=INJECTION, alternative=INJECTION)],
        tables=[Table(INJECTION, [{INJECTION: INJECTION, "x": INJECTION}], INJECTION)],
        config={INJECTION: INJECTION},
        data_notes=[INJECTION],
        version=INJECTION,
        command=INJECTION,
    )
    read = page(tmp_path, evil)
    names = [tag for tag, _ in read.tags]
    assert "script" not in names
    assert names.count("img") == 1
    assert read.text.count("<script>alert(1)</script>") == 24  # shown as the words they are


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
