"""Repositories of the Hugging Face Hub: fetched through its client and cache, and pushed. Needs the extra `hub`."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from l2o.errors import UnsupportedError, WeightsError
from l2o.repository import CARD, CONFIG, LARGEST, WEIGHTS, check_size, read_config, refuse_large

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")

_log = logging.getLogger(__name__)


def is_name(source: str | Path) -> bool:
    """Whether it is written as a repository's name: user/name."""
    return _NAME.fullmatch(str(source)) is not None


def fetch(name: str, revision: str | None = None) -> Path:
    """The folder in the Hub's cache with the files of a repository, all of one commit.

    What is in the cache is not fetched again; without a network, or with `HF_HUB_OFFLINE=1`, the cache alone serves.
    The log tells which commit was taken, unless it was asked for.

    Args:
        name: user/name.
        revision: a commit, tag or branch; None takes the newest commit. Only a commit gives the same files for ever.

    Raises:
        UnsupportedError: `huggingface_hub` is missing.
        WeightsError: there is no such repository or revision, it lacks a file, a file is too large, or it is not in the
            cache and cannot be fetched.
    """
    hub = _client(name)
    with _explained(hub, name, revision):
        folder = _needed(hub, name, CONFIG, revision).parent
        read_config(folder, name)
        commit = folder.name
        if revision != commit:
            _log.warning(
                "%s: took commit %s of %s; pass the commit as the revision to get the same weights again",
                name, commit, revision or "main",
            )  # fmt: skip
        _needed(hub, name, WEIGHTS, commit)
        with suppress(hub.errors.EntryNotFoundError):  # the card is in the weights too
            _fetched(hub, name, CARD, commit)
    return folder


def fetch_file(name: str, file: str, revision: str | None = None) -> Path:
    """One file of any repository, in the Hub's cache; it is not looked into.

    Args:
        name: user/name.
        file: one of those that repositories of l2o have too: the bounds on their sizes hold.
        revision: a commit, tag or branch; None takes the newest commit.

    Raises:
        UnsupportedError: `huggingface_hub` is missing.
        WeightsError: it cannot be had, or is too large.
    """
    hub = _client(name)
    with _explained(hub, name, revision):
        return _needed(hub, name, file, revision)


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Uploads a repository's folder as one commit, and makes the repository if need be; returns the commit.

    Args:
        folder: what `write_repository` wrote.
        name: user/name.
        private: whether a new repository is private.

    Raises:
        UnsupportedError: `huggingface_hub` is missing.
        WeightsError: the Hub cannot be reached or refuses.
    """
    hub = _client(name)
    check_size(folder / WEIGHTS, WEIGHTS, str(folder))
    api = hub.HfApi(library_name="l2o")
    try:
        api.create_repo(name, private=private or None, exist_ok=True)  # None: as the account has it
        return api.upload_folder(repo_id=name, folder_path=folder, commit_message="Weights and card by l2o").oid
    except Exception as error:
        raise WeightsError(
            f"{name} could not be pushed to {hub.constants.ENDPOINT} ({_first_line(error)}); log in with `hf auth "
            "login` or HF_TOKEN, with a token that may write there. --dry-run FOLDER writes the files without a network"
        ) from error


def _needed(hub: ModuleType, name: str, file: str, revision: str | None) -> Path:
    """A file of a repository in the cache, or an error if the repository lacks it."""
    try:
        return _fetched(hub, name, file, revision)
    except hub.errors.LocalEntryNotFoundError:
        raise
    except hub.errors.EntryNotFoundError as error:
        place = hub.constants.ENDPOINT
        raise WeightsError(f"{name} at {place} has no {file}; a repository of l2o has {', '.join(LARGEST)}") from error


def _fetched(hub: ModuleType, name: str, file: str, revision: str | None) -> Path:
    """A file of a repository in the cache; its size is asked for before it is fetched."""
    pinned = revision is not None and _COMMIT.fullmatch(revision)
    cached = hub.try_to_load_from_cache(name, file, revision=revision) if pinned else None
    if cached is None and not hub.constants.HF_HUB_OFFLINE:
        found = _size(hub, name, file, revision)
        if found is not None:
            refuse_large(found, file, name)
    path = Path(hub.hf_hub_download(name, file, revision=revision, library_name="l2o"))
    check_size(path, file, name)
    return path


def _size(hub: ModuleType, name: str, file: str, revision: str | None) -> int | None:
    """What the Hub says of a file's size; None if it cannot be asked, which the download itself then explains."""
    try:
        return hub.get_hf_file_metadata(hub.hf_hub_url(name, file, revision=revision)).size
    except Exception:
        return None


def _client(name: str) -> ModuleType:
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]
        import huggingface_hub.constants  # pyright: ignore[reportMissingImports]
        import huggingface_hub.errors  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UnsupportedError(
            f"{name} is no file or folder here; as a repository of the Hugging Face Hub it needs the extra: "
            "pip install 'l2o[hub]'"
        ) from error
    return huggingface_hub


@contextmanager
def _explained(hub: ModuleType, name: str, revision: str | None) -> Iterator[None]:
    """The client's errors with the value and the remedy."""
    place, errors = hub.constants.ENDPOINT, hub.errors
    try:
        yield
    except WeightsError:
        raise
    except errors.RevisionNotFoundError as error:
        raise WeightsError(
            f"{name} at {place} has no revision {revision!r}; pass a commit, a tag or a branch of it"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(
            f"there is no file or folder {name} here, and no repository {name} at {place} that you may see; check the "
            "name, and log in with `hf auth login` if it is private"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if hub.constants.HF_HUB_OFFLINE else f"{place} cannot be reached"
        raise WeightsError(
            f"{name} at revision {revision or 'main'} is not in the cache {hub.constants.HF_HUB_CACHE}, and {why}; "
            "connect and load it once, or pass a folder with its files"
        ) from error
    except Exception as error:  # whatever its HTTP library raises, which is another one from version to version
        raise WeightsError(f"{name} could not be fetched from {place} ({_first_line(error)}); try again") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
