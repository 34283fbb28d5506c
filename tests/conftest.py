"""What all tests share."""

import os

import pytest

REQUIRE_ALL = os.environ.get("SITEWARD_TEST_REQUIRE_ALL") == "1"


def require(report):
    """With SITEWARD_TEST_REQUIRE_ALL=1 what would be skipped fails, with what would un-skip it."""
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome, report.longrepr = "failed", f"SITEWARD_TEST_REQUIRE_ALL=1 forbids: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return require((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return require((yield))
