"""What all tests share."""

import os

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With SITEWARD_TEST_REQUIRE_ALL=1 a test that would be skipped fails, with what would un-skip it."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("SITEWARD_TEST_REQUIRE_ALL") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome, report.longrepr = "failed", f"SITEWARD_TEST_REQUIRE_ALL=1: {reason}"
    return report
