"""What the tests of the core share."""

import pytest

from .cli_kit import Cli
from .fake import places_in


@pytest.fixture
def cli(tmp_path):
    """The command line, with a folder of its own for sites and jobs; no job outlives the test."""
    cli = Cli(tmp_path)
    yield cli
    cli.close()


@pytest.fixture
def places(tmp_path):
    """Make places with a fake backend."""
    with places_in(tmp_path) as make:
        yield make


@pytest.fixture
def place(places):
    """A place whose fake backend has every hook that its tests need to see a job's whole way."""
    return places("watch", "list", "remove")
