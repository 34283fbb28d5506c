"""Talk with one cluster's API server: JSON objects as they are, of one namespace, errors in our words."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from logging import Logger
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from siteward import BackendError
from siteward_k8s.connection import Where
from siteward_k8s.errors import Conflict, Gone, Missing, Refused
from siteward_k8s.streams import Stream, Watching
from siteward_k8s.transport import Transport

if TYPE_CHECKING:
    from siteward_k8s.exec import Exec

Info = dict[str, Any]

_MERGE = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_WHOAMI = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_LOG_SILENCE = 300.0


class Cluster:
    """One cluster as one user sees it. Any thread may ask; it is connected to when first asked.

    ``namespace`` in calls is for pods of which a ref says where they are; by default it is the site's.
    """

    def __init__(self, options: Where, base_dir: Path, log: Logger) -> None:
        self._options = options
        self._log = log
        self._transport = Transport(options, base_dir)
        self._preparing: threading.Thread | None = None

    @property
    def address(self) -> str:
        """The API server's URL; NotSent when the configuration does not say it."""
        return self._transport.connected().address

    @property
    def namespace(self) -> str:
        """The site's namespace, else the context's, else the service account's, else ``default``."""
        return self._options.namespace or self._transport.connected().namespace

    def prepare(self) -> None:
        """Import the client and read the configuration in the background: together they take half a second."""

        def connect() -> None:
            try:
                self._transport.connected()
            except BackendError as error:  # told to whoever asks first
                self._log.debug("not connected yet: %s", error)

        self._preparing = threading.Thread(target=connect, name="siteward-k8s-connect", daemon=True)
        self._preparing.start()

    def close(self) -> None:
        """Let go of all connections; nothing is asked any more."""
        if self._preparing is not None:
            self._preparing.join()
        self._transport.close()

    def path(self, resource: str, name: str = "", *, namespace: str | None = None) -> str:
        """Return the path of a core resource (``pods``, ``events``) in a namespace, or of one object of it."""
        return f"/api/v1/namespaces/{namespace or self.namespace}/{resource}" + (f"/{quote(name)}" if name else "")

    # --- any object -----------------------------------------------------------------------------------------

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Info:
        """Read what is at a path of the API."""
        return self._transport.ask("GET", path, f"read {path}", params=params)

    def list_all(self, path: str, *, chunk: int | None = None, **params: Any) -> tuple[list[Info], str]:
        """Read all items of a list, ``chunk`` at a time, and the resource version at which they were so.

        ``params`` are the API's (``labelSelector``, ``fieldSelector``, ``resourceVersion``).
        """
        try:
            return self._list(path, params | ({"limit": chunk} if chunk else {}))
        except Gone:  # it took so long that the first part is no longer known
            return self._list(path, params)

    def _list(self, path: str, params: Mapping[str, Any]) -> tuple[list[Info], str]:
        items: list[Info] = []
        more: dict[str, Any] = {}
        while True:
            page = self._transport.ask("GET", path, f"list {path}", params={**params, **more})
            items += page.get("items") or []
            meta = page.get("metadata") or {}
            if not meta.get("continue"):
                return items, str(meta.get("resourceVersion") or "")
            more = {"continue": meta["continue"]}

    def watch(self, path: str, params: Mapping[str, Any], timeout: float) -> Watching:
        """Watch a list from ``params["resourceVersion"]`` on; after ``timeout`` seconds of silence: Unreachable."""
        asked = {**params, "watch": "true"}
        return Watching(self._transport.stream(path, f"watch {path}", params=asked, silence=timeout))

    def _patch(self, path: str, patch: Mapping[str, Any] | Sequence[Any], what: str) -> Info:
        kind = _MERGE if isinstance(patch, Mapping) else _JSON_PATCH
        return self._transport.ask("PATCH", path, what, body=patch, content_type=kind)

    # --- pods -----------------------------------------------------------------------------------------------

    def create_pod(self, manifest: Mapping[str, Any], *, namespace: str | None = None, dry: bool = False) -> Info:
        """Create a pod and return it; Exists when the name is taken, Unreachable when nobody knows whether it is.

        Fields that no Pod has are Refused: left to itself the API server drops them without a word. With ``dry`` all
        is checked and nothing is made.
        """
        params = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry else {})}
        path = self.path("pods", namespace=namespace)
        return self._transport.ask("POST", path, "create the pod", params=params, body=manifest)

    def get_pod(self, name: str, *, namespace: str | None = None) -> Info:
        """Look at a pod, uncached; Missing when there is none."""
        return self._transport.ask("GET", self.path("pods", name, namespace=namespace), "look at the pod")

    def list_pods(
        self, selector: str, *, chunk: int | None = 500, namespace: str | None = None, **params: Any
    ) -> tuple[list[Info], str]:
        """List the pods with these labels, and the resource version to watch from."""
        return self.list_all(self.path("pods", namespace=namespace), chunk=chunk, labelSelector=selector, **params)

    def patch_pod(self, name: str, patch: Mapping[str, Any] | Sequence[Any], *, namespace: str | None = None) -> Info:
        """Change a pod: a mapping is a merge patch, a sequence a JSON patch."""
        return self._patch(self.path("pods", name, namespace=namespace), patch, "change the pod")

    def delete_pod(
        self, name: str, *, uid: str | None = None, grace: float | None = None, namespace: str | None = None
    ) -> None:
        """Delete a pod, only if it has this ``uid``; ``grace`` in seconds instead of its own. Missing without one."""
        self._delete(self.path("pods", name, namespace=namespace), "delete the pod", uid, grace)

    def _delete(self, path: str, what: str, uid: str | None, grace: float | None) -> None:
        body: Info = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace is not None:
            body["gracePeriodSeconds"] = math.ceil(grace)
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            self._transport.ask("DELETE", path, what, body=body)
        except Conflict as error:
            if uid is None:
                raise
            raise Missing(f"cannot {what}: the one with uid {uid} is no more") from error

    def read_log(
        self,
        name: str,
        container: str,
        *,
        follow: bool = False,
        since_time: str | None = None,
        tail_lines: int | None = None,
        timestamps: bool = False,
        previous: bool = False,
        namespace: str | None = None,
    ) -> Stream:
        """Read a container's output; Refused (400) while it has none, as it waits to start."""
        params: Info = {"container": container}
        params |= {"follow": "true"} if follow else {}
        params |= {"timestamps": "true"} if timestamps else {}
        params |= {"previous": "true"} if previous else {}
        params |= {"sinceTime": since_time} if since_time is not None else {}
        params |= {"tailLines": tail_lines} if tail_lines is not None else {}
        path = f"{self.path('pods', name, namespace=namespace)}/log"
        return self._transport.stream(path, "read the pod's output", params=params, silence=_LOG_SILENCE)

    def exec(
        self,
        name: str,
        container: str,
        argv: Sequence[str],
        *,
        stdin: Iterable[bytes] | None = None,
        timeout: float = 60.0,
        namespace: str | None = None,
    ) -> Exec:
        """Run a command in a container; Unreachable when nothing moves for ``timeout`` seconds.

        Iterate over it for (1 or 2, bytes) of its standard output and error, then ask its ``exit_code``.
        """
        from siteward_k8s.exec import run

        path = f"{self.path('pods', name, namespace=namespace)}/exec"
        return run(self._transport, path, container, argv, stdin, timeout)

    # --- secrets --------------------------------------------------------------------------------------------

    def create_secret(self, secret: Mapping[str, Any], *, namespace: str | None = None) -> Info:
        """Create a Secret; Exists when the name is taken."""
        return self._transport.ask("POST", self.path("secrets", namespace=namespace), "create the secret", body=secret)

    def get_secret(self, name: str, *, namespace: str | None = None) -> Info:
        """Read a Secret."""
        return self._transport.ask("GET", self.path("secrets", name, namespace=namespace), f"read the secret {name}")

    def replace_secret(self, name: str, secret: Mapping[str, Any], *, namespace: str | None = None) -> Info:
        """Replace a Secret; Conflict when it has another ``resourceVersion`` than the one given."""
        path = self.path("secrets", name, namespace=namespace)
        return self._transport.ask("PUT", path, "replace the secret", body=secret)

    def patch_secret(
        self, name: str, patch: Mapping[str, Any] | Sequence[Any], *, namespace: str | None = None
    ) -> Info:
        """Change a Secret: a mapping is a merge patch, a sequence a JSON patch."""
        return self._patch(self.path("secrets", name, namespace=namespace), patch, "change the secret")

    def delete_secret(self, name: str, *, uid: str | None = None, namespace: str | None = None) -> None:
        """Delete a Secret, only if it has this ``uid``; Missing when there is none."""
        self._delete(self.path("secrets", name, namespace=namespace), "delete the secret", uid, None)

    def list_secrets(self, selector: str) -> list[Info]:
        """List the Secrets with these labels."""
        return self.list_all(self.path("secrets"), labelSelector=selector)[0]

    # --- around them ----------------------------------------------------------------------------------------

    def get_node(self, name: str) -> Info:
        """Look at a node; Missing when there is none."""
        return self._transport.ask("GET", f"/api/v1/nodes/{quote(name)}", "look at the node")

    def list_nodes(self) -> list[Info]:
        """List the cluster's nodes."""
        return self.list_all("/api/v1/nodes", chunk=500)[0]

    def review(
        self, verb: str, resource: str, subresource: str = "", *, group: str = "", namespaced: bool = True
    ) -> bool:
        """Whether the API server lets this user do something, in the site's namespace."""
        asked: Info = {"verb": verb, "resource": resource, "subresource": subresource, "group": group}
        asked |= {"namespace": self.namespace} if namespaced else {}
        review: Info = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        review["spec"] = {"resourceAttributes": asked}
        found = self._transport.ask("POST", _REVIEWS, "ask for permissions", body=review)
        return bool((found.get("status") or {}).get("allowed"))

    def user(self) -> str:
        """Return by what name the API server knows who asks, nothing if it does not tell (before Kubernetes 1.28)."""
        review: Info = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        try:
            found = self._transport.ask("POST", _WHOAMI, "ask who asks", body=review)
        except Refused:
            return ""
        return str(((found.get("status") or {}).get("userInfo") or {}).get("username") or "")

    def version(self) -> Info:
        """Return what the API server says of its version (``gitVersion``, ``major``, ``minor``)."""
        return self.get("/version")
