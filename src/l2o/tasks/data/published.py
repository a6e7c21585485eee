"""What is published where: the files of the known data sets, their content and their addresses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from l2o.tasks.data.dataset import Split
from l2o.tasks.data.store import KnownFile, Source


@dataclass(frozen=True)
class Archive:
    """A set published as one `.tar.gz`, which holds `folder` with the files of each split."""

    folder: str
    source: Source
    examples: Mapping[Split, int]
    files: Mapping[Split, Sequence[KnownFile]]


def _idx(address: str, name: str, length: int, sha256: str, md5: str) -> tuple[KnownFile, Source]:
    """An IDX file, published on its own and packed with gzip; the md5 is of the packed file."""
    return KnownFile(name, length, sha256), Source(f"{address}{name}.gz", f"md5:{md5}")


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_TRAIN_IMAGES, _TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
_TEST_IMAGES, _TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"

# By data set and split: images and labels.
IDX: Mapping[str, Mapping[Split, Sequence[tuple[KnownFile, Source]]]] = {
    "mnist": {
        "train": (
            _idx(
                _MNIST,
                _TRAIN_IMAGES,
                47_040_016,
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            ),
            _idx(
                _MNIST,
                _TRAIN_LABELS,
                60_008,
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "d53e105ee54ea40749a09fcbcd1e9432",
            ),
        ),
        "test": (
            _idx(
                _MNIST,
                _TEST_IMAGES,
                7_840_016,
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "9fb629c4189551a2d022fa330f9573f3",
            ),
            _idx(
                _MNIST,
                _TEST_LABELS,
                10_008,
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
        ),
    },
    "fashion-mnist": {
        "train": (
            _idx(
                _FASHION,
                _TRAIN_IMAGES,
                47_040_016,
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            ),
            _idx(
                _FASHION,
                _TRAIN_LABELS,
                60_008,
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "25c81989df183df01b3e8a0aad5dffbe",
            ),
        ),
        "test": (
            _idx(
                _FASHION,
                _TEST_IMAGES,
                7_840_016,
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "bef4ecab320f06d8554ea6380940ec79",
            ),
            _idx(
                _FASHION,
                _TEST_LABELS,
                10_008,
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
        ),
    },
}

_BATCH = 10_000 * 3_073

# The checksums of batches 2 to 5, of the archives and of CIFAR-100 are those that the Ruby library
# ankane/torchvision-ruby checks; where they overlap with files at hand (batch 1, test batch) they agree.
CIFAR_10 = Archive(
    "cifar-10-batches-bin",
    Source(
        f"{_TORONTO}cifar-10-binary.tar.gz", "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    ),
    {"train": 50_000, "test": 10_000},
    {
        "train": (
            KnownFile("data_batch_1.bin", _BATCH, "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
            KnownFile("data_batch_2.bin", _BATCH, "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
            KnownFile("data_batch_3.bin", _BATCH, "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
            KnownFile("data_batch_4.bin", _BATCH, "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
            KnownFile("data_batch_5.bin", _BATCH, "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
        ),
        "test": (
            KnownFile("test_batch.bin", _BATCH, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
        ),
    },
)

CIFAR_100 = Archive(
    "cifar-100-binary",
    Source(
        f"{_TORONTO}cifar-100-binary.tar.gz", "sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
    ),
    {"train": 50_000, "test": 10_000},
    {
        "train": (
            KnownFile("train.bin", 153_700_000, "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),
        ),
        "test": (
            KnownFile("test.bin", 30_740_000, "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
        ),
    },
)

# A fixed random choice from CIFAR-100 with equal numbers from each class, passed on in this folder; not published.
CIFAR_100_SUBSET_FOLDER = "cifar-100-binary-subset"
CIFAR_100_SUBSET: Mapping[Split, KnownFile] = {
    "train": KnownFile("train.bin", 15_370_000, "27bb7bf70f72b0dbf2678f68e75dbbec2f43caf60562cbbce2587431c00d21a1"),
    "test": KnownFile("test.bin", 3_074_000, "0ad4b182c94bca95cd3073388a9f3b0380700499b083673bb547a3482f37965c"),
}
