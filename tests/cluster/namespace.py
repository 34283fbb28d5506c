"""A namespace of a test's own: its pods, and users that may do only so much in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from ..machine import images
from ..machine.common import wait_until
from .api import Api, ApiError

_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_GROUP = "rbac.authorization.k8s.io"


class Namespace:
    """A namespace of its own; ``path`` is that of its core objects, ``api`` asks as the administrator."""

    def __init__(self, api: Api, kubeconfig: Path, name: str) -> None:
        self.api, self.name, self._kubeconfig = api, name, kubeconfig
        self.path = f"/api/v1/namespaces/{name}"

    @classmethod
    @contextlib.contextmanager
    def created(cls, api: Api, kubeconfig: Path, name: str, labels: dict[str, str]) -> Iterator[Namespace]:
        """Create it and wait until pods can be created in it; remove it, and its pods at once, at the end."""
        api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        try:
            with cls.existing(api, kubeconfig, name) as namespace:
                yield namespace
        finally:
            api.delete(f"/api/v1/namespaces/{name}")

    @classmethod
    @contextlib.contextmanager
    def existing(cls, api: Api, kubeconfig: Path, name: str) -> Iterator[Namespace]:
        """Wait until pods can be created in it; remove its pods at once at the end."""
        namespace = cls(api, kubeconfig, name)
        # Pods are refused until there is the service account that they get.
        wait_until(lambda: namespace.has("serviceaccounts", "default"), lambda: "no service account appears")
        try:
            yield namespace
        finally:
            api.delete(f"{namespace.path}/pods", grace=0)

    def has(self, resource: str, name: str) -> bool:
        """Whether there is an object of the core API."""
        try:
            self.api.get(f"{self.path}/{resource}/{name}")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def names(self, resource: str, **query: str) -> list[str]:
        """Name the objects of a resource of the core API."""
        return [each["metadata"]["name"] for each in self.api.get(f"{self.path}/{resource}", **query)["items"]]

    # --- pods -----------------------------------------------------------------------------------------------

    def run(self, name: str, *command: str, image: str = images.BUSYBOX, **spec: Any) -> dict[str, Any]:
        """Create a pod of one container, ``main``; ``spec`` is added to the pod's, ``resources`` to the container's."""
        container = {"name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "command": list(command)}
        container["resources"] = spec.pop("resources", {})
        spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container], **spec}
        pod: dict[str, Any] = self.api.create(f"{self.path}/pods", {"metadata": {"name": name}, "spec": spec})
        return pod

    def pod(self, name: str) -> dict[str, Any]:
        """Read a pod."""
        pod: dict[str, Any] = self.api.get(f"{self.path}/pods/{name}")
        return pod

    def wait_for_phase(self, name: str, *phases: str, deadline: float = 120) -> dict[str, Any]:
        """Wait until a pod is in one of these phases, by default those at the end, and return it."""
        phases = phases or ("Succeeded", "Failed")
        pod: dict[str, Any] = {}

        def there() -> bool:
            pod.update(self.pod(name))
            return pod["status"].get("phase") in phases

        wait_until(there, lambda: f"{name} is not {phases} but {json.dumps(pod['status'])}", deadline=deadline)
        return pod

    def log(self, name: str, **query: str) -> str:
        """Read a pod's log."""
        return self.api.text(f"{self.path}/pods/{name}/log", **query)

    # --- users ----------------------------------------------------------------------------------------------

    def user(self, name: str, rules: Iterable[dict[str, Any]] = (), *, role: str | None = None) -> Path:
        """Create a service account that may do what the ``rules`` of RBAC say, or a ``role`` that there is.

        Return its kubeconfig, a file beside the administrator's, with this namespace as the context's.
        """
        metadata = {"name": name}
        self.api.create(f"{self.path}/serviceaccounts", {"metadata": metadata})
        rbac = f"{_RBAC}/namespaces/{self.name}"
        if role is None:
            role = name
            self.api.create(f"{rbac}/roles", {"metadata": metadata, "rules": list(rules)})
        subject = {"kind": "ServiceAccount", "name": name, "namespace": self.name}
        binding = {"subjects": [subject], "roleRef": {"apiGroup": _GROUP, "kind": "Role", "name": role}}
        self.api.create(f"{rbac}/rolebindings", {"metadata": metadata, **binding})
        return self.account(name)

    def account(self, name: str, *, seconds: int = 86400) -> Path:
        """Write a kubeconfig of a service account that there is, with a token for so many ``seconds``."""
        asked = {"spec": {"expirationSeconds": seconds}}
        answer = self.api.create(f"{self.path}/serviceaccounts/{name}/token", asked)
        config = yaml.safe_load(self._kubeconfig.read_text())
        config["users"] = [{"name": name, "user": {"token": answer["status"]["token"]}}]
        for each in config["contexts"]:
            each["context"].update(user=name, namespace=self.name)
        file = self._kubeconfig.with_name(f"{self.name}.{name}.kubeconfig")
        file.write_text(yaml.safe_dump(config))
        return file
