"""What all tests share: one thread, a switch for slow tests, deterministic hypothesis."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("l2o", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("l2o")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        items[:] = [item for item in items if "slow" not in item.keywords]
