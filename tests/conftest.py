"""What all tests share."""

import os

import pytest

from .engine.fixtures import (  # noqa: F401
    busybox,
    closed_registry,
    engine,
    own_engine,
    pytest_collection_finish,
    python_image,
    registry,
)

REQUIRE_ALL = os.environ.get("SITEWARD_TEST_REQUIRE_ALL") == "1"
KIT = "siteward/testing/"


def require(report):
    """With SITEWARD_TEST_REQUIRE_ALL=1 what would be skipped fails, with what would un-skip it.

    Two things are no lack of the machine's set-up: a promise of the contract kit that does not apply to a
    backend, and control groups that the kernel does not let us write to.
    """
    if not (REQUIRE_ALL and report.skipped) or hasattr(report, "wasxfail"):
        return report
    where, _, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, str(report.longrepr))
    if not (KIT in where or "cgroup" in reason):
        report.outcome, report.longrepr = "failed", f"SITEWARD_TEST_REQUIRE_ALL=1 forbids: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return require((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return require((yield))
