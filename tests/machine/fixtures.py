"""Fixtures of registries, for all tests on engines and clusters; what cannot be had here is skipped, in words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .common import Unprovided
from .registry import Registry, serving


def _serving(folder_factory: pytest.TempPathFactory, *, closed: bool) -> Iterator[Registry]:
    try:
        with serving(folder_factory.mktemp("registry"), closed=closed) as registry:
            yield registry
    except Unprovided as error:
        pytest.skip(str(error))


@pytest.fixture
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that is empty and asks for no login."""
    yield from _serving(tmp_path_factory, closed=False)


@pytest.fixture
def closed_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that is empty and asks for the login that ``registry.py`` names."""
    yield from _serving(tmp_path_factory, closed=True)
