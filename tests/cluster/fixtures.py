"""Fixtures of tests that need Kubernetes, for all of ``tests/``; what cannot be had here is skipped, in words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..machine.common import Unprovided
from . import binaries
from .cluster import Cluster, find_cluster
from .namespace import Namespace
from .proxy import Proxy

_ROOT = Path(__file__).parents[2]
_BUILD = pytest.StashKey[subprocess.Popen[bytes]]()


def needs_cluster(item: pytest.Item) -> bool:
    """Whether a test uses a cluster, be it through other fixtures."""
    return "cluster" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests on a cluster last, so that it can be built while the others run."""
    items.sort(key=needs_cluster)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to build what the cluster needs, if that has not been done, and let the tests go before it."""
    if session.config.option.collectonly or not any(needs_cluster(item) for item in session.items):
        return
    try:
        binaries.check_machine()
    except Unprovided:
        return
    if not binaries.is_all_built():
        # What goes wrong is said by the fixture, which tries again and so does not depend on this.
        session.config.stash[_BUILD] = subprocess.Popen(
            ["nice", "-n", "10", sys.executable, "-m", "tests.cluster", "build"],
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Wait for the build before the first test that needs it, and not in it: its time is limited."""
    if needs_cluster(item) and (build := item.config.stash.get(_BUILD, None)):
        build.wait()
    return (yield)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End a build for which nobody waited."""
    build = config.stash.get(_BUILD, None)
    if build is not None and build.poll() is None:
        binaries.end_build(build)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Kubernetes cluster with the tests' images; with ``cluster.own`` its parts can be stopped and started."""
    try:
        cluster = find_cluster()
    except Unprovided as error:
        pytest.skip(str(error))
    yield cluster
    cluster.close()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Namespace]:
    """A namespace of the test's own on the cluster."""
    with cluster.namespace() as namespace:
        yield namespace


@pytest.fixture
def api_proxy(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy before the API server, which passes everything on until it is told of a fault."""
    with Proxy(cluster.kubeconfig, tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy
