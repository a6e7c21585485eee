"""The published ensembles have the families that they should have."""

import pytest
import torch

from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.tasks.ensembles import scale_core
from l2o.trees import flatten

MEMBERS = [pytest.param(member, id=member.name) for member in scale_core().members()]


def test_scale_core_has_35_families_with_the_published_numbers() -> None:
    names = [member.name for member in scale_core().members()]
    assert len(names) == len(set(names)) == 35
    assert {name for name in names if "noisy" in name and "2d" not in name} == {
        "quadratics-20d-normal-1-2-noisy-0.5",
        "quadratics-50d-normal-1-2-noisy-1",
        "quadratics-100d-normal-1-2-noisy-2",
        "bowl-0.1-noisy-0.1",
        "bowl-1-noisy-0.1",
        "bowl-5-noisy-0.1",
        "bowl-5-rotated-45-noisy-0.1",
    }
    assert scale_core(trajectories_each=5).name == "scale-core-each-5"


@pytest.mark.parametrize("family", MEMBERS)
def test_every_loss_of_scale_core_is_finite_and_not_negative(family: TaskFamily) -> None:
    """Where the minimiser is known there, elsewhere at its starts: sums of squares and cross-entropies."""
    process = Optimizee.start(family, Stream(0, tasks=range(20)), dtype=torch.float64)
    optimum = family.optimum(process.instance) or process.params
    for params in (process.params, optimum):
        losses, grads = family.value_and_grad(params, process.instance, process.batch())
        assert torch.isfinite(losses).all()
        assert losses.min() >= -1e-12  # Ackley's minimum is 0 up to rounding
        assert torch.isfinite(flatten(grads)).all()
