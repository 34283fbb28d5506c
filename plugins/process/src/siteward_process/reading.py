"""Read a job's output while it grows, woken by its writes and by its end."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator

from siteward_process import output

_LOOK_AGAIN = 0.25


def read_output(
    path: str, *, follow: bool, tail: int | None, has_ended: Callable[[], bool], listen: Callable[[], socket.socket]
) -> Iterator[bytes]:
    """Yield a job's output in pieces. With ``follow`` until the job has ended and all was read.

    ``listen`` gives a socket that becomes readable when the job may have ended.
    """
    fd = output.open_regular(path)
    if fd is None:
        return
    try:
        at = 0 if tail is None else output.start_of_tail(fd, tail)
        # What was written before the end was seen must still be read after it: ask first, then read.
        with _Waiter(path, listen if follow else None) as waiter:
            ended = not follow
            while True:
                ended = ended or has_ended()
                for data, after in output.read_from(fd, at):
                    at = after
                    yield data
                if ended:
                    return
                waiter.wait()
    finally:
        os.close(fd)


class _Waiter:
    """Waits until a file was written to or its job may have ended."""

    def __init__(self, path: str, listen: Callable[[], socket.socket] | None) -> None:
        self._poll = select.poll()
        self._timeout: float | None = None
        self._sock: socket.socket | None = None
        self._inotify = None
        if listen is None:
            return
        from siteward_process import linux

        try:
            self._inotify = linux.Inotify()
            self._inotify.add(path)
            self._poll.register(self._inotify.fd, select.POLLIN)
            self._sock = listen()
            self._sock.setblocking(False)
            self._poll.register(self._sock, select.POLLIN)
        except Exception:
            # Without news (no inotify left, no keeper) looking now and then still gives the whole output.
            self._timeout = _LOOK_AGAIN

    def wait(self) -> None:
        self._poll.poll(None if self._timeout is None else self._timeout * 1000)
        if self._inotify is not None:
            self._inotify.read()
        if self._sock is None:
            return
        try:
            if self._sock.recv(2**20) == b"":
                raise ConnectionResetError
        except BlockingIOError:
            pass
        except OSError:
            self._poll.unregister(self._sock)
            self._sock.close()
            self._sock = None
            self._timeout = _LOOK_AGAIN

    def __enter__(self) -> _Waiter:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._inotify is not None:
            self._inotify.close()
        if self._sock is not None:
            self._sock.close()
