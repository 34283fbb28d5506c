"""Run a command in a container, with bytes in and out as they are, over a WebSocket.

The official client's own stream decodes what it reads as text, or grows slower with every byte; so frames are read
and written here, and only the opening is websocket-client's.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode, urlsplit

from siteward import BackendError, Unreachable
from siteward_k8s.connection import Connection
from siteward_k8s.errors import Missing, NotSent, Refused, Unauthorized, refusal, unreachable
from siteward_k8s.frames import BINARY, CLOSE, PING, PONG, Decoder, frame
from siteward_k8s.streams import shut_down
from siteward_k8s.transport import CONNECT_WITHIN, Transport

STDOUT, STDERR = 1, 2
_STDIN, _STATUS, _CLOSE_CHANNEL = 0, 3, 255
# Only the first lets a client say that its input has ended (Kubernetes 1.30 and newer).
V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
_PIECE = 2**17
_READ = 2**15
_CLOSES_WITHIN = 10.0
_NOT_RUNNING = ("container not found", "not running", "stopped container", "not in running state", "task not found")
# What the API server says when it cannot get through to a pod's node, or is cut off from it.
_NODE_AWAY = (
    *("dial tcp", "connection refused", "connection reset", "i/o timeout", "no route to host", "broken pipe"),
    *("TLS handshake", "unexpected EOF", "context deadline exceeded", "use of closed network connection"),
    *("lost connection to pod", "No agent available", "etcdserver:", "http2: "),
)


def run(
    transport: Transport,
    path: str,
    container: str,
    argv: Sequence[str],
    stdin: Iterable[bytes] | None,
    timeout: float,
    protocols: Sequence[str] = (V5, V4),
) -> Exec:
    """Start a command; see :meth:`siteward_k8s.client.Cluster.exec`."""
    params = [("container", container), ("stdout", "true"), ("stderr", "true"), *(("command", each) for each in argv)]
    target = f"{path}?{urlencode(params + ([('stdin', 'true')] if stdin is not None else []))}"
    what = f"run {argv[0]} in container {container}"
    for renewed in (False, True):
        connection = transport.connected()
        try:
            sock, protocol = _opened(connection, target, what, protocols)
            break
        except Unauthorized:
            if renewed or not transport.renew(connection):
                raise
    return transport.breaks(Exec(sock, protocol, stdin, timeout, connection.address, what))


class Exec:
    """A command that runs in a container. Iterate over it once, to its end; then it has an ``exit_code``."""

    def __init__(
        self, sock: Any, protocol: str, stdin: Iterable[bytes] | None, timeout: float, address: str, what: str
    ) -> None:
        self.exit_code: int | None = None
        self.protocol = protocol
        self._socket = sock
        self._timeout = timeout
        self._address = address
        self._what = what
        self._status: dict[str, Any] | None = None
        self._input = iter(()) if stdin is None else self._frames(stdin)
        self._unsent: bytes | memoryview = b""
        self._replies: list[bytes] = []
        self._hung_up = self._closed_by_server = False

    def _frames(self, stdin: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in stdin:
            for at in range(0, len(chunk), _PIECE):
                yield self._frame(BINARY, bytes((_STDIN,)), chunk[at : at + _PIECE])
        if self.protocol == V5:
            yield self._frame(BINARY, bytes((_CLOSE_CHANNEL, _STDIN)))

    def _frame(self, opcode: int, *parts: bytes) -> bytes:
        return frame(opcode, *parts, sealed=isinstance(self._socket, ssl.SSLSocket))

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yield (STDOUT or STDERR, bytes) until the command has ended.

        Unreachable when the connection is cut off or nothing moves; Missing when the container does not run (any
        longer) or has no such command; Refused when it cannot be run.
        """
        decoder = Decoder()
        try:
            self._socket.setblocking(False)
            while not self._closed_by_server:
                received = self._received()
                if received == b"":
                    break
                for opcode, payload in decoder.feed(received or b""):
                    if opcode == BINARY and payload and payload[0] in (STDOUT, STDERR):
                        if len(payload) > 1:
                            yield payload[0], payload[1:]
                    else:
                        self._take(opcode, payload)
                if not (self._send() or received) and not self._wait():
                    break
        except OSError as error:
            if self._status is None:
                raise unreachable(error, self._address, self._what) from error
        finally:
            self.close()
        self._conclude()

    def _received(self) -> bytes | None:
        """Return what has come; None if nothing has, nothing if nothing will."""
        try:
            data: bytes = self._socket.recv(_READ)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except ssl.SSLEOFError:
            return b""
        return data

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self._replies.append(self._frame(PONG, payload))
        elif opcode == CLOSE:
            self._closed_by_server = True
        elif opcode == BINARY and payload and payload[0] == _STATUS and len(payload) > 1:
            try:
                self._status = json.loads(payload[1:])
            except ValueError:
                self._status = {"message": payload[1:].decode("utf-8", "replace")}

    def _send(self) -> bool:
        """Send what can be sent just now; whether anything was."""
        if not self._unsent:
            self._unsent = memoryview(self._next_frame())
        if not self._unsent:
            return False
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError:
            # The command has ended without waiting for all its input; how it ended may still be read.
            self._hung_up, self._unsent = True, b""
            return False
        return True

    def _next_frame(self) -> bytes:
        if self._hung_up:
            return b""
        if self._replies:
            return self._replies.pop(0)
        return b"" if self._status is not None else next(self._input, b"")

    def _wait(self) -> bool:
        """Wait until something moves; False when the command has ended and the server does not hang up."""
        ended = self._status is not None
        seconds = min(self._timeout, _CLOSES_WITHIN) if ended else self._timeout
        poll = select.poll()  # select() knows no more than 1,024 files
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        if poll.poll(seconds * 1000):
            return True
        if ended:
            return False
        raise Unreachable(f"cannot {self._what}: nothing has moved for {self._timeout:g} s")

    def _conclude(self) -> None:
        status = self._status
        if status is None:
            raise Unreachable(f"cannot {self._what}: the connection was cut off before the command's end")
        if status.get("status") == "Success":
            self.exit_code = 0
            return
        details = status.get("details") or {}
        for cause in details.get("causes") or []:
            if cause.get("reason") == "ExitCode":
                self.exit_code = int(cause["message"])
                return
        raise _failure(status, self._what)

    def output(self) -> tuple[int, bytes, bytes]:
        """Run to the end and return exit code, standard output and standard error: for small ones."""
        pieces: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
        for channel, data in self:
            pieces[channel].append(data)
        assert self.exit_code is not None
        return self.exit_code, b"".join(pieces[STDOUT]), b"".join(pieces[STDERR])

    def hang_up(self) -> None:
        """Break it off in another thread, where it is Unreachable; the command may run on."""
        shut_down(self._socket)

    def close(self) -> None:
        """Hang up; the command may run on."""
        with suppress(OSError):
            self._socket.close()


def _failure(status: dict[str, Any], what: str) -> BackendError:
    """Return what kept a command from running, or from being seen to end."""
    words = str(status.get("message") or "it cannot be run")
    if "executable file not found" in words or 'exec: "' in words:
        return Refused(f"cannot {what}: its image has no such command. Set `helper_image` in the site file to another")
    if any(sign in words for sign in _NOT_RUNNING):
        return Missing(f"cannot {what}: it does not run: {words}")
    if int(status.get("code") or 0) >= 500 and any(sign in words for sign in _NODE_AWAY):
        return Unreachable(f"cannot {what} just now: its node cannot be reached: {words}")
    return Refused(f"cannot {what}: {words}")


def _opened(connection: Connection, target: str, what: str, protocols: Sequence[str]) -> tuple[Any, str]:
    """Open a WebSocket and return its socket, and which of the protocols is spoken."""
    import websocket

    scheme, _, rest = connection.address.partition("://")
    url = f"{'wss' if scheme == 'https' else 'ws'}://{rest}{target}"
    headers = [f"{name}: {value}" for name, value in connection.authorization().items()]
    options: dict[str, Any] = {"header": headers, "subprotocols": list(protocols), "suppress_origin": True}
    # Another host is nobody to send a token to.
    options["redirect_limit"] = 0
    try:
        options |= _way(connection)
        opened = websocket.create_connection(url, CONNECT_WITHIN * 2, **options)
    except websocket.WebSocketBadStatusException as error:
        body = error.resp_body or b""
        if any(sign in body.decode("utf-8", "replace") for sign in _NOT_RUNNING):
            raise Missing(f"cannot {what}: it does not run") from None
        raise refusal(error.status_code, _Headers(error.resp_headers or {}), body, what) from None
    except (websocket.WebSocketException, OSError, ValueError) as error:
        raise unreachable(error, connection.address, what) from error
    protocol = opened.getsubprotocol()
    if opened.getstatus() != 101 or protocol not in protocols:
        opened.shutdown()  # type: ignore[no-untyped-call]
        raise Refused(f"cannot {what}: {connection.address} does not speak WebSockets ({opened.getstatus()})")
    return opened.sock, str(protocol)


def _way(connection: Connection) -> dict[str, Any]:
    """Return websocket-client's options of how to get to the API server: the same way as all other requests."""
    if connection.proxy is not None:
        proxy = connection.proxy
        secret = tuple((proxy.auth or "").partition(":")[::2]) if proxy.auth else None
        tls = {"context": connection.tls, "server_hostname": connection.server_name}
        way = {"http_proxy_host": proxy.host, "http_proxy_port": proxy.port or 80, "http_proxy_auth": secret}
        return way | {"proxy_type": proxy.scheme.replace("https", "http"), "sslopt": tls}
    address = urlsplit(connection.address)
    port = address.port or (443 if connection.tls else 80)
    try:
        sock = socket.create_connection((address.hostname, port), CONNECT_WITHIN)
    except OSError as error:
        raise NotSent(
            f"the API server {connection.address} cannot be reached: {error.strerror or error}. Check that it runs"
        ) from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if connection.tls is None:
        return {"socket": sock}
    return {"socket": connection.tls.wrap_socket(sock, server_hostname=connection.server_name or address.hostname)}


class _Headers(dict[str, str]):
    """Headers as websocket-client has them, in small letters, by any spelling."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)
