"""The learned optimizers that go through every shared test: one line adds another."""

import pytest

from l2o import L2OScale, MLPLOpt, RNNprop, SmallFC
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.dm import L2ODM

LEARNED = {
    "L2O-DM chen": lambda seed=0: L2ODM.chen(seed=seed),
    "L2O-DM andrychowicz": lambda seed=0: L2ODM.andrychowicz(seed=seed),
    "L2O-DM quadratics": lambda seed=0: L2ODM.for_quadratics(seed=seed),
    "RNNprop chen": lambda seed=0: RNNprop.chen(seed=seed),
    "RNNprop lv": lambda seed=0: RNNprop.lv(seed=seed),
    "L2O-Scale": lambda seed=0: L2OScale(seed=seed),
    "MLPLOpt": lambda seed=0: MLPLOpt(seed=seed),
    "SmallFC": lambda seed=0: SmallFC(seed=seed),
}

every_learned = pytest.mark.parametrize("make", LEARNED.values(), ids=LEARNED.keys())


def perturbed(optimizer: LearnedOptimizer, seed: int = 1) -> LearnedOptimizer:
    """The optimizer in float64 with all meta-parameters moved, so that none is zero or special."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in optimizer.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return optimizer.double()


def held_constant(optimizer: LearnedOptimizer):
    """The optimizer's step with everything that it sees held constant: for the truth of a first-order meta-gradient."""
    return lambda observation, state: optimizer({name: leaf.detach() for name, leaf in observation.items()}, state)
