"""Ending jobs: asked first, killed after their grace, also those that are only just being started."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging import Logger

from siteward import JobRef, Unreachable
from siteward_docker.client import Conflict, Engine, Missing
from siteward_docker.later import Later

_AGAIN = 1.0


class Stops:
    """The jobs that are to be ended. ``on_idle(ref)`` is called for one that does not run, nor will."""

    def __init__(self, engine: Engine, on_idle: Callable[[JobRef], None], log: Logger) -> None:
        self._engine = engine
        self._on_idle = on_idle
        self._later = Later("siteward-docker-kill", log)
        self._lock = threading.Lock()
        self._graces: dict[str, float] = {}
        self._asked: set[str] = set()
        self._starting: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Whether a job is to be ended, and is not just being started."""
        with self._lock:
            return name in self._graces and name not in self._starting

    @contextmanager
    def starting(self, ref: JobRef) -> Iterator[bool]:
        """Start a job in the block if it gives True: a stop that comes meanwhile is sent when the block is left."""
        name = ref.data["name"]
        with self._lock:
            may_start = name not in self._graces and name not in self._starting
            if may_start:
                self._starting.add(name)
        if not may_start:
            yield False
            return
        try:
            yield True
        finally:
            with self._lock:
                self._starting.discard(name)
                stop = name in self._graces
            if stop:
                self._end(ref)

    def stop(self, ref: JobRef, grace: float) -> None:
        """Have a job ended; a later call can only shorten its grace."""
        name = ref.data["name"]
        with self._lock:
            self._graces[name] = min(grace, self._graces.get(name, grace))
            if name in self._starting:
                return
        self._end(ref)

    def _end(self, ref: JobRef) -> None:
        name = ref.data["name"]
        try:
            status = self._engine.inspect(name)["State"]["Status"]
            if status in ("running", "paused", "restarting"):
                self._ask(name, paused=status == "paused")
            else:
                self._on_idle(ref)
        except Missing:
            self._on_idle(ref)
        except Conflict:  # it has ended since we looked
            pass

    def _ask(self, name: str, *, paused: bool) -> None:
        grace = self._graces[name]
        if grace > 0:
            if name not in self._asked:
                self._engine.kill(name, "SIGTERM")
                self._asked.add(name)
            if paused:
                self._engine.unpause(name)
            self._later.call(grace, lambda: self._kill(name))
        else:
            self._kill(name)

    def _kill(self, name: str) -> None:
        try:
            with suppress(Missing, Conflict):
                self._engine.kill(name, "SIGKILL")
        except Unreachable:
            self._later.call(_AGAIN, lambda: self._kill(name))

    def grace(self, name: str) -> float:
        """Return how long a job may take to end; 0 for one that was not told to."""
        with self._lock:
            return self._graces.get(name, 0.0)

    def forget(self, name: str) -> None:
        """Forget a job that is done with."""
        with self._lock:
            self._graces.pop(name, None)
            self._asked.discard(name)

    def close(self) -> None:
        """Send nothing any more; the next process sends again what it must."""
        self._later.close()
