"""Threads for slow steps: as many as are busy, up to a limit, and none when there is nothing to do."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

# How long a thread waits for more to do before it ends.
_IDLE = 0.5


class Pool:
    """Runs functions in threads of its own, in the order in which they come; functions must not raise.

    ``concurrent.futures.ThreadPoolExecutor`` keeps every thread that it once needed: after a burst of launches at
    many open sites that would be all of them, for as long as the jobs run.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._changed = threading.Condition()
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._closed = False

    def submit(self, function: Callable[..., object], *args: object) -> None:
        """Call ``function(*args)`` as soon as a thread is free."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._calls.append((function, args))
            if self._idle >= len(self._calls):
                self._changed.notify()
            elif len(self._threads) < self._limit:
                thread = threading.Thread(target=self._run, name=self._name)
                thread.start()
                self._threads.add(thread)

    def _run(self) -> None:
        while (call := self._next()) is not None:
            function, args = call
            function(*args)
            del call, function, args  # or what they hold would live until the next call

    def _next(self) -> tuple[Callable[..., object], tuple[Any, ...]] | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._calls or self._closed, _IDLE)
            self._idle -= 1
            if self._calls:
                return self._calls.popleft()
            self._threads.discard(threading.current_thread())
            return None

    def shutdown(self, *, wait: bool) -> None:
        """Take in nothing more, and wait for what was taken in, unless ``wait`` is off."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads if wait else ():
            thread.join()
