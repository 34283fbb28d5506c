"""What all tests share."""

import os
import signal

import pytest

from .cluster import fixtures as cluster_fixtures
from .engine import fixtures as engine_fixtures
from .machine import fixtures as machine_fixtures

REQUIRE_ALL = os.environ.get("SITEWARD_TEST_REQUIRE_ALL") == "1"
KIT = "siteward/testing/"


def pytest_configure(config):
    """Give all tests the fixtures of registries, engine and cluster, and the session their hooks."""
    for fixtures in (machine_fixtures, engine_fixtures, cluster_fixtures):
        config.pluginmanager.register(fixtures)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what goes to the background
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
