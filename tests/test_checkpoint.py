"""Checkpoint files: exact, atomic, and honest about damage."""

import json
import os
import stat

import pytest
import safetensors.torch
import torch

from l2o import checkpoint
from l2o.errors import CheckpointError

TENSORS = {
    "a": torch.arange(6, dtype=torch.float64).reshape(2, 3),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "flag": torch.tensor([True, False]),
    "count": torch.tensor(7),
    "empty": torch.zeros(0, 3),
    "strided": torch.arange(12.0).reshape(3, 4).T,
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "folder" / "file.safetensors"
    checkpoint.write(path, TENSORS, {"step": 3, "name": "x"}, kind="checkpoint")
    return path


def test_what_was_written_is_read_back_exactly(path):
    tensors, metadata = checkpoint.read(path, kind="checkpoint")
    assert metadata == {"step": 3, "name": "x"}
    assert set(tensors) == set(TENSORS)
    for name, leaf in TENSORS.items():
        assert tensors[name].dtype == leaf.dtype
        assert torch.equal(tensors[name], leaf)


def test_equal_content_is_equal_bytes(path):
    other = path.with_name("other")
    for _ in range(5):
        checkpoint.write(other, dict(reversed(TENSORS.items())), {"name": "x", "step": 3}, kind="checkpoint")
        assert other.read_bytes() == path.read_bytes()


def test_every_flipped_byte_is_an_error_or_harmless(path):
    """Each byte of a small file, altered: an error, or tensors and metadata equal to the originals."""
    blob = path.read_bytes()
    harmless = 0
    for position in range(len(blob)):
        damaged = bytearray(blob)
        damaged[position] ^= 0x15
        try:
            tensors, metadata = checkpoint.parse(bytes(damaged), kind="checkpoint", source="damaged")
        except CheckpointError:
            continue
        harmless += 1
        assert checkpoint.digest(tensors) == checkpoint.digest(TENSORS)
        assert metadata == {"step": 3, "name": "x"}
    assert harmless < 10


def test_every_truncation_is_an_error(path):
    blob = path.read_bytes()
    for length in range(0, len(blob), 7):
        with pytest.raises(CheckpointError, match="truncated, altered or something else"):
            checkpoint.parse(blob[:length], kind="checkpoint", source="short")


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="l2o did not write"):
        checkpoint.read(path, kind="checkpoint")


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"5",
        b'{"__metadata__": ["l2o"]}',
        b'{"__metadata__": {"l2o": "[1]"}}',
        b'{"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}',  # four-bit numbers: torch has no such type
        b"[" * 100_000,
    ],
    ids=["list", "number", "list of metadata", "list as entry", "type without torch", "deep"],
)
def test_headers_of_something_else_are_refused(header):
    with pytest.raises(CheckpointError, match="strange is not a whole safetensors file"):
        checkpoint.parse(len(header).to_bytes(8, "little") + header + b"\0", kind="weights", source="strange")


def test_another_kind_is_refused(path):
    with pytest.raises(CheckpointError, match="holds a 'checkpoint', not a 'weights'"):
        checkpoint.read(path, kind="weights")


def test_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_VERSION", "0")
    checkpoint.write(tmp_path / "old", {}, {}, kind="weights")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format version 0; this l2o reads 1"):
        checkpoint.read(tmp_path / "old", kind="weights")


def test_a_pickle_is_refused_and_never_run(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        checkpoint.read(tmp_path / "x.pt", kind="weights")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read .*nothing\.safetensors"):
        checkpoint.read(tmp_path / "nothing.safetensors", kind="weights")


def test_a_file_without_its_digest_is_refused(path):
    with safetensors.safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["l2o"])
    del header["sha256"]
    leaves = {name: leaf.contiguous() for name, leaf in TENSORS.items()}
    unsigned = safetensors.torch.save(leaves, {"l2o": json.dumps(header)})
    with pytest.raises(CheckpointError, match="header says None"):
        checkpoint.parse(unsigned, kind="checkpoint", source="unsigned")


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(path, monkeypatch):
    old, seen = path.read_bytes(), []

    def watch(handle):
        seen.append((stat.S_ISDIR(os.fstat(handle).st_mode), path.read_bytes() == old))

    monkeypatch.setattr(os, "fsync", watch)
    checkpoint.write(path, {"a": torch.zeros(3)}, {}, kind="checkpoint")
    assert seen == [(False, True), (True, False)]  # the new file under its temporary name, then its folder


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(path, monkeypatch):
    before = path.read_bytes()

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(path, {"a": torch.zeros(3)}, {}, kind="checkpoint")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_digest_ignores_order_and_sees_names_types_shapes_and_values():
    a, b = torch.zeros(2), torch.ones(2)
    base = checkpoint.digest({"a": a, "b": b})
    assert checkpoint.digest({"b": b, "a": a}) == base
    others = [{"a": b, "b": a}, {"a": a.double(), "b": b}, {"a": a.reshape(1, 2), "b": b}, {"a": a, "c": b}, {"a": a}]
    assert base not in {checkpoint.digest(other) for other in others}


def test_a_tensor_with_an_odd_stride_along_an_axis_of_length_one_is_written(tmp_path):
    odd = torch.arange(6.0)[::2][:1]
    assert odd.stride() == (2,)
    checkpoint.write(tmp_path / "odd", {"leaf": odd}, {}, kind="test")
    assert torch.equal(checkpoint.read(tmp_path / "odd", kind="test")[0]["leaf"], odd)
    assert checkpoint.digest({"leaf": odd}) == checkpoint.digest({"leaf": odd.clone()})
