"""A small API server in this process, for what a real one will not do on demand: faults of streams and answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

NAMESPACE = "default"
_COLLECTIONS = {"pods": f"/api/v1/namespaces/{NAMESPACE}/pods", "events": f"/api/v1/namespaces/{NAMESPACE}/events"}


class FakeApi:
    """Pods, events and nodes as a server keeps them. Selectors are ignored; every change gets a version of its own.

    Faults are set as attributes: ``refuse(verb, path) -> (status, headers) | None`` answers in place of everything,
    ``silent`` lets watches open and bring nothing, ``is_down`` hangs up on everybody, and
    ``turned_away`` counts those. ``requests`` has the verbs
    (``list``, ``watch``, ``get``, ``patch``, ``delete``) and paths of all requests that were let in.
    """

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, dict[str, Any]]] = {"pods": {}, "events": {}, "nodes": {}}
        self.requests: list[tuple[str, str]] = []
        self.watched_from: list[tuple[str, int]] = []
        self.refuse: Callable[[str, str], tuple[int, dict[str, str]] | None] = lambda _verb, _path: None
        self.silent = False
        self.is_down = False
        self.turned_away = 0
        self.changed = threading.Condition()
        self._history: list[tuple[int, str, str, dict[str, Any]]] = []
        self._version = 100
        self._oldest = 0
        self._generation = 0
        self.watching: dict[str, int] = {"pods": 0, "events": 0}
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def kubeconfig(self) -> str:
        """Return a kubeconfig that leads here."""
        named = {
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        }
        return json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "fake", **named})

    def close(self) -> None:
        """Hang up and stop."""
        self.down()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # --- what is there --------------------------------------------------------------------------------------

    def put(self, plural: str, found: dict[str, Any]) -> dict[str, Any]:
        """Add or change an object."""
        name = found["metadata"]["name"]
        with self.changed:
            kind = "MODIFIED" if name in self.kept[plural] else "ADDED"
            return self._note(plural, kind, found)

    def remove(self, plural: str, name: str, **changes: Any) -> None:
        """Delete an object, in the state that it has with some last changes."""
        with self.changed:
            if name in self.kept[plural]:
                self._note(plural, "DELETED", {**self.kept[plural][name], **changes})

    def tell(self, plural: str, kind: str, found: dict[str, Any]) -> None:
        """Send a change to the watches that does not change what is there."""
        with self.changed:
            self._note(plural, kind, found, keep=False)

    def bookmark(self, plural: str = "pods") -> None:
        """Send a bookmark to the watches that are open, and to nobody later."""
        self.tell(plural, "BOOKMARK", {"metadata": {"name": ""}})

    def _note(self, plural: str, kind: str, found: dict[str, Any], *, keep: bool = True) -> dict[str, Any]:
        self._version += 1
        found = deepcopy(found)
        if keep or kind == "BOOKMARK":
            found["metadata"]["resourceVersion"] = str(self._version)
        if keep and kind == "DELETED":
            del self.kept[plural][found["metadata"]["name"]]
        elif keep:
            self.kept[plural][found["metadata"]["name"]] = found
        self._history.append((self._version, plural, kind, found))
        self.changed.notify_all()
        return found

    # --- faults ---------------------------------------------------------------------------------------------

    def forget_history(self) -> None:
        """Answer 410 Gone to everybody who asks for changes since before now."""
        with self.changed:
            self._version += 1
            self._oldest = self._version

    def drop(self) -> None:
        """Cut the watches that are open."""
        with self.changed:
            self._generation += 1
            self.changed.notify_all()

    def down(self) -> None:
        """Hang up on everybody from now on."""
        self.is_down = True
        self.drop()

    def count(self, verb: str, ending: str = "") -> int:
        """Return how many requests of a verb there were, for paths of an ending."""
        with self.changed:
            return sum(1 for each, path in self.requests if each == verb and path.endswith(ending))

    # --- serving --------------------------------------------------------------------------------------------

    def listed(self, plural: str) -> dict[str, Any]:
        with self.changed:
            return {"metadata": {"resourceVersion": str(self._version)}, "items": list(self.kept[plural].values())}

    def is_too_old(self, version: int) -> bool:
        return version < self._oldest

    def stream(self, plural: str, version: int, seconds: float, send: Callable[[dict[str, Any]], None]) -> bool:
        """Send changes since a version; True when they are to be cut in the middle."""
        end, at = time.monotonic() + seconds, 0
        with self.changed:
            generation = self._generation
            self.watched_from.append((plural, version))
            self.watching[plural] += 1
            self.changed.notify_all()
        try:
            while (left := end - time.monotonic()) > 0:
                with self.changed:
                    if self._generation != generation:
                        return True
                    if at == len(self._history) or self.silent:
                        self.changed.wait(min(left, 1.0))
                        continue
                    number, of, kind, found = self._history[at]
                    at += 1
                if number > version and of == plural:
                    send({"type": kind, "object": found})
            return False
        finally:
            with self.changed:
                self.watching[plural] -= 1
                self.changed.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no error here."""


def _handler(api: FakeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._serve("get")

        def do_PATCH(self) -> None:
            self._serve("patch")

        def do_DELETE(self) -> None:
            self._serve("delete")

        def _serve(self, verb: str) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            plural = next((name for name, path in _COLLECTIONS.items() if url.path == path), None)
            if plural is not None and verb == "get":
                verb = "watch" if query.get("watch") == "true" else "list"
            if api.is_down:
                self.close_connection = True
                with api.changed:
                    api.turned_away += 1
                    api.changed.notify_all()
                return
            with api.changed:
                api.requests.append((verb, url.path))
                api.changed.notify_all()
            if (refused := api.refuse(verb, url.path)) is not None:
                self._answer(refused[0], _status(refused[0]), refused[1])
            elif plural is None:
                self._one(verb, url.path, body)
            elif verb == "list":
                self._answer(200, api.listed(plural))
            elif api.is_too_old(int(query["resourceVersion"])):
                self._answer(410, _status(410))
            else:
                self._watch(plural, query)

        def _one(self, verb: str, path: str, body: bytes) -> None:
            plural, name = path.split("/")[-2:]
            found = api.kept[plural].get(name)
            if found is None:
                self._answer(404, _status(404))
                return
            if verb == "patch":
                asked = json.loads(body)["metadata"]
                if asked.get("resourceVersion") not in (None, found["metadata"]["resourceVersion"]):
                    self._answer(409, _status(409))
                    return
                found = deepcopy(found)
                found["metadata"].setdefault("annotations", {}).update(asked.get("annotations", {}))
                found = api.put(plural, found)
            elif verb == "delete":
                api.remove(plural, name)
            self._answer(200, found)

        def _watch(self, plural: str, query: dict[str, str]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()

            def send(change: dict[str, Any]) -> None:
                line = json.dumps(change).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

            cut = api.stream(plural, int(query["resourceVersion"]), float(query["timeoutSeconds"]), send)
            if not cut:
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = cut

        def _answer(self, status: int, answer: dict[str, Any], headers: dict[str, str] | None = None) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Type": "application/json"}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


def _status(code: int) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "code": code, "message": f"made up by a test: {code}"}
