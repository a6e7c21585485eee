"""The five parts of the data of a task with several losses: schedules and models are trained on points of their own."""

from typing import Literal

from l2o.errors import ArgumentError

PARTS = ("controller train", "controller validation", "train", "validation", "test")
"""The five parts of the data: two to train a schedule with, two to train a model under it, one to report on."""

Purpose = Literal["controller", "model"]
"""What a family's runs are for: to train a schedule, or to train a model under one that is done."""


def parts_for(purpose: Purpose) -> dict[str, str]:
    """The part that plays each role: "train", "validation" and "test"; the test part is the same for both purposes.

    Raises:
        ArgumentError: the purpose is neither "controller" nor "model".

    Example:
        >>> parts_for("controller")
        {'train': 'controller train', 'validation': 'controller validation', 'test': 'test'}

    Source: AutoLoss (Xu et al. 2019), section 5.
    """
    if purpose not in ("controller", "model"):
        raise ArgumentError(f"purpose is {purpose!r}; choose 'controller' or 'model'")
    prefix = "controller " if purpose == "controller" else ""
    return {"train": f"{prefix}train", "validation": f"{prefix}validation", "test": "test"}
