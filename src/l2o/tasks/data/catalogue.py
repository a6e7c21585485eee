"""The known data sets, by name, and how one split of each is found and read."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from l2o.errors import DataError, DataNotFoundError
from l2o.tasks.data import published
from l2o.tasks.data.cifar import parse_cifar
from l2o.tasks.data.dataset import Dataset, Split
from l2o.tasks.data.idx import parse_idx
from l2o.tasks.data.pgm import read_pgm_zip
from l2o.tasks.data.store import KnownFile, data_folder, extract, fetch, find_file, is_there, read_known

FOLDERS: dict[str, tuple[str, ...]] = {
    "digits": (),
    "mnist": ("mnist",),
    "fashion-mnist": ("fashion-mnist",),
    "cifar-10": (published.CIFAR_10.folder,),
    "cifar-100": (published.CIFAR_100.folder, published.CIFAR_100_SUBSET_FOLDER),
    "att-faces": ("att_faces",),
}
"""Where in the data folder each set may lie; nowhere for a set that comes with a package."""

_IDX_TITLES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
_SPLITS: tuple[Split, ...] = ("train", "test")
_PEOPLE, _FACES_EACH, _FACE_SHAPE = 40, 10, (112, 92)
_FACES_PAGE = "https://cam-orl.co.uk/facedatabase.html"
_DIGITS_TRAIN = 1297


def load_dataset(name: str, split: Split) -> Dataset:
    """Loads one split of a known data set, fetching its files first if they are missing.

    Files are found in the folder that the environment variable `L2O_DATA` names, or else in `l2o` in the user's cache
    folder, as they are published or packed with gzip or xz. At every load their content is compared with known sha256.

    | name | inputs `[examples, ...]` | train, test | folder | source |
    | --- | --- | --- | --- | --- |
    | `digits` | `[8, 8]` | 1,297, 500 | none: comes with scikit-learn | Alpaydin, Kaynak 1998 |
    | `mnist` | `[28, 28]` | 60,000, 10,000 | `mnist` | LeCun et al. 1998 |
    | `fashion-mnist` | `[28, 28]` | 60,000, 10,000 | `fashion-mnist` | Xiao, Rasul, Vollgraf 2017 |
    | `cifar-10` | `[3, 32, 32]` | 50,000, 10,000 | `cifar-10-batches-bin` | Krizhevsky 2009 |
    | `cifar-100` | `[3, 32, 32]` | 50,000, 10,000 | `cifar-100-binary` (or `-subset`) | Krizhevsky 2009 |
    | `att-faces` | `[112, 92]` | 200, 200 | `att_faces` | Samaria, Harter 1994 |

    Where we differ from what is published: a CIFAR-10 folder with only some of the training batches is read as far as
    it goes, and `cifar-100-binary-subset` (5,000 and 1,000 images) serves where `cifar-100-binary` is not there; both
    are stated in the result. The labels of CIFAR-100 are the 100 fine classes. Digits has values 0..16, scaled here to
    0..255, and no split that scikit-learn states: its images are shuffled with a fixed seed, the first 1,297 are train,
    the last 500 test. The faces have none either: images 1 to 5 of each person are train, 6 to 10 test.

    Args:
        name: one of `DATASETS`.
        split: `"train"` or `"test"`.

    Returns:
        The split; its `note` says which part was read.

    Raises:
        DataNotFoundError: if a file is missing and could not be fetched.
        DataError: if the name or the split is unknown, or a file is damaged or not the published one.

    Example:
        >>> digits = load_dataset("digits", "train")
        >>> digits.inputs.shape, digits.inputs.dtype, digits.classes
        (torch.Size([1297, 8, 8]), torch.uint8, 10)
    """
    if name not in _LOADERS:
        raise DataError(f"there is no data set {name!r}; pass one of {', '.join(DATASETS)}")
    if split not in _SPLITS:
        raise DataError(f"{name} has no split {split!r}; pass one of {', '.join(_SPLITS)}")
    return _LOADERS[name](name, split)


def _load_digits(name: str, split: Split) -> Dataset:
    from sklearn.datasets import load_digits  # takes a second to import, and only this set needs it

    values, targets = load_digits(return_X_y=True)
    # From raw numbers, which NumPy promises to keep equal in all its versions (NEP 19), unlike its shuffles.
    order = np.argsort(np.random.PCG64(0).random_raw(len(values)), kind="stable")
    chosen = {"train": order[:_DIGITS_TRAIN], "test": order[_DIGITS_TRAIN:]}[split]
    images = np.round(values[chosen].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    end = {"train": "first", "test": "last"}[split]
    note = f"digits: the {end} {len(chosen):,} of scikit-learn's {len(values):,} images, shuffled with a fixed seed"
    labels = torch.from_numpy(targets[chosen].astype(np.int64))
    return Dataset(name, torch.from_numpy(images), labels, classes=10, complete=True, note=note)


def _load_idx(name: str, split: Split) -> Dataset:
    tensors: list[Tensor] = []
    for known, source in published.IDX[name][split]:
        path = find_file(data_folder() / name, known.name)
        if path is None:
            path = data_folder() / name / f"{known.name}.gz"
            fetch(source, path)
        tensors.append(parse_idx(read_known(path, known), path))
    images, labels = tensors
    note = f"{_IDX_TITLES[name]}: all {len(images):,} {_noun(split)}"
    return Dataset(name, images, labels.long(), classes=10, complete=True, note=note)


def _load_cifar_10(name: str, split: Split) -> Dataset:
    archive = published.CIFAR_10
    found = _provide(archive, split)
    batches = [parse_cifar(read_known(path, known), path, 1) for known, path in found.items()]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    complete = len(found) == len(archive.files[split])
    names = ", ".join(known.name.removesuffix(".bin") for known in found)
    part = f"all {len(images):,}" if complete else f"{names} only, {len(images):,} of {archive.examples[split]:,}"
    return Dataset(name, images, labels[:, 0], classes=10, complete=complete, note=f"CIFAR-10: {part} {_noun(split)}")


def _load_cifar_100(name: str, split: Split) -> Dataset:
    archive, subset = published.CIFAR_100, published.CIFAR_100_SUBSET[split]
    known, path = subset, find_file(data_folder() / published.CIFAR_100_SUBSET_FOLDER, subset.name)
    if path is None or _find_all(data_folder() / archive.folder, archive.files[split]):
        known, path = next(iter(_provide(archive, split).items()))
    images, labels = parse_cifar(read_known(path, known), path, 2)
    complete = known != subset
    part = f"all {len(images):,}" if complete else f"a subset, {len(images):,} of {archive.examples[split]:,}"
    note = f"CIFAR-100: {part} {_noun(split)}"
    return Dataset(name, images, labels[:, 1].contiguous(), classes=100, complete=complete, note=note)


def _provide(archive: published.Archive, split: Split) -> dict[KnownFile, Path]:
    """The files of a split that are there. If there is none, or the archive is there, what is missing is unpacked."""
    folder, packed = data_folder() / archive.folder, data_folder() / archive.source.url.rpartition("/")[2]
    files = archive.files[split]
    found = _find_all(folder, files)
    if len(found) == len(files) or (found and not is_there(packed)):
        return found
    fetch(archive.source, packed)
    extract(packed, archive.source.checksum, [known for known in files if known not in found], folder)
    return _find_all(folder, files)


def _find_all(folder: Path, files: Sequence[KnownFile]) -> dict[KnownFile, Path]:
    return {known: path for known in files if (path := find_file(folder, known.name)) is not None}


def _load_att_faces(name: str, split: Split) -> Dataset:
    path = data_folder() / "att_faces" / "att_faces.zip"
    if not is_there(path):
        problem = f"{path} is missing, and there is no lasting address to fetch it from"
        remedy = f"get the zip (see {_FACES_PAGE}) and put it there, or set L2O_DATA to a folder that has att_faces/"
        raise DataNotFoundError(f"{problem}; {remedy}")
    faces: dict[tuple[int, int], Tensor] = {}
    for member, image in read_pgm_zip(path).items():
        place = re.search(r"(?:^|/)s([1-9][0-9]?)/([1-9][0-9]?)\.pgm$", member)
        if place is None or tuple(image.shape) != _FACE_SHAPE:
            found = f"member {member} of {image.shape[1]}x{image.shape[0]}"
            raise DataError(f"{path} has the {found}; expected sPERSON/IMAGE.pgm of 92x112; replace the zip")
        faces[int(place[1]), int(place[2])] = image
    people = range(1, _PEOPLE + 1)
    if faces.keys() != {(person, image) for person in people for image in range(1, _FACES_EACH + 1)}:
        expected = "s1/1.pgm to s40/10.pgm, 400 images"
        raise DataError(f"{path} has {len(faces)} images, or others than expected ({expected}); replace the zip")
    chosen = {"train": range(1, 6), "test": range(6, 11)}[split]
    images = torch.stack([faces[person, image] for person in people for image in chosen])
    labels = torch.arange(_PEOPLE).repeat_interleave(len(chosen))
    part = f"images {chosen[0]} to {chosen[-1]} of each of {_PEOPLE} people, {len(images)} of {len(faces)} images"
    return Dataset(name, images, labels, classes=_PEOPLE, complete=True, note=f"AT&T faces: {part}")


def _noun(split: Split) -> str:
    return {"train": "training images", "test": "test images"}[split]


_LOADERS: dict[str, Callable[[str, Split], Dataset]] = {
    "digits": _load_digits,
    "mnist": _load_idx,
    "fashion-mnist": _load_idx,
    "cifar-10": _load_cifar_10,
    "cifar-100": _load_cifar_100,
    "att-faces": _load_att_faces,
}
DATASETS = tuple(_LOADERS)
