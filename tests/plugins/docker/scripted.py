"""An engine that answers byte for byte what a test lays out, on a Unix socket or on TCP, with TLS or without."""

from __future__ import annotations

import json
import socketserver
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

VERSION = {"ApiVersion": "1.41"}


def answer(status: int, body: bytes | dict[str, Any] | list[Any] = b"", *, short: int = 0) -> bytes:
    """Return an answer that announces ``short`` bytes more than it brings."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s" % (status, len(content) + short, content)


class Scripted:
    """Answers every request but the one for its version with ``says``, and hangs up behind it if ``cut``.

    ``requests`` are the heads of all requests, ``connections`` and ``hung_up`` how many
    connections there have been, and how many have ended.
    """

    def __init__(self, folder: Path | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.says = answer(200, {})
        self.cut = False
        self.requests: list[str] = []
        self.connections = self.hung_up = 0
        self._tls = tls
        handler = type("Handler", (_Handler,), {"engine": self})
        if folder is not None:
            self._server: socketserver.BaseServer = _UnixServer(str(folder / "scripted.sock"), handler)
            self.host = f"unix://{folder}/scripted.sock"
        else:
            self._server = _TCPServer(("127.0.0.1", 0), handler)
            self.host = f"tcp://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def serve(self, connection: Any) -> None:
        """Answer the requests of one connection."""
        self.connections += 1
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True)
        with connection, connection.makefile("rb") as incoming:
            while head := _head(incoming):
                lengths = [line for line in head.splitlines() if line.lower().startswith("content-length:")]
                incoming.read(int(lengths[0].partition(":")[2]) if lengths else 0)
                self.requests.append(head)
                of_version = head.split(" ")[1].endswith("/version")
                connection.sendall(answer(200, VERSION) if of_version else self.says)
                if self.cut and not of_version:
                    return

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _head(incoming: Any) -> str:
    """Read the head of a request; nothing at the connection's end."""
    lines = []
    while (line := incoming.readline()) not in (b"\r\n", b""):
        lines.append(line)
    return b"".join(lines).decode()


class _Handler(socketserver.BaseRequestHandler):
    engine: Scripted

    def handle(self) -> None:
        with suppress(OSError):
            self.engine.serve(self.request)
        self.engine.hung_up += 1


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class _TCPServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
