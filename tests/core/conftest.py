"""What the tests of the core share."""

import pytest

from .cli_kit import Cli
from .fake import place, places  # noqa: F401


@pytest.fixture
def cli(tmp_path):
    """The command line, with a folder of its own for sites and jobs; no job outlives the test."""
    cli = Cli(tmp_path)
    yield cli
    cli.close()
