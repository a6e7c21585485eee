"""Named arrays from `.npz` and safetensors files of others. Pickles are never read, nor what holds one."""

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch

from l2o.errors import WeightsError
from l2o.trees import Tree

LARGEST = 2**28
"""The most bytes of a file, and of its arrays unpacked."""

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_ZIP, _PICKLES = b"PK\x03\x04", (b"\x80", b"(", b"c", b"]", b"}")


def read_arrays(path: Path) -> Tree:
    """All arrays of a file by name, as float32.

    Args:
        path: an `.npz` file as `numpy.savez` writes it, or a safetensors file; what it is tells its content.

    Raises:
        WeightsError: it is missing, too large, a pickle, holds a pickle, is damaged, or of another format; or an array
            is not of finite numbers.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise WeightsError(f"{path} has {size:,} bytes; at most {LARGEST:,} are read")
        blob = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    if blob.startswith(_ZIP):
        found = _npz(blob, path)
    elif blob[8:9] == b"{":
        found = _safetensors(blob, path)
    elif blob.startswith(_PICKLES):
        raise _pickle(path)
    else:
        raise WeightsError(
            f"{path} is neither .npz nor safetensors; write its arrays with numpy.savez(file, **arrays), by name"
        )
    for name, leaf in found.items():
        if not bool(torch.isfinite(leaf).all()):
            raise WeightsError(f"{name} in {path} has numbers that are not finite; take another copy")
    return found


def taken(arrays: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], path: Path) -> Tree:
    """The arrays of these names, or an error if one is missing, of another shape, or there is one more.

    One more is refused: it could be a peephole, or a normalisation, without which the rule is another one.
    """
    found = {name: tuple(leaf.shape) for name, leaf in arrays.items()}
    wrong = [name for name in {**shapes, **found} if found.get(name) != shapes.get(name)]
    if wrong:
        each = "; ".join(f"{name}: {found.get(name, 'none')}, not {shapes.get(name, 'wanted')}" for name in wrong)
        raise WeightsError(f"{path} does not have the arrays of this format ({each}); is it of another one?")
    return {name: arrays[name] for name in shapes}


def _safetensors(blob: bytes, path: Path) -> Tree:
    try:
        found = safetensors.torch.load(blob)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}); take another copy") from error
    return {name: _plain(leaf, name, path) for name, leaf in found.items()}


def _npz(blob: bytes, path: Path) -> Tree:
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            members = archive.infolist()
            if any(not member.filename.endswith(".npy") for member in members):
                raise _pickle(path)  # as torch.save writes them: a zip file with data.pkl
            unpacked = sum(member.file_size for member in members)
            if unpacked > LARGEST:
                raise WeightsError(f"{path} has {unpacked:,} bytes unpacked; at most {LARGEST:,} are read")
            return {
                member.filename.removesuffix(".npy"): _npy(archive.read(member), member.filename, path)
                for member in members
            }
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError) as error:
        raise WeightsError(f"{path} is not a whole .npz file ({error}); take another copy") from error


def _npy(content: bytes, name: str, path: Path) -> torch.Tensor:
    """One array; its header must fit its bytes, so that nothing is allocated that is not there."""
    stream = io.BytesIO(content)
    try:
        shape, by_columns, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
    except (ValueError, KeyError, SyntaxError, RecursionError) as error:
        raise WeightsError(f"{name} in {path} is not a whole array ({error}); take another copy") from error
    if dtype.hasobject:
        raise _pickle(path)
    values = content[stream.tell() :]
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(values):
        raise WeightsError(f"{name} in {path} is {shape} of {dtype}, and has {len(values):,} bytes; take another copy")
    if dtype.kind not in "fiu":
        raise WeightsError(f"{name} in {path} is of {dtype}; meta-parameters are numbers")
    array = np.frombuffer(values, dtype).reshape(shape, order="F" if by_columns else "C")
    return torch.from_numpy(array.astype(np.float32, order="C"))


def _plain(leaf: torch.Tensor, name: str, path: Path) -> torch.Tensor:
    if leaf.is_complex():
        raise WeightsError(f"{name} in {path} is of {leaf.dtype}; meta-parameters are numbers")
    return leaf.float().contiguous()


def _pickle(path: Path) -> WeightsError:
    return WeightsError(
        f"{path} is a pickle, or holds one, and reading it could run any code: l2o reads none. Where you trust it, "
        "write its arrays by name with numpy.savez(file, **arrays), or as safetensors, and import that file"
    )
