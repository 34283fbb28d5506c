"""What the tests of the Kubernetes backend share."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from siteward_k8s.client import Cluster

from .fakeapi import FakeApi
from .helpers import Sites
from .lives import Followed, Where, kubeconfig
from .rights import rules


@pytest.fixture
def api():
    """A server of this process, for faults."""
    api = FakeApi()
    yield api
    api.close()


@pytest.fixture
def fake_cluster(api: FakeApi, tmp_path: Path):
    """That server, through the backend's own client."""
    where = Where(kubeconfig=str(kubeconfig(api, tmp_path)))
    cluster = Cluster(where, tmp_path, logging.getLogger("siteward.test"))
    yield cluster
    cluster.close()


@pytest.fixture
def followed(api: FakeApi, fake_cluster: Cluster):
    """A site's pods on that server, not followed yet."""
    followed = Followed(api, fake_cluster)
    yield followed
    followed.close()


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
