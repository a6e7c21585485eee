"""The file readers: exact contents, every guard, and that damage to a file gives an error or leaves its content."""

import gzip
import io
import lzma
import os
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from l2o.errors import ArgumentError, DataError, DataNotFoundError
from l2o.tasks.data import read_cifar, read_idx, read_pgm_zip

PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def idx_bytes(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def pgm_bytes(values: np.ndarray) -> bytes:
    return f"P5\n{values.shape[1]} {values.shape[0]}\n255\n".encode() + values.tobytes()


def zip_bytes(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def xz_that_asks_for_4_gib() -> bytes:
    packed = bytearray(lzma.compress(b"small"))
    size = 4 * (packed[12] + 1)  # the block header follows the stream header of 12 bytes; its last 4 are a CRC32
    packed[16] = 40  # dictionary of 4 GiB - 1: flags, filter 0x21, property size 1, property at bytes 13 to 16
    packed[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(packed[12 : 12 + size - 4]))
    return bytes(packed)


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


VALUES = np.random.RandomState(0).randint(0, 256, (3, 4, 5)).astype(np.uint8)
RECORDS = {n: np.random.RandomState(n).randint(0, 256, (4, n + 3072)).astype(np.uint8) for n in (1, 2)}
RECORDS[1][:, 0] = [0, 9, 3, 9]
RECORDS[2][:, :2] = [[0, 0], [19, 99], [4, 50], [3, 7]]


@pytest.mark.parametrize("packing", PACK)
def test_idx_file_gives_the_values_it_was_written_from(tmp_path: Path, packing: str) -> None:
    tensor = read_idx(written(tmp_path, f"images{packing}", PACK[packing](idx_bytes(VALUES))))
    assert tensor.dtype == torch.uint8
    assert np.array_equal(tensor.numpy(), VALUES)


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("label_bytes", [1, 2])
def test_cifar_file_gives_planes_red_green_blue_and_labels(
    tmp_path: Path, packing: str, label_bytes: Literal[1, 2]
) -> None:
    records = RECORDS[label_bytes]
    path = written(tmp_path, f"batch.bin{packing}", PACK[packing](records.tobytes()))
    images, labels = read_cifar(path, label_bytes)
    assert images.shape == (4, 3, 32, 32)
    assert labels.dtype == torch.int64
    assert labels.tolist() == records[:, :label_bytes].tolist()
    # Channel 2 (blue), row 5, column 7 of record 3, at the place that the format's description gives.
    assert images[3, 2, 5, 7] == records[3, label_bytes + 2 * 1024 + 5 * 32 + 7]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_pgm_zip_gives_images_by_name_and_passes_over_other_members(tmp_path: Path, compression: int) -> None:
    members = {"README": b"faces", "s1/1.pgm": pgm_bytes(VALUES[0]), "s1/2.pgm": pgm_bytes(VALUES[1])}
    images = read_pgm_zip(written(tmp_path, "faces.zip", zip_bytes(members, compression)))
    assert list(images) == ["s1/1.pgm", "s1/2.pgm"]
    assert np.array_equal(images["s1/2.pgm"].numpy(), VALUES[1])


def test_pgm_header_may_hold_comments(tmp_path: Path) -> None:
    content = b"P5 # made by hand\n# 2 wide\n 2\t1 # one high\n255\n" + bytes([35, 10])
    images = read_pgm_zip(written(tmp_path, "a.zip", zip_bytes({"a.pgm": content})))
    assert images["a.pgm"].tolist() == [[35, 10]]


def test_two_gzip_members_are_read_as_one_file(tmp_path: Path) -> None:
    content = idx_bytes(VALUES)
    path = written(tmp_path, "images.gz", gzip.compress(content[:20]) + gzip.compress(content[20:]))
    assert np.array_equal(read_idx(path).numpy(), VALUES)


GOOD = idx_bytes(VALUES)
BAD_IDX = {
    "starts with bytes 50 4b 03 04": ("f", b"PK\3\4" + GOOD[4:]),
    "starts with bytes 00": ("f", b"\0"),
    "values of type 0x0d": ("f", b"\0\0\x0d" + GOOD[3:]),
    "states 0 axes": ("f", bytes([0, 0, 8, 0, 1])),
    "states 200 axes": ("f", bytes([0, 0, 8, 200]) + bytes([0, 0, 0, 1]) * 200 + b"x"),
    "its header has 16 bytes, the file 15": ("f", GOOD[:15]),
    "holds no values": ("f", idx_bytes(VALUES[:0])),
    "is truncated: a file of shape": ("f", GOOD[:-1]),
    "has trailing bytes": ("f", GOOD + b"\0"),
    "76 bytes, this one 16": ("f", GOOD[:16]),
    "is empty": ("f", b""),
    "f.gz is empty": ("f.gz", gzip.compress(b"")),
    "f.gz is truncated: its compressed data end early": ("f.gz", gzip.compress(GOOD)[:-1]),
    "not a valid .gz file": ("f.gz", GOOD),
    "CRC check failed": ("f.gz", gzip.compress(GOOD)[:-8] + b"\0\0\0\0" + gzip.compress(GOOD)[-4:]),
    "Not a gzipped file": ("f.gz", gzip.compress(GOOD) + b"more"),
    "f.xz is truncated: its compressed data end early": ("f.xz", lzma.compress(GOOD)[:-1]),
    "not a valid .xz file": ("f.xz", gzip.compress(GOOD)),
    "there are bytes after its end": ("f.xz", lzma.compress(GOOD) + b"more"),
    "Memory usage limit": ("f.xz", xz_that_asks_for_4_gib()),
}


@pytest.mark.parametrize("message", BAD_IDX)
def test_bad_idx_file_is_refused_by_name(tmp_path: Path, message: str) -> None:
    name, content = BAD_IDX[message]
    path = written(tmp_path, name, content)
    with pytest.raises(DataError) as caught:
        read_idx(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_bad_cifar_file_is_refused(tmp_path: Path) -> None:
    records = RECORDS[2].copy()
    with pytest.raises(DataError, match="12,295 bytes are not whole records of 3,074"):
        read_cifar(written(tmp_path, "short.bin", records.tobytes()[:-1]), 2)
    with pytest.raises(DataError, match="label byte 1 of 1 is 19 in record 1"):
        read_cifar(written(tmp_path, "other.bin", np.delete(records, 1, axis=1).tobytes()), 1)
    records[2, 1] = 100
    with pytest.raises(DataError, match=r"label byte 2 of 2 is 100 in record 2, where 0\.\.99"):
        read_cifar(written(tmp_path, "high.bin", records.tobytes()), 2)
    with pytest.raises(ArgumentError, match="label_bytes is 3"):
        read_cifar(tmp_path / "high.bin", 3)  # pyright: ignore[reportArgumentType]


GOOD_PGM = pgm_bytes(VALUES[0])
BAD_PGM = {
    "starts with bytes 50 36": b"P6" + GOOD_PGM[2:],
    "largest value 65535": b"P5 1 1 65535 ab",
    "is 5x4 and so 20 bytes, but has 19": GOOD_PGM[:-1],
    "is 5x4 and so 20 bytes, but has 21": GOOD_PGM + b"\0",
    "is 0x4 and so 0 bytes": b"P5 0 4 255\n",
}


@pytest.mark.parametrize("message", BAD_PGM)
def test_bad_pgm_is_refused_by_name(tmp_path: Path, message: str) -> None:
    path = written(tmp_path, "a.zip", zip_bytes({"s1/1.pgm": BAD_PGM[message]}))
    with pytest.raises(DataError, match=rf"a\.zip, member s1/1\.pgm .*{message}"):
        read_pgm_zip(path)


def test_bad_zip_is_refused(tmp_path: Path) -> None:
    good = zip_bytes({"a.pgm": GOOD_PGM}, zipfile.ZIP_STORED)
    altered = good.replace(GOOD_PGM, GOOD_PGM[:-1] + b"\0")
    encrypted = bytearray(good)
    encrypted[good.index(b"PK\1\2") + 8] |= 1
    for content, message in {
        b"": "not a valid zip",
        good[:-1]: "not a valid zip",
        altered: "Bad CRC-32",
        bytes(encrypted): "is encrypted or packed in an uncommon way",
        zip_bytes({"a.pgm": GOOD_PGM}, zipfile.ZIP_LZMA): "is encrypted or packed in an uncommon way",
        zip_bytes({"README": b"no image"}): "no member named",
    }.items():
        with pytest.raises(DataError, match=message):
            read_pgm_zip(written(tmp_path, "a.zip", content))


def test_no_altered_byte_of_a_zip_loses_or_renames_an_image(tmp_path: Path) -> None:
    # The list of members at a zip's end has no checksum: there, one byte can hide an image or end its name otherwise.
    content = zip_bytes({"README": b"faces"} | {f"s1/{i}.pgm": pgm_bytes(VALUES[i]) for i in range(3)})
    original = read_pgm_zip(written(tmp_path, "a.zip", content))
    refused = 0
    for position in range(content.index(b"PK\1\2"), len(content)):
        for change in (0x01, 0x36, 0xFF):
            altered = bytearray(content)
            altered[position] ^= change
            try:
                images = read_pgm_zip(written(tmp_path, "a.zip", bytes(altered)))
            except DataError:
                refused += 1
                continue
            assert list(images) == list(original)
            assert all(torch.equal(images[name], original[name]) for name in original)
    assert refused > 300


def test_zip_that_states_another_number_of_members_is_refused(tmp_path: Path) -> None:
    content = bytearray(zip_bytes({"a.pgm": GOOD_PGM, "b.pgm": GOOD_PGM}))
    content[content.rindex(b"PK\5\6") + 10] = 3
    with pytest.raises(DataError, match=r"a\.zip is not a valid zip \(it states 3 members and lists 2\)"):
        read_pgm_zip(written(tmp_path, "a.zip", bytes(content)))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_with_two_members_of_one_name_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.pgm", GOOD_PGM)
        archive.writestr("a.pgm", GOOD_PGM)
    with pytest.raises(DataError, match="two members of one name"):
        read_pgm_zip(written(tmp_path, "a.zip", buffer.getvalue()))


READERS: list[Callable[[Path], object]] = [read_idx, lambda path: read_cifar(path, 1), read_pgm_zip]


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_readable_file_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(DataNotFoundError, match="nowhere does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is a directory"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a pipe or device"):
        read(tmp_path / "pipe")
    with pytest.raises(DataError, match="cannot be read"):
        read(written(tmp_path, "file", b"") / "below")
    with pytest.raises(DataError, match="cannot be read"):
        read(Path("zero\0byte"))


@pytest.mark.parametrize("read", READERS)
def test_file_without_permission_is_refused(
    tmp_path: Path, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "file", GOOD)

    # A mode of 0 would not do: a superuser may read all the same.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    monkeypatch.setattr("zipfile.ZipFile", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        read(path)


@pytest.mark.parametrize("packing", PACK)
def test_no_more_is_unpacked_than_asked_for(tmp_path: Path, packing: str) -> None:
    # 64 MiB of zeros are 64 kB in gzip and 10 kB in xz.
    path = written(tmp_path, f"bomb{packing}", PACK[packing](bytes(2**26)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more than the 1,000,000 bytes expected"):
            read_idx(path, max_bytes=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 16_000_000  # of it 8 MiB are xz's own
    finally:
        tracemalloc.stop()


def test_zip_that_unpacks_to_more_than_asked_for_is_refused_unread(tmp_path: Path) -> None:
    path = written(tmp_path, "bomb.zip", zip_bytes({f"{i}.pgm": bytes(300_000) for i in range(4)}))
    with pytest.raises(DataError, match="unpacks to 1,200,000 bytes"):
        read_pgm_zip(path, max_bytes=1_000_000)
    with pytest.raises(DataError, match="at most 1,000 are read"):
        read_pgm_zip(path, max_bytes=1_000)


def damaged(content: bytes, random: np.random.RandomState) -> bytes:
    """One bit or byte changed, a piece cut off, cut out or doubled, or two pieces swapped."""
    data = bytearray(content)
    i, j, k, m = sorted(random.randint(0, len(data), 4))
    match random.randint(6):
        case 0:
            data[i] ^= 1 << random.randint(8)
        case 1:
            data[i] = random.randint(256)
        case 2:
            del data[i:]
        case 3:
            del data[i:j]
        case 4:
            data[i:i] = data[i:j]
        case _:
            data[i:m] = data[k:m] + data[j:k] + data[i:j]
    return bytes(data)


# Only the compressed kinds hold checksums, so only in these must a damage be noticed.
FILES: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "idx": (GOOD, read_idx),
    "idx.gz": (gzip.compress(GOOD), read_idx),
    "idx.xz": (lzma.compress(GOOD), read_idx),
    "cifar.gz": (gzip.compress(RECORDS[2].tobytes()), lambda path: read_cifar(path, 2)[0]),
    "cifar.xz": (lzma.compress(RECORDS[1].tobytes()), lambda path: read_cifar(path, 1)[0]),
    "faces.zip": (zip_bytes({f"s1/{i}.pgm": pgm_bytes(VALUES[i]) for i in range(3)}), read_pgm_zip),
}


@pytest.mark.parametrize("name", FILES)
def test_damage_gives_an_error_or_nothing_that_was_not_written(tmp_path: Path, name: str) -> None:
    content, read = FILES[name]
    original = read(written(tmp_path, f"original.{name}", content))
    random = np.random.RandomState(0)
    refused = 0
    for _ in range(50):
        path = written(tmp_path, f"damaged.{name}", damaged(content, random))
        try:
            result = read(path)
        except DataError:
            refused += 1
            continue
        if isinstance(result, dict):
            assert isinstance(original, dict)
            assert list(result) == list(original)
            assert all(torch.equal(result[name], original[name]) for name in original)
        elif name == "idx":
            assert isinstance(result, torch.Tensor)
            assert result.dtype == torch.uint8
            assert 4 + 4 * result.ndim + result.numel() == path.stat().st_size
        else:
            assert isinstance(result, torch.Tensor)
            assert isinstance(original, torch.Tensor)
            assert torch.equal(result, original)
    assert refused > 15
