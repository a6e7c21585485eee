"""IDX, the format of MNIST: a magic number, the sizes of the axes, then the values."""

import math
import os
import struct

import torch
from torch import Tensor

from l2o.errors import DataError
from l2o.tasks.data.unpack import MAX_BYTES, read_unpacked

_UNSIGNED_BYTE = 0x08
# Far more than images and labels need, and fewer than torch's own limit.
_MAX_AXES = 8


def read_idx(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Tensor:
    """Reads an IDX file of unsigned bytes, plain or compressed (`.gz`, `.xz`).

    The file is: two zero bytes, 8 (for unsigned bytes), the number of axes, each axis' size as a big-endian 32-bit
    integer, and the values, the last axis running fastest.

    Args:
        path: the file.
        max_bytes: the most that the unpacked file may have.

    Returns:
        uint8, of the shape that the file states: images `[examples, height, width]`, labels `[examples]`.

    Raises:
        DataNotFoundError: if there is no such file.
        DataError: if it is no such file, is damaged, or its length is not the one that its header states.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "labels-idx1-ubyte")
        ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
        ...     read_idx(path)
        tensor([7, 2, 1], dtype=torch.uint8)

    Source: LeCun, Bottou, Bengio, Haffner (1998), "Gradient-based learning applied to document recognition"; the format
    is described on the data set's page. The other value types of the format are refused.
    """
    return parse_idx(read_unpacked(path, max_bytes=max_bytes), path)


def parse_idx(content: bytearray, path: str | os.PathLike[str]) -> Tensor:
    """The tensor in the unpacked content of an IDX file; `path` is for the error messages. See `read_idx`."""
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataError(
            f"{path} starts with bytes {content[:4].hex(' ')}, an IDX file with 00 00; check which file it is"
        )
    if content[2] != _UNSIGNED_BYTE:
        raise DataError(f"{path} has IDX values of type 0x{content[2]:02x}; only unsigned bytes, 0x08, are read")
    axes = content[3]
    if not 1 <= axes <= _MAX_AXES:
        raise DataError(f"{path} states {axes} axes; from 1 to {_MAX_AXES} are read; check which file it is")
    start = 4 + 4 * axes
    if len(content) < start:
        raise DataError(f"{path} is truncated: its header has {start} bytes, the file {len(content)}; copy it again")
    shape = struct.unpack_from(f">{axes}I", content, 4)
    expected = start + math.prod(shape)
    if expected == start:
        raise DataError(f"{path} states the shape {shape} and so holds no values; check which file it is")
    if len(content) != expected:
        fault = "is truncated" if len(content) < expected else "has trailing bytes"
        found = f"a file of shape {shape} has {expected:,} bytes, this one {len(content):,}"
        raise DataError(f"{path} {fault}: {found}; copy or fetch it again")
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).reshape(shape)
