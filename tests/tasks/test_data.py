"""The known data sets: published facts about the real ones, and how split, note and errors come about."""

import dataclasses
import gzip
import hashlib
import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from l2o.errors import DataError, DataNotFoundError
from l2o.tasks.data import DATASETS, Dataset, Split, load_dataset, published
from l2o.tasks.data.store import KnownFile, Source

REAL = Path(os.environ.get("L2O_DATA", "unset"))


def needs(folder: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (REAL / folder).is_dir(), reason=f"L2O_DATA names no folder with {folder}/")


def mean_and_deviation(inputs: torch.Tensor) -> tuple[float, float]:
    counts = inputs.flatten().bincount(minlength=256).double()
    values = torch.arange(256) / 255
    mean = (counts * values).sum() / counts.sum()
    return mean.item(), ((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt().item()


MNIST_COUNTS = {
    "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}


@needs("mnist")
@pytest.mark.parametrize(("split", "examples"), [("train", 60_000), ("test", 10_000)])
def test_mnist_has_its_published_counts(split: Split, examples: int) -> None:
    data = load_dataset("mnist", split)
    assert data.inputs.shape == (examples, 28, 28)
    assert data.labels.bincount().tolist() == MNIST_COUNTS[split]
    assert data.complete
    if split == "train":
        assert data.note == "MNIST: all 60,000 training images"
        assert data.labels[:5].tolist() == [5, 0, 4, 1, 9]
        assert mean_and_deviation(data.inputs) == pytest.approx((0.1307, 0.3081), abs=5e-5)


@needs("fashion-mnist")
@pytest.mark.parametrize(("split", "examples"), [("train", 60_000), ("test", 10_000)])
def test_fashion_mnist_has_its_published_counts(split: Split, examples: int) -> None:
    data = load_dataset("fashion-mnist", split)
    assert data.inputs.shape == (examples, 28, 28)
    assert data.labels.bincount().tolist() == [examples // 10] * 10
    if split == "train":
        assert mean_and_deviation(data.inputs) == pytest.approx((0.2860, 0.3530), abs=5e-5)


@needs("cifar-10-batches-bin")
def test_cifar_10_has_its_published_counts() -> None:
    test = load_dataset("cifar-10", "test")
    assert test.inputs.shape == (10_000, 3, 32, 32)
    assert test.labels.bincount().tolist() == [1000] * 10
    assert test.complete
    assert test.note == "CIFAR-10: all 10,000 test images"
    train = load_dataset("cifar-10", "train")
    assert train.labels[:10_000].bincount().tolist() == [1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981]
    if len(train.labels) == 10_000:
        assert not train.complete
        assert train.note == "CIFAR-10: data_batch_1 only, 10,000 of 50,000 training images"
        # The whole set's published means are 0.491, 0.482, 0.447; a batch of 10,000 comes as near as this.
        means = train.inputs.double().mean(dim=(0, 2, 3)) / 255
        torch.testing.assert_close(means, torch.tensor([0.491, 0.482, 0.447]).double(), atol=4e-3, rtol=0)


@needs("cifar-100-binary-subset")
@pytest.mark.parametrize(("split", "examples", "whole"), [("train", 5_000, "50,000"), ("test", 1_000, "10,000")])
def test_cifar_100_subset_has_equal_classes_and_says_so(
    split: Split, examples: int, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cifar-100-binary-subset").symlink_to(REAL / "cifar-100-binary-subset")
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    data = load_dataset("cifar-100", split)
    assert data.inputs.shape == (examples, 3, 32, 32)
    assert data.labels.bincount().tolist() == [examples // 100] * 100
    assert not data.complete
    assert data.note.startswith(f"CIFAR-100: a subset, {examples:,} of {whole}")


@needs("att_faces")
def test_att_faces_have_five_images_of_each_person_in_each_split() -> None:
    train, test = load_dataset("att-faces", "train"), load_dataset("att-faces", "test")
    for data in (train, test):
        assert data.inputs.shape == (200, 112, 92)
        assert data.labels.bincount().tolist() == [5] * 40
        assert data.classes == 40
    assert train.note == "AT&T faces: images 1 to 5 of each of 40 people, 200 of 400 images"
    assert max(int(train.inputs.max()), int(test.inputs.max())) == 251
    with zipfile.ZipFile(REAL / "att_faces" / "att_faces.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith("s7/10.pgm"))
        assert archive.read(name)[-92 * 112 :] == test.inputs[6 * 5 + 4].numpy().tobytes()


@needs("mnist")
def test_altered_real_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(REAL / "mnist", tmp_path / "mnist", ignore=shutil.ignore_patterns("train-*"))
    path = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(gzip.compress(content, mtime=0))
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is altered: expected sha256 ff7bcfd4"):
        load_dataset("mnist", "test")


def test_digits_are_all_images_of_scikit_learn_each_in_one_split() -> None:
    from sklearn.datasets import load_digits

    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    assert train.inputs.shape == (1297, 8, 8)
    assert test.inputs.shape == (500, 8, 8)
    values, targets = load_digits(return_X_y=True)
    expected = sorted((*np.floor(v * 255 / 16 + 0.5).astype(int), t) for v, t in zip(values, targets, strict=True))
    rows = [
        (*x.flatten().tolist(), int(y)) for data in (train, test) for x, y in zip(data.inputs, data.labels, strict=True)
    ]
    assert sorted(rows) == expected
    assert train.note == "digits: the first 1,297 of scikit-learn's 1,797 images, shuffled with a fixed seed"


def test_digits_split_is_the_same_everywhere() -> None:
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    assert train.labels[:12].tolist() == [0, 6, 3, 8, 1, 8, 4, 1, 5, 8, 9, 7]
    assert test.labels[:12].tolist() == [0, 7, 1, 8, 1, 4, 8, 8, 6, 6, 1, 7]
    assert test.labels.bincount().tolist() == [56, 57, 52, 51, 55, 44, 50, 49, 44, 42]


def test_unknown_name_or_split_lists_what_exists() -> None:
    with pytest.raises(DataError) as caught:
        load_dataset("imagenet", "train")
    assert all(name in str(caught.value) for name in DATASETS)
    with pytest.raises(DataError, match="digits has no split 'validation'; pass one of train, test"):
        load_dataset("digits", "validation")  # pyright: ignore[reportArgumentType]


IMAGES, LABELS = torch.zeros(2, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": IMAGES.float()}, "torch.float32 and torch.int64; convert"),
        ({"labels": LABELS.int()}, "torch.uint8 and torch.int32; convert"),
        ({"labels": LABELS[:1]}, r"\(2, 4, 4\) and \(1,\)"),
        ({"inputs": IMAGES[:0], "labels": LABELS[:0]}, "not empty"),
        ({"inputs": IMAGES[:, 0, 0]}, r"\(2,\) and \(2,\)"),
        ({"classes": 1}, r"labels are 0\.\.1; with 1 classes"),
        ({"labels": LABELS - 1}, r"labels are -1\.\.0"),
    ],
)
def test_dataset_of_parts_that_do_not_fit_is_refused(change: dict, message: str) -> None:
    good = Dataset("mine", IMAGES, LABELS, classes=2, complete=True, note="two images")
    with pytest.raises(DataError, match=message):
        dataclasses.replace(good, **change)


def records(number: int, *, label_bytes: int = 1) -> bytes:
    """Two records whose last label is `number`."""
    return (bytes(label_bytes - 1) + bytes([number]) + bytes([number] * 3072)) * 2


def known(name: str, content: bytes) -> KnownFile:
    return KnownFile(name, len(content), hashlib.sha256(content).hexdigest())


def archive_of(folder: Path, files: dict[str, bytes]) -> str:
    """Writes a .tar.gz and returns its checksum."""
    path = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


BATCHES = {f"data_batch_{i}.bin": records(i) for i in range(1, 6)}
TEST_BATCH = {"test_batch.bin": records(0)}
NOWHERE = "http://127.0.0.1:9/cifar-10-binary.tar.gz"


@pytest.fixture
def small_cifar_10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of data, and a CIFAR-10 of two images a batch whose archive nobody serves."""
    files: dict[Split, Sequence[KnownFile]] = {
        "train": [known(*batch) for batch in BATCHES.items()],
        "test": [known(*batch) for batch in TEST_BATCH.items()],
    }
    checksum = archive_of(tmp_path, BATCHES | TEST_BATCH)
    (tmp_path / "cifar-10-binary.tar.gz").rename(tmp_path / "aside")
    archive = published.Archive("cifar-10-batches-bin", Source(NOWHERE, checksum), {"train": 10, "test": 2}, files)
    monkeypatch.setattr(published, "CIFAR_10", archive)
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)
    return tmp_path


def test_cifar_10_folder_with_some_batches_is_read_as_far_as_it_goes(small_cifar_10: Path) -> None:
    folder = small_cifar_10 / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_4.bin").write_bytes(BATCHES["data_batch_4.bin"])
    (folder / "data_batch_2.bin.gz").write_bytes(gzip.compress(BATCHES["data_batch_2.bin"]))
    data = load_dataset("cifar-10", "train")
    assert data.labels.tolist() == [2, 2, 4, 4]
    assert data.inputs[:, 0, 0, 0].tolist() == [2, 2, 4, 4]
    assert not data.complete
    assert data.note == "CIFAR-10: data_batch_2, data_batch_4 only, 4 of 10 training images"


def test_cifar_10_archive_is_unpacked_for_what_is_missing(small_cifar_10: Path) -> None:
    folder = small_cifar_10 / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_1.bin").write_bytes(BATCHES["data_batch_1.bin"])
    (small_cifar_10 / "aside").rename(small_cifar_10 / "cifar-10-binary.tar.gz")
    data = load_dataset("cifar-10", "train")
    assert data.labels.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert data.complete
    assert data.note == "CIFAR-10: all 10 training images"
    assert sorted(path.name for path in folder.iterdir()) == sorted(BATCHES)


def test_missing_cifar_10_says_what_to_put_where(small_cifar_10: Path) -> None:
    path = small_cifar_10 / "cifar-10-binary.tar.gz"
    with pytest.raises(DataNotFoundError, match=rf"{path} is missing .* put the file at {path}, or set L2O_DATA"):
        load_dataset("cifar-10", "test")


def test_missing_idx_file_is_asked_for_at_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    asked: list[tuple[str, Path]] = []

    def fetch(source: Source, path: Path) -> None:
        asked.append((source.url, path))
        raise DataNotFoundError

    monkeypatch.setattr("l2o.tasks.data.catalogue.fetch", fetch)
    with pytest.raises(DataNotFoundError):
        load_dataset("mnist", "test")
    name = "t10k-images-idx3-ubyte.gz"
    assert asked == [(f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}", tmp_path / "mnist" / name)]


def test_whole_cifar_100_is_taken_before_its_subset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, subset = records(99, label_bytes=2), records(7, label_bytes=2)[:3074]
    for folder, content in {"cifar-100-binary": whole, "cifar-100-binary-subset": subset}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.bin").write_bytes(content)
    source = Source("http://127.0.0.1:9/cifar-100-binary.tar.gz", "sha256:0")
    files: dict[Split, Sequence[KnownFile]] = {"test": [known("test.bin", whole)]}
    monkeypatch.setattr(published, "CIFAR_100", published.Archive("cifar-100-binary", source, {"test": 2}, files))
    monkeypatch.setattr(published, "CIFAR_100_SUBSET", {"test": known("test.bin", subset)})
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    data = load_dataset("cifar-100", "test")
    assert (data.labels.tolist(), data.complete, data.note) == ([99, 99], True, "CIFAR-100: all 2 test images")
    shutil.rmtree(tmp_path / "cifar-100-binary")
    data = load_dataset("cifar-100", "test")
    assert (data.labels.tolist(), data.complete) == ([7], False)
    assert data.note == "CIFAR-100: a subset, 1 of 2 test images"


def test_missing_faces_say_where_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    with pytest.raises(DataNotFoundError, match=r"att_faces\.zip is missing.*https://.*L2O_DATA"):
        load_dataset("att-faces", "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s3/4.pgm": None}, "has 399 images"),
        ({"s3/4.pgm": None, "s41/1.pgm": b"P5 92 112 255\n" + bytes(92 * 112)}, "or others than expected"),
        ({"s3/4.pgm": b"P5 112 92 255\n" + bytes(92 * 112)}, "member s3/4.pgm of 112x92; expected"),
        ({"s3/4.pgm": b"P5 92 112 255\n"}, "member s3/4.pgm is 92x112 and so 10,304 bytes, but has 0"),
        ({"other.pgm": b"P5 92 112 255\n" + bytes(92 * 112)}, "member other.pgm of 92x112; expected"),
    ],
)
def test_zip_of_other_faces_is_refused(
    change: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    face = b"P5 92 112 255\n" + bytes(92 * 112)
    members = {f"s{person}/{image}.pgm": face for person in range(1, 41) for image in range(1, 11)} | change
    (tmp_path / "att_faces").mkdir()
    with zipfile.ZipFile(tmp_path / "att_faces" / "att_faces.zip", "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    with pytest.raises(DataError, match=message):
        load_dataset("att-faces", "train")
