"""The process backend keeps the whole contract."""

import pytest

from siteward.testing import BackendContract, BackendSetup

pytest_plugins = ["siteward.testing.fixtures"]


class TestProcess(BackendContract):
    @pytest.fixture
    def backend_setup(self):
        return BackendSetup(name="process")
