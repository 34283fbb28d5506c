"""LIST, then WATCH from there: one collection of the API server followed in one thread, through everything."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from logging import Logger
from typing import Any, Protocol

from attrs import frozen

from siteward import BackendError, Unreachable
from siteward_k8s.errors import Forbidden, Gone, Throttled


class Changes(Protocol):
    """An open watch: its changes as they come. ``close`` may be called by any thread, and ends the iteration."""

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Iterate over changes: ``type`` and ``object``."""

    def close(self) -> None:
        """Hang up."""


class Listing(Protocol):
    """All objects there are, asked for while they are iterated over: of thousands, only some are in memory at once."""

    version: str
    """The resource version at which they were so; known when the iteration is over."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over objects."""


class Source(Protocol):
    """What a reflector follows."""

    def list(self) -> Listing:
        """List all objects there are."""

    def open(self, version: str) -> Changes:
        """Watch from a resource version on; returns when the server has begun to answer."""


@frozen(kw_only=True)
class Ears:
    """Whom a reflector calls, in its one thread. ``on_outage`` and ``on_return`` take turns, the former comes first.

    ``on_list`` gets every object there is, and lets pass what iterating over them raises; ``on_change`` the type
    (``ADDED``, ``MODIFIED``, ``DELETED``) and the object. ``on_forbidden`` is called once until it is allowed again.
    """

    on_list: Callable[[Iterable[dict[str, Any]]], object]
    on_change: Callable[[str, dict[str, Any]], object]
    on_outage: Callable[[Exception], object] = lambda _error: None
    on_return: Callable[[], object] = lambda: None
    on_forbidden: Callable[[Exception], object] = lambda _error: None


@frozen(kw_only=True)
class Patience:
    """Seconds that a reflector waits.

    Between tries the pauses grow from the first to the longest, and are short again after a watch that has ``lived``;
    where it is forbidden they are long. An outage or a ban that is over before its time is not told of.
    """

    first_pause: float = 0.1
    longest_pause: float = 8.0
    outage_after: float = 2.0
    forbidden_after: float = 5.0
    forbidden: float = 60.0
    lived: float = 1.0


class Reflector:
    """Follows a source until it is closed, in a thread of its own from :meth:`start` on.

    It lists only at first and when it must: a watch that breaks goes on from the last resource version it has seen.
    A watch that has twice brought nothing at all, not even a bookmark, may be deaf, and begins with a list again.
    """

    def __init__(self, name: str, source: Source, ears: Ears, log: Logger, patience: Patience | None = None) -> None:
        self._source = source
        self._ears = ears
        self._log = log
        self._patience = patience or Patience()
        self._version: str | None = None
        self._failures = 0
        self._barren = 0
        self._failing_since: float | None = None
        self._forbidden_since: float | None = None
        self._is_out = self._is_forbidden = False
        self._retry_after: float | None = None
        self._changes: Changes | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; harmless when it has begun, or is closed."""
        with self._lock:
            if self._thread.ident is None and not self._closed.is_set():
                self._thread.start()

    def _run(self) -> None:
        while not self._closed.is_set():
            began, pause = time.monotonic(), 0.0
            opened = False
            try:
                self._open()
                opened = True
                self._follow()
            except Forbidden as error:
                pause = self._forbidden(error)
            except Exception as error:
                self._broken(error, opened)
            if not pause:
                pause = self._pause(opened and time.monotonic() - began >= self._patience.lived)
            self._closed.wait(pause)

    def _open(self) -> None:
        """List if need be, and open the watch; only then is the outage over that there may have been."""
        if self._version is None:
            self._version = self._list()
            self._reached()
        changes = self._source.open(self._version)
        with self._lock:
            self._changes = changes
        if self._closed.is_set():
            changes.close()
        self._is_forbidden, self._forbidden_since = False, None
        self._reached()

    def _list(self) -> str:
        listing = self._source.list()
        try:
            self._ears.on_list(each for each in listing if not self._closed.is_set())
        except BackendError:
            raise
        except Exception:
            self._log.exception("the list of what there is could not be taken")
        return listing.version

    def _reached(self) -> None:
        self._failing_since = None
        if self._is_out:
            self._is_out = False
            self._call(self._ears.on_return)

    def _follow(self) -> None:
        assert self._changes is not None
        self._barren += 1
        try:
            for change in self._changes:
                if self._closed.is_set():
                    return
                self._barren = 0
                self._take(change["type"], change["object"])
        finally:
            with self._lock:
                changes, self._changes = self._changes, None
            changes.close()

    def _take(self, kind: str, found: dict[str, Any]) -> None:
        self._version = found["metadata"]["resourceVersion"]
        if kind != "BOOKMARK":
            self._call(self._ears.on_change, kind, found)

    # --- when it does not work ------------------------------------------------------------------------------

    def _forbidden(self, error: Exception) -> float:
        """Return how long to wait, 0 for as long as after other failures: a server that starts may forbid too much."""
        now = time.monotonic()
        self._forbidden_since = self._forbidden_since or now
        if now - self._forbidden_since < self._patience.forbidden_after:
            return 0.0
        if not self._is_forbidden:
            self._is_forbidden = True
            self._call(self._ears.on_forbidden, error)
        return self._patience.forbidden * random.uniform(0.8, 1.0)  # noqa: S311

    def _broken(self, error: Exception, opened: bool) -> None:
        if self._closed.is_set():
            return
        self._retry_after = getattr(error, "retry_after", None)
        if not isinstance(error, BackendError):
            self._log.error("the watch failed; it begins again", exc_info=error)
        if not isinstance(error, Unreachable | Throttled):
            self._version = None  # it is too old, or the server does not know it
        if opened or isinstance(error, Gone):
            return
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if not self._is_out and now - self._failing_since >= self._patience.outage_after:
            self._is_out = True
            self._call(self._ears.on_outage, error)

    def _pause(self, lived: bool) -> float:
        """Return how long to wait before the next try; hardly at all after a watch that has lived for a while."""
        if self._barren > 1:
            self._version = None
        if lived:
            self._failures = 0
        pause = min(self._patience.first_pause * 2.0**self._failures, self._patience.longest_pause)
        self._failures = min(self._failures + 1, 30)
        asked, self._retry_after = self._retry_after or 0.0, None
        return asked + pause * random.uniform(0.5, 1.0)  # noqa: S311

    def _call(self, function: Callable[..., object], *args: object) -> None:
        """Call one of the ears; what fails there is not the reflector's."""
        if self._closed.is_set():
            return
        try:
            function(*args)
        except Exception:
            self._log.exception("news from the watch could not be taken")

    def hang_up(self) -> None:
        """Call nothing any more from now on, and let the thread end."""
        with self._lock:
            self._closed.set()
            changes = self._changes
        if changes is not None:
            changes.close()

    def close(self, wait: float = 2.0) -> None:
        """Stop: nothing is called any more, and a thread that is in the middle of a call has so long to finish it."""
        self.hang_up()
        with self._lock:
            started = self._thread.ident is not None
        if started and threading.current_thread() is not self._thread:
            self._thread.join(wait)
