"""The contract of a backend: every promise, in the order of a job's way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from siteward.testing.contract.adopting import Adopting
from siteward.testing.contract.ending import Ending
from siteward.testing.contract.environment import Environment
from siteward.testing.contract.keeping import Keeping
from siteward.testing.contract.launching import Launching
from siteward.testing.contract.output import Output
from siteward.testing.contract.sharing import Sharing
from siteward.testing.contract.terminating import Terminating
from siteward.testing.contract.watching import Watching
from siteward.testing.promises import check_deviations, describe_drops
from siteward.testing.setup import BackendSetup


class BackendContract(Sharing, Keeping, Adopting, Watching, Output, Terminating, Ending, Environment, Launching):
    """Subclass this with a ``backend_setup`` fixture; every test it has is a promise that the backend keeps.

    A subclass cannot drop, replace or mark a promise. What the platform makes impossible is declared in
    ``declared_deviations``, test name to reason: the test still runs, must fail, and is reported with the reason.
    """

    declared_deviations: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a subclass that drops a promise, or whose deviations are not declared properly."""
        super().__init_subclass__(**kwargs)
        problem = describe_drops(cls, BackendContract) or check_deviations(cls, BackendContract)
        if problem:
            raise TypeError(problem)

    @pytest.fixture
    def backend_setup(self) -> BackendSetup:
        """Say which backend is under test; every subclass has its own."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `backend_setup` that returns a BackendSetup")
