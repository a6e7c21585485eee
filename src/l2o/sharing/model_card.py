"""The model card of weights: what they are, how they came about, how they are used and where they end, in Markdown."""

import json
import re
from dataclasses import dataclass
from typing import Any

from l2o.errors import ArgumentError
from l2o.evaluation.tables import number
from l2o.sharing.citations import CITATIONS
from l2o.weights import Card

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True)
class Kind:
    """What a model card says of all weights of a kind.

    Args:
        tag: by which the Hub finds them.
        what: in words.
        use: Python code, `NAME` for the repository.
        intended: what they are for.
        limits: what holds for all of them.
    """

    tag: str
    what: str
    use: str
    intended: str
    limits: tuple[str, ...]


KINDS = {
    "optimizer": Kind(
        "learned-optimizer",
        "learned optimizer: a network that turns gradients into updates, in place of a hand-designed rule",
        """import l2o

rule = l2o.load("NAME", revision="...")  # a commit: the newest one may change
optimizer = rule.as_torch(model.parameters())  # a torch.optim.Optimizer; lr multiplies every update""",
        "Research on learning to optimize: as a baseline, as a start for further meta-training, and as an optimizer of "
        "problems like those it was meta-trained on.",
        (
            "What it does on other tasks than it was meta-trained on was not measured here. Compare it with a tuned "
            "hand-designed rule on your own (`l2o compare NAME adam --task ...`) before you rely on it.",
            "Updates depend on the scale of gradients and parameters: try values of `lr` below 1 on other problems.",
        ),
    ),
    "schedule": Kind(
        "learned-schedule",
        "schedule: it decides at every step which of several losses is followed, with which parameters",
        """import l2o

schedule = l2o.load_schedule("NAME", revision="...")  # a commit: the newest one may change
help(l2o.follow)  # takes it into a training loop of your own""",
        "Research on learned schedules: as a baseline, as a start for further training, and for problems like the one "
        "it was trained on, with the same losses and groups of parameters.",
        (
            "It fits problems with the same losses, groups and choices alone.",
            "Whether it is better than turns or a constant rate was not measured here: try those first.",
        ),
    ),
}


def model_card(card: Card, *, name: str, license: str = "apache-2.0", parameters: int, picture: str | None) -> str:
    """The README of a repository, with the front matter that the Hugging Face Hub reads.

    Args:
        card: of the weights; its kind is one of `KINDS`.
        name: of the repository.
        license: of the weights, an identifier of the Hub in lower case.
        parameters: number of meta-parameters.
        picture: file name of the curve beside it; None if there is none.
    """
    if not _LICENSE.fullmatch(license):
        raise ArgumentError(f"license is {license!r}; pass an identifier in lower case, as apache-2.0 or cc-by-4.0")
    kind = KINDS[card.kind]
    tags = [kind.tag, "learning-to-optimize", "meta-learning", "pytorch", f"l2o-{card.optimizer.lower()}"]
    title = f"{card.optimizer}" + (f" meta-trained on {card.training_tasks}" if card.training_tasks else "")
    blocks = [
        _front_matter(license, tags),
        f"# {title}",
        f"A {kind.what}. Weights of the class `{card.optimizer}` of the PyTorch library `l2o`, in safetensors, with "
        "their card.",
        _facts(card, parameters),
        "## Use",
        f"`pip install 'l2o[hub]'`, then:\n\n```python\n{kind.use.replace('NAME', name)}\n```",
        "## Training",
        *_training(card, picture),
        "## Intended use",
        kind.intended,
        "## Limits",
        "\n".join(f"- {limit}" for limit in (*_limits(card), *(text.replace("NAME", name) for text in kind.limits))),
        *(["## Notes", card.notes] if card.notes else []),
        "## Citation",
        _citation(card),
    ]
    return "\n\n".join(blocks) + "\n"


def _front_matter(license: str, tags: list[str]) -> str:
    # JSON strings are YAML: nothing in them can end the front matter.
    lines = [f"license: {json.dumps(license)}", "library_name: l2o", "tags:", *(f"- {json.dumps(tag)}" for tag in tags)]
    return "\n".join(["---", *lines, "---"])


def _facts(card: Card, parameters: int) -> str:
    config = ", ".join(f"{name}={value!r}" for name, value in card.config.items())
    rows = {
        "made by": _code(f"{card.optimizer}({config})"),
        "meta-parameters": number(parameters),
        "meta-trained on": card.training_tasks,
        "method": card.method,
        "horizon": f"{card.horizon} inner steps" if card.horizon else "",
        "best validation": _best(card.curve),
        "data": "; ".join(card.data),
        "computed by": card.backend,
        "source commit": _code(card.commit),
        "sha256 of model.safetensors": _code(card.sha256),
    }
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows.items() if value]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def _best(curve: list[list[float]]) -> str:
    if not curve:
        return ""
    at, value = min(curve, key=lambda entry: entry[1])
    return f"{number(value)} after {number(at)} trajectories; {number(curve[0][1])} at the first validation"


def _training(card: Card, picture: str | None) -> list[str]:
    plan = json.dumps(card.configuration, indent=1)
    blocks = [f"```sh\n{card.command}\n```"] if card.command else []
    if picture:
        blocks.append(f"![Validations during the meta-training]({picture})")
    if card.configuration:
        summary = "The whole configuration" if card.command else "Trained from Python; the whole configuration"
        blocks.append(f"<details><summary>{summary}</summary>\n\n```json\n{plan}\n```\n\n</details>")
    return blocks or ["The card says nothing about it."]


def _limits(card: Card) -> list[str]:
    if not card.horizon:
        return []
    return [
        f"It was meta-trained for {card.horizon} steps. What it does after more is not known: it may stall or drift up "
        "again, and warns after twice as many."
    ]


def _citation(card: Card) -> str:
    if card.optimizer not in CITATIONS:
        return f"No paper is known to the library for the class `{card.optimizer}`."
    return f"The architecture is of:\n\n```bibtex\n{CITATIONS[card.optimizer]}\n```"


def _code(text: Any) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
