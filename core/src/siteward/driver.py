"""The driver: moves this process's jobs from phase to phase as their backends tell what they see.

News comes through :meth:`Driver.publish`, called by backends' watch threads (or by polling where there is no
watch), and is handled right there; slow steps go to a small pool. The loop's thread keeps the timers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from logging import Logger
from pathlib import Path
from typing import Any

from attrs import evolve

from siteward.ends import JobState, Reason, ended
from siteward.errors import SitewardError, StoreError
from siteward.finishing import Finisher
from siteward.launcher import Launcher
from siteward.loop import Loop, wake
from siteward.request import JobRef, JobStatus
from siteward.store import Phase, Store
from siteward.tracked import Tracked, settle

_THREADS = 8


def _unexpected(error: Exception) -> bool:
    return not isinstance(error, SitewardError)


class _Publisher:
    """What one launcher's watch tells the driver through."""

    def __init__(self, driver: Driver, launcher: Launcher) -> None:
        self._driver = driver
        self._launcher = launcher

    def __call__(self, ref: JobRef, status: JobStatus) -> None:
        self._driver.publish(self._launcher, ref, status)

    def failed(self, error: BaseException) -> None:
        self._driver.watch_failed(self._launcher, error)


class Driver:
    """Drives the jobs whose locks this process holds."""

    def __init__(self, *, store: Store, state_dir: Path, finisher: Finisher, poll_interval: float, log: Logger) -> None:
        self.store = store
        self.finisher = finisher
        self.log = log
        self.loop = Loop(state_dir / "drivers", self._serve_requests, log)
        self.name = self.loop.name
        self.on_slot_freed: Callable[[], None] = lambda: None
        self._drivers = state_dir / "drivers"
        self._poll_interval = poll_interval
        self._tracked: dict[str, Tracked] = {}
        self._watched: dict[str, bool] = {}
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._removed: list[str] = []
        self._polling = False
        self.closed = False

    # --- what it drives ---

    def track(self, tracked: Tracked) -> None:
        """Take a job on; its lock is held by this process."""
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

    def submit(self, function: Callable[..., Any], *args: Any) -> None:
        """Run something slow in the pool; it is logged when it fails."""
        with self._lock:
            if self.closed:
                return
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="siteward")
            self._pool.submit(self._logged, function, *args)

    def _logged(self, function: Callable[..., Any], *args: Any) -> None:
        try:
            function(*args)
        except Exception:
            self.log.exception("a driver's step failed")

    def ensure_watch(self, launcher: Launcher) -> None:
        """Start the launcher's watch once; without one its jobs are polled."""
        with self._lock:
            if launcher.name in self._watched:
                return
            self._watched[launcher.name] = launcher.has("watch_jobs")
        try:
            launcher.watch(_Publisher(self, launcher))
        except Exception as error:
            self.watch_failed(launcher, error)
        if not self._watched[launcher.name]:
            self._start_polling()

    def is_watched(self, launcher: Launcher) -> bool:
        """Whether news of this launcher's jobs comes by itself."""
        return self._watched.get(launcher.name, False)

    # --- news ---

    def publish(self, launcher: Launcher, ref: JobRef, status: JobStatus) -> None:
        """Take news of a job; ignored for jobs of other drivers, kept for those whose ref is not known yet."""
        tracked = self._tracked.get(ref.job_id)
        if tracked is None or tracked.launcher is not launcher or tracked.attempt != ref.attempt:
            return
        with tracked.changed:
            if tracked.ref is None:
                tracked.early.append(status)
                return
        self.apply(tracked, status)

    def launched(self, tracked: Tracked, ref: JobRef, message: str = "") -> None:
        """Store a job's ref, with the news that came before it, and go on from there."""
        with tracked.changed:
            early, tracked.early = tracked.early, []
            tracked.ref, tracked.phase = ref, Phase.LAUNCHED
            running = next((status for status in early if status.state is JobState.RUNNING), None)
            fields: dict[str, Any] = {"ref": ref, "phase": Phase.LAUNCHED}
            if running is not None and tracked.status.state is JobState.PENDING:
                fields |= self._enter_running(tracked, running)
            self.store.update(tracked.job_id, "launched", message, **fields)
            tracked.changed.notify_all()
            stop = tracked.stop_cause is not None
        self.finisher.launched(tracked)
        for status in early:
            self.apply(tracked, status)
        if stop:
            self._send_stop(tracked)

    def apply(self, tracked: Tracked, status: JobStatus) -> None:
        """Move a job as this status says: only forward, and the first end stays."""
        with tracked.changed:
            if tracked.finishing:
                return
            if not status.state.ended:
                self._apply_progress(tracked, status)
                return
            tracked.finishing = True
        result = settle(tracked, status, time.time())
        if self.finisher.is_quick(tracked):
            self._finish(tracked, result, quick=True)
        else:
            self.submit(self._finish, tracked, result)

    def _apply_progress(self, tracked: Tracked, status: JobStatus) -> None:
        old = tracked.status
        fields: dict[str, Any] = {}
        event, words = None, status.message
        if status.reachable and old.state.may_become(status.state):
            fields, event = self._enter_running(tracked, status), "running"
        else:
            tracked.status = evolve(status, state=old.state)
        if status.reachable != old.reachable:
            fields["reachable"] = status.reachable
            event = event or ("reachable again" if status.reachable else "unreachable")
        if status.message != old.message:
            fields["message"] = status.message
            event = event or ("pending" if old.state is JobState.PENDING else "message")
        if event is not None:
            self.store.update(tracked.job_id, event, words, **fields)
        tracked.changed.notify_all()

    def _enter_running(self, tracked: Tracked, status: JobStatus) -> dict[str, Any]:
        tracked.status, tracked.started_at = status, time.time()
        self._set_deadline(tracked)
        return {"state": JobState.RUNNING, "started_at": tracked.started_at, "message": status.message}

    def _set_deadline(self, tracked: Tracked) -> None:
        if tracked.timeout is not None and tracked.started_at is not None:
            delay = tracked.started_at + tracked.timeout - time.time()
            self.loop.call_later(delay, lambda: self._deadline(tracked))

    def _deadline(self, tracked: Tracked) -> None:
        if not tracked.future.done():
            self.stop(tracked, "deadline", tracked.grace)

    def _finish(self, tracked: Tracked, result: Any, quick: bool = False) -> None:
        removed, self._removed = self._removed, []
        stored = True
        try:
            result = self.finisher.finish(tracked, result, quick=quick, extra=removed)
        except Exception as error:
            stored = False
            self._removed += removed
            self.log.error("job %s: its end is not stored: %s", tracked.job_id, error, exc_info=_unexpected(error))
            result = evolve(result, message=f"{result.message} (not stored at the site: {error})")
        tracked.status = JobStatus(state=result.state, message=result.message, result=result)
        with tracked.changed:
            tracked.changed.notify_all()
        tracked.future.set_result(result)
        if stored:
            self._remove(tracked)
        self.untrack(tracked)
        self.on_slot_freed()

    def _remove(self, tracked: Tracked) -> None:
        try:
            if tracked.ref is not None and tracked.launcher is not None:
                with tracked.calls:
                    tracked.launcher.remove(tracked.ref)
            self._removed.append(tracked.job_id)
        except Exception as error:
            self.log.warning("job %s: cannot be removed from its platform yet: %s", tracked.job_id, error)

    def finish_removal(self, tracked: Tracked, *, removed: bool) -> None:
        """Repeat the removal of a job whose driver died before it was noted."""
        if not removed:
            self._remove(tracked)

    # --- stopping ---

    def stop(self, tracked: Tracked, cause: str, grace: float) -> None:
        """End a job: the intent is stored first, then sent. The first cause stays; a shorter grace is sent again."""
        with tracked.changed:
            if tracked.finishing or tracked.future.done():
                return
            self.store.request_stop(tracked.job_id, cause, grace)
            tracked.stop_cause = tracked.stop_cause or cause
            tracked.stop_grace = grace if tracked.stop_grace is None else min(grace, tracked.stop_grace)
        self._send_stop(tracked)

    def fail_running(self, tracked: Tracked, words: str) -> None:
        """End a job that cannot do its work because its inputs did not come."""
        tracked.stop_words = words
        self.stop(tracked, "staging", 0.0)

    def _send_stop(self, tracked: Tracked) -> None:
        with tracked.changed:
            queued = tracked.phase is Phase.QUEUED
        if queued:
            self.apply(
                tracked,
                JobStatus(state=JobState.ABORTED, result=ended(reason=Reason.ABORTED, message="not started")),
            )
            return
        if tracked.ref is None or tracked.launcher is None or tracked.future.done():
            return
        try:
            with tracked.calls:
                tracked.launcher.terminate(tracked.ref, tracked.stop_grace or 0.0)
        except Exception as error:
            tracked.stop_tries += 1
            self.log.warning("job %s: cannot be terminated yet: %s", tracked.job_id, error)
            self.loop.call_later(min(2.0**tracked.stop_tries / 4, 30.0), lambda: self._send_stop(tracked))

    def _serve_requests(self) -> None:
        for row in self.store.stop_requests(self.name):
            tracked = self._tracked.get(row.job_id)
            if tracked is not None and row.stop_cause is not None and row.stop_grace is not None:
                with tracked.changed:
                    if (tracked.stop_cause, tracked.stop_grace) == (row.stop_cause, row.stop_grace):
                        continue
                    tracked.stop_cause, tracked.stop_grace = row.stop_cause, row.stop_grace
                self._send_stop(tracked)
        self.on_slot_freed()

    def wake(self, driver: str | None) -> bool:
        """Tell another driver that the store has news for it; False when it is gone."""
        return driver is not None and wake(self._drivers, driver)

    # --- polling ---

    def watch_failed(self, launcher: Launcher, error: BaseException) -> None:
        """Go over to polling a launcher whose watch cannot see any more."""
        self.log.warning("backend %s: its watch failed (%s); polling its jobs", launcher.name, error)
        self._watched[launcher.name] = False
        self._start_polling()

    def _start_polling(self) -> None:
        with self._lock:
            start, self._polling = not self._polling, True
        if start:
            self.loop.call_later(0, self._poll_round)

    def _poll_round(self) -> None:
        polled = [each for each in list(self._tracked.values()) if each.launcher and not self.is_watched(each.launcher)]
        for tracked in polled:
            if tracked.ref is not None and not tracked.polling and not tracked.finishing:
                tracked.polling = True
                self.submit(self.poll, tracked)
        if all(self._watched.values()):
            self._polling = False
        else:
            self.loop.call_later(self._poll_interval, self._poll_round)

    def poll(self, tracked: Tracked) -> None:
        """Look at a job once; a look that fails is ``reachable=False``, never an end."""
        try:
            with tracked.calls:
                if tracked.launcher is None or tracked.ref is None:
                    return
                try:
                    status = tracked.launcher.poll(tracked.ref)
                except Exception as error:
                    words = f"cannot be seen just now: {error or type(error).__name__}"
                    status = JobStatus(state=tracked.status.state, reachable=False, message=words)
            self.apply(tracked, status)
        finally:
            tracked.polling = False

    # --- going on after a crash, and leaving ---

    def resume(self, tracked: Tracked) -> None:
        """Go on with a job that a driver before this one had brought to LAUNCHED or further."""
        if tracked.phase is not Phase.LAUNCHED:
            result = tracked.status.result
            if result is not None:
                tracked.finishing = True
                self.submit(self._finish, tracked, result)
            return
        if tracked.launcher is not None:
            self.ensure_watch(tracked.launcher)
        self._set_deadline(tracked)
        if tracked.stop_cause is not None:
            self.submit(self._send_stop, tracked)
        self.submit(self.poll, tracked)

    def close(self) -> None:
        """Let go of every job; they go on, and the next driver finds them."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            pool, self._pool = self._pool, None
        self.loop.stop()
        if pool is not None:
            pool.shutdown(wait=True)
        if self._removed:
            try:
                self.store.mark_removed(self._removed)
            except StoreError as error:
                self.log.warning("%s", error)
        for tracked in list(self._tracked.values()):
            self.untrack(tracked)
            if not tracked.future.done():
                words = f"the site was closed; job {tracked.job_id} goes on, attach to it again"
                tracked.future.set_exception(SitewardError(words))
            with tracked.changed:
                tracked.changed.notify_all()
