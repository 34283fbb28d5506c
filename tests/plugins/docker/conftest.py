"""What the tests of the Docker backend share: sites on a real engine, of which nothing is left afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from .helpers import Sites


@pytest.fixture
def sites(engine, busybox, tmp_path: Path):
    """Make sites on the tests' engine; their default image is busybox."""
    sites = Sites(engine, tmp_path, default_image=busybox)
    yield sites
    sites.close()


@pytest.fixture
def site(sites):
    """A site on the tests' engine."""
    return sites.open()
