import pytest
from contract.optimizer_cases import BY_GRADIENT, RULES, SEPARATE

from l2o.optimizers.base import LearnedOptimizer


@pytest.fixture(params=RULES.values(), ids=list(RULES))
def rule(request: pytest.FixtureRequest) -> LearnedOptimizer:
    return request.param()


@pytest.fixture(params=BY_GRADIENT.values(), ids=list(BY_GRADIENT))
def by_gradient(request: pytest.FixtureRequest) -> LearnedOptimizer:
    """A rule that does not read the loss."""
    return request.param()


@pytest.fixture(params=SEPARATE.values(), ids=list(SEPARATE))
def separate(request: pytest.FixtureRequest) -> LearnedOptimizer:
    """A rule for which a parameter's step does not depend on the optimizer's other parameters."""
    return request.param()
