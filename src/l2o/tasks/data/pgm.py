"""A zip of binary PGM images, the form in which the AT&T faces are passed on."""

import io
import os
import re
import struct
import zipfile
import zlib

import torch
from torch import Tensor

from l2o.errors import DataError
from l2o.tasks.data.unpack import check_regular_file

# The AT&T faces have 4 MB. Also bounds the zip itself, whose list of members is read into memory as a whole.
_MAX_BYTES = 2**25
_ENCRYPTED = 0x1
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
# The record at a zip's end, and where in it the number of members stands.
_END, _END_MEMBERS = b"PK\5\6", 10

# "P5", width, height and largest value, apart by white space and comments; one white space; the values.
_GAP = rb"(?:\s|#[^\n]*\n)+"
_HEADER = re.compile(rb"P5" + _GAP + rb"(\d{1,5})" + _GAP + rb"(\d{1,5})" + _GAP + rb"(\d{1,5})\s")

# What zipfile raises for damaged files, beside its own BadZipFile.
_ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def read_pgm_zip(path: str | os.PathLike[str], *, max_bytes: int = _MAX_BYTES) -> dict[str, Tensor]:
    """Reads all members of a zip that are named `*.pgm`: binary ("P5"), 8-bit, grey images. Others are passed over.

    Args:
        path: the zip.
        max_bytes: the most that the zip, and its images together, may have.

    Returns:
        By member name, in the zip's order: uint8 `[height, width]`.

    Raises:
        DataNotFoundError: if there is no such file.
        DataError: if the zip or an image is damaged, is of another kind or too large, or there is no image.

    Example:
        >>> import pathlib, tempfile, zipfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "images.zip")
        ...     with zipfile.ZipFile(path, "w") as archive:
        ...         archive.writestr("a.pgm", b"P5 3 1 255 " + bytes([0, 128, 255]))
        ...     read_pgm_zip(path)
        {'a.pgm': tensor([[  0, 128, 255]], dtype=torch.uint8)}

    Source: Netpbm's page on the format, "pgm". 16-bit images, and those whose largest value is not 255, are refused.
    """
    path = check_regular_file(path)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise DataError(f"{path} has {size:,} bytes; at most {max_bytes:,} are read; check which file it is")
        content = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".pgm")]
            _check_members(members, path, max_bytes)
            _check_list(archive, content)
            return {m.filename: _parse_pgm(archive.read(m), f"{path}, member {m.filename}") for m in members}
    except DataError:
        raise
    except _ZIP_FAULTS as error:
        raise DataError(f"{path} is not a valid zip ({error}); copy or fetch it again") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read as a zip ({error}); check its permissions, or copy or fetch it again"
        ) from error


def _check_members(members: list[zipfile.ZipInfo], path: os.PathLike[str], max_bytes: int) -> None:
    total = sum(member.file_size for member in members)
    if total > max_bytes:
        raise DataError(f"{path} unpacks to {total:,} bytes; at most {max_bytes:,} are read; check which file it is")
    if len({member.filename for member in members}) < len(members):
        raise DataError(f"{path} has two members of one name; pack it again")
    if any(member.flag_bits & _ENCRYPTED or member.compress_type not in _METHODS for member in members):
        raise DataError(f"{path} is encrypted or packed in an uncommon way; pack it again, stored or deflated")
    if not members:
        raise DataError(f"{path} has no member named *.pgm; check which file it is")


def _check_list(archive: zipfile.ZipFile, content: bytes) -> None:
    """Checks a zip's list of members, which no checksum covers: one altered byte can hide a member or rename it."""
    found = len(archive.infolist())
    (stated,) = struct.unpack_from("<H", content, content.rindex(_END) + _END_MEMBERS)
    if stated != min(found, 0xFFFF):
        raise zipfile.BadZipFile(f"it states {stated} members and lists {found}")
    for member in archive.infolist():
        archive.open(member).close()  # compares the name in the list with the one before the member's data


def _parse_pgm(content: bytes, name: str) -> Tensor:
    header = _HEADER.match(content)
    if header is None:
        raise DataError(
            f"{name} starts with bytes {content[:4].hex(' ')}, not with a binary PGM header (P5); replace it"
        )
    width, height, largest = (int(number) for number in header.groups())
    if largest != 255:
        raise DataError(f"{name} has the largest value {largest}; only 255 is read; convert it to 8 bits")
    expected, found = width * height, len(content) - header.end()
    if found != expected or expected == 0:
        raise DataError(f"{name} is {width}x{height} and so {expected:,} bytes, but has {found:,}; replace it")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header.end()).reshape(height, width)
