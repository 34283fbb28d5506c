"""Nodes without a kubelet, and the lives of their pods: for more pods than a machine can run."""

from __future__ import annotations

import datetime
import threading
from typing import Any

from .api import Api

_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_TAINT = "siteward-test/fake"
# A node is lost when its lease has not been renewed for 50 s.
_RENEWED_EVERY = 10.0


class FakeNodes:
    """Nodes on which pods are scheduled and nothing happens, unless a test says so.

    ``selector`` and ``tolerations`` bring pods here; ``names`` are the nodes'.
    """

    tolerations = ({"key": _TAINT, "operator": "Exists"},)

    def __init__(self, api: Api, name: str, count: int, capacity: dict[str, str]) -> None:
        self._api = api
        self.selector = {_TAINT: name}
        self.names = [f"{name}-{number}" for number in range(count)]
        self._capacity = {
            "cpu": "100000",
            "memory": "1000Ti",
            "ephemeral-storage": "1000Ti",
            "pods": "100000",
            **capacity,
        }
        self._closing = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="fake nodes", daemon=True)

    def open(self) -> None:
        """Add the nodes, ready."""
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _now()}
        for name in self.names:
            spec = {"taints": [{"key": _TAINT, "effect": "NoSchedule"}]}
            metadata = {"name": name, "labels": {**self.selector, "kubernetes.io/hostname": name}}
            self._api.create("/api/v1/nodes", {"metadata": metadata, "spec": spec})
            lease = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": _now(".%f")}
            self._api.create(_LEASES, {"metadata": {"name": name}, "spec": lease})
            status = {"capacity": self._capacity, "allocatable": self._capacity, "conditions": [ready]}
            self._api.patch(f"/api/v1/nodes/{name}/status", {"status": status})
        self._renewer.start()

    def remove(self, name: str) -> None:
        """Take a node away; its pods are left without one."""
        self.names.remove(name)
        self._api.delete(f"/api/v1/nodes/{name}")
        self._api.delete(f"{_LEASES}/{name}")

    def close(self) -> None:
        """Remove the nodes."""
        self._closing.set()
        self._renewer.join()
        for name in list(self.names):
            self.remove(name)

    def spec(self) -> dict[str, Any]:
        """Return what brings a pod here, to be added to its spec."""
        return {"nodeSelector": dict(self.selector), "tolerations": list(self.tolerations)}

    # --- pods' lives ----------------------------------------------------------------------------------------

    def set_running(self, namespace: str, pod: str, *, container: str = "main") -> None:
        """Let a pod run."""
        self._set(namespace, pod, "Running", container, {"running": {"startedAt": _now()}})

    def set_ended(
        self,
        namespace: str,
        pod: str,
        code: int = 0,
        *,
        signal: int | None = None,
        reason: str | None = None,
        container: str = "main",
    ) -> None:
        """Let a pod's container end with a code, or a signal, and a reason such as OOMKilled."""
        ended: dict[str, Any] = {"exitCode": code, "startedAt": _now(), "finishedAt": _now()}
        ended |= {"reason": reason or ("Error" if code else "Completed")} | ({"signal": signal} if signal else {})
        self._set(namespace, pod, "Failed" if code else "Succeeded", container, {"terminated": ended})

    def set_waiting(self, namespace: str, pod: str, reason: str, message: str = "", *, container: str = "main") -> None:
        """Let a pod's container wait for a reason such as ImagePullBackOff."""
        self._set(namespace, pod, "Pending", container, {"waiting": {"reason": reason, "message": message}})

    def set_status(self, namespace: str, pod: str, status: dict[str, Any]) -> None:
        """Let a pod's status be anything."""
        self._api.patch(f"/api/v1/namespaces/{namespace}/pods/{pod}/status", {"status": status})

    def reap(self, namespace: str) -> list[str]:
        """End the pods that are being deleted, as a kubelet does in their grace, and return their names."""
        path = f"/api/v1/namespaces/{namespace}/pods"
        pods = [pod for pod in self._api.get(path)["items"] if pod["spec"].get("nodeName") in self.names]
        dying = [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" in pod["metadata"]]
        for name in dying:
            self._api.delete(f"{path}/{name}", grace=0)
        return dying

    def _set(self, namespace: str, pod: str, phase: str, container: str, state: dict[str, Any]) -> None:
        running = "running" in state
        about = {"name": container, "image": "fake", "imageID": "fake", "restartCount": 0, "ready": running}
        condition = {"type": "Ready", "status": str(running), "lastTransitionTime": _now()}
        status = {"phase": phase, "containerStatuses": [{**about, "started": running, "state": state}]}
        scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": _now()}
        self.set_status(namespace, pod, {**status, "startTime": _now(), "conditions": [scheduled, condition]})

    def _renew(self) -> None:
        while not self._closing.wait(_RENEWED_EVERY):
            for name in list(self.names):
                try:
                    self._api.patch(f"{_LEASES}/{name}", {"spec": {"renewTime": _now(".%f")}})
                except Exception:  # the API server may be down for a while: that is what tests do
                    continue


def _now(fraction: str = "") -> str:
    return datetime.datetime.now(datetime.UTC).strftime(f"%Y-%m-%dT%H:%M:%S{fraction}Z")
