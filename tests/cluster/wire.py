"""HTTP/1.1 on one socket, as the tests' proxy reads it: heads and bodies, as they came."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable, Iterator

from attrs import frozen


@frozen(kw_only=True)
class Head:
    """The head of a request or an answer: its bytes, its first line, and its headers by lower-case name."""

    raw: bytes
    first: str
    headers: dict[str, str]

    @property
    def status(self) -> int:
        """The code of an answer."""
        return int(self.first.split(" ")[1])

    @property
    def closes(self) -> bool:
        """Whether the connection ends after it."""
        return self.headers.get("connection", "").lower() == "close"


class Wire:
    """A socket, and what has been read of it and not been used."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._buffer = b""

    def fileno(self) -> int:
        """Return the descriptor, for select."""
        return self.socket.fileno()

    def has_data(self) -> bool:
        """Whether there is something to read that select does not know of."""
        return bool(self._buffer) or (isinstance(self.socket, ssl.SSLSocket) and self.socket.pending() > 0)

    def ended(self) -> bool:
        """Whether the other side has ended the connection; what it has sent instead stays to be read."""
        if not self.has_data() and select.select([self], [], [], 0)[0]:
            data = self.socket.recv(65536)
            self._buffer += data
            return not data
        return False

    def hung_up(self, other: Wire) -> bool:
        """Wait until ``other`` has something to read; True as soon as this side has ended the connection."""
        while not other.has_data():
            ready = select.select([self, other], [], [])[0]
            if other in ready:
                return False
            if self.ended():
                return True
            if self.has_data():
                # The next request has come early: there is no end to see before it has been read.
                select.select([other], [], [])
        return False

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.socket.sendall(data)

    def read(self) -> bytes:
        """Return what there is, and wait if there is nothing; b"" at the end."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        return self.socket.recv(65536)

    def head(self) -> Head | None:
        """Read a head; None when the connection ends before it."""
        while b"\r\n\r\n" not in self._buffer:
            data = self.socket.recv(65536)
            if not data:
                return None
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        return Head(raw=raw + b"\r\n\r\n", first=first, headers=headers)

    def body(self, head: Head, *, answers: str | None, gone: Callable[[], bool] = lambda: False) -> Iterator[bytes]:
        """Yield a body as it comes, with its framing; of an answer, ``answers`` is the method of the request.

        Asked before each wait, ``gone`` says that nobody wants the rest: EOFError, as when it ends early.
        """
        if answers == "HEAD" or (answers and head.status in (204, 304)):
            return
        if head.headers.get("transfer-encoding", "").lower() == "chunked":
            yield from self._chunks(gone)
        elif "content-length" in head.headers:
            left = int(head.headers["content-length"])
            while left:
                data = self._take(left, gone)
                left -= len(data)
                yield data
        elif answers:
            while not gone() and (data := self.read()):
                yield data

    def _chunks(self, gone: Callable[[], bool]) -> Iterator[bytes]:
        while True:
            while b"\r\n" not in self._buffer:
                self._fill(gone)
            line, _, self._buffer = self._buffer.partition(b"\r\n")
            left = int(line.split(b";")[0], 16) + 2
            last, chunk = left == 2, line + b"\r\n"
            # A whole chunk at a time: an event of a watch is passed on as it came.
            while left:
                data = self._take(left, gone)
                left -= len(data)
                chunk += data
            yield chunk
            if last:
                return

    def _take(self, most: int, gone: Callable[[], bool]) -> bytes:
        if not self._buffer:
            self._fill(gone)
        data, self._buffer = self._buffer[:most], self._buffer[most:]
        return data

    def _fill(self, gone: Callable[[], bool]) -> None:
        if not self._buffer and gone():
            raise EOFError
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        self._buffer += data
