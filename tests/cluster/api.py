"""The Kubernetes API as tests use it beside the code under test: JSON in, JSON out, no client library."""

from __future__ import annotations

import base64
import collections
import http.client
import json
import ssl
import tempfile
import urllib.parse
from pathlib import Path
from typing import Any

import yaml

from ..machine.common import Unprovided

PATCHES = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


class ApiError(Exception):
    """The API server refused; with ``status``, the code, and ``body``, what it said."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status, self.body = status, body


class Api:
    """The API server that a kubeconfig's current context names, as its user.

    Paths are those of the API, ``/api/v1/namespaces/x/pods``. Any thread may ask.
    """

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        context = _named(config, "context", config["current-context"])
        cluster, user = _named(config, "cluster", context["cluster"]), _named(config, "user", context["user"])
        if "exec" in user or "auth-provider" in user:
            raise Unprovided(f"{kubeconfig}: tests need a user with a token or a client certificate")
        self.server: str = cluster["server"]
        self.namespace: str = context.get("namespace", "default")
        self.context_name: str = config["current-context"]
        self.tls = _tls(kubeconfig.parent, cluster, user)
        token = user.get("token") or (Path(user["tokenFile"]).read_text().strip() if "tokenFile" in user else None)
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._idle: collections.deque[http.client.HTTPConnection] = collections.deque()

    def get(self, path: str, **query: str) -> Any:
        """Read an object or a list."""
        return json.loads(self.request("GET", path, query=query))

    def text(self, path: str, **query: str) -> str:
        """Read what is not JSON: logs, metrics."""
        return self.request("GET", path, query=query).decode(errors="replace")

    def create(self, path: str, body: dict[str, Any]) -> Any:
        """Create an object in a collection."""
        return json.loads(self.request("POST", path, body))

    def patch(self, path: str, body: Any, kind: str = "merge") -> Any:
        """Change an object; ``kind`` is one of PATCHES."""
        query = {"fieldManager": "siteward-test", "force": "true"} if kind == "apply" else {}
        return json.loads(self.request("PATCH", path, body, content_type=PATCHES[kind], query=query))

    def delete(self, path: str, *, grace: int | None = None, missing_ok: bool = True, **query: str) -> None:
        """Delete an object or, with a labelSelector perhaps, all of a collection; ``grace`` in seconds."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        try:
            self.request("DELETE", path, body if grace is None else {**body, "gracePeriodSeconds": grace}, query=query)
        except ApiError as error:
            if not (missing_ok and error.status == 404):
                raise

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        query: dict[str, str] | None = None,
    ) -> bytes:
        """Ask, and return the answer's body; ApiError when it is refused, OSError when nobody answers."""
        if query:
            path += "?" + urllib.parse.urlencode(query)
        data = None if body is None else json.dumps(body)
        headers = {**self.headers, "Accept": "application/json, */*", "Content-Type": content_type}
        try:
            connection, fresh = self._idle.pop(), False
        except IndexError:
            connection, fresh = self._connect(), True
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            # The server closes idle connections, and all when it starts anew.
            if not fresh and isinstance(error, (ConnectionError, ssl.SSLError)):
                return self.request(method, path, body, content_type=content_type)
            raise error if isinstance(error, OSError) else ConnectionError(repr(error)) from error
        self._idle.append(connection)
        if response.status >= 400:
            raise ApiError(response.status, answer.decode(errors="replace"))
        return answer

    def _connect(self) -> http.client.HTTPConnection:
        address = urllib.parse.urlsplit(self.server)
        assert address.hostname is not None
        if self.tls is None:
            return http.client.HTTPConnection(address.hostname, address.port, timeout=60)
        return http.client.HTTPSConnection(address.hostname, address.port or 443, timeout=60, context=self.tls)

    def close(self) -> None:
        """Close its connections."""
        while self._idle:
            self._idle.pop().close()


def _named(config: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each[kind] for each in config[f"{kind}s"] if each["name"] == name)
    return found


def _tls(folder: Path, cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext | None:
    if not cluster["server"].startswith("https:"):
        return None
    tls = ssl.create_default_context()
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    if data := cluster.get("certificate-authority-data"):
        tls.load_verify_locations(cadata=base64.b64decode(data).decode())
    elif file := cluster.get("certificate-authority"):
        tls.load_verify_locations(folder / file)
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for name in ("client-certificate", "client-key"):
            if data := user.get(f"{name}-data"):
                files.append(Path(scratch) / name)
                files[-1].write_bytes(base64.b64decode(data))
            elif name in user:
                files.append(folder / user[name])
        if files:
            tls.load_cert_chain(*files)
    return tls
