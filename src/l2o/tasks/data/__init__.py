"""Image data sets for optimizees: readers of their published file formats, and finding, fetching and checking them.

`load_dataset` gives one split of a known set; the readers serve a user's own files in the same formats; `blobs`,
`tfd_surrogate` and `grouped_faces` make sets of their own.
"""

from l2o.tasks.data.catalogue import DATASETS, load_dataset
from l2o.tasks.data.cifar import read_cifar
from l2o.tasks.data.dataset import Dataset, Split
from l2o.tasks.data.faces import grouped_faces
from l2o.tasks.data.idx import read_idx
from l2o.tasks.data.pgm import read_pgm_zip
from l2o.tasks.data.shrink import halved
from l2o.tasks.data.synthetic import blobs, tfd_surrogate

__all__ = [
    "DATASETS",
    "Dataset",
    "Split",
    "blobs",
    "grouped_faces",
    "halved",
    "load_dataset",
    "read_cifar",
    "read_idx",
    "read_pgm_zip",
    "tfd_surrogate",
]
