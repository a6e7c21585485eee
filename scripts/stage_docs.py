"""Lays out the pages of the site in build/docs: those of docs/, and those made from results/ and examples/.

Pages of docs/ link to files of the project as they lie there, so that links work where the project is read. On the site
some of these files are pages elsewhere: their links are rewritten, and a link to what has no page is an error.
"""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from l2o.cli.choices import EXPERIMENTS
from l2o.evaluation.report import duration, outcome
from l2o.evaluation.results import Description, read_description, verdict_row
from l2o.evaluation.tables import Row, markdown
from l2o.evaluation.verdicts import Verdict, Verdicts, read_verdicts

ROOT = Path(__file__).resolve().parents[1]

LINK = re.compile(r"(?P<before>!?\[[^\]]*\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?P<after>\))")
"""A link or picture of a page: `[text](target#anchor)`."""

ELSEWHERE = re.compile(r"^[a-z]+:")
"""The beginning of a target that is no file."""


class NoPageError(Exception):
    """A page links to a file that has no place on the site."""


@dataclass(frozen=True)
class Paper:
    """A paper whose experiments are reproduced.

    Args:
        key: its folder under results/, and the first part of its experiments' names.
        title: as published.
        source: who and when.
        about: what it is about and what is tried here, in a few sentences.
    """

    key: str
    title: str
    source: str
    about: str


PAPERS = (
    Paper(
        "optimizers-cubed",
        "Optimizers cubed",
        "Brown, Gao, Hayhurst and Young 2020, after Andrychowicz et al. 2016, "
        '"Learning to learn by gradient descent by gradient descent"',
        "A coordinate-wise LSTM is meta-trained to take the place of the update rule, on random quadratics and on a "
        "small perceptron for MNIST. The claims here are that it is below tuned hand-designed rules, and that it "
        "carries over to other sizes, activations and numbers of steps.",
    ),
    Paper(
        "stronger-baselines",
        "Stronger baselines",
        'Chen et al. 2020, "Training stronger baselines for learning to optimize"',
        "The learned optimizers stay as they are, and their meta-training changes: a curriculum of growing "
        "trajectories (CL) and imitation of hand-designed teachers (IL). The claims are about runs of thousands of "
        "steps, far longer than any trajectory of the training. Natural logarithms of losses, as in the source.",
    ),
    Paper(
        "guided-policy-search",
        "Learning to optimize neural nets",
        'Li and Malik 2017, "Learning to optimize neural nets"',
        "An optimizer is a policy, and guided policy search trains it: local linear controllers are improved by "
        "models of what they did, and a recurrent network learns to act as they do. How it is built, and what the "
        "paper leaves open, is on the page about [guided policy search](docs/guided_policy.md).",
    ),
    Paper(
        "autoloss",
        "AutoLoss",
        'Xu et al. 2019, "AutoLoss: learning discrete schedules for alternate optimization"',
        "A controller decides at every step which of several losses updates which parameters, and learns it by a "
        "policy gradient. The tables also hold it against nulls that the paper lacks: constant rates, an "
        "untrained controller, its own decisions of another run, its rates shuffled in time.",
    ),
)


@dataclass(frozen=True)
class Result:
    """A folder of results: `verdict.json` and `config.json`, and where it lies in the project."""

    folder: Path
    record: Verdicts
    description: Description

    @property
    def figure(self) -> str:
        """Its first figure as Markdown, with its caption; nothing where it has none."""
        if not self.description.figures:
            return ""
        shown = self.description.figures[0]
        return f"![{shown.alternative}]({self.folder.as_posix()}/{shown.file})\n\n*{shown.alternative}*"


def results_of(paper: Paper, root: Path = ROOT) -> list[Result]:
    """The results of a paper that are there, in the order of its experiments."""
    found = []
    for path in sorted((root / "results" / paper.key).glob("*/*/verdict.json")):
        folder = path.parent
        found.append(Result(folder.relative_to(root), read_verdicts(path), read_description(folder)))
    order = list(EXPERIMENTS)
    return sorted(found, key=lambda r: order.index(r.record.experiment) if r.record.experiment in order else len(order))


def paper_page(paper: Paper, results: Sequence[Result], experiments: Sequence[str]) -> str:
    """The page of a paper, as if it lay in a folder of the project: what passed, what failed, what has not been run.

    Args:
        paper: which.
        results: its results.
        experiments: names of all its experiments.
    """
    parts = [
        f"# {paper.title}",
        f"{paper.source}.",
        paper.about,
        *_overview(results),
        *[section for result in results for section in _section(result)],
        *_not_run(paper, experiments, {result.record.experiment for result in results}),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _overview(results: Sequence[Result]) -> list[str]:
    if not results:
        return ["**There are no results yet.** Nothing is claimed here until there are."]
    verdicts = [verdict for result in results for verdict in result.record.verdicts]
    failed = [verdict for verdict in verdicts if not verdict.passed]
    rows: list[Row] = [
        {
            "experiment": f"[{_name(result.record)}](#{_name(result.record)})",
            "preset": result.record.preset,
            "passed": f"{result.record.passed} of {len(result.record.verdicts)}",
            "computing": duration(result.record.seconds),
        }
        for result in results
    ]
    said = f"{len(verdicts) - len(failed)} of {len(verdicts)} claims passed"
    return [
        f"{said}, {len(failed)} failed. Each criterion was written before the run; a claim that failed stays here.",
        markdown(rows),
    ]


def _section(result: Result) -> list[str]:
    record = result.record
    criteria = dict.fromkeys(verdict.criterion for verdict in record.verdicts)
    return [
        f"## {_name(record)}",
        f"{result.description.summary} {outcome(record)}",
        result.figure,
        markdown([_judged(verdict) for verdict in record.verdicts]) if record.verdicts else "",
        *(["Criteria:", "\n".join(f"- {criterion}" for criterion in criteria)] if criteria else []),
        f"Made by `{result.description.command}` in {duration(record.seconds)} of computing on {record.machine}. "
        f"[All figures and tables]({result.folder.as_posix()}/README.md).",
    ]


def _judged(verdict: Verdict) -> Row:
    """A verdict as a row; what failed is marked as failed, and what there is to add is said."""
    row = dict(verdict_row(verdict))
    row["claim"] = f"{verdict.claim} ({verdict.note})" if verdict.note else verdict.claim
    row["verdict"] = "passed" if verdict.passed else "**failed**{.failed}"
    return row


def _not_run(paper: Paper, experiments: Sequence[str], run: set[str]) -> list[str]:
    missing = [name for name in experiments if name not in run]
    if not missing:
        return []
    commands = "\n".join(f"l2o reproduce {name} --preset laptop" for name in missing)
    return [
        "## Not run yet",
        "These experiments are built and have no results here. A command writes them, and the next build of this page "
        "shows them.",
        f"```sh\n{commands}\n```",
    ]


def _name(record: Verdicts) -> str:
    """The experiment's own name, without its paper's."""
    return record.experiment.partition("/")[2]


def examples_page(folder: Path) -> str:
    """All examples on one page, each as it stands in its file."""
    parts = [
        "# Examples",
        "Six programs of under 60 lines, each the whole of one job. They lie in the project's folder `examples/`, and "
        "the tests run them as they stand.",
    ]
    for path in sorted(folder.glob("*.py")):
        parts += [f"## {path.stem.replace('_', ' ').capitalize()} {{#{path.stem}}}", f"`examples/{path.name}`"]
        parts.append(f"```python\n{path.read_text(encoding='utf-8').rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def rewritten(text: str, home: PurePosixPath, page: PurePosixPath, places: Mapping[str, str]) -> str:
    """The text of a page with its links to files of the project turned to where these are on the site.

    Args:
        text: Markdown.
        home: the folder of the project that the page's links start from.
        page: where the page is on the site.
        places: file of the project to place on the site, which may end with an anchor.

    Raises:
        NoPageError: a link leads to a file of the project that has no place.
    """

    def turned(match: re.Match[str]) -> str:
        target = match["target"]
        if ELSEWHERE.match(target):
            return match[0]
        file = os.path.normpath(home / target)
        if file not in places:
            raise NoPageError(
                f"{home / page.name} links to {file}, which has no page on the site; link to a page of docs/, or give "
                "it a place in scripts/stage_docs.py"
            )
        place, _, anchor = places[file].partition("#")
        ending = match["anchor"] or (f"#{anchor}" if anchor else "")
        return f"{match['before']}{os.path.relpath(place, page.parent)}{ending}{match['after']}"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)  # code is left alone
    return "".join(part if part.startswith("```") else LINK.sub(turned, part) for part in parts)


def places_of(root: Path = ROOT) -> dict[str, str]:
    """Every file of the project that has a place on the site, and the place."""
    places = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md", "examples": "examples.md"}
    for path in sorted((root / "docs").rglob("*")):
        if path.is_file():
            places[path.relative_to(root).as_posix()] = path.relative_to(root / "docs").as_posix()
    places |= {f"results/{paper.key}": f"papers/{paper.key}.md" for paper in PAPERS}
    for path in sorted((root / "examples").glob("*.py")):
        places[f"examples/{path.name}"] = f"examples.md#{path.stem}"
    for verdict in sorted((root / "results").rglob("verdict.json")):
        folder = verdict.parent.relative_to(root).as_posix()
        places[f"{folder}/README.md"] = f"{folder}/index.md"
        places |= {f"{folder}/{file.name}": f"{folder}/{file.name}" for file in verdict.parent.glob("*.png")}
    return places


def stage(into: Path, root: Path = ROOT) -> None:
    """Writes all pages and pictures of the site to a folder, which is emptied before."""
    shutil.rmtree(into, ignore_errors=True)
    places = places_of(root)
    for file, place in places.items():
        if "#" in place or not (root / file).is_file():
            continue
        (into / place).parent.mkdir(parents=True, exist_ok=True)
        if file.endswith(".md"):
            text = (root / file).read_text(encoding="utf-8")
            _write(into, place, rewritten(text, PurePosixPath(file).parent, PurePosixPath(place), places))
        else:
            shutil.copyfile(root / file, into / place)
    _write(into, "examples.md", examples_page(root / "examples"))
    for paper in PAPERS:
        experiments = [name for name in EXPERIMENTS if name.partition("/")[0] == paper.key]
        place = f"papers/{paper.key}.md"
        text = paper_page(paper, results_of(paper, root), experiments)
        _write(into, place, rewritten(text, PurePosixPath(), PurePosixPath(place), places))


def _write(into: Path, place: str, text: str) -> None:
    path = into / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "docs", help="where the pages go")
    try:
        stage(parser.parse_args().into)
    except NoPageError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
