"""Files of tensors that are written atomically and read back exactly, or not at all.

A file is safetensors. Its header carries a kind, a version, JSON metadata and a sha256 over everything, so that any
altered byte is noticed. Nothing is ever unpickled.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from l2o.errors import CheckpointError, InUseError
from l2o.trees import Tree

_VERSION = "1"

# What reading damaged or foreign bytes raises. KeyError: a number type that safetensors knows and torch does not.
_FAULTS = (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, MemoryError)


def write(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any], *, kind: str) -> None:
    """Writes tensors and JSON metadata so that `path` holds either the old file or the whole new one.

    Args:
        path: the file; its folder is made.
        tensors: any tensors, by name.
        metadata: JSON values.
        kind: what the file is, for instance "checkpoint": `read` asks for the same kind.
    """
    leaves = {name: _plain(leaf) for name, leaf in tensors.items()}
    header = {"kind": kind, "version": _VERSION, "metadata": json.dumps(dict(metadata), sort_keys=True)}
    # One entry: safetensors writes several in an order of its own each time, and equal content shall be equal bytes.
    entry = json.dumps({**header, "sha256": _digest(leaves, header)}, sort_keys=True)
    blob = safetensors.torch.save(leaves, {"l2o": entry})
    write_bytes(path, blob)


def write_bytes(path: Path, blob: bytes) -> None:
    """Writes a whole file atomically: a reader, or a crash, sees the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds a folder for as long as the block runs: two runs in one folder would overwrite each other's files.

    The hold ends with the process, however it ends. Where the system has no `fcntl` (Windows), nothing is held.

    Raises:
        InUseError: another run holds it, in this process or in another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InUseError(
                    f"another run is at work in {folder}; wait for its end, or use another folder"
                ) from error
        yield


def read(path: Path, *, kind: str) -> tuple[Tree, dict[str, Any]]:
    """Reads what `write` wrote.

    Returns:
        The tensors and the metadata.

    Raises:
        CheckpointError: the file is missing, truncated, altered, of another kind or of another version.
    """
    return parse(read_bytes(path), kind=kind, source=str(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, for `parse`.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def parse(blob: bytes, *, kind: str, source: str) -> tuple[Tree, dict[str, Any]]:
    """`read` for bytes already in memory; `source` names them in errors."""
    try:
        header = _header(blob)
        leaves = safetensors.torch.load(blob)
    except _FAULTS as error:
        raise CheckpointError(
            f"{source} is not a whole safetensors file ({error}); it is truncated, altered or something else. "
            "Use another copy."
        ) from error
    if header is None:
        raise CheckpointError(f"{source} is a safetensors file that l2o did not write")
    stated = header.pop("sha256", None)
    found = _digest(leaves, header)
    if stated != found:
        raise CheckpointError(f"{source} was altered: its sha256 is {found}, its header says {stated}")
    if header["kind"] != kind:
        raise CheckpointError(f"{source} holds a {header['kind']!r}, not a {kind!r}")
    if header["version"] != _VERSION:
        raise CheckpointError(f"{source} has format version {header['version']}; this l2o reads {_VERSION}")
    return leaves, json.loads(header["metadata"])


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes plain JSON atomically; a number that is not finite is an error."""
    write_bytes(path, f"{json.dumps(content, indent=1, allow_nan=False)}\n".encode())


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of tensors, independent of their order."""
    return _digest({name: _plain(leaf) for name, leaf in tensors.items()}, {})


def _plain(leaf: torch.Tensor) -> torch.Tensor:
    """A copy with the strides of its shape: an axis of length 1 may have any, and still count as contiguous."""
    return leaf.detach().cpu().clone(memory_format=torch.contiguous_format)


def _header(blob: bytes) -> dict[str, str] | None:
    """What `write` put into the header: texts by name; None in a safetensors file of somebody else."""
    length = int.from_bytes(blob[:8], "little")
    if len(blob) < 8 or length > len(blob) - 8:
        raise ValueError(f"{len(blob)} bytes, header of {length}")
    entry = json.loads(blob[8 : 8 + length]).get("__metadata__", {}).get("l2o")
    if entry is None:
        return None
    header = json.loads(entry)
    if not {"kind", "version", "metadata"} <= header.keys():
        raise ValueError("its header lacks entries")
    return header


def _digest(leaves: Mapping[str, torch.Tensor], header: Mapping[str, str]) -> str:
    sha = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name in sorted(leaves):
        leaf = leaves[name]
        sha.update(json.dumps([name, str(leaf.dtype), list(leaf.shape)]).encode())
        sha.update(leaf.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
