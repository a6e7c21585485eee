import pytest
from contract.optimizer_cases import RULES, SEPARATE

from l2o.optimizers.base import LearnedOptimizer


@pytest.fixture(params=RULES.values(), ids=list(RULES))
def rule(request: pytest.FixtureRequest) -> LearnedOptimizer:
    return request.param()


@pytest.fixture(params=SEPARATE.values(), ids=list(SEPARATE))
def separate(request: pytest.FixtureRequest) -> LearnedOptimizer:
    """A rule for which a parameter's step does not depend on the optimizer's other parameters."""
    return request.param()
