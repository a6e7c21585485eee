"""The pages that are laid out for the site: complete, from the results as they are, with links that lead somewhere."""

import json
import re
from pathlib import Path, PurePosixPath

import pytest

from scripts.stage_docs import LINK, PAPERS, NoPageError, paper_page, places_of, results_of, rewritten, stage

ROOT = Path(__file__).parents[2]
NAVIGATION = re.findall(r"(?:: |- )(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
PAPER = PAPERS[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    stage(folder)
    return folder


@pytest.fixture
def project(tmp_path):
    """A project with one result of a paper: one claim passed, one failed."""
    folder = tmp_path / "results" / PAPER.key / "fig2" / "laptop"
    folder.mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    for name in ("docs/guided_policy.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        (tmp_path / name).write_text("# A page\n")
    (folder / "curves.png").write_bytes(b"picture")
    (folder / "README.md").write_text("![Curves.](curves.png)\n")
    verdicts = [
        {"claim": "the first is below", "criterion": "below 0", "measured": -1.0, "runs": 3, "passed": True},
        {
            "claim": "the second too",
            "criterion": "below 0",
            "measured": 0.5,
            "runs": 3,
            "passed": False,
            "note": "by far",
        },
    ]
    record = {"experiment": f"{PAPER.key}/fig2", "preset": "laptop", "commit": "0", "seeds": [1], "seconds": 61.0}
    (folder / "verdict.json").write_text(json.dumps({**record, "machine": "a laptop", "verdicts": verdicts}))
    description = {
        "experiment": f"{PAPER.key}/fig2", "preset": "laptop", "summary": "Two claims.", "command": "l2o reproduce",
        "configuration": {}, "data": [], "backend": "", "comparisons": [],
        "figures": [{"file": "curves.png", "title": "Figure 2", "alternative": "Two curves."}],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(description))
    return tmp_path


def test_every_page_of_the_navigation_is_laid_out_and_no_other(site):
    laid_out = {path.relative_to(site).as_posix() for path in site.rglob("*.md")}
    assert len(NAVIGATION) > 20
    assert {name for name in laid_out if not name.startswith("results/")} == set(NAVIGATION)


def test_every_link_of_a_page_leads_to_a_file_of_the_site(site):
    followed = 0
    for page in site.rglob("*.md"):
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for link in LINK.finditer(text):
            if not re.match(r"[a-z]+:", link["target"]):
                assert (page.parent / link["target"]).is_file(), f"{page.relative_to(site)}: {link[0]}"
                followed += 1
    assert followed > 100


def test_each_paper_has_a_page_with_all_its_results(site):
    for paper in PAPERS:
        text = (site / "papers" / f"{paper.key}.md").read_text(encoding="utf-8")
        verdicts = [verdict for result in results_of(paper) for verdict in result.record.verdicts]
        assert text.count("**failed**") == sum(not verdict.passed for verdict in verdicts)
        assert all(verdict.claim in text for verdict in verdicts)
        assert ("There are no results yet" in text) == (not verdicts)


def test_a_failed_claim_is_shown_as_failed_with_its_number(project):
    text = paper_page(PAPER, results_of(PAPER, project), [f"{PAPER.key}/fig2", f"{PAPER.key}/fig3"])
    assert "1 of 2 claims passed, 1 failed" in text
    assert "| the first is below | -1 | 3 | passed |" in text
    assert "| the second too (by far) | 0.5 | 3 | **failed**{.failed} |" in text
    assert f"![Two curves.](results/{PAPER.key}/fig2/laptop/curves.png)" in text
    assert "1 min 01 s" in text
    assert f"l2o reproduce {PAPER.key}/fig3" in text.partition("## Not run yet")[2]


def test_a_paper_without_results_says_so():
    text = paper_page(PAPER, [], [f"{PAPER.key}/fig2"])
    assert "There are no results yet" in text
    assert f"l2o reproduce {PAPER.key}/fig2 --preset laptop" in text
    assert "passed" not in text


def test_results_that_come_later_are_on_the_next_build(project, tmp_path_factory):
    into = tmp_path_factory.mktemp("into")
    stage(into, project)
    page = into / "papers" / f"{PAPER.key}.md"
    assert "the second too" in page.read_text()
    path = project / "results" / PAPER.key / "fig2" / "laptop" / "verdict.json"
    path.write_text(path.read_text().replace("the second too", "the second as well"))
    stage(into, project)
    assert "the second as well" in page.read_text()
    assert (into / "results" / PAPER.key / "fig2" / "laptop" / "curves.png").read_bytes() == b"picture"


@pytest.mark.parametrize(
    ("link", "found"),
    [
        ("[x](../../CONTRIBUTING.md#add-an-experiment)", "[x](../contributing.md#add-an-experiment)"),
        ("[x](../../examples/gan_schedule.py)", "[x](../examples.md#gan_schedule)"),
        ("[x](../../results/autoloss)", "[x](../papers/autoloss.md)"),
        ("[x](../using.md)", "[x](../using.md)"),
        ("[x](#here)", "[x](#here)"),
        ("[x](https://example.org/a.md)", "[x](https://example.org/a.md)"),
        ("```text\n[x](nowhere.py)\n```", "```text\n[x](nowhere.py)\n```"),
    ],
)
def test_a_link_leads_to_the_same_thing_on_the_site(link, found):
    home, page = PurePosixPath("docs/how_to"), PurePosixPath("how_to/debug.md")
    assert rewritten(link, home, page, places_of()) == found


def test_a_link_to_what_has_no_page_is_refused():
    with pytest.raises(NoPageError, match="src/l2o"):
        rewritten("[x](../src/l2o)", PurePosixPath("docs"), PurePosixPath("using.md"), places_of())
