"""The jobs that wait: judged at each news of them and when their time comes, by clocks that stand still in outages."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from siteward import JobState, Later
from siteward_k8s.pending import Fail
from siteward_k8s.record import Record
from siteward_k8s.verdicts import Verdicts

# A pod that starts as it should has started by then; why others do not is worth a stream of events.
_SLOW = 2.0
_LOOK_AGAIN = 0.5


class Waiting:
    """Judges jobs that wait. Everything is called with ``lock`` held.

    ``again(record)`` is called, without the lock, when a job is to be judged again because of the time;
    ``want_events()``, once, when a job has waited for so long that events of pods begin to matter. ``is_out``: nothing
    can be seen just now.
    """

    def __init__(
        self,
        lock: threading.Condition,
        later: Later,
        verdicts: Verdicts,
        *,
        again: Callable[[Record], object],
        want_events: Callable[[], object],
    ) -> None:
        self._lock = lock
        self._later = later
        self._verdicts = verdicts
        self._again = again
        self._want_events = want_events
        self._young: deque[tuple[float, Record]] | None = deque()
        self.is_out = self._is_minding_young = False

    def assess(self, record: Record, *, stopped: bool) -> None:
        """Judge a job, if it is ours to judge and can be seen; ``stopped`` ones wait for nothing."""
        facts = record.facts
        if facts is None or record.given_up or not record.mine or self.is_out:
            return
        now = time.monotonic()
        if record.held and record.clocks is not None:
            record.held = False
            record.clocks.resume(now)
        if facts.deleting:
            self._verdicts.mind_node(record)
        elif not stopped:
            is_new = record.clocks is None
            verdict = record.assess(now, time.time())
            if isinstance(verdict, Fail):
                self._verdicts.fail(record, verdict.reason, verdict.message, facts)
            elif record.seen.state is JobState.PENDING:
                self._set_timer(record, now)
                if is_new and self._young is not None:
                    self._young.append((now, record))
                    self._mind_young(_SLOW)

    def _set_timer(self, record: Record, now: float) -> None:
        if record.due is not None and (record.timer is None or record.timer > record.due):
            record.timer = record.due
            self._later.call(record.due - now, lambda: self._on_time(record))

    def _on_time(self, record: Record) -> None:
        with self._lock:
            if record.timer is None or record.timer > time.monotonic():
                return  # one that was to come later is on its way
            record.timer = None
        self._again(record)

    # --- those that wait for longer than they should ---------------------------------------------------------

    def _mind_young(self, seconds: float) -> None:
        if not self._is_minding_young:
            self._is_minding_young = True
            self._later.call(seconds, self._look_at_young)

    def _look_at_young(self) -> None:
        with self._lock:
            self._is_minding_young = False
            young, long_ago = self._young, time.monotonic() - _SLOW
            while young and (young[0][1].clocks is None or young[0][0] <= long_ago):
                if young.popleft()[1].clocks is not None:
                    young = self._young = None  # they are wanted from now on, whoever is slow
            if young:
                self._mind_young(max(young[0][0] - long_ago, _LOOK_AGAIN))
        if young is None:
            self._want_events()

    # --- outages --------------------------------------------------------------------------------------------

    def pause(self, records: Iterable[Record]) -> None:
        """Let the clocks of all stand still: nothing can be seen."""
        self.is_out = True
        for record in records:
            if record.clocks is not None:
                record.clocks.pause(time.monotonic())

    def go_on(self, records: Iterable[Record]) -> None:
        """Let them go on; harmless when they do."""
        if self.is_out:
            self.is_out = False
            for record in records:
                if record.clocks is not None:
                    record.clocks.resume(time.monotonic())

    def hold(self, record: Record) -> None:
        """Let the clock of one stand still until it is judged again: it could not be looked at."""
        if record.clocks is not None:
            record.clocks.pause(time.monotonic())
            record.held = True
