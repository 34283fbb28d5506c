"""Fixtures of tests that need Docker, for all of ``tests/``; what cannot be had here is skipped, in words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..machine.common import Unprovided
from . import dockerd, images
from .dockerd import Engine, OwnEngine


@contextlib.contextmanager
def skipping() -> Iterator[None]:
    """Skip a test for what cannot be provided."""
    pytest.importorskip("docker", reason="needs docker-py: install siteward-docker")
    try:
        yield
    except Unprovided as error:
        pytest.skip(str(error))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the large image now, as it may take longer than a test has time for."""
    needed = any("python_image" in getattr(item, "fixturenames", ()) for item in session.items)
    if needed and not session.config.option.collectonly:
        with contextlib.suppress(Unprovided):
            images.build(images.PYTHON)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Docker engine that answers; with ``engine.own`` it is ours to kill."""
    with skipping():
        engine = dockerd.find_engine()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def own_engine() -> Iterator[Callable[..., OwnEngine]]:
    """Start further engines, ``own_engine(live_restore=True)``, closed at the session's end unless they are before."""
    engines = []

    def start(**settings: Any) -> OwnEngine:
        with skipping():
            engines.append(dockerd.own_engine(**settings))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture(scope="session")
def busybox(engine: Engine) -> str:
    """Name an image with a shell and the usual small programs, which the engine has."""
    with skipping():
        return images.provide(engine, images.BUSYBOX)


@pytest.fixture(scope="session")
def python_image(engine: Engine) -> str:
    """Name an image with Python 3 and numpy, which the engine has."""
    with skipping():
        return images.provide(engine, images.PYTHON)
