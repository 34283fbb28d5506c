"""A cluster as tests use it: one that is there, or one of our own, whose parts they may stop and start again."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..machine.common import PATH, Unprovided, wait_until
from ..machine.registry import PASSWORD, USERNAME, Registry
from . import binaries, devkube
from .api import Api
from .deploy import put_together
from .fake_nodes import FakeNodes
from .namespace import Namespace
from .parts import Parts
from .settings import NODE, Place

_REQUEST = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Cluster:
    """A cluster that somebody started; ``own`` when it is one of this package, whose parts tests may stop.

    ``kubeconfig`` and ``context`` are an administrator's, and ``api`` asks as one.
    """

    node = NODE

    def __init__(self, kubeconfig: Path, started: devkube.Devkube | None = None) -> None:
        self.kubeconfig, self._started = kubeconfig, started
        self.api = Api(kubeconfig)
        self.context = self.api.context_name
        self._place = Place.load(kubeconfig.parent)
        self.own = self._place is not None
        self._names = (f"t{secrets.token_hex(3)}-{number}" for number in itertools.count(1))

    @property
    def place(self) -> Place:
        """Where it is; only of our own."""
        if self._place is None:
            raise Unprovided("needs a cluster of our own: unset SITEWARD_TEST_KUBECONFIG")
        return self._place

    @property
    def gateway(self) -> str:
        """The address by which pods reach this machine."""
        return self.place.gateway

    @property
    def parts(self) -> Parts:
        """Its processes: etcd, apiserver, controller-manager, scheduler, forward, containerd, kubelet."""
        return Parts(self.place.folder / "parts")

    # --- things in it ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def namespace(self, **labels: str) -> Iterator[Namespace]:
        """Create a namespace with a service account ``default`` in it, and remove it with all that is in it."""
        with Namespace.created(self.api, self.kubeconfig, next(self._names), labels) as namespace:
            yield namespace

    @contextlib.contextmanager
    def deployed(self, *components: str, patches: Iterable[dict[str, Any]] = ()) -> Iterator[Namespace]:
        """Apply what ``plugins/k8s/deploy`` gives to sites, in a namespace of its own, and remove it at the end.

        ``components`` are its folders, ``patches`` kustomize's. ``account("siteward")`` of the namespace returns the
        kubeconfig of a site that may do what the manifests say. Other pods there have to be without privileges.
        """
        name = next(self._names)
        manifests = put_together(kubectl(self._place), components, namespace=name, patches=list(patches))
        self.kubectl("apply", "-f", "-", stdin=manifests)
        try:
            with Namespace.existing(self.api, self.kubeconfig, name) as namespace:
                yield namespace
        finally:
            self.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", stdin=manifests)

    @contextlib.contextmanager
    def fake_nodes(self, count: int = 1, **capacity: str) -> Iterator[FakeNodes]:
        """Add nodes with no kubelet, on which tests play pods' lives; ``capacity`` by resource, large by default."""
        nodes = FakeNodes(self.api, f"fake-{next(self._names)}", count, capacity)
        nodes.open()
        try:
            yield nodes
        finally:
            nodes.close()

    @contextlib.contextmanager
    def gpus(self, count: int, resource: str = "nvidia.com/gpu") -> Iterator[None]:
        """Have the node offer GPUs, and no longer at the end."""
        self.set_gpus(count, resource)
        try:
            yield
        finally:
            self.set_gpus(0, resource)

    def set_gpus(self, count: int, resource: str = "nvidia.com/gpu") -> None:
        """Set how many GPUs the node offers, or how many of another extended resource."""
        amount = {resource: str(count)}
        self.api.patch(f"/api/v1/nodes/{self.node}/status", {"status": {"capacity": amount, "allocatable": amount}})

    def push(self, registry: Registry, image: str) -> str:
        """Push an image of the tests, and return the name by which it can be pulled and is not on the node yet."""
        name = f"{registry.address}/{image}"
        login = ["--user", f"{USERNAME}:{PASSWORD}"] if registry.closed else []
        devkube.ctr(self.place, "images", "tag", "--force", f"docker.io/{image}", name)
        devkube.ctr(self.place, "images", "push", "--plain-http", *login, name)
        devkube.ctr(self.place, "images", "remove", name)
        return name

    def provide(self, image: str, write: Callable[[Path], None]) -> str:
        """Have an image on the node, which ``write`` writes as an archive when it is not there yet; return its name.

        Unprovided where the cluster is not of our own.
        """
        if f"docker.io/{image}" not in devkube.ctr(self.place, "images", "list", "--quiet").split():
            with tempfile.TemporaryDirectory(dir=self.place.folder) as scratch:
                file = Path(scratch) / "image.tar"
                write(file)
                devkube.ctr(self.place, "images", "import", str(file))
        return image

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as the administrator and return what it prints; AssertionError with what it says otherwise."""
        command = [*kubectl(self._place), "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    # --- what it was asked ----------------------------------------------------------------------------------

    def metrics(self) -> str:
        """Return the API server's metrics, in Prometheus' format."""
        return self.api.text("/metrics")

    def requests(self) -> collections.Counter[tuple[str, str, str, str]]:
        """Count the requests since the API server started, by (verb, resource, subresource, HTTP code).

        Verbs are those of Prometheus' labels: GET, LIST, WATCH, POST, PATCH, DELETE, …; those of all users, also of
        the cluster's parts: subtract two counts, and look at what only the tests ask for.
        """
        counts: collections.Counter[tuple[str, str, str, str]] = collections.Counter()
        for labels, value in _REQUEST.findall(self.metrics()):
            label = dict(_LABEL.findall(labels))
            counts[label["verb"], label["resource"], label["subresource"], label["code"]] += int(float(value))
        return counts

    # --- what tests do to its parts -------------------------------------------------------------------------

    def restart_apiserver(self) -> None:
        """Stop the API server, which ends all connections, start it, and wait until it answers."""
        self.stop_apiserver()
        self.start_apiserver()

    def stop_apiserver(self) -> None:
        """Stop the API server; pods run on."""
        self.api.close()
        # A watch would keep it for a minute if it may end in its own time.
        self.parts.stop("apiserver", signal.SIGKILL)

    def start_apiserver(self) -> None:
        """Start the API server after ``stop_apiserver``, and wait until it answers."""
        self.parts.start("apiserver")
        wait_until(lambda: devkube.is_ready(self.api), lambda: self.parts.last_words("apiserver"), deadline=180)

    @contextlib.contextmanager
    def frozen_kubelet(self) -> Iterator[None]:
        """Stop the kubelet with SIGSTOP for a while: containers run on, and nobody says what they do."""
        self.parts.signal("kubelet", signal.SIGSTOP)
        try:
            yield
        finally:
            self.parts.signal("kubelet", signal.SIGCONT)

    def restart_kubelet(self) -> None:
        """Stop the kubelet and start it; containers run on."""
        self.parts.stop("kubelet")
        self.parts.start("kubelet")

    def close(self) -> None:
        """Remove the cluster, if it was started here."""
        self.api.close()
        if self._started is not None:
            self._started.close()


def kubectl(place: Place | None) -> list[str]:
    """Return the command of a kubectl: ours, or the machine's."""
    programs = place.programs if place is not None else binaries.built()
    if programs is not None:
        return [str(programs / "devkube"), "kubectl"]
    found = shutil.which("kubectl", path=PATH)
    if found is None:
        raise Unprovided("install kubectl")
    return [found]


def find_cluster() -> Cluster:
    """Return the cluster that SITEWARD_TEST_KUBECONFIG names, else one that is started now."""
    if named := os.environ.get("SITEWARD_TEST_KUBECONFIG"):
        return Cluster(Path(named))
    started = devkube.start()
    return Cluster(started.place.kubeconfig, started)
