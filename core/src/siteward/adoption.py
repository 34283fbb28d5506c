"""Taking over jobs whose driver died or left: whoever gets a job's lock goes on from what the store says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from siteward.errors import BackendError, UnknownJob
from siteward.job import Job
from siteward.launching import Prepared, build_request
from siteward.settling import catch_up, fail_launch, look_for
from siteward.statedir import OwnerLock
from siteward.store import DRIVEN, JobRow, Phase
from siteward.tracked import Tracked

if TYPE_CHECKING:
    from siteward.parts import SiteParts

_FROM_ROW = ("ref", "phase", "status", "token", "started_at", "stop_cause", "stop_grace")
_WITHOUT_BACKEND = (Phase.QUEUED, Phase.COLLECTED, Phase.FREED)


class Adopter:
    """Takes over jobs of one open site."""

    def __init__(self, parts: SiteParts) -> None:
        self._parts = parts
        parts.adopt = self.adopt_row

    def adopt_orphans(self) -> None:
        """Take over every job that nobody drives; one that cannot be taken over never keeps a site from opening."""
        for row in self._parts.store.rows(DRIVEN):
            try:
                self.adopt_row(row)
            except Exception as error:
                self._parts.log.error("job %s cannot be taken over: %s", row.job_id, error)
        leftover = []
        for row in self._parts.store.rows((Phase.REPORTED,)):
            tracked = self._lock(row)
            if tracked is not None:
                tracked.launcher = self._parts.launchers.get(row.backend)
                leftover.append(tracked)
        if leftover:
            self._parts.driver.submit(self._parts.driver.remover.finish, leftover)

    def adopt_row(self, row: JobRow) -> Tracked | None:
        """Take over one job if nobody drives it; None if somebody does."""
        tracked = self._lock(row)
        if tracked is not None:
            self.adopt(tracked)
        return tracked

    def _lock(self, row: JobRow) -> Tracked | None:
        folder = self._parts.job_folder(row.job_id)
        try:
            if not row.done:  # a launch that failed together with the disk may have left a row alone
                os.makedirs(folder, 0o700, exist_ok=True)
            lock = OwnerLock(folder)
        except OSError as error:
            self._parts.log.warning("job %s: its folder cannot be used: %s", row.job_id, error)
            return None
        if not lock.acquire(wait=False):
            lock.release()
            return None
        tracked = Tracked.from_row(row, folder)
        tracked.lock = lock
        return tracked

    def adopt(self, tracked: Tracked) -> None:
        """Go on with a job whose lock this process has just got; if that fails the lock is free again."""
        try:
            self._adopt(tracked)
        except BaseException:
            self._parts.driver.untrack(tracked)
            tracked.lock = None
            raise

    def _adopt(self, tracked: Tracked) -> None:
        driver, row = self._parts.driver, self._row(tracked)
        tracked.launcher = self._parts.launchers.get(row.backend)
        if row.done:
            self._fill(tracked, row)
            if not driver.submit(driver.remover.finish, [tracked]) and tracked.lock is not None:
                tracked.lock.release()
            if row.result is not None:
                with suppress(Exception):
                    tracked.future.set_result(row.result)
            return
        if tracked.launcher is None and row.phase not in _WITHOUT_BACKEND:
            words = f"backend {row.backend!r} is not in the site file any more; enable it again to follow this job"
            raise BackendError(f"job {row.job_id}: {words}")
        driver.track(tracked)
        driver.note(tracked, "adopted", driver=driver.name)
        # Read again: whoever asks for a stop from now on finds this driver's name, and wakes it.
        row = self._row(tracked)
        self._fill(tracked, row)
        if row.phase is Phase.QUEUED:
            self._queue_again(tracked, row.job or {})
        elif row.phase is Phase.INTENT:
            driver.submit(look_for, self._parts, tracked, "")
        else:
            driver.resume(tracked)
            if row.phase is Phase.LAUNCHED:
                driver.submit(catch_up, self._parts, tracked)

    def _row(self, tracked: Tracked) -> JobRow:
        row = self._parts.store.get(tracked.job_id)
        if row is None:
            raise UnknownJob(tracked.job_id, self._parts.file.name)
        return row

    def _fill(self, tracked: Tracked, row: JobRow) -> None:
        with tracked.changed:
            for name in _FROM_ROW:
                setattr(tracked, name, getattr(row, name))
            tracked.notes = self._parts.store.notes(row.job_id)
            tracked.changed.notify_all()

    def _queue_again(self, tracked: Tracked, data: Mapping[str, Any]) -> None:
        driver = self._parts.driver
        try:
            job = Job.from_mapping(
                {key: value for key, value in data.items() if value is not None}, file=tracked.job_id
            )
            launcher, request = build_request(self._parts, job)
        except Exception as error:  # the site has changed since the job was queued
            driver.submit(fail_launch, self._parts, tracked, str(error))
            return
        tracked.launcher = launcher
        prepared = Prepared(parts=self._parts, job=job, launcher=launcher, request=request, reservation=None)
        tracked.launch = partial(prepared.start_queued, tracked)
        if tracked.stop_cause is not None:
            driver.submit(driver.send_stop, tracked)
        driver.loop.call_later(0, self._parts.admit)
