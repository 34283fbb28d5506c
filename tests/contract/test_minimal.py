"""A backend with three hooks keeps the contract: the core's fallbacks do the rest."""

import pytest

from siteward.testing import BackendContract, BackendSetup

from .backends import Full, Minimal

pytest_plugins = ["siteward.testing.fixtures"]


class TestMinimal(BackendContract):
    @pytest.fixture
    def backend_setup(self):
        return BackendSetup(name="minimal", plugin=Minimal)


class TestFull(BackendContract):
    @pytest.fixture
    def backend_setup(self):
        return BackendSetup(name="full", plugin=Full, job_options={"nice": 1}, site_options={"least_nice": 2})
