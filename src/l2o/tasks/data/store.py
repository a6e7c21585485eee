"""Where published data files are kept: one folder in which they are found, and into which missing ones are fetched."""

import gzip
import hashlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pooch
from filelock import FileLock

from l2o.errors import DataError, DataNotFoundError
from l2o.tasks.data.download import download_resumable
from l2o.tasks.data.unpack import check_regular_file, read_unpacked

# As long as another process may take to fetch the same file.
_LOCK_SECONDS = 3600
_COMPRESSIONS = ("", ".gz", ".xz")


@dataclass(frozen=True)
class Source:
    """Where a file is published: `checksum` is `"md5:..."` or `"sha256:..."` of the bytes as they are served."""

    url: str
    checksum: str


@dataclass(frozen=True)
class KnownFile:
    """A published file's name, length in bytes and sha256, all of them unpacked: packing differs, content does not."""

    name: str
    length: int
    sha256: str


def data_folder() -> Path:
    """The folder of data sets: the environment variable `L2O_DATA`, or else `l2o` in the user's cache folder."""
    return Path(os.environ.get("L2O_DATA") or pooch.os_cache("l2o"))


def find_file(folder: Path, name: str) -> Path | None:
    """The file of that name in `folder`, as it is or with `.gz` or `.xz` added; None if there is none."""
    paths = (folder / f"{name}{compression}" for compression in _COMPRESSIONS)
    return next((path for path in paths if is_there(path)), None)


def is_there(path: Path) -> bool:
    """Whether there is anything at `path`."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises where a folder may not be read


def read_known(path: Path, known: KnownFile) -> bytearray:
    """The unpacked content of a file that must be the published one.

    Raises:
        DataError: if it is not.
    """
    content = read_unpacked(path, max_bytes=known.length)
    remedy = "delete it and it is fetched again, or replace it"
    if len(content) < known.length:
        raise DataError(f"{path} is truncated: expected {known.length:,} bytes, found {len(content):,}; {remedy}")
    found = hashlib.sha256(content).hexdigest()
    if found != known.sha256:
        raise DataError(f"{path} is altered: expected sha256 {known.sha256} (unpacked), found {found}; {remedy}")
    return content


def fetch(source: Source, path: Path) -> None:
    """Downloads a published file to `path`, unless another process has just done so.

    Raises:
        DataNotFoundError: if it cannot be had; a partial download is kept and the next call goes on from there.
        DataError: if the server's bytes are not the published ones; they are deleted.
    """
    by_hand = f"put the file at {path}, or set L2O_DATA to a folder of data sets that has it"
    store = pooch.Pooch(
        path.parent, "", registry={path.name: source.checksum}, urls={path.name: source.url}, retry_if_failed=1
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            if not path.exists():
                # pooch 1.9 annotates a downloader with a processor's parameters; it calls it as its text says.
                store.fetch(path.name, downloader=download_resumable)  # pyright: ignore[reportArgumentType]
    # Before ValueError, since some of requests' errors are both. Network errors are OSErrors, as is the lock's timeout.
    except OSError as error:
        problem = f"{path} is missing and could not be fetched from {source.url} ({error})"
        raise DataNotFoundError(f"{problem}; {by_hand}") from error
    except ValueError as error:
        raise DataError(f"{source.url} does not serve the published file ({error}); {by_hand}") from error


def extract(archive: Path, checksum: str, members: Sequence[KnownFile], folder: Path) -> None:
    """Unpacks `members`, kept as `folder.name/member.name` in a `.tar.gz`, into `folder`, and nothing else.

    Raises:
        DataError: if the archive is not the published one, or a member is missing, no plain file or of another length.
    """
    remedy = "delete it and it is fetched again"
    check_regular_file(archive)
    wanted = {f"{folder.name}/{member.name}": member for member in members}
    try:
        algorithm, _, expected = checksum.partition(":")
        found = pooch.file_hash(str(archive), alg=algorithm)
        if found != expected:
            raise DataError(f"{archive} is altered: expected {checksum}, found {found}; {remedy}")
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(archive), tarfile.open(archive, "r:gz") as tar:
            for entry in tar:
                if (member := wanted.pop(entry.name, None)) is not None:
                    _extract_member(tar, entry, member, folder)
                if not wanted:
                    return
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive} is not a valid .tar.gz ({error}); {remedy}") from error
    except OSError as error:
        raise DataError(f"{archive} cannot be unpacked into {folder} ({error}); check permissions and space") from error
    raise DataError(f"{archive} lacks {', '.join(wanted)}; {remedy}")


def _lock(path: Path) -> FileLock:
    """Held by the one process that writes `path`, or what is unpacked from it."""
    return FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_SECONDS)


def _extract_member(tar: tarfile.TarFile, entry: tarfile.TarInfo, member: KnownFile, folder: Path) -> None:
    # Only a plain file: reading a link would follow it.
    content = tar.extractfile(entry) if entry.isreg() else None
    if content is None or entry.size != member.length:
        found = f"of {entry.size:,} bytes" if entry.isreg() else "that is no plain file"
        raise DataError(f"{tar.name} has a member {entry.name} {found}; expected a file of {member.length:,} bytes")
    unfinished = folder / f"{member.name}.part"
    with unfinished.open("wb") as file:
        shutil.copyfileobj(content, file)
    unfinished.replace(folder / member.name)
