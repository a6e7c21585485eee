"""Weights of agents in files, and in repositories: safetensors with a card, never a pickle."""

import hashlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
import torch

from l2o import checkpoint, hub, repository
from l2o.agent import Agent
from l2o.errors import ArgumentError, CheckpointError, WeightsError
from l2o.trees import Tree

AgentT = TypeVar("AgentT", bound=Agent)


@dataclass(frozen=True)
class Card:
    """Where weights come from. Everything in it is JSON.

    Args:
        optimizer: class of the agent: a learned optimizer or a schedule.
        kind: "optimizer" or "schedule"; set by `save`.
        config: its constructor's arguments.
        method: how it was meta-trained.
        training_tasks: on which task family.
        horizon: inner steps of the longest trajectory it was meta-trained on, or of an average one where lengths were
            random; 0 for weights that were not trained.
        seed: seed of the meta-training.
        configuration: the whole plan of the meta-training.
        curve: validations as [trajectories done, value].
        data: which data was read.
        commit: of the source that trained it.
        backend: name of the kernel that trained it.
        command: that trained it, if it was one.
        notes: anything a user should know.
        sha256: of the safetensors file; set by `save`.

    Example:
        >>> import l2o, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     card = l2o.save(l2o.Adam(0.02), f"{folder}/mine", Card(notes="the rate that suits my problem"))
        >>> card.optimizer, card.config["lr"], card.notes
        ('Adam', 0.02, 'the rate that suits my problem')
    """

    optimizer: str = ""
    kind: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    method: str = ""
    training_tasks: str = ""
    horizon: int = 0
    seed: int = 0
    configuration: dict[str, Any] = field(default_factory=dict)
    curve: list[list[float]] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    commit: str = "unknown"
    backend: str = ""
    command: str = ""
    notes: str = ""
    sha256: str = ""


def save(agent: Agent, path: str | Path, card: Card | None = None) -> Card:
    """Saves the weights to `path` (`.safetensors`) and their card beside it (`.toml`).

    The card is inside the weights file too: the `.toml` is for people, and `load` checks it against the file.

    Args:
        agent: of any class; one outside the package is loaded back with `load(..., architectures=...)`.
        path: the file; its ending is made `.safetensors`.
        card: where the weights come from; class and constructor arguments are filled in.

    Returns:
        The card as written.

    Example:
        >>> import l2o, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(l2o.RNNprop.lv(), f"{folder}/mine")
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['mine.safetensors', 'mine.toml']
    """
    path = path_of(path)
    found = {"optimizer": type(agent).__name__, "kind": agent.kind, "config": agent.config()}
    plain = replace(card or Card(), **found, sha256="")
    checkpoint.write(path, agent.state_dict(), asdict(plain), kind="weights")
    write_card(path)
    return replace(plain, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def rebuild(source: str | Path, kinds: Mapping[str, type[AgentT]], *, revision: str | None = None) -> AgentT:
    """The agent that a weights file, a repository, or shipped weights of a name hold.

    Args:
        source: path of a `.safetensors` file, folder of a repository, name of shipped weights, or user/name of a
            repository of the Hugging Face Hub.
        kinds: the classes that the file may name.
        revision: of a repository of the Hub.

    Raises:
        WeightsError: the file or its card is missing, truncated, altered, foreign, too large, or names an unknown
            class; or a repository cannot be had.
    """
    path = find(source, revision=revision)
    tensors, card = read_weights(path)
    kind = kinds.get(card.optimizer)
    if kind is None:
        raise WeightsError(
            f"{path} holds weights of {card.optimizer!r}, known are {', '.join(kinds)}; "
            "pass its class in `architectures`"
        )
    try:
        _check_shapes(kind, card.config, tensors)
        agent = kind.from_config(card.config)
        agent.load_state_dict(tensors)
    except (TypeError, RuntimeError, KeyError, ArgumentError) as error:
        raise WeightsError(f"{path} does not fit {card.optimizer}: {error}") from error
    agent.horizon = card.horizon or None
    return agent


def load_card(source: str | Path, *, revision: str | None = None) -> Card:
    """The card of weights, checked as `load` checks it.

    Example:
        >>> card = load_card("rnnprop-mnist")
        >>> card.optimizer, card.training_tasks, card.horizon
        ('RNNprop', 'mlp-20-sigmoid-mnist', 100)
    """
    return read_weights(find(source, revision=revision))[1]


def shipped() -> list[str]:
    """The names of the weights in the package.

    Example:
        >>> "rnnprop-mnist" in shipped()
        True
    """
    folder = resources.files("l2o") / "pretrained"
    return sorted(entry.name.removesuffix(".safetensors") for entry in folder.iterdir() if _is_weights(entry.name))


def read_weights(path: Path) -> tuple[Tree, Card]:
    """The tensors and the card of a weights file, the `.toml` beside it checked if there is one.

    Raises:
        WeightsError: the file or its card is missing, truncated, altered or foreign.
    """
    tensors, values, sha256 = _parsed(path)
    try:
        card = replace(Card(**values), sha256=sha256)
    except TypeError as error:
        raise WeightsError(f"{path} has a card of another version: {error}") from error
    check_card(path.with_suffix(".toml"), {**values, "sha256": sha256})
    return tensors, card


def write_card(path: Path) -> None:
    """Writes the `.toml` beside a weights file from the card that is in it."""
    _, values, sha256 = _parsed(path)
    content = tomli_w.dumps(_without_none({**values, "sha256": sha256}))
    checkpoint.write_bytes(path.with_suffix(".toml"), content.encode())


def _parsed(path: Path) -> tuple[Tree, dict[str, Any], str]:
    """The tensors of a weights file, the card as it stands in it, and the file's sha256."""
    try:
        blob = path.read_bytes()
        tensors, values = checkpoint.parse(blob, kind="weights", source=str(path))
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    except CheckpointError as error:
        raise WeightsError(str(error)) from error
    return tensors, values, hashlib.sha256(blob).hexdigest()


def check_card(path: Path, card: Mapping[str, Any]) -> None:
    """Compares the `.toml` beside a file, if it is there, with the card in the file.

    Raises:
        WeightsError: it cannot be read, or it differs.
    """
    if not path.exists():
        return
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8"))
    # Besides its own TOMLDecodeError, tomllib lets pass what int() says of 5,000 digits, and Python of 1,000 brackets.
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"the card {path} cannot be read ({error}); take another copy, or delete it") from error
    expected = tomllib.loads(tomli_w.dumps(_without_none(dict(card))))
    wrong = sorted(k for k in expected.keys() | written.keys() if expected.get(k) != written.get(k))
    if wrong:
        raise WeightsError(
            f"the card {path} does not belong to the weights beside it, or was altered (differs in "
            f"{', '.join(wrong)}); take another copy of both, or delete the card"
        )


def find(source: str | Path, *, revision: str | None = None) -> Path:
    """The weights file that a path, a folder, a shipped name or a repository's name stands for, on this machine."""
    path = Path(source)
    shipped_file = resources.files("l2o") / "pretrained" / f"{source}.safetensors"
    if hub.is_name(source) and not path.exists() and path.suffix != ".safetensors":
        return repository.weights_in(hub.fetch(str(source), revision), name=str(source))
    if revision is not None:
        raise WeightsError(f"{source} has no revisions, and revision is {revision!r}; only a repository user/name has")
    if path.is_dir():
        return repository.weights_in(path, name=str(path))
    if path.suffix == ".safetensors" or path.exists():
        return path
    if not shipped_file.is_file():
        raise WeightsError(
            f"no file {source}, and no shipped weights of that name; shipped are: {', '.join(shipped()) or 'none'}"
        )
    return Path(str(shipped_file))


def asked_shapes(make: Callable[[], Agent]) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of an agent, without any of them being allocated: a file may ask for too much."""
    with torch.device("meta"):
        return {name: tuple(leaf.shape) for name, leaf in make().state_dict().items()}


def _check_shapes(kind: type[AgentT], config: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """An error if the tensors are not of the shapes that the configuration asks for."""
    try:
        wanted = asked_shapes(lambda: kind.from_config(config))
    except RuntimeError:  # a constructor that looks at numbers, which have no value there
        return
    found = {name: tuple(leaf.shape) for name, leaf in tensors.items()}
    wrong = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    if wrong:
        shapes = "; ".join(f"{name}: {found.get(name)} there, {wanted.get(name)} by its config" for name in wrong)
        raise ArgumentError(shapes)


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def path_of(path: str | Path) -> Path:
    """The file that `save` writes for a path: its ending is made `.safetensors`."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else path.with_name(f"{path.name}.safetensors")


def _without_none(value: Any) -> Any:
    """TOML has no null: leaves such entries out."""
    if isinstance(value, dict):
        return {name: _without_none(entry) for name, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [_without_none(entry) for entry in value]
    return value
