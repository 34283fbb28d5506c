"""A driver's one thread: timers, and wake-ups from other processes through a FIFO. Nothing in it polls."""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import math
import os
import select
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from logging import Logger
from pathlib import Path

from siteward.errors import StoreError

_TIMER, _REQUEST = b"t", b"r"
_LONGEST_SLEEP = 86400.0


class Loop:
    """Runs functions at a time, and ``on_request`` when another process says that the store has news.

    ``name`` is the driver's: other processes reach it with :func:`wake`. The thread starts with the first use.
    """

    def __init__(self, drivers: Path, on_request: Callable[[], object], log: Logger) -> None:
        self.name = uuid.uuid4().hex
        self._path = drivers / self.name
        self._on_request = on_request
        self._log = log
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._fd = -1
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; harmless when it runs."""
        with self._lock:
            if self._thread is None:
                try:
                    os.mkfifo(self._path, 0o600)
                    self._fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                except OSError as error:
                    self._path.unlink(missing_ok=True)
                    raise StoreError(f"{self._path} cannot be made: {error.strerror or error}") from error
                _running.add(self)
                self._thread = threading.Thread(target=self._run, name=f"siteward-{self.name[:8]}", daemon=True)
                self._thread.start()

    @property
    def stopped(self) -> bool:
        """Whether it will do nothing any more."""
        return self._thread is not None and self._fd < 0

    def call_later(self, delay: float, function: Callable[[], object]) -> None:
        """Run a function in this thread after ``delay`` seconds."""
        self.start()
        when = time.monotonic() + max(delay, 0)
        with self._lock:
            heapq.heappush(self._timers, (when, next(self._order), function))
            first = self._timers[0][0] == when
        if first:
            self._signal(_TIMER)

    def poke(self) -> None:
        """Run ``on_request`` soon."""
        self.start()
        self._signal(_REQUEST)

    def _signal(self, what: bytes) -> None:
        with contextlib.suppress(OSError):  # a full pipe wakes the thread as well
            os.write(self._fd, what)

    def forget(self) -> None:
        """In a forked child: close our copy of the FIFO, or a dead driver would seem to be alive."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def stop(self) -> None:
        """End the thread and wait for what it is doing, unless this is that thread."""
        with self._lock:
            thread, fd, self._thread, self._fd = self._thread, self._fd, threading.Thread(), -1
        if fd < 0 or thread is None:
            return
        with contextlib.suppress(OSError):
            os.write(fd, _TIMER)
        if thread is not threading.current_thread():
            thread.join()
        os.close(fd)
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        fd = self._fd
        news = select.poll()  # select.select knows only descriptors below 1,024
        news.register(fd, select.POLLIN)
        while self._fd == fd:
            with self._lock:
                delay = self._timers[0][0] - time.monotonic() if self._timers else None
            if delay is None or delay > 0:
                news.poll(None if delay is None else math.ceil(min(delay, _LONGEST_SLEEP) * 1000))
            with contextlib.suppress(BlockingIOError):
                if _REQUEST in os.read(fd, 65536):
                    self._call(self._on_request)
            for function in self._due():
                self._call(function)

    def _due(self) -> list[Callable[[], object]]:
        due = []
        with self._lock:
            while self._timers and self._timers[0][0] <= time.monotonic():
                due.append(heapq.heappop(self._timers)[2])
        return due

    def _call(self, function: Callable[[], object]) -> None:
        try:
            function()
        except Exception:
            self._log.exception("a driver's step failed")


def pause_after(tries: int, first: float, longest: float) -> float:
    """Return the seconds to wait after so many tries: twice as long each time, from ``first`` up to ``longest``."""
    return min(first * 2.0 ** min(tries, 64), longest)


_running: weakref.WeakSet[Loop] = weakref.WeakSet()


def _forget_loops() -> None:
    for loop in list(_running):
        loop.forget()


os.register_at_fork(after_in_child=_forget_loops)


def wake(drivers: Path, name: str, what: bytes = _REQUEST) -> bool:
    """Tell another process's driver that the store has news for it; False when that driver is gone.

    With no bytes to tell it only looks whether the driver is there.
    """
    try:
        fd = os.open(drivers / name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            (drivers / name).unlink(missing_ok=True)
        return False
    try:
        with contextlib.suppress(BlockingIOError):
            os.write(fd, what)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
