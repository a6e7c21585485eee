"""The errors that PyTorch's own tests expect of every optimizer, asked of a drop-in.

`torch.testing._internal.common_optimizers` brings them as a function of device and type. The rest of what it brings,
`OptimizerInfo` and `optims`, describes an optimizer for tests that are in PyTorch's repository alone: those cases are
written anew in tests/contract/test_torch_own_cases.py.
"""

import pytest
import torch
from contract.optimizer_cases import parameter
from integrations.cases import OPTIMIZERS
from torch.testing._internal.common_optimizers import (
    ErrorOptimizerInput,
    OptimizerErrorEnum,
    get_error_inputs_for_all_optims,
)

CASES = get_error_inputs_for_all_optims("cpu", torch.float32)


@pytest.mark.parametrize("case", CASES, ids=[case.optimizer_error_input.desc for case in CASES])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_errors(optimizer: str, case: ErrorOptimizerInput) -> None:
    given = case.optimizer_error_input
    assert case.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR
    params = [parameter(2)] if given.params is None else given.params
    expects = pytest.warns if issubclass(case.error_type, Warning) else pytest.raises
    with expects(case.error_type, match=case.error_regex):
        OPTIMIZERS[optimizer]().as_torch(params, **given.kwargs)


def test_there_are_as_many_as_in_the_version_that_is_pinned() -> None:
    assert len(CASES) == 6
