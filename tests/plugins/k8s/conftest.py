"""What the tests of the Kubernetes backend share."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from attrs import frozen

from siteward_k8s.client import Cluster

from .fakeapi import NAMESPACE, FakeApi
from .helpers import Sites
from .rights import rules


@frozen(kw_only=True)
class Where:
    """The options that say where a cluster is."""

    kubeconfig: str
    context: str | None = None
    namespace: str | None = NAMESPACE


@pytest.fixture
def api():
    """A server of this process, for faults."""
    api = FakeApi()
    yield api
    api.close()


@pytest.fixture
def fake_cluster(api: FakeApi, tmp_path: Path):
    """That server, through the backend's own client."""
    path = tmp_path / "kubeconfig"
    path.write_text(api.kubeconfig())
    cluster = Cluster(Where(kubeconfig=str(path)), tmp_path, logging.getLogger("siteward.test"))
    yield cluster
    cluster.close()


@pytest.fixture
def sites(namespace, tmp_path: Path):
    """Make sites in a namespace of the test's own; their default image is busybox."""
    sites = Sites(namespace, namespace.user("siteward", rules("transfer")), tmp_path)
    yield sites
    sites.close()


@pytest.fixture
def site(sites):
    """A site on the tests' cluster."""
    return sites.open()


@pytest.fixture
def client(cluster, namespace, tmp_path: Path):
    """The tests' cluster through the backend's own client, in a namespace of the test's own."""
    where = Where(kubeconfig=str(cluster.kubeconfig), namespace=namespace.name)
    client = Cluster(where, tmp_path, logging.getLogger("siteward.test"))
    yield client
    client.close()


@pytest.fixture
def proxied(api_proxy, namespace, tmp_path: Path):
    """The same by way of the proxy for faults."""
    where = Where(kubeconfig=str(api_proxy.kubeconfig), namespace=namespace.name)
    client = Cluster(where, tmp_path, logging.getLogger("siteward.test"))
    yield client
    client.close()
