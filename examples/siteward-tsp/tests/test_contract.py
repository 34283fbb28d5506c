"""The whole test suite of a backend: the promises that every backend keeps."""

import pytest

from siteward.testing import BackendContract, BackendSetup

pytest_plugins = ["siteward.testing.fixtures"]


class TestTsp(BackendContract):
    @pytest.fixture
    def backend_setup(self):
        return BackendSetup(name="tsp")
