"""Weights as a repository: a folder with `model.safetensors`, its card, and a `config.json` that vouches for both."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l2o import checkpoint
from l2o.errors import WeightsError
from l2o.provenance import package_version

WEIGHTS, CARD, CONFIG = "model.safetensors", "model.toml", "config.json"

LARGEST = {WEIGHTS: 2**28, CARD: 2**22, CONFIG: 2**16}
"""The most bytes that each file may have: the largest learned optimizers have some megabytes."""

FORMAT = 1


def write_config(folder: Path, *, kind: str, name: str, config: Mapping[str, Any]) -> None:
    """Writes the `config.json` of a folder that has its `model.safetensors`.

    Args:
        folder: the repository.
        kind: "optimizer" or "schedule".
        name: class of the agent.
        config: its constructor's arguments.
    """
    content = {
        "library_name": "l2o",
        "library_version": package_version(),
        "format_version": FORMAT,
        "kind": kind,
        "class": name,
        "config": dict(config),
        "sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
    }
    checkpoint.write_bytes(folder / CONFIG, f"{json.dumps(content, indent=2)}\n".encode())


def weights_in(folder: Path, *, name: str) -> Path:
    """The weights file of a repository, once its `config.json` has vouched for it.

    Args:
        folder: where its files are.
        name: what errors call it.

    Raises:
        WeightsError: a file is missing or too large, the repository is not of l2o, of a newer one, or its weights are
            not those that `config.json` names.
    """
    config = read_config(folder, name)
    check_size(folder / WEIGHTS, WEIGHTS, name)
    if (folder / CARD).exists():
        check_size(folder / CARD, CARD, name)
    found = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    if found != config.get("sha256"):
        raise WeightsError(
            f"{WEIGHTS} of {name} has sha256 {found}, and its {CONFIG} says {config.get('sha256')}: it was altered, or "
            f"damaged on its way. Delete {folder} and load it again, or load another revision"
        )
    return folder / WEIGHTS


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """The `config.json` of a repository, or an error if there is none, or it is not one that this l2o reads."""
    check_size(folder / CONFIG, CONFIG, name)
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{CONFIG} of {name} is not JSON ({error}); take another copy, or revision") from error
    library = config.get("library_name") if isinstance(config, dict) else None
    if library != "l2o":
        raise WeightsError(
            f"{CONFIG} of {name} is of {library!r}, not of 'l2o'; weights of other libraries come in with `l2o import`"
        )
    version = config.get("format_version")
    if not isinstance(version, int) or version > FORMAT:
        raise WeightsError(
            f"{name} has format version {version}; this l2o ({package_version()}) reads {FORMAT}: "
            "pip install --upgrade l2o, or load an older revision"
        )
    return config


def check_size(path: Path, file: str, name: str) -> None:
    """An error if a file of a repository is missing or larger than such a file may be."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise WeightsError(
            f"{name} has no {file} ({error.strerror}); a repository of l2o has {', '.join(LARGEST)}. Pass the "
            ".safetensors file itself, or write a repository with `l2o push WEIGHTS NAME --dry-run FOLDER`"
        ) from error
    refuse_large(size, file, name)


def refuse_large(size: int, file: str, name: str) -> None:
    """An error if a file of this size is larger than such a file may be."""
    if size > LARGEST[file]:
        raise WeightsError(
            f"{file} of {name} has {size:,} bytes; l2o reads at most {LARGEST[file]:,}. Is it a repository of l2o?"
        )
