import pytest
from contract.optimizer_cases import RULES

from l2o.optimizers.base import LearnedOptimizer


@pytest.fixture(params=RULES.values(), ids=list(RULES))
def rule(request: pytest.FixtureRequest) -> LearnedOptimizer:
    return request.param()
