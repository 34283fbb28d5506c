"""Real backends over real keepers; whatever a test leaves running is ended by its process id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from siteward_process.backend import Backend

from .helpers import Place, Watch


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.clean()


@pytest.fixture
def watched(place: Place) -> Iterator[tuple[Place, Backend, Watch]]:
    """A place with one backend that is watched."""
    backend, watch = place.backend(), Watch()
    backend.siteward_watch_jobs(watch)
    yield place, backend, watch
    assert not watch.errors
