"""Ctrl-C and SIGTERM while a run goes on: once ends its jobs politely, twice kills them, thrice leaves."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from siteward.cli.app import INTERRUPTED
from siteward.errors import SitewardError
from siteward.runs import Run


class Interrupted(Exception):
    """The user gave up before anything was started."""


class Interrupts:
    """Takes signals in a thread of its own, so that they work while the main thread is stuck in a slow write.

    SIGTERM counts as one Ctrl-C, however often it comes.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self._times = 0
        self._run: Run | None = None
        self._asked = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Interrupts:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._handlers = {each: signal.signal(each, lambda *_: None) for each in (signal.SIGINT, signal.SIGTERM)}
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._serve, args=(self._reader,), name="siteward-signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._writer)

    def sleep(self, seconds: float) -> None:
        """Wait before anything is started; Interrupted when the user gives up meanwhile."""
        if self._asked.wait(seconds):
            raise Interrupted

    def guard(self, run: Run) -> None:
        """Let signals end this run from now on; those that came before do so at once."""
        with self._lock:
            self._run = run
        self._apply()

    def _serve(self, reader: int) -> None:
        while numbers := os.read(reader, 64):
            for number in numbers:
                self._take(number)
        os.close(reader)

    def _take(self, number: int) -> None:
        with self._lock:
            self._times = max(self._times, 1) if number == signal.SIGTERM else self._times + 1
            over = self._run is not None and self._run.verdict is not None
        if self._times > 2 or over:
            self.tell("leaving; what has not been copied, and jobs that still run, stay at their sites")
            os._exit(INTERRUPTED)
        self._asked.set()
        self._apply()

    def _apply(self) -> None:
        run, times = self._run, self._times
        if run is None or times == 0 or run.verdict is not None:
            return
        words = "ending the jobs; Ctrl-C again kills them" if times == 1 else "killing the jobs; Ctrl-C again leaves"
        self.tell(words)
        # In a thread: a platform that does not answer must not keep the next Ctrl-C waiting.
        grace = None if times == 1 else 0.0
        threading.Thread(target=self._terminate, args=(run, grace), name="siteward-terminate", daemon=True).start()

    def _terminate(self, run: Run, grace: float | None) -> None:
        try:
            run.terminate(grace)
        except (SitewardError, OSError) as error:
            self.tell(f"the jobs cannot be ended just now: {error}")
