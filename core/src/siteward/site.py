"""A site, open: launch jobs, find them again, look after what is left of them.

>>> from siteward import Job, Site
>>> with Site.load("site.yaml") as site:                                              # doctest: +SKIP
...     result = site.launch(Job.load("job.yaml")).wait()
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from siteward.errors import BackendError, UnknownJob
from siteward.handle import Handle
from siteward.job import Job
from siteward.launching import Prepared, build_request, look_for, prepare
from siteward.parts import SiteParts
from siteward.plugins import Plugins
from siteward.records import Records
from siteward.request import Finding, JobRef
from siteward.sitefile import SiteFile
from siteward.statedir import OwnerLock
from siteward.store import DRIVEN, Event, JobRow, Phase
from siteward.tracked import Tracked


@frozen(kw_only=True)
class Garbage:
    """Something ``gc`` removed or would remove: a ``job`` (old), an ``orphan`` (on a platform), a ``folder``."""

    kind: str
    job_id: str
    reason: str


class Site:
    """One site of this machine. Several processes, and several Site objects, may use the same site at once.

    Opening it takes over the jobs of drivers that died. Closing it (leaving ``with``) leaves jobs running.
    """

    def __init__(self, file: SiteFile, *, plugins: Plugins | None = None, adopt: bool = True) -> None:
        self._parts = SiteParts(file, plugins or Plugins())
        self._parts.adopt_queued = self._adopt_queued
        self._records = Records(site=file.name, store=self._parts.store)
        if adopt:
            self._adopt_orphans()

    @classmethod
    def load(cls, path: str | Path, *, plugins: Plugins | None = None, adopt: bool = True) -> Site:
        """Open the site that a file describes; FileError, PluginError or StoreError when it cannot be.

        ``adopt=False`` is for looking only: jobs of dead drivers stay as they are.
        """
        return cls(SiteFile.load(path), plugins=plugins, adopt=adopt)

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything; jobs go on. Harmless when done before."""
        if self._parts.driver.closed:
            return
        self._parts.driver.close()
        for launcher in self._parts.launchers.values():
            try:
                launcher.close()
            except Exception as error:
                self._parts.log.warning("backend %s did not close: %s", launcher.name, error)
        self._parts.store.close()

    @property
    def name(self) -> str:
        """The site's name."""
        return self._parts.file.name

    @property
    def file(self) -> SiteFile:
        """The site file as it was read."""
        return self._parts.file

    @property
    def state_dir(self) -> Path:
        """Where the site keeps its store and its jobs' folders."""
        return self._parts.state_dir

    @property
    def plugins(self) -> Plugins:
        """The plugins this site was opened with."""
        return self._parts.plugins

    # --- jobs ---

    def prepare(self, job: Job) -> Prepared:
        """Check a job and reserve its resources, starting nothing; LaunchError if the site cannot start it."""
        return prepare(self._parts, job)

    def launch(self, job: Job) -> Handle:
        """Start a job and return at once; LaunchError (and nothing left behind) if it cannot be started.

        With ``max_jobs`` running the job is queued and the handle is PENDING.
        """
        return self.start(self.prepare(job))

    def start(self, prepared: Prepared) -> Handle:
        """Start what :meth:`prepare` returned."""
        return self._handle(prepared.launch())

    def render(self, job: Job) -> object:
        """Return what would be submitted, with secrets masked; nothing is reserved or started."""
        launcher, request = build_request(self._parts, job)
        return launcher.render(request)

    def attach(self, job_id: str) -> Handle:
        """Return a handle on any job of this site, running or ended; UnknownJob if there is none."""
        tracked = self._parts.driver.tracked(job_id)
        return self._handle(tracked or Tracked.from_row(self.row(job_id), self._parts.job_folder(job_id)))

    def jobs(self, *, ended: bool = True) -> list[JobRow]:
        """Return this site's jobs as stored, oldest first; with ``ended=False`` only those not ended."""
        return self._records.jobs(ended=ended)

    def row(self, job_id: str) -> JobRow:
        """Return one job as stored; UnknownJob if there is none."""
        return self._records.row(job_id)

    def events(self, job_id: str) -> list[Event]:
        """Return a job's history in words, oldest first; UnknownJob if there is none."""
        return self._records.events(job_id)

    def note(self, job_id: str, kind: str, message: str) -> None:
        """Add something to a job's history."""
        self._parts.store.update(job_id, kind, message)

    def _handle(self, tracked: Tracked) -> Handle:
        return Handle(self._parts, tracked, self._adopt)

    # --- adoption ---

    def _adopt_orphans(self) -> None:
        for row in self._parts.store.rows((*DRIVEN, Phase.REPORTED)):
            folder = self._parts.job_folder(row.job_id)
            if not folder.is_dir():
                continue
            lock = OwnerLock(folder)
            if not lock.acquire(wait=False):
                lock.release()
                continue
            tracked = Tracked.from_row(row, folder)
            tracked.lock = lock
            self._adopt(tracked)

    def _adopt(self, tracked: Tracked) -> None:
        """Go on with a job whose lock this process has just got, from what the store says now."""
        row = self._parts.store.get(tracked.job_id)
        if row is None:
            self._let_go(tracked)
            raise UnknownJob(tracked.job_id, self.name)
        tracked.launcher = self._parts.launchers.get(row.backend)
        for name in ("ref", "phase", "status", "token", "started_at", "stop_cause", "stop_grace"):
            setattr(tracked, name, getattr(row, name))
        if row.done:
            self._parts.driver.finish_removal(tracked, removed=row.phase is Phase.REMOVED)
            self._let_go(tracked)
            if not tracked.future.done() and row.result is not None:
                tracked.future.set_result(row.result)
            return
        self._parts.driver.track(tracked)
        self._parts.store.update(row.job_id, "adopted", driver=self._parts.driver.name)
        self._resume(tracked, row)

    def _let_go(self, tracked: Tracked) -> None:
        if tracked.lock is not None:
            tracked.lock.release()
            tracked.lock = None

    def _resume(self, tracked: Tracked, row: JobRow) -> None:
        if tracked.launcher is None:
            words = f"backend {row.backend!r} is not in the site file any more; enable it again to follow this job"
            self._parts.log.warning("job %s: %s", row.job_id, words)
            tracked.status = row.status
        elif row.phase is Phase.QUEUED and row.job is not None:
            prepared = self._prepare_queued(tracked, row.job)
            tracked.launch = lambda: prepared.start_queued(tracked)
            self._parts.driver.loop.call_later(0, self._parts.admit)
        elif row.phase is Phase.INTENT:
            self._parts.driver.submit(look_for, self._parts, tracked, "")
        else:
            self._parts.driver.resume(tracked)

    def _prepare_queued(self, tracked: Tracked, data: Mapping[str, Any]) -> Prepared:
        job = Job.from_mapping({key: value for key, value in data.items() if value is not None}, file=tracked.job_id)
        launcher, request = build_request(self._parts, job)
        return Prepared(parts=self._parts, job=job, launcher=launcher, request=request, reservation=None)

    def _adopt_queued(self, row: JobRow) -> Tracked | None:
        lock = OwnerLock(self._parts.job_folder(row.job_id))
        if not lock.acquire(wait=False):
            lock.release()
            return None
        tracked = Tracked.from_row(row, self._parts.job_folder(row.job_id))
        tracked.lock = lock
        self._adopt(tracked)
        return tracked

    # --- looking after the site ---

    def platform_jobs(self) -> list[JobRef]:
        """Return this site's jobs as its platforms list them; BackendError if one cannot be asked."""
        refs: list[JobRef] = []
        for launcher in self._parts.launchers.values():
            try:
                refs += launcher.list_jobs() or []
            except Exception as error:
                raise BackendError(f"backend {launcher.name!r} cannot list its jobs: {error}") from error
        return refs

    def resources(self) -> dict[str, Any]:
        """Return what the site's resource manager reports: {manager name: its report}; empty without one."""
        manager = self._parts.manager
        return {} if manager is None else {manager.name: manager.report()}

    def doctor(self) -> list[Finding]:
        """Return every backend's findings, and those about the site itself."""
        free = shutil.disk_usage(self.state_dir).free
        low = free < 2**30
        findings = [
            Finding(level="ok", subject="site", message=f"{self.name}: state in {self.state_dir}"),
            Finding(
                level="warn" if low else "ok",
                subject="disk",
                message=f"{free / 2**30:.1f} GiB free for job directories",
                remedy="Free some space, or set `state_dir` to a larger disk" if low else "",
            ),
        ]
        for launcher in self._parts.launchers.values():
            findings += launcher.check()
        return findings

    def gc(self, *, dry_run: bool = False, running: bool = False) -> list[Garbage]:
        """Remove what retention (``keep``) no longer holds, orphans on platforms, and folders of no job.

        Orphans are jobs on a platform that the store does not know; running ones are ended only with ``running``.
        """
        garbage = [*self._old_jobs(), *self._folders_of_no_job()]
        for each in garbage:
            if not dry_run:
                self._parts.store.delete([each.job_id])
                shutil.rmtree(self._parts.job_folder(each.job_id), ignore_errors=True)
        return garbage + self._orphans(dry_run=dry_run, running=running)

    def _old_jobs(self) -> list[Garbage]:
        done = self._parts.store.rows((Phase.REPORTED, Phase.REMOVED))
        keep, oldest = self._parts.file.keep, time.time() - self._parts.file.keep.days * 86400
        surplus = len(done) - keep.jobs
        garbage = []
        for index, row in enumerate(done):
            if index < surplus:
                garbage.append(Garbage(kind="job", job_id=row.job_id, reason=f"more than {keep.jobs} ended jobs"))
            elif (row.ended_at or row.created_at) < oldest:
                garbage.append(Garbage(kind="job", job_id=row.job_id, reason=f"ended more than {keep.days:g} days ago"))
        return garbage

    def _folders_of_no_job(self) -> list[Garbage]:
        known = {row.job_id for row in self._parts.store.rows()}
        garbage = []
        for folder in sorted((self.state_dir / "jobs").iterdir()):
            if folder.name in known:
                continue
            lock = OwnerLock(folder)
            if lock.acquire(wait=False) and self._parts.store.get(folder.name) is None:
                garbage.append(Garbage(kind="folder", job_id=folder.name, reason="belongs to no job"))
            lock.release()
        return garbage

    def _orphans(self, *, dry_run: bool, running: bool) -> list[Garbage]:
        garbage = []
        for launcher in self._parts.launchers.values():
            for ref in launcher.list_jobs() or ():
                row = self._parts.store.get(ref.job_id)
                if row is not None and not row.done:
                    continue
                alive = not launcher.poll(ref).state.ended
                if alive and not running:
                    continue
                words = f"{'runs' if alive else 'ended'} on {launcher.name}, but is no job of this site's store"
                garbage.append(Garbage(kind="orphan", job_id=ref.job_id, reason=words))
                if not dry_run:
                    if alive:
                        launcher.terminate(ref, self._parts.file.grace)
                    launcher.remove(ref)
        return garbage
