"""What the tests of faults share."""

import pytest

from ..core.fake import places_in


@pytest.fixture
def places(tmp_path):
    """Make places with a fake backend."""
    with places_in(tmp_path) as make:
        yield make


@pytest.fixture
def place(places):
    """A place whose fake backend has every hook that its tests need to see a job's whole way."""
    return places("watch", "list", "remove")
