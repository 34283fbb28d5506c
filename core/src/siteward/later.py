"""Calls at a later time, in one thread for all of them."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from logging import Logger

# A wait may not be longer than some 290 years, and whoever asks for one need not mean it well.
_LONGEST_SLEEP = 86400.0


class Later:
    """Runs functions after a while. Its thread, called ``name``, is there from the first call to :meth:`close`.

    A function that raises is logged, and keeps no other from being called; one that takes long delays the others.
    """

    def __init__(self, name: str, log: Logger) -> None:
        self._name = name
        self._log = log
        self._calls: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def call(self, seconds: float, function: Callable[[], object]) -> None:
        """Call ``function()`` after some seconds; never when closed before."""
        with self._changed:
            call = (time.monotonic() + seconds, next(self._order), function)
            heapq.heappush(self._calls, call)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            if self._calls[0] is call:  # or the thread would wake up only to sleep on
                self._changed.notify()

    def _run(self) -> None:
        while (function := self._next()) is not None:
            try:
                function()
            except Exception:
                self._log.exception("something that was to be done later failed")

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            while not self._closed:
                left = self._calls[0][0] - time.monotonic() if self._calls else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._calls)[2]
                self._changed.wait(None if left is None else min(left, _LONGEST_SLEEP))
        return None

    def close(self, wait: float | None = None) -> None:
        """Forget all calls that are left, and wait for the one that runs, ``wait`` seconds at most."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(wait)
