"""The binary version of CIFAR-10 and CIFAR-100: records of label bytes and a 32x32 colour image."""

import os
from typing import Literal

import torch
from torch import Tensor

from l2o.errors import ArgumentError, DataError
from l2o.tasks.data.unpack import MAX_BYTES, read_unpacked

_IMAGE_SHAPE = (3, 32, 32)
_IMAGE_BYTES = 3 * 32 * 32
# By label bytes: how many classes each byte numbers.
_CLASSES = {1: (10,), 2: (20, 100)}


def read_cifar(
    path: str | os.PathLike[str], label_bytes: Literal[1, 2], *, max_bytes: int = MAX_BYTES
) -> tuple[Tensor, Tensor]:
    """Reads a file of CIFAR records, plain or compressed (`.gz`, `.xz`).

    A record is `label_bytes` labels, then 1,024 red, 1,024 green and 1,024 blue bytes, row by row.

    Args:
        path: the file.
        label_bytes: 1 for CIFAR-10 (class, 0..9), 2 for CIFAR-100 (coarse class, 0..19, then fine class, 0..99).
        max_bytes: the most that the unpacked file may have.

    Returns:
        Images, uint8 `[examples, 3, 32, 32]`, and labels, int64 `[examples, label_bytes]`.

    Raises:
        ArgumentError: if `label_bytes` is neither 1 nor 2.
        DataNotFoundError: if there is no such file.
        DataError: if it is damaged, is not a whole number of records, or has a label out of range.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "batch.bin")
        ...     _ = path.write_bytes(bytes([6]) + bytes(3072) + bytes([9]) + bytes(3072))
        ...     images, labels = read_cifar(path, 1)
        >>> images.shape, labels.flatten()
        (torch.Size([2, 3, 32, 32]), tensor([6, 9]))

    Source: Krizhevsky (2009), "Learning multiple layers of features from tiny images"; the format is described on the
    data sets' page.
    """
    if label_bytes not in _CLASSES:
        raise ArgumentError(f"label_bytes is {label_bytes!r}; pass 1 for CIFAR-10 or 2 for CIFAR-100")
    return parse_cifar(read_unpacked(path, max_bytes=max_bytes), path, label_bytes)


def parse_cifar(content: bytearray, path: str | os.PathLike[str], label_bytes: Literal[1, 2]) -> tuple[Tensor, Tensor]:
    """Images and labels in the unpacked content of a file; `path` is for the error messages. See `read_cifar`."""
    record_bytes = label_bytes + _IMAGE_BYTES
    if len(content) % record_bytes:
        found = f"{len(content):,} bytes are not whole records of {record_bytes:,}"
        raise DataError(f"{path} is truncated or has trailing bytes: {found}; copy or fetch it again")
    records = torch.frombuffer(content, dtype=torch.uint8).reshape(-1, record_bytes)  # [examples, record_bytes]
    labels = records[:, :label_bytes].long()  # [examples, label_bytes]
    for column, classes in enumerate(_CLASSES[label_bytes]):
        largest = int(labels[:, column].max())
        if largest >= classes:
            place = f"label byte {column + 1} of {label_bytes} is {largest} in record {int(labels[:, column].argmax())}"
            raise DataError(
                f"{path}: {place}, where 0..{classes - 1} is expected; check label_bytes, or fetch it again"
            )
    images = records[:, label_bytes:].reshape(-1, *_IMAGE_SHAPE)  # [examples, channels, height, width]
    return images.contiguous(), labels
