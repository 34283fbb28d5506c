"""pytest plugin of the contract kit: the ``kit`` fixture, and the report of promises.

Use it with ``pytest_plugins = ["siteward.testing.fixtures"]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from siteward.testing.contract import BackendContract
from siteward.testing.kit import Kit
from siteward.testing.promises import Applicability, describe_drops, promise_of
from siteward.testing.report import NOT_APPLICABLE, PROPERTY, Report
from siteward.testing.setup import BackendSetup

_report = pytest.StashKey[Report]()


@pytest.fixture
def kit(request: pytest.FixtureRequest, backend_setup: BackendSetup, tmp_path: Path) -> Iterator[Kit]:
    """Give a promise's test the backend under test; what does not apply to it is left out, in words."""
    kit = Kit(backend_setup, tmp_path)
    contract = request.cls
    request.node.user_properties.append((PROPERTY, (contract.__name__, backend_setup.name, request.node.name)))
    deviation = contract.declared_deviations.get(request.node.name)
    if deviation is not None:
        request.applymarker(pytest.mark.xfail(reason=deviation, strict=True))
    answer = Applicability.of(promise_of(contract, request.node.name), kit)
    if not answer.applies:
        pytest.skip(answer.words)
    try:
        yield kit
    finally:
        kit.clean()


def pytest_configure(config: pytest.Config) -> None:
    """Begin a report."""
    config.stash.setdefault(_report, Report())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse a contract class that has lost a promise by a road that class creation cannot see."""
    classes = {item.cls for item in items if isinstance(item, pytest.Function) and item.cls is not None}
    for contract in sorted((each for each in classes if issubclass(each, BackendContract)), key=lambda c: c.__name__):
        drops = describe_drops(contract, BackendContract)
        if drops:
            raise pytest.UsageError(drops)
        config.stash[_report].expect(contract)


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: Any) -> tuple[str, str, str] | None:
    """Count a promise that does not apply as that: nothing is missing that would un-skip it."""
    if report.when == "setup" and report.skipped and PROPERTY in dict(report.user_properties):
        return NOT_APPLICABLE, "-", NOT_APPLICABLE.upper()
    return None


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say of every promise whether it was checked, and why not."""
    report = config.stash[_report]
    for outcome, reports in terminalreporter.stats.items():
        for each in reports:
            report.add(outcome, each)
    for title, lines in report.sections():
        terminalreporter.section(title, sep="-")
        for line in lines:
            terminalreporter.write_line(line)
