"""The content of a plain, gzip or xz file, never more of it than asked for.

A compressed file of 1 MB can unpack to 1 GB (gzip) or 7 GB (xz): the bound is what keeps a damaged or hostile file from
filling the memory.
"""

import gzip
import lzma
import os
import stat
import zlib
from pathlib import Path
from typing import BinaryIO

from l2o.errors import DataError, DataNotFoundError

# Holds the largest published file that is read here, the CIFAR-100 training set of 153.7 MB.
MAX_BYTES = 2**28

# Enough for `xz -9`, which takes 65 MiB; a header can ask for 4 GiB.
_XZ_MEMORY = 2**27
_CHUNK = 2**20


def read_unpacked(path: str | os.PathLike[str], *, max_bytes: int) -> bytearray:
    """Reads a whole file, unpacked if its name ends in `.gz` or `.xz`.

    Args:
        path: the file. An `.xz` file must be one stream, as `xz` writes it.
        max_bytes: the most that the unpacked content may have.

    Raises:
        DataNotFoundError: if there is no such file.
        DataError: if it cannot be read, is damaged, is empty, or has more than `max_bytes`.
    """
    path = check_regular_file(path)
    unpack = {".gz": _read_gzip, ".xz": _read_xz}.get(path.suffix, _read_at_most)
    try:
        with path.open("rb") as file:
            content = unpack(file, max_bytes + 1)
    except EOFError as error:
        raise DataError(f"{path} is truncated: its compressed data end early; copy or fetch it again") from error
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} is not a valid {path.suffix} file ({error}); copy or fetch it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); check the file and its permissions") from error
    if not content:
        raise DataError(f"{path} is empty; copy or fetch it again")
    if len(content) > max_bytes:
        raise DataError(f"{path} holds more than the {max_bytes:,} bytes expected; copy or fetch it again")
    return content


def check_regular_file(path: str | os.PathLike[str]) -> Path:
    """The path of an existing, regular file: reading a pipe or a device could wait for ever."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r} cannot be read ({error}); check the path and its permissions") from error
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a pipe or device"
        raise DataError(f"{path} is {kind}, where a file is expected; remove it or pass another path")
    return path


def _read_at_most(stream: BinaryIO | gzip.GzipFile, limit: int) -> bytearray:
    content = bytearray()
    while len(content) < limit and (chunk := stream.read(min(_CHUNK, limit - len(content)))):
        content += chunk
    return content


def _read_gzip(file: BinaryIO, limit: int) -> bytearray:
    with gzip.GzipFile(fileobj=file) as stream:
        return _read_at_most(stream, limit)


def _read_xz(file: BinaryIO, limit: int) -> bytearray:
    # Not lzma.LZMAFile: it has no limit on the decoder's own memory.
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    content = bytearray()
    while not decoder.eof and len(content) < limit:
        packed = file.read(_CHUNK) if decoder.needs_input else b""
        if decoder.needs_input and not packed:
            raise EOFError
        content += decoder.decompress(packed, max_length=limit - len(content))
    if decoder.eof and (decoder.unused_data or file.read(1)):
        raise lzma.LZMAError("there are bytes after its end")
    return content
