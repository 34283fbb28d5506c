"""Answers that are read for long, and may be closed by another thread: raw bytes, news, output."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from siteward_docker.connection import Connection

if TYPE_CHECKING:
    import urllib3

_CHUNK = 2**16
_LOG_HEADER = struct.Struct(">BxxxL")


class Stream:
    """An answer's bytes as they come."""

    def __init__(self, connection: Connection, response: urllib3.BaseHTTPResponse) -> None:
        self._connection = connection
        self._response: Any = response

    def chunks(self) -> Iterator[bytes]:
        """Yield bytes until the answer ends or is closed; Unreachable when it breaks off."""
        try:
            with self._connection.translating():
                yield from self._read()
        finally:
            # Of an answer that was read to its end the connection is back in the pool already.
            self._response.close()

    def _read(self) -> Iterator[bytes]:
        if self._response.chunked:
            yield from self._response.read_chunked()
        else:
            while chunk := self._response.read1(_CHUNK):
                yield chunk

    def close(self) -> None:
        """Stop: whoever reads, in any thread, sees the stream's end, or Unreachable."""
        sock = _socket_of(self._response)
        if sock is not None:
            _hang_up(sock)


def _socket_of(response: Any) -> socket.socket | None:
    """Return what an answer is read from: its connection has let go of it if this is to be the last answer."""
    sock: socket.socket | None = getattr(response.connection, "sock", None)
    if sock is None:
        file = getattr(getattr(response, "_fp", None), "fp", None)
        sock = getattr(getattr(file, "raw", None), "_sock", None)
    return sock


def _hang_up(sock: socket.socket) -> None:
    """Wake up whoever reads from a socket."""
    try:
        # Not the TLS socket's own shutdown: the other thread may be in the middle of it.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:  # it was cut off, or is what docker-py has for a socket that leads through ssh
        with suppress(OSError):
            sock.close()


class NewsStream(Stream):
    """News, one JSON object a line: events (``Action``, ``Actor`` with id and labels), or a pull's progress."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield news until the stream ends; Unreachable when it breaks off."""
        rest = b""
        for chunk in self.chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    with self._connection.translating():
                        news = json.loads(line)
                    yield news


class LogStream(Stream):
    """Output, as (time, bytes): the time as the engine writes it, as many bytes as the job wrote at once."""

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Yield pieces until the output ends; Unreachable when the engine goes away."""
        rest = b""
        for chunk in self.chunks():
            data, at = rest + chunk, 0
            while len(data) - at >= _LOG_HEADER.size:
                _stream, length = _LOG_HEADER.unpack_from(data, at)
                begin = at + _LOG_HEADER.size
                if len(data) - begin < length:
                    break
                at = begin + length
                time, _, text = data[begin:at].partition(b" ")
                yield time.decode("ascii", "replace"), text
            rest = data[at:]
