"""Damages files at random and proves that none is ever read as something that it was not.

Two thousand seeded cases over the kinds of files that the package reads: bytes changed, bits flipped, pieces cut off,
appended or zeroed, files exchanged for another of the same kind or of another kind, or emptied. Half of the damages are
near a file's start or end, where its structure is. Each case must end in the package's own error, with a message that
names the file, or in a load that equals the original by sha256; never in another exception, and never after more than
20 seconds.

Data files in a published format hold no checksum, or only one of their packing (gzip, xz, zip). Where their content is
not known, a load may differ if the file is a whole file of its format all the same: other values in a plain file, or
another file. A check of the format that is written anew here decides, and these cases are counted. Published files,
whose sha256 is known, must have no such case: a made one here, and MNIST's test set if `L2O_DATA` has it.
"""

import argparse
import contextlib
import gzip
import hashlib
import io
import lzma
import math
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import l2o
from l2o import checkpoint
from l2o.tasks.data import read_cifar, read_idx, read_pgm_zip
from l2o.tasks.data.store import KnownFile, read_known
from l2o.tasks.score_network import ScoreNetwork, load_score_network, save_score_network
from l2o.tasks.score_training import Recipe, fresh_params

SECONDS = 20
OUTCOMES = ("refused", "equal", "other file", "other values", "FAILED")
DAMAGES = {"byte": 6, "bits": 6, "cut": 4, "append": 3, "zero": 4, "other": 1, "foreign": 1, "empty": 1}  # how often
PACKINGS = {
    "": (bytes, bytes),
    ".gz": (partial(gzip.compress, mtime=0), gzip.decompress),
    ".xz": (lzma.compress, lzma.decompress),
}


class TimeUp(BaseException):
    """A load took too long. Not an Exception, so that no reader can take it for a fault of the file."""


@dataclass(frozen=True)
class Kind:
    """One kind of file: the one that is damaged, and how it is read.

    Args:
        path: the file; whatever else a load needs lies beside it.
        other: the content of another file of this kind.
        load: reads the file and gives a digest of everything in it.
        is_whole: whether bytes are a whole file of this format; None if any other content must be noticed.
    """

    path: Path
    other: bytes
    load: Callable[[Path], str]
    is_whole: Callable[[bytes], bool] | None = None


def weights(folder: Path) -> Iterator[Kind]:
    for seed in (0, 1):
        l2o.save(l2o.L2ODM(seed=seed), folder / f"{seed}", l2o.Card(method="meta-loss", curve=[[0, 1.5]], seed=seed))

    def load(path: Path) -> str:
        return checkpoint.digest(l2o.load(path.with_suffix(".safetensors")).state_dict())

    for ending in ("safetensors", "toml"):
        yield Kind(folder / f"0.{ending}", (folder / f"1.{ending}").read_bytes(), load)


def score_networks(folder: Path) -> Iterator[Kind]:
    for seed in (0, 1):
        params = fresh_params((1, 4, 4), 3, Recipe((2,), features=4), l2o.Stream(seed))
        network = ScoreNetwork("noise", (1, 4, 4), params, 0.5, ("noise",))
        save_score_network(network, folder / f"score-{seed}.safetensors", training={"seed": seed})

    def load(path: Path) -> str:
        return checkpoint.digest(load_score_network(path.with_suffix(".safetensors")).params)

    for ending in ("safetensors", "toml"):
        yield Kind(folder / f"score-0.{ending}", (folder / f"score-1.{ending}").read_bytes(), load)


def checkpoints(folder: Path) -> Iterator[Kind]:
    """The run is stopped within its first trajectory; a load resumes it and goes on to its end."""

    def train(seed: int, stop_at: float) -> str:
        def listen(event: dict[str, Any]) -> None:
            if event["windows"] == stop_at:
                raise InterruptedError

        horizon = l2o.ConstantHorizon(6, 2)
        plan = l2o.Plan(2, horizon, validation_tasks=2, validation_last=1, checkpoint_every=2, seed=seed)
        agent, family, directory = l2o.L2ODM(), l2o.Quadratics(3), folder / str(seed)
        trained = l2o.metatrain(agent, family, l2o.MetaLoss(), plan, directory=directory, listeners=[listen])
        return f"{checkpoint.digest(agent.state_dict())} {trained.validations}"

    for seed in (0, 1):
        with contextlib.suppress(InterruptedError):
            train(seed, stop_at=3)
    path, other = (folder / str(seed) / "checkpoint.safetensors" for seed in (0, 1))
    yield Kind(path, other.read_bytes(), lambda _: train(0, math.inf))


def data_files(folder: Path) -> Iterator[Kind]:
    levels = [random.Random(seed).choices(range(0, 256, 17), k=12 * 3073) for seed in (0, 1)]  # compresses well
    idx, other_idx = (bytes([0, 0, 8, 3]) + struct.pack(">3I", 40, 12, 10) + bytes(values[:4800]) for values in levels)
    cifar, other_cifar = (b"".join(bytes([i % 10, *values[3072 * i :][:3072]]) for i in range(6)) for values in levels)
    for packing, (pack, unpack) in PACKINGS.items():
        yield Kind(
            _written(folder / f"images-idx3-ubyte{packing}", pack(idx)),
            pack(other_idx),
            lambda path: checkpoint.digest({"images": read_idx(path)}),
            lambda content, unpack=unpack: is_whole_idx(unpack(content)),
        )
        yield Kind(
            _written(folder / f"batch.bin{packing}", pack(cifar)),
            pack(other_cifar),
            lambda path: checkpoint.digest(dict(zip(("images", "labels"), read_cifar(path, 1), strict=True))),
            lambda content, unpack=unpack: is_whole_cifar(unpack(content)),
        )
    faces, other_faces = (_faces(bytes(values)) for values in levels)
    yield Kind(
        _written(folder / "faces.zip", faces),
        other_faces,
        lambda path: checkpoint.digest(read_pgm_zip(path)),
        is_whole_zip,
    )
    known = KnownFile("published", len(idx), hashlib.sha256(idx).hexdigest())
    pack = PACKINGS[".gz"][0]
    yield Kind(
        _written(folder / "published.gz", pack(idx)),
        pack(other_idx),
        lambda path: hashlib.sha256(read_known(path, known)).hexdigest(),
    )


def mnist(folder: Path) -> Iterator[Kind]:
    """The real test set, if it is there, read as a user would read it."""
    source = Path(os.environ.get("L2O_DATA", "")) / "mnist"
    paths = [source / f"t10k-{name}-ubyte.gz" for name in ("images-idx3", "labels-idx1")]
    if not all(path.is_file() for path in paths):
        print("MNIST's test set is not in L2O_DATA: left out")
        return
    os.environ["L2O_DATA"] = str(folder)
    (folder / "mnist").mkdir()
    images, labels = (Path(shutil.copy(path, folder / "mnist")) for path in paths)

    def load(_: Path) -> str:
        split = l2o.load_dataset("mnist", "test")
        return checkpoint.digest({"images": split.inputs, "labels": split.labels})

    yield Kind(images, labels.read_bytes(), load)
    yield Kind(labels, images.read_bytes(), load)


def is_whole_idx(content: bytes) -> bool:
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    return content[:3] == b"\0\0\x08" and len(content) == 4 + 4 * content[3] + math.prod(shape) > 4


def is_whole_cifar(content: bytes) -> bool:
    return len(content) > 0 and len(content) % 3073 == 0 and max(content[::3073]) < 10


def is_whole_zip(content: bytes) -> bool:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.testzip() is None and len(archive.namelist()) == 7


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _faces(pixels: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("README"), b"faces")
        for image in range(6):
            archive.writestr(zipfile.ZipInfo(f"s1/{image}.pgm"), b"P5\n20 30\n255\n" + pixels[600 * image :][:600])
    return buffer.getvalue()


def damaged(content: bytes, damage: str, chance: random.Random, other: bytes, foreign: bytes) -> bytes:
    data = bytearray(content)
    start = chance.randrange(min(len(data), chance.choice([256, len(data)])))
    place = chance.choice([start, len(data) - 1 - start])
    match damage:
        case "byte":
            data[place] ^= chance.randint(1, 255)
        case "bits":
            for _ in range(chance.randint(1, 3)):
                data[max(0, place - chance.randrange(8))] ^= 1 << chance.randrange(8)
        case "cut":
            del data[place:]
        case "append":
            length = chance.randint(1, 600)
            data += chance.choice([bytes(length), chance.randbytes(length), data[:place]])
        case "zero":
            length = min(chance.choice([2, 8, 64, 4096]), len(data) - place)
            data[place : place + length] = bytes(length)
        case _:
            return {"other": other, "foreign": foreign, "empty": b""}[damage]
    return bytes(data)


def outcome(kind: Kind, content: bytes, original: str) -> tuple[str, str]:
    """How the load of this content ends, and what is wrong with that."""
    kind.path.write_bytes(content)
    signal.alarm(SECONDS)
    try:
        found = kind.load(kind.path)
    except l2o.L2OError as error:
        named = str(kind.path.with_suffix("")) in str(error)
        return ("refused", "") if named else ("FAILED", f"a message that does not name it: {error}")
    except (Exception, TimeUp) as error:
        return "FAILED", repr(error)
    finally:
        signal.alarm(0)
    if found == original:
        return "equal", ""
    with contextlib.suppress(Exception):
        if kind.is_whole is not None and kind.is_whole(content):
            return "other values", ""
    return "FAILED", "read as something else"


def main() -> None:
    parser = argparse.ArgumentParser(description="Damage files at random and read them.")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    def time_up(*_: object) -> None:
        raise TimeUp(f"longer than {SECONDS} s")

    signal.signal(signal.SIGALRM, time_up)
    chance, counts = random.Random(arguments.seed), Counter()
    with tempfile.TemporaryDirectory() as folder:
        kinds = []
        for make in (weights, score_networks, checkpoints, data_files, mnist):
            (Path(folder) / make.__name__).mkdir()
            kinds += make(Path(folder) / make.__name__)
        contents = [kind.path.read_bytes() for kind in kinds]
        originals = [kind.load(kind.path) for kind in kinds]
        for case in range(arguments.cases):
            at = case % len(kinds)
            kind, content = kinds[at], contents[at]
            (damage,) = chance.choices(list(DAMAGES), list(DAMAGES.values()))
            foreign = chance.choice([other for other in contents if other != content])
            ended, fault = outcome(kind, damaged(content, damage, chance, kind.other, foreign), originals[at])
            if ended == "other values" and damage in ("other", "foreign"):
                ended = "other file"
            counts[kind.path.name, ended] += 1
            if fault:
                print(f"case {case}, {kind.path.name}, damage {damage!r}: {fault}")
            kind.path.write_bytes(content)
    print_table([kind.path.name for kind in kinds], counts)
    sys.exit(any(ended == "FAILED" for _, ended in counts))


def print_table(names: list[str], counts: Counter) -> None:
    refused, equal, exchanged, changed, failed = (sum(counts[name, ended] for name in names) for ended in OUTCOMES)
    print(f"{'file':28}" + "".join(f"{ended:>14}" for ended in OUTCOMES))
    for name in names:
        print(f"{name:28}" + "".join(f"{counts[name, ended]:14}" for ended in OUTCOMES))
    print(
        f"{'FAILED' if failed else 'PASSED'}: {counts.total()} damaged files: {refused} refused by name, {equal} read "
        f"as the original, {exchanged} whole other files without a known checksum, {changed} with other values in a "
        f"whole file without any checksum, {failed} failures"
    )


if __name__ == "__main__":
    main()
