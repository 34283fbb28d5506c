"""A proxy before an API server, for the faults that a real one does not have on demand.

Each connection is served by one thread, which alone touches its two TLS sockets.
"""

from __future__ import annotations

import collections
import contextlib
import json
import re
import select
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from attrs import define, field, frozen

from . import keys
from .api import Api
from .wire import Wire

GONE = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
# What a watch says when its resource version is too old.
GONE_EVENT = json.dumps({"type": "ERROR", "object": {**GONE, "message": "too old resource version"}}).encode() + b"\n"


@frozen(kw_only=True)
class Answer:
    """Answer in the API server's place, which does not see the request."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(factory=dict)


@frozen(kw_only=True)
class Drop:
    """Cut the connection: ``before`` the API server sees the request, or after ``passed`` bytes of its answer's body.

    With neither the request gets through and nothing of the answer: was it done?
    """

    before: bool = False
    passed: int | None = None


@frozen(kw_only=True)
class Hold:
    """Pass the request on when ``released`` has been set."""

    released: threading.Event


@define
class Fault:
    """What happens to requests with a ``method`` whose path and query the pattern is found in, so many ``times``."""

    method: str
    pattern: re.Pattern[str]
    action: Answer | Drop | Hold
    times: float
    seen: int = 0


class Proxy:
    """Passes everything on, in a ``with``; ``kubeconfig`` is that of the cluster, with the proxy as the server.

    ``counts`` are the requests by (method, path without query), also those that were not passed on.
    """

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self._upstream = Api(kubeconfig)
        self._folder = folder
        keys.create_authority(folder)
        keys.sign(folder, "proxy", "/CN=proxy", ["IP:127.0.0.1"])
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(folder / "proxy.crt", folder / "proxy.key")
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.server = "https://127.0.0.1:{1}".format(*self._listener.getsockname())
        self.kubeconfig = self.before(kubeconfig)
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._open: dict[int, tuple[socket.socket, str]] = {}
        self._threads: set[threading.Thread] = set()
        self._silent: re.Pattern[str] | None = None
        self._down = self._closed = False

    def before(self, kubeconfig: Path) -> Path:
        """Write another user's kubeconfig with the proxy as the server."""
        config = yaml.safe_load(kubeconfig.read_text())
        for each in config["clusters"]:
            each["cluster"] = {"server": self.server, "certificate-authority": str(self._folder / "ca.crt")}
        file = self._folder / f"proxied-{kubeconfig.name}"
        file.write_text(yaml.safe_dump(config))
        return file

    # --- faults ---------------------------------------------------------------------------------------------

    def fault(self, action: Answer | Drop | Hold, pattern: str, *, method: str = "", times: float = 1) -> Fault:
        """Do something to the next requests that match, ``times=inf`` to all; its ``seen`` counts them.

        The pattern is a regular expression, searched in path and query: ``/pods\\?.*watch=``.
        """
        fault = Fault(method, re.compile(pattern), action, times)
        with self._lock:
            self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Forget all faults and silence."""
        with self._lock:
            self._faults.clear()
        self._silent = None

    def silence(self, pattern: str | None) -> None:
        """Pass on nothing more of the answers to requests that match, also of those that have begun; None: of none."""
        self._silent = None if pattern is None else re.compile(pattern)

    def cut(self, pattern: str = "") -> int:
        """Cut the connections whose last request matches, and say how many there were."""
        with self._lock:
            found = [opened for opened, target in self._open.values() if re.search(pattern, target)]
            for each in found:
                _hang_up(each)
        return len(found)

    def open_requests(self, pattern: str = "") -> int:
        """Say how many connections there are whose last request matches."""
        with self._lock:
            return sum(bool(re.search(pattern, target)) for _opened, target in self._open.values())

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Cut all connections and accept none for a while."""
        self._down = True
        self.cut()
        try:
            yield
        finally:
            self._down = False

    # --- serving --------------------------------------------------------------------------------------------

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        _hang_up(self._listener)
        self.heal()
        self.cut()
        for thread in list(self._threads):
            thread.join(30)
        self._listener.close()

    def _start(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, name="proxy", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._closed:
                client, _address = self._listener.accept()
                if self._down or self._closed:
                    _hang_up(client)
                    client.close()
                else:
                    self._start(self._serve, client)

    def _serve(self, raw: socket.socket) -> None:
        # The TCP connection, by another descriptor: other threads may shut it down, and touch no TLS.
        handle = raw.dup()
        with self._lock:
            self._open[id(raw)] = handle, ""
        try:
            with raw, contextlib.suppress(OSError, EOFError):
                raw.settimeout(60)
                with self._tls.wrap_socket(raw, server_side=True) as tls:
                    self._serve_requests(Wire(tls), id(raw), handle)
        finally:
            with self._lock:
                del self._open[id(raw)]
            handle.close()
            self._threads.discard(threading.current_thread())

    def _serve_requests(self, client: Wire, key: int, handle: socket.socket) -> None:
        address = urllib.parse.urlsplit(self._upstream.server)
        server: Wire | None = None
        client.socket.settimeout(None)
        try:
            while (head := client.head()) is not None:
                method, target, _version = head.first.split(" ", 2)
                with self._lock:
                    self._open[key] = handle, target
                    self.counts[method, target.partition("?")[0]] += 1
                    # An outage may have begun while the request came.
                    if self._down:
                        return
                    action = self._action(method, target)
                body = b"".join(client.body(head, answers=None))
                if isinstance(action, Answer):
                    client.send(_answer(action))
                    continue
                if isinstance(action, Hold):
                    self._wait_for(action.released)
                if isinstance(action, Drop) and action.before:
                    return
                if server is None:
                    connection = socket.create_connection((address.hostname, address.port or 443), timeout=60)
                    if self._upstream.tls is not None:
                        connection = self._upstream.tls.wrap_socket(connection, server_hostname=address.hostname)
                    server = Wire(connection)
                    connection.settimeout(None)
                server.send(head.raw + body)
                answer = server.head()
                if answer is None or (isinstance(action, Drop) and action.passed is None):
                    return
                self._wait_while_silent(client, target)
                client.send(answer.raw)
                if answer.status == 101:
                    _relay(client, server)
                    return
                left = action.passed if isinstance(action, Drop) else None
                for data in server.body(answer, answers=method, gone=lambda: client.hung_up(server)):
                    self._wait_while_silent(client, target)
                    client.send(data if left is None else data[:left])
                    if left is not None and (left := left - len(data)) <= 0:
                        return
                if left is not None or answer.closes:
                    return
        finally:
            if server is not None:
                server.socket.close()

    def _action(self, method: str, target: str) -> Answer | Drop | Hold | None:
        for fault in self._faults:
            if fault.method in ("", method) and fault.pattern.search(target) and fault.seen < fault.times:
                fault.seen += 1
                return fault.action
        return None

    def _wait_for(self, released: threading.Event) -> None:
        while not (released.wait(0.1) or self._closed):
            pass

    def _wait_while_silent(self, client: Wire, target: str) -> None:
        while (silent := self._silent) is not None and silent.search(target):
            if client.ended():
                raise EOFError
            time.sleep(0.02)


def _answer(answer: Answer) -> bytes:
    body = answer.body or json.dumps({"kind": "Status", "code": answer.status, "message": "from the proxy"}).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **answer.headers}
    lines = [f"HTTP/1.1 {answer.status} Fault", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _relay(client: Wire, server: Wire) -> None:
    """Pass on what comes from either, until one of them ends."""
    others = {client: server, server: client}
    while True:
        ready = [wire for wire in others if wire.has_data()] or select.select([*others], [], [])[0]
        for wire in ready:
            if not (data := wire.read()):
                return
            others[wire].send(data)


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
