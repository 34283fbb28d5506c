"""The driver: moves this process's jobs from phase to phase as their backends tell what they see.

News comes through :meth:`Driver.publish`, called by backends' watch threads, or from polling where there is no
watch, and is handled right there; slow steps go to a small pool. The loop's thread keeps the timers.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from contextlib import suppress
from logging import Logger
from pathlib import Path
from typing import Any

from attrs import evolve

from siteward.ends import JobState, Reason, Result, ended
from siteward.errors import SitewardError, StoreError
from siteward.finishing import Closing, Finisher
from siteward.launcher import Launcher
from siteward.loop import Loop, pause_after, wake
from siteward.pool import Pool
from siteward.removing import Remover
from siteward.request import JobRef, JobStatus
from siteward.store import Phase, Store
from siteward.tracked import Tracked, settle
from siteward.watching import Watching

_THREADS = 16
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0
_QUICK_END = 60.0


def _unexpected(error: Exception) -> bool:
    return not isinstance(error, SitewardError)


class Driver:
    """Drives the jobs whose locks this process holds."""

    def __init__(self, *, store: Store, state_dir: Path, finisher: Finisher, poll_interval: float, log: Logger) -> None:
        self.store = store
        self.finisher = finisher
        self.log = log
        self.loop = Loop(state_dir / "drivers", self._serve_requests, log)
        self.remover = Remover(store=store, loop=self.loop, submit=self.submit, log=log)
        self.name = self.loop.name
        self.pid = os.getpid()
        self.on_slot_freed: Callable[[], None] = lambda: None
        self.closed = False
        self.followed: set[Tracked] = set()
        self._watching = Watching(self, poll_interval)
        self.ensure_watch = self._watching.ensure
        self.poll = self._watching.poll
        self._drivers = state_dir / "drivers"
        self._tracked: dict[str, Tracked] = {}
        self._lock = threading.Lock()
        self._pool: Pool | None = None
        self._here = threading.local()

    def check_process(self) -> None:
        """Refuse to work in a forked child: its threads, locks and connections stayed behind in the parent."""
        if os.getpid() != self.pid:
            raise SitewardError("this site was opened by another process, of which this is a fork; load it again here")

    # --- what it drives ---

    def track(self, tracked: Tracked) -> None:
        """Take a job on; its lock is held by this process."""
        self.check_process()
        with self._lock:
            if self.closed:
                raise SitewardError("this site is closed; load it again")
            self._tracked[tracked.job_id] = tracked
        self.loop.start()

    def untrack(self, tracked: Tracked) -> None:
        """Let a job go and give its lock to the next driver."""
        with self._lock:
            self._tracked.pop(tracked.job_id, None)
        if tracked.lock is not None:
            tracked.lock.release()

    def tracked(self, job_id: str) -> Tracked | None:
        """Return a job this process drives, None if it does not."""
        return self._tracked.get(job_id)

    def known(self, job_id: str) -> Tracked | None:
        """Return a job this process drives or waits for, None if it does neither."""
        with self._lock:
            waited = (tracked for tracked in self.followed if tracked.job_id == job_id)
            return self._tracked.get(job_id) or next(waited, None)

    def follow(self, tracked: Tracked) -> bool:
        """Note that a thread waits for a job of another driver; False when one does already."""
        with self._lock:
            new = tracked not in self.followed
            self.followed.add(tracked)
            return new

    def unfollow(self, tracked: Tracked) -> None:
        """Note that the wait is over."""
        with self._lock:
            self.followed.discard(tracked)

    def jobs(self) -> list[Tracked]:
        """Return the jobs this process drives just now."""
        with self._lock:
            return list(self._tracked.values())

    def submit(self, function: Callable[..., Any], *args: Any) -> bool:
        """Run something slow in the pool; it is logged when it fails. False when the site is being closed."""
        with self._lock:
            if self.closed:
                return False
            if self._pool is None:
                self._pool = Pool(_THREADS, "siteward-step")
            self._pool.submit(self._logged, function, *args)
            return True

    def _logged(self, function: Callable[..., Any], *args: Any) -> None:
        self._here.in_pool = True
        try:
            function(*args)
        except Exception:
            self.log.exception("a driver's step failed")

    def note(self, tracked: Tracked, event: str | None = None, words: str = "", **fields: Any) -> None:
        """Store what can be done without: when the store cannot be written (a full disk), the job goes on."""
        try:
            self.store.update(tracked.job_id, event, words, **fields)
        except StoreError as error:
            self.log.warning("job %s: %s", tracked.job_id, error)

    # --- news ---

    def publish(self, launcher: Launcher, ref: JobRef, status: JobStatus) -> None:
        """Take news of a job; ignored for jobs of other drivers, kept for those whose ref is not known yet."""
        tracked = self._tracked.get(ref.job_id)
        if tracked is None or tracked.launcher is not launcher or tracked.attempt != ref.attempt:
            if status.state.ended:
                level = logging.DEBUG if tracked is None else logging.INFO
                words = "is no job that this driver has" if tracked is None else "is of another attempt or backend"
                self.log.log(level, "an end of job %s (%s) is dropped: it %s", ref.job_id, status.state, words)
            return
        with tracked.changed:
            if tracked.ref is None:
                tracked.early.append(status)
                return
        self.apply(tracked, status)

    def launched(self, tracked: Tracked, ref: JobRef, message: str = "") -> None:
        """Store a job's ref, with the news that came before it, and go on from there.

        The job exists now, so nothing here may fail: a ref that cannot be stored is found again from the intent.
        """
        with tracked.changed:
            early, tracked.early = tracked.early, []
            tracked.ref, tracked.phase = ref, Phase.LAUNCHED
            fields: dict[str, Any] = {"ref": ref, "phase": Phase.LAUNCHED, "launched_at": time.time()}
            if early and early[0].state is JobState.RUNNING and tracked.status.state is JobState.PENDING:
                fields |= self._enter_running(tracked, early.pop(0))
            self.note(tracked, "uncertain" if message else None, message, **fields)
            tracked.changed.notify_all()
            stop = tracked.stop_cause is not None
        self.finisher.launched(tracked)
        for status in early:
            self.apply(tracked, status)
        if stop:
            self.send_stop(tracked)

    def apply(self, tracked: Tracked, status: JobStatus) -> None:
        """Move a job as this status says: only forward, and the first end stays."""
        with tracked.changed:
            if tracked.finishing or self.closed:
                if status.state.ended and tracked.finishing:
                    self.log.info("an end of job %s (%s) is dropped: it has one", tracked.job_id, status.state)
                return
            if not status.state.ended or not status.reachable:
                self._apply_progress(tracked, status)
                return
            tracked.finishing = True
        self._end(tracked, status)

    def _end(self, tracked: Tracked, status: JobStatus) -> None:
        """Bring a job to its end; ``finishing`` is set, so that there is no other."""
        try:
            result = settle(tracked, status, time.time())
        except Exception as error:  # a backend may put anything into its result
            words = f"backend {tracked.backend!r} gave no proper result: {type(error).__name__}: {error}"
            self.log.error("job %s: %s", tracked.job_id, words)
            result = settle(tracked, JobStatus(state=status.state, message=words), time.time())
        if self.finisher.is_quick(tracked, result):
            self._finish(tracked, result, quick=True)
        else:
            self._finish_later(tracked, result)

    def _finish_later(self, tracked: Tracked, result: Result) -> None:
        tracked.finishing = True
        if not self.submit(self._finish, tracked, result):
            tracked.finishing = False

    def _apply_progress(self, tracked: Tracked, status: JobStatus) -> None:
        old = tracked.status
        fields: dict[str, Any] = {}
        event = None
        if status.reachable and old.state.may_become(status.state):
            fields = self._enter_running(tracked, status)
        else:
            tracked.status = evolve(status, state=old.state, result=None)
        if status.reachable != old.reachable:
            fields["reachable"] = status.reachable
            event = "reachable again" if status.reachable else "unreachable"
        if status.message != old.message:
            fields["message"] = status.message
            event = event or ("pending" if old.state is JobState.PENDING else "message")
        if fields:
            self.note(tracked, event if status.message or event != "message" else None, status.message, **fields)
        tracked.changed.notify_all()

    def _enter_running(self, tracked: Tracked, status: JobStatus) -> dict[str, Any]:
        tracked.status, tracked.started_at = status, time.time()
        self._set_deadline(tracked)
        return {"state": JobState.RUNNING, "started_at": tracked.started_at, "message": status.message}

    def _set_deadline(self, tracked: Tracked) -> None:
        if tracked.timeout is not None and tracked.started_at is not None:
            delay = tracked.started_at + tracked.timeout - time.time()
            self.loop.call_later(delay, lambda: self.submit(self.stop, tracked, "deadline", tracked.grace))

    def _finish(self, tracked: Tracked, result: Result, quick: bool = False) -> None:
        try:
            told = self.finisher.finish(tracked, result, quick=quick)
        except Closing:
            tracked.finishing = False
            return
        except Exception as error:
            self.log.error("job %s: its end is not stored: %s", tracked.job_id, error, exc_info=_unexpected(error))
            self._tell(tracked, evolve(result, message=f"{result.message} (not stored at the site: {error})"))
            if isinstance(error, StoreError):
                tracked.finish_tries += 1
                pause = pause_after(tracked.finish_tries, _FIRST_PAUSE, _LONGEST_PAUSE)
                self.loop.call_later(pause, lambda: self.submit(self._finish, tracked, result))
                return
            self._leave(tracked)
            return
        if not quick:
            self._tell(tracked, told)
        try:
            self.remover.remove(tracked)
            self._leave(tracked)
        finally:  # a quick end is told last: the thread that it wakes would fight with this one for the interpreter
            self._tell(tracked, told)

    def _leave(self, tracked: Tracked) -> None:
        self.untrack(tracked)
        self.on_slot_freed()

    def _tell(self, tracked: Tracked, result: Result) -> None:
        """Give the result to whoever waits for it; what was told once stays."""
        with tracked.changed:
            if not tracked.future.done():
                tracked.status = JobStatus(state=result.state, message=result.message, result=result)
            tracked.changed.notify_all()
        with suppress(InvalidStateError):
            tracked.future.set_result(result)

    # --- stopping ---

    def stop(self, tracked: Tracked, cause: str, grace: float) -> None:
        """End a job: the intent is stored first, then sent. The first cause stays; a shorter grace is sent again.

        It is sent also when it cannot be stored: on a full disk, the job to be ended may be what fills it.
        """
        self.check_process()
        with tracked.changed:
            if tracked.finishing or tracked.future.done():
                return
            try:
                self.store.request_stop(tracked.job_id, cause, grace)
            except StoreError as error:
                self.log.warning("job %s: %s", tracked.job_id, error)
            tracked.stop_cause = tracked.stop_cause or cause
            tracked.stop_grace = grace if tracked.stop_grace is None else min(grace, tracked.stop_grace)
        self.send_stop(tracked)

    def fail_running(self, tracked: Tracked, words: str) -> None:
        """End a job that cannot do its work because its inputs did not come."""
        tracked.stop_words = words
        self.stop(tracked, "staging", 0.0)

    def send_stop(self, tracked: Tracked) -> None:
        """Send a stop on its way, and return at once: behind another call about the job it waits in the pool."""
        with tracked.changed:
            queued = tracked.phase is Phase.QUEUED and not tracked.finishing
            tracked.finishing = tracked.finishing or queued
        if queued:
            result = ended(reason=Reason.ABORTED, message="not started")
            self._end(tracked, JobStatus(state=JobState.ABORTED, result=result))
        elif tracked.calls.acquire(blocking=False):
            try:
                self._terminate(tracked)
            finally:
                tracked.calls.release()
        else:
            self.submit(self._terminate, tracked)

    def _terminate(self, tracked: Tracked) -> None:
        try:
            with tracked.calls:
                if tracked.ref is None or tracked.launcher is None or tracked.finishing:
                    return
                tracked.launcher.terminate(tracked.ref, tracked.stop_grace or 0.0)
        except Exception as error:
            tracked.stop_tries += 1
            self.log.warning("job %s: cannot be terminated yet: %s", tracked.job_id, error)
            pause = pause_after(tracked.stop_tries, _FIRST_PAUSE, _LONGEST_PAUSE)
            self.loop.call_later(pause, lambda: self.submit(self._terminate, tracked))

    def _serve_requests(self) -> None:
        try:
            for row in self.store.stop_requests(self.name):
                tracked = self._tracked.get(row.job_id)
                if tracked is not None and row.stop_cause is not None and row.stop_grace is not None:
                    with tracked.changed:
                        known = (tracked.stop_cause, tracked.stop_grace) == (row.stop_cause, row.stop_grace)
                        if known or tracked.finishing:
                            continue
                        tracked.stop_cause, tracked.stop_grace = row.stop_cause, row.stop_grace
                    self.submit(self.send_stop, tracked)
        finally:
            self.on_slot_freed()

    def wake(self, driver: str | None) -> bool:
        """Tell another driver that the store has news for it; False when it is gone."""
        return driver is not None and wake(self._drivers, driver)

    def is_alive(self, driver: str | None) -> bool:
        """Whether a driver is there."""
        return driver is not None and wake(self._drivers, driver, b"")

    # --- going on after a crash, and leaving ---

    def resume(self, tracked: Tracked) -> None:
        """Go on with a job that a driver before this one had brought to LAUNCHED or further."""
        result = tracked.status.result
        if tracked.phase is not Phase.LAUNCHED and result is not None:
            self._finish_later(tracked, result)
            return
        if tracked.launcher is not None:
            self.ensure_watch(tracked.launcher)
        self._set_deadline(tracked)
        if tracked.stop_cause is not None:
            self.submit(self._terminate, tracked)

    def close(self) -> None:
        """Let go of every job; they go on, and the next driver finds them."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            pool, self._pool = self._pool, None
        self.loop.stop()
        if pool is not None:
            pool.shutdown(wait=not getattr(self._here, "in_pool", False))
        self.remover.note()
        for tracked in self.jobs():
            if tracked.finishing:  # in the thread that brought the news
                with suppress(TimeoutError):
                    tracked.future.exception(_QUICK_END)
            self.untrack(tracked)
            self.leave(tracked)
        for tracked in list(self.followed):
            self.leave(tracked)

    def leave(self, tracked: Tracked) -> None:
        """Tell those who wait for a job that this process will not see its end."""
        words = f"the site was closed; job {tracked.job_id} goes on, attach to it again"
        with suppress(InvalidStateError):
            tracked.future.set_exception(SitewardError(words))
        with tracked.changed:
            tracked.changed.notify_all()
