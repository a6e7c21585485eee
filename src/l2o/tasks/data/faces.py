"""Faces in seven classes: a public stand-in for the Toronto Face Database."""

import torch

from l2o.tasks.data.catalogue import load_dataset
from l2o.tasks.data.dataset import Dataset
from l2o.tasks.data.shrink import halved

GROUPS = 7


def grouped_faces() -> Dataset:
    """All 400 AT&T faces in seven groups of persons: person p = 1..40 is in class (p - 1) mod 7.

    The Toronto Face Database, 3,300 grey faces of 48x48 in seven classes of expression, is not public. These are faces
    of about its size in as many classes, but eight times fewer, and a class is who is seen, not how he looks. Of each
    image, the middle 92 of 112 rows are taken at half the size.

    Returns:
        Images `[400, 46, 46]`: 60 of each of the classes 0..4, 50 of 5 and 6.

    Raises:
        DataNotFoundError: as `load_dataset("att-faces", ...)`.
    """
    splits = [load_dataset("att-faces", split) for split in ("train", "test")]
    images, people = (
        torch.cat([split.inputs for split in splits]),
        torch.cat([split.labels for split in splits]),  # person p is label p - 1
    )
    note = "AT&T faces, seven groups of persons: all 400 images, the middle 92 of 112 rows"
    groups = Dataset(
        "att-faces-seven-groups", images[:, 10:102], people % GROUPS, classes=GROUPS, complete=True, note=note
    )
    return halved(groups)
