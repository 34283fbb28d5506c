"""The last step of a job's way: its platform forgets it, and the store notes that, many jobs at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from logging import Logger

from siteward.errors import StoreError
from siteward.loop import Loop
from siteward.store import Phase, Store
from siteward.tracked import Tracked

_BATCH, _PAUSE = 64, 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0


class Remover:
    """Removes ended jobs of one open site. A removal that is not noted is repeated, which does no harm.

    ``submit(function, *args)`` runs what may take long somewhere else than in the loop's thread.
    """

    def __init__(self, *, store: Store, loop: Loop, submit: Callable[..., object], log: Logger) -> None:
        self._store = store
        self._loop = loop
        self._submit = submit
        self._log = log
        self._lock = threading.Lock()
        self._removed: list[str] = []

    def remove(self, tracked: Tracked, tries: int = 0) -> None:
        """Remove a job from its platform; what cannot be done now is tried again, and left to the next driver then."""
        try:
            if tracked.ref is not None and tracked.launcher is not None:
                with tracked.calls:
                    tracked.launcher.remove(tracked.ref)
        except Exception as error:
            self._log.warning("job %s: cannot be removed from its platform yet: %s", tracked.job_id, error)
            pause = min(_FIRST_PAUSE * 2.0**tries, _LONGEST_PAUSE)
            self._loop.call_later(pause, lambda: self._submit(self._remove_again, tracked, tries + 1))
            return
        with self._lock:
            self._removed.append(tracked.job_id)
            waiting = len(self._removed)
        if waiting >= _BATCH:
            self.note()
        elif waiting == 1:
            self._loop.call_later(_PAUSE, self.note)

    def _remove_again(self, tracked: Tracked, tries: int) -> None:
        row = self._store.get(tracked.job_id)  # somebody else may have done it, and another job have its name by now
        if row is not None and row.phase is Phase.REPORTED:
            self.remove(tracked, tries)

    def finish(self, leftover: Sequence[Tracked]) -> None:
        """Repeat the removal of jobs whose driver died before it was noted, and give their locks back."""
        for tracked in leftover:
            if not self._loop.stopped:
                self.remove(tracked)
            if tracked.lock is not None:
                tracked.lock.release()

    def note(self) -> None:
        """Store which jobs their platforms have forgotten."""
        with self._lock:
            removed, self._removed = self._removed, []
        try:
            if removed:
                self._store.mark_removed(removed)
        except StoreError as error:
            self._log.warning("%s", error)
