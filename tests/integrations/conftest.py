"""What the runs inside frameworks share: their rows and columns in the results, no skips, and filters of warnings."""

from collections.abc import Generator
from typing import TypeVar

import pytest
from integrations.cases import REFUSALS

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

FILTERS: dict[str, str] = {
    "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning": "Lightning 2.6 flattens its loaders so",
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning:torch": "torch's own, where inductor imports it",
    "ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning:torch": (
        "torch.distributed.checkpoint says so to each run of one process, which has nothing to change"
    ),
}
"""Warnings of third parties that no user of ours can help: the filter, and why it is there."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "framework(name): the row of docs/frameworks.md that a test stands for")
    for line in FILTERS:
        config.addinivalue_line("filterwarnings", line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Writes a test's cell into its results."""
    for item in items:
        mark = item.get_closest_marker("framework")
        if mark is None:
            continue
        row, column = mark.args[0], item.callspec.params["optimizer"]  # pyright: ignore[reportAttributeAccessIssue]
        refusal = REFUSALS.get((row, column))
        cell = "works" if refusal is None else f"refuses: {refusal.reason}"
        item.user_properties += [("framework", row), ("optimizer", column), ("cell", cell)]


def failed_if_skipped(report: Report) -> Report:
    """What was skipped has shown nothing: it counts as failed."""
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as failed here: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return failed_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return failed_if_skipped((yield))
