"""A Unix socket before an engine's, which loses an answer, or a request, or refuses some, when it is told to."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

_REFUSAL = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n"
_REFUSAL += b'{"message":"broken"}'


class Proxy:
    """Passes everything on; the next request whose first line holds ``path`` loses its ``answer`` or goes nowhere."""

    def __init__(self, engine: str, folder: Path) -> None:
        self._engine = engine.removeprefix("unix://")
        self._path = folder / "proxy.sock"
        self.host = f"unix://{self._path}"
        self._loses: tuple[bytes, str] | None = None
        self._refuses: bytes | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._sockets = [self._listener]
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, path: str, what: str) -> None:
        """Lose one ``request`` or ``answer``."""
        self._loses = path.encode(), what

    def refuse(self, path: str | None) -> None:
        """From now on answer requests whose first line holds ``path`` with a server error; with None, none."""
        self._refuses = None if path is None else path.encode()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _address = self._listener.accept()
                engine = socket.socket(socket.AF_UNIX)
                engine.connect(self._engine)
                self._sockets += [client, engine]
                if self._closed:
                    _hang_up(client, engine)
                lost = threading.Event()
                threading.Thread(target=self._forward, args=(client, engine, lost), daemon=True).start()
                threading.Thread(target=self._back, args=(engine, client, lost), daemon=True).start()

    def _forward(self, client: socket.socket, engine: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self._refuses is not None and self._refuses in data.split(b"\r\n", 1)[0]:
                    client.sendall(_REFUSAL)
                    continue
                if self._loses is not None and self._loses[0] in data.split(b"\r\n", 1)[0]:
                    what, self._loses = self._loses[1], None
                    if what == "request":
                        break
                    lost.set()
                engine.sendall(data)
        _hang_up(client, engine)

    def _back(self, engine: socket.socket, client: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while (data := engine.recv(65536)) and not lost.is_set():
                client.sendall(data)
        _hang_up(client, engine)

    def close(self) -> None:
        """Cut everybody off."""
        self._closed = True
        _hang_up(*self._sockets)
        for each in self._sockets:
            each.close()
        self._path.unlink(missing_ok=True)


def _hang_up(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
