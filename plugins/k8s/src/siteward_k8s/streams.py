"""Answers that are read for long, and that another thread may end: raw bytes, lines, watch events."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any

from siteward import Unreachable
from siteward_k8s.errors import refusal, unreachable

_CHUNK = 2**16


class Stream:
    """An answer's bytes as they come; Unreachable when it breaks off or says nothing for too long."""

    def __init__(self, response: Any, address: str, what: str) -> None:
        self.what = what
        self._response = response
        self._address = address
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        """Yield chunks until the answer ends, or somebody closes it."""
        import urllib3

        try:
            yield from self._chunks()
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # A response that is closed while it is read trips over what it has no longer.
            if self._closed:
                return
            if isinstance(error, AttributeError):
                raise
            raise unreachable(error, self._address, self.what) from error
        finally:
            # Read to its end, its connection is back in the pool already.
            self._response.close()

    def _chunks(self) -> Iterator[bytes]:
        if self._response.chunked and self._response.supports_chunked_reads():
            yield from self._response.read_chunked(_CHUNK, decode_content=False)
            return
        while chunk := self._response.read1(_CHUNK, decode_content=False):
            yield chunk

    def lines(self) -> Iterator[bytes]:
        """Yield lines, without their ends; what comes behind the last one is dropped."""
        rest: list[bytes] = []
        for chunk in self:
            if b"\n" not in chunk:
                rest.append(chunk)
                continue
            first, *others = chunk.split(b"\n")
            last = others.pop()
            yield b"".join((*rest, first))
            yield from others
            rest = [last] if last else []

    def close(self) -> None:
        """End it: whoever reads, in any thread, sees the stream's end."""
        self._closed = True
        self.hang_up()

    def hang_up(self) -> None:
        """Break it off: whoever reads, in any thread, sees that."""
        connection = getattr(self._response, "connection", None)
        shut_down(getattr(connection, "sock", None))

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._response.close()


def shut_down(sock: socket.socket | None) -> None:
    """Wake up whoever waits for a socket: it brings nothing any more."""
    if sock is not None:
        with suppress(OSError):
            # Not the TLS socket's own shutdown: the other thread may be in the middle of it.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Watching:
    """A watch: what happens to the objects of a list. Any thread may close it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield events (``type``, ``object``) until the server ends the watch; Gone when it is to begin anew."""
        for line in self._stream.lines():
            try:
                event: dict[str, Any] = json.loads(line)
            except ValueError as error:
                raise Unreachable(f"cannot {self._stream.what}: the answer is cut short") from error
            if event.get("type") == "ERROR":
                status = event.get("object") or {}
                raise refusal(int(status.get("code") or 500), {}, json.dumps(status).encode(), self._stream.what)
            yield event

    def close(self) -> None:
        """End it: whoever reads sees the end."""
        self._stream.close()
