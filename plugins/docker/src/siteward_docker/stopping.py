"""Ending jobs: asked first, killed after their grace, also those that are only just being started."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from siteward import BackendError, JobRef, Later
from siteward_docker.build import container_of
from siteward_docker.client import Engine
from siteward_docker.errors import Conflict, Missing

_AGAIN = 1.0


class Stops:
    """The jobs that are to be ended. ``on_idle(ref)`` is called for one that does not run, nor will."""

    def __init__(self, engine: Engine, later: Later, on_idle: Callable[[JobRef], None]) -> None:
        self._engine = engine
        self._later = later
        self._on_idle = on_idle
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
                self._end_surely(ref)

    def _end_surely(self, ref: JobRef) -> None:
        """Send a stop that whoever asked for it takes for sent."""
        try:
            self._end(ref)
        except BackendError:
            self._later.call(_AGAIN, lambda: self._end_surely(ref))

    def stop(self, ref: JobRef, grace: float) -> None:
        """Have a job ended; a later call can only shorten its grace."""
        name = ref.data["name"]
        with self._lock:
            self._graces[name] = min(grace, self._graces.get(name, grace))
            if name in self._starting:
                return
        self._end(ref)

    def _end(self, ref: JobRef) -> None:
        try:
            status = self._engine.inspect(container_of(ref))["State"]["Status"]
            if status in ("running", "paused", "restarting"):
                self._ask(ref, paused=status == "paused")
            else:
                self._on_idle(ref)
        except Missing:
            self._on_idle(ref)
        except Conflict:  # it has ended since we looked
            pass

    def _ask(self, ref: JobRef, *, paused: bool) -> None:
        name, container = ref.data["name"], container_of(ref)
        grace = self.grace(name)
        if grace == 0:
            self._kill(container)
            return
        if name not in self._asked:
            self._engine.kill(container, "SIGTERM")
            self._asked.add(name)
        if paused:
            self._engine.unpause(container)
        self._later.call(grace, lambda: self._kill(container))

    def _kill(self, container: str) -> None:
        try:
            with suppress(Missing, Conflict):
                self._engine.kill(container, "SIGKILL")
        except BackendError:  # the engine is away, or cannot end it just now
            self._later.call(_AGAIN, lambda: self._kill(container))

    def grace(self, name: str) -> float:
        """Return how long a job may take to end; 0 for one that was not told to."""
        with self._lock:
            return self._graces.get(name, 0.0)

    def forget(self, name: str) -> None:
        """Forget a job that is done with."""
        with self._lock:
            self._graces.pop(name, None)
            self._asked.discard(name)
