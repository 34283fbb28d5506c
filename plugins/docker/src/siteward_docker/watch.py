"""One stream of events for all jobs of a site, and a look at all of them whenever it was broken."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from logging import Logger
from typing import Any

from siteward import Unreachable
from siteward_docker.client import Engine
from siteward_docker.streams import NewsStream

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_LAST_WORD = 10.0


class Watch:
    """Calls ``on_event(event)`` for each event, ``look()`` after each connecting, ``on_outage(error)`` after a break.

    All three are called in the watch's one thread. Subscribing comes before looking, so that nothing is missed.
    """

    def __init__(
        self,
        engine: Engine,
        label: str,
        *,
        on_event: Callable[[dict[str, Any]], None],
        look: Callable[[], None],
        on_outage: Callable[[Exception], None],
        log: Logger,
    ) -> None:
        self._engine = engine
        self._label = label
        self._on_event, self._look, self._on_outage = on_event, look, on_outage
        self._log = log
        self._stream: NewsStream | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="siteward-docker-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closed.is_set():
            try:
                for event in self._subscribed():
                    pause = _FIRST_PAUSE
                    self._on_event(event)
                error: Exception = Unreachable("the engine ended its stream of events")
            except Exception as broken:
                error = broken
                if not isinstance(error, Unreachable) and not self._closed.is_set():
                    self._log.exception("the watch failed; it begins again")
            if self._closed.is_set():
                return
            self._on_outage(error)
            self._closed.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _subscribed(self) -> NewsStream:
        stream = self._engine.events(self._label)
        with self._lock:
            self._stream = stream
            closed = self._closed.is_set()
        if closed:
            stream.close()
        else:
            self._look()
        return stream

    def close(self) -> None:
        """Stop; when this returns, nothing is called any more."""
        self._closed.set()
        with self._lock:
            if self._stream is not None:
                self._stream.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(_LAST_WORD)
