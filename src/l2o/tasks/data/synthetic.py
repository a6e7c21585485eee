"""Labelled data sets that are drawn rather than read: they need no files, and are the same on every machine."""

import torch
from torch import Tensor

from l2o.rng import Stream
from l2o.tasks.data.dataset import Dataset


def blobs() -> Dataset:
    """Ten overlapping clouds of points: x = c_k + N(0, I) in 16 dimensions, the centres c_k from N(0, 0.64 I).

    Returns:
        1,500 points `[1500, 16]`, 150 of each class, in steps of 1/24 (one grey value), 0 at the value 128.

    Example:
        >>> blobs().inputs.shape
        torch.Size([1500, 16])
    """
    rng = Stream(0, ("blobs",))
    labels = torch.arange(1_500) % 10
    centres = 0.8 * rng.child("centres").normal((10, 16))[0]
    points = centres[labels] + rng.child("points").normal((1_500, 16))[0]
    note = "blobs: 1,500 drawn points of 16 dimensions in 10 classes"
    return Dataset("blobs", _grey(24 * points), labels, classes=10, complete=True, note=note)


def tfd_surrogate() -> Dataset:
    """Drawn images of the size, number and classes of the Toronto Face Database, which is not public.

    x = 128 + sum_i s_i (o_ki + e_i) u_i, rounded to grey values: 40 orthonormal images u_i, with e_i ~ N(0, 1) for each
    image, o_ki ~ N(0, 1/4) for each class k, and s_i^2 in proportion to 1 / i. So classes differ by about half the
    deviation within them, and all variation is in few directions, as it is among faces in one pose.

    Returns:
        3,300 images `[3300, 48, 48]` in 7 classes, `"tfd-surrogate"`.

    Example:
        >>> tfd_surrogate().labels.bincount().tolist()
        [472, 472, 472, 471, 471, 471, 471]

    Source: Li and Malik 2017 say "3,300 grey faces in 7 classes"; all else is our choice.
    """
    rng, examples, classes, rank, pixels = Stream(0, ("TFD surrogate",)), 3_300, 7, 40, 48 * 48
    labels = torch.arange(examples) % classes
    directions = torch.linalg.qr(rng.child("directions").normal((pixels, rank))[0]).Q  # [pixels, rank]
    shares = 1 / torch.arange(1, rank + 1).double()
    # A pixel has a deviation of about 15 grey values, so that hardly any is cut off at 0 or 255.
    deviations = 15 * (pixels * shares / shares.sum()).sqrt()
    offsets = 0.5 * rng.child("offsets").normal((classes, rank))[0]
    own = rng.child("images").normal((examples, rank))[0]
    images = _grey((offsets[labels] + own) * deviations @ directions.T).reshape(examples, 48, 48)
    note = "TFD surrogate: 3,300 drawn images in 7 classes, in place of the Toronto Face Database"
    return Dataset("tfd-surrogate", images, labels, classes=classes, complete=True, note=note)


def _grey(values: Tensor) -> Tensor:
    return (128 + values).round().clamp(0, 255).to(torch.uint8)
