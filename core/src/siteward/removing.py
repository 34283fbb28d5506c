"""The last step of a job's way: its platform forgets it, and the store notes that, many jobs at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from logging import Logger

from siteward.errors import StoreError, Unreachable
from siteward.loop import Loop, pause_after
from siteward.store import Phase, Store
from siteward.tracked import Tracked

_BATCH, _PAUSE = 64, 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0


class Remover:
    """Removes ended jobs of one open site. A removal that is not noted is repeated, which does no harm.

    What cannot be removed is tried again, one job after the other, and left to the next driver when the site is closed.
    ``submit(function)`` runs what may take long somewhere else than in the loop's thread.
    """

    def __init__(self, *, store: Store, loop: Loop, submit: Callable[..., object], log: Logger) -> None:
        self._store = store
        self._loop = loop
        self._submit = submit
        self._log = log
        self._lock = threading.Lock()
        self._removed: list[str] = []
        self._left: list[Tracked] = []
        self._rounds = 0
        self._is_planned = False

    def remove(self, tracked: Tracked) -> None:
        """Remove a job from its platform, or begin to try that again and again."""
        if self._remove(tracked) is not None:
            self._leave([tracked])

    def _remove(self, tracked: Tracked) -> Exception | None:
        """Remove a job from its platform; what has kept it there."""
        try:
            if tracked.ref is not None and tracked.launcher is not None:
                with tracked.calls:
                    tracked.launcher.remove(tracked.ref)
        except Exception as error:
            self._log.warning("job %s: cannot be removed from its platform yet: %s", tracked.job_id, error)
            return error
        with self._lock:
            self._removed.append(tracked.job_id)
            waiting = len(self._removed)
        if waiting >= _BATCH:
            self.note()
        elif waiting == 1:
            self._loop.call_later(_PAUSE, self.note)
        return None

    def _leave(self, jobs: Sequence[Tracked]) -> None:
        """Have jobs tried again."""
        with self._lock:
            self._left += jobs
            self._rounds = self._rounds if self._left else 0
            plan = bool(self._left) and not self._is_planned
            self._is_planned = self._is_planned or plan
            pause = pause_after(self._rounds, _FIRST_PAUSE, _LONGEST_PAUSE)
        if plan:
            self._loop.call_later(pause, lambda: self._submit(self._try_again))

    def _try_again(self) -> None:
        with self._lock:
            jobs, self._left = self._left, []
            self._is_planned = False
            self._rounds += 1
        left, away = [], set()
        for tracked in jobs:
            if self._loop.stopped:
                return
            if tracked.backend in away:
                left.append(tracked)
                continue
            try:
                row = self._store.get(tracked.job_id)
            except StoreError as error:
                self._log.warning("job %s: %s", tracked.job_id, error)
                left.append(tracked)
                continue
            # Somebody else may have removed it by now, and another job have its id.
            if row is not None and row.phase is Phase.REPORTED and row.ref == tracked.ref:
                hindrance = self._remove(tracked)
                if hindrance is not None:
                    left.append(tracked)
                if isinstance(hindrance, Unreachable):
                    away.add(tracked.backend)
        self._leave(left)

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
