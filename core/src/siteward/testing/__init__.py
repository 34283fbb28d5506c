"""The contract kit: what every backend promises, as tests that a plugin author runs with one fixture and one subclass.

Install ``siteward[testing]``; then, in a test module::

    pytest_plugins = ["siteward.testing.fixtures"]

    class TestMine(BackendContract):
        @pytest.fixture
        def backend_setup(self):
            return BackendSetup(name="mine", site_options={"queue": "test"})

Which promises are checked follows from the hooks that the backend implements. The report at the end of the
session has a line for every promise: checked, not applicable (and why), deviation (and why) or failed.
"""

import pytest

pytest.register_assert_rewrite("siteward.testing.contract", "siteward.testing.kit")

from siteward.testing.contract import BackendContract  # noqa: E402
from siteward.testing.kit import Kit  # noqa: E402
from siteward.testing.platform import LocalPlatform, Platform  # noqa: E402
from siteward.testing.setup import BackendSetup  # noqa: E402

__all__ = ["BackendContract", "BackendSetup", "Kit", "LocalPlatform", "Platform"]
