"""The cluster that bench/k8s.py measures in: a namespace, the rights of a site, nodes that answer without a kubelet."""

from __future__ import annotations

import base64
import re
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from attrs import frozen

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from tests.cluster import keys  # noqa: E402
from tests.cluster.api import Api, ApiError  # noqa: E402
from tests.cluster.cluster import Cluster, find_cluster  # noqa: E402
from tests.cluster.fake_nodes import FakeNodes  # noqa: E402
from tests.cluster.namespace import Namespace  # noqa: E402
from tests.machine import images  # noqa: E402
from tests.machine.common import Unprovided, wait_until  # noqa: E402
from tests.plugins.k8s.rights import rules  # noqa: E402

__all__ = ["Unprovided", "World", "images", "world"]

THREADS = 8
# Requests of service accounts: siteward asks as one, the parts of the cluster and this program do not. Those that are
# answered by a node are not among them.
_ASKED = re.compile(
    r'^apiserver_flowcontrol_dispatched_requests_total\{flow_schema="service-accounts".*\} (\S+)$', re.M
)


@frozen(kw_only=True)
class World:
    """What there is: ``kubeconfig`` is the site's, ``api`` asks as the administrator."""

    cluster: Cluster
    namespace: Namespace
    nodes: FakeNodes
    kubeconfig: Path
    image: str

    @property
    def api(self) -> Api:
        """The API, as the administrator."""
        return self.cluster.api

    def site_options(self, *, fake: bool) -> dict[str, Any]:
        """Return the backend's options of a site with its jobs on fake nodes, or on those that run them."""
        options = {"kubeconfig": str(self.kubeconfig), "default_image": self.image, "job_directory": "none"}
        options["image_pull_policy"] = "IfNotPresent"
        if fake:
            options |= {"node_selector": self.nodes.selector, "tolerations": list(self.nodes.tolerations)}
        return options

    def raw(self) -> dict[str, Any]:
        """Return what a raw client needs to ask as the site does."""
        config = yaml.safe_load(self.kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        authority = self.kubeconfig.with_name("bench-ca.crt")
        authority.write_text(_authority(self.kubeconfig.parent, cluster))
        token = config["users"][0]["user"]["token"]
        pods = f"{cluster['server']}{self.namespace.path}/pods"
        return {"pods": pods, "authority": str(authority), "token": token}

    def asked(self) -> int:
        """Count the requests of service accounts since the API server started, and of anybody for output."""
        streams = sum(count for (_, _, what, _), count in self.cluster.requests().items() if what in ("log", "exec"))
        return streams + sum(int(float(count)) for count in _ASKED.findall(self.cluster.metrics()))

    def remove_pods(self) -> None:
        """Delete all pods at once, and wait until they are gone."""
        path = f"{self.namespace.path}/pods"

        def gone() -> bool:
            with suppress(ApiError):  # of thousands only some are deleted in the minute that a request has
                self.api.delete(path, grace=0)
            return not self.api.get(path, limit="1")["items"]

        wait_until(gone, lambda: "pods are left", deadline=600)

    def set_running(self, pods: Iterable[str]) -> None:
        """Let pods on fake nodes run."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda pod: self.nodes.set_running(self.namespace.name, pod, container="job"), pods))

    def set_ended(self, pod: str) -> None:
        """Let a pod on a fake node end well."""
        self.nodes.set_ended(self.namespace.name, pod, container="job")


def _authority(folder: Path, cluster: dict[str, Any]) -> str:
    if "certificate-authority" in cluster:
        return (folder / cluster["certificate-authority"]).read_text()
    return base64.b64decode(cluster["certificate-authority-data"]).decode()


@contextmanager
def world(image: str | None) -> Iterator[World]:
    """Find or start a cluster, and give it what is measured with; Unprovided when that cannot be."""
    with ExitStack() as stack:
        cluster = stack.enter_context(closing(find_cluster()))
        if not cluster.own:
            raise Unprovided("fake nodes answer for the API server only where both are on this machine")
        namespace = stack.enter_context(cluster.namespace())
        nodes = stack.enter_context(cluster.fake_nodes(2))
        answering = stack.enter_context(_kubelet())
        for name in nodes.names:
            status = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}
            status["daemonEndpoints"] = {"kubeletEndpoint": {"Port": answering}}
            cluster.api.patch(f"/api/v1/nodes/{name}/status", {"status": status})
        kubeconfig = namespace.user("siteward", rules("transfer"))
        yield World(
            cluster=cluster,
            namespace=namespace,
            nodes=nodes,
            kubeconfig=kubeconfig,
            image=image or images.BUSYBOX,
        )


@contextmanager
def _kubelet() -> Iterator[int]:
    """Answer what the API server asks of nodes' kubelets, which is pods' output: none. Its port."""
    with tempfile.TemporaryDirectory() as folder:
        keys.create_authority(Path(folder))
        keys.sign(Path(folder), "kubelet", "/CN=kubelet", ["IP:127.0.0.1"])
        process = subprocess.Popen([sys.executable, __file__, folder], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


class _NoOutput(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _serve(folder: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "kubelet.crt", folder / "kubelet.key")
    with ThreadingHTTPServer(("127.0.0.1", 0), _NoOutput) as server:
        server.daemon_threads = True
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
