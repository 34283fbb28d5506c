"""A backend's side of the talk with its keeper: one connection for requests, one for news."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from siteward import BackendError, Unreachable
from siteward_process import wire
from siteward_process.start import start_keeper

_ANSWER_WITHIN = 30
_START_WITHIN = 20.0
_TOLD_TOGETHER = 32


class Lost(Exception):
    """The keeper went away between a request and its answer: what was asked may have been done."""


class Address:
    """Where the keeper of a directory is, and how one comes to be there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()

    def connect(self, *, start: bool = True) -> socket.socket:
        """Return a connection to a keeper that has agreed on the protocol; without ``start``, to a running one only."""
        directory, deadline = self.directory, time.monotonic() + _START_WITHIN
        while True:
            # One start at a time: a second one would only find the lock taken.
            with self._lock:
                sock = _try_connect(directory)
                if sock is not None:
                    return sock
                if not start:
                    raise Unreachable(f"no keeper runs for {directory}")
                if time.monotonic() > deadline:
                    raise Unreachable(f"the keeper of {directory} does not answer; see {directory / wire.LOG}")
                started = start_keeper(directory)
            if not started:
                # Another parent is starting one, or one is just leaving: both take milliseconds.
                time.sleep(0.005)


class KeeperClient:
    """Requests to the keeper of a directory, started when there is none. Any thread may ask."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._frames = wire.Frames()
        self._owner = 0
        self._told: list[bytes] = []

    def ask(self, message: wire.Message, *, urgent: bool = False) -> wire.Message:
        """Send a request and return its answer.

        All requests may be repeated (launches are idempotent), so a keeper that dies on the way is replaced
        and asked again. :class:`Lost` when that fails, Unreachable or BackendError when nothing was sent.
        What was told before goes first, or behind the request when it is ``urgent``.
        """
        data = wire.pack(message)
        with self._lock:
            self._leave_to_parent()
            sent, told = False, b"".join(self._told)
            if told:
                data = data + told if urgent else told + data
            for _attempt in range(3):
                try:
                    sock = self._connected()
                except BackendError as error:
                    if sent:
                        raise Lost(str(error)) from error
                    raise
                try:
                    sent = True
                    sock.sendall(data)
                    self._told.clear()
                    return self._receive(sock)
                except TimeoutError as error:
                    self._disconnect()
                    raise Lost(str(error)) from error
                except OSError:
                    self._disconnect()
            raise Lost("the keeper went away each time it was asked")

    def tell(self, message: wire.Message) -> bool:
        """Send a request that has no answer, to a keeper that runs; False when none does.

        It goes with the next request, with the last of a batch, or when the connection is closed.
        """
        with self._lock:
            self._leave_to_parent()
            self._told.append(wire.pack(message))
            if self._sock is not None and self._owner == os.getpid() and len(self._told) < _TOLD_TOGETHER:
                return True
            return self._send_told()

    def _send_told(self) -> bool:
        told, self._told = self._told, []
        try:
            self._connected(start=False).sendall(b"".join(told))
        except (OSError, BackendError):
            self._disconnect()
            return False
        return True

    def _receive(self, sock: socket.socket) -> wire.Message:
        while True:
            try:
                data = sock.recv(2**16)
            except BlockingIOError as error:
                raise TimeoutError(f"the keeper did not answer within {_ANSWER_WITHIN} s") from error
            if not data:
                raise ConnectionResetError
            for message in self._frames.feed(data):
                return message

    def _connected(self, start: bool = True) -> socket.socket:
        if self._sock is not None and self._owner == os.getpid():
            return self._sock
        self._disconnect()
        self._sock = self._address.connect(start=start)
        self._owner = os.getpid()
        return self._sock

    def _leave_to_parent(self) -> bool:
        """In a forked child, let go of what its parent had begun; False in a program of its own."""
        if self._owner in (0, os.getpid()):
            return False
        self._told = []
        self._disconnect()
        self._owner = 0
        return True

    def _disconnect(self) -> None:
        if self._sock is not None:
            self._sock.close()
        self._sock = None
        self._frames = wire.Frames()

    def close(self) -> None:
        """Hang up; jobs go on."""
        if self._leave_to_parent():
            return
        with self._lock:
            if self._told:
                self._send_told()
            self._disconnect()


def _try_connect(directory: Path) -> socket.socket | None:
    try:
        folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BackendError(f"the backend's directory {directory} cannot be opened: {error.strerror}") from error
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            # The kernel's own timeouts cost no system call each time, as Python's would.
            sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _ANSWER_WITHIN, 0))
        sock.connect(f"/proc/self/fd/{folder}/{wire.SOCKET}")
        if wire.peer_uid(sock) not in (os.geteuid(), 0):
            raise BackendError(f"the keeper of {directory} belongs to another user. Give this site its own state_dir.")
        sock.sendall(wire.pack({"protocol": wire.PROTOCOL}))
        frames = wire.Frames()
        while data := sock.recv(4096):
            for hello in frames.feed(data):
                return _checked(sock, hello, directory)
    except BackendError:
        sock.close()
        raise
    except OSError:
        pass
    finally:
        os.close(folder)
    sock.close()
    return None


def _checked(sock: socket.socket, hello: wire.Message, directory: Path) -> socket.socket:
    if hello.get("protocol") == wire.PROTOCOL:
        return sock
    raise BackendError(
        f"the keeper of {directory} (process {hello.get('pid')}) is of another version of siteward-process."
        " It leaves when its jobs have ended; wait for them, or stop them with the version that started them."
    )


class Subscription:
    """News of all jobs of a directory, on a thread of its own: what is known first, then each end as it comes."""

    def __init__(
        self, address: Address, on_record: Callable[[wire.Message], None], on_failure: Callable[[BaseException], None]
    ) -> None:
        self._address = address
        self._on_record = on_record
        self._on_failure = on_failure
        self._sock: socket.socket | None = None
        self._closed = False
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="siteward-process-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        deaths: list[float] = []
        while not self._closed:
            try:
                for record in self._news():
                    if self._closed:
                        return
                    self._on_record(record)
            except OSError:
                pass
            except BaseException as error:
                if not self._closed:
                    self._on_failure(error)
                return
            deaths = [at for at in deaths if at > time.monotonic() - 10] + [time.monotonic()]
            if len(deaths) > 5 and not self._closed:
                self._on_failure(Unreachable(f"the keeper of {self._address.directory} dies again and again"))
                return

    def _news(self) -> Iterator[wire.Message]:
        """Yield records until the keeper is gone; it leaves nobody who watches, so then it was killed."""
        sock = self._address.connect()
        with self._lock:
            if self._closed:
                sock.close()
                return
            self._sock = sock
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
            sock.sendall(wire.pack({"do": "watch", "k": ""}))
            frames = wire.Frames()
            while data := sock.recv(2**16):
                yield from frames.feed(data)
        finally:
            with self._lock:
                self._sock = None
                sock.close()

    def close(self) -> None:
        """Stop; when this returns, no more news comes.

        A forked child has a copy of the connection but not its thread: shutting it down would cut off the parent.
        """
        self._closed = True
        if self._owner != os.getpid():
            if self._sock is not None:
                self._sock.close()
            return
        with self._lock:
            if self._sock is not None:
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._thread:
            self._thread.join(_START_WITHIN)
