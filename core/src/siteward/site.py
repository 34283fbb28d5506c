"""A site, open: launch jobs, find them again, look after what is left of them.

>>> from siteward import Job, Site
>>> with Site.load("site.yaml") as site:                                              # doctest: +SKIP
...     result = site.launch(Job.load("job.yaml")).wait()
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from siteward.adoption import Adopter
from siteward.ends import JobState
from siteward.errors import BackendError
from siteward.handle import Handle
from siteward.job import Job
from siteward.launcher import Launcher
from siteward.launching import Prepared, backend_of, build_request, check_renderable, prepare, reserve
from siteward.parts import SiteParts
from siteward.plugins import Plugins
from siteward.records import Records
from siteward.request import Finding, JobRef
from siteward.resources import Reservation
from siteward.sitefile import SiteFile
from siteward.statedir import OwnerLock, remove_tree
from siteward.store import Event, JobRow, Phase
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
        self._records = Records(site=file.name, store=self._parts.store, state_dir=self._parts.state_dir)
        self._adopter = Adopter(self._parts)
        if adopt:
            try:
                self._adopter.adopt_orphans()
                self._parts.site_plugins.open()
            except BaseException:
                self.close()
                raise

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
        """Let go of everything; jobs go on. Harmless when done before, and in a forked child, where nothing is ours."""
        if self._parts.driver.closed or self._parts.driver.pid != os.getpid():
            return
        self._parts.driver.close()
        self._parts.site_plugins.close()
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

    def prepare(
        self, job: Job, *, secrets: Mapping[str, str] | None = None, reservation: Reservation | None = None
    ) -> Prepared:
        """Check a job and reserve its resources, starting nothing; LaunchError if the site cannot start it.

        ``secrets`` (variable: value) are given to this launch alone and stored nowhere; ``reservation`` is one that
        :meth:`reserve` made for a job of this id.
        """
        return prepare(self._parts, job, secrets=secrets, reservation=reservation)

    def launch(self, job: Job) -> Handle:
        """Start a job and return at once; LaunchError (and nothing left behind) if it cannot be started.

        With ``max_jobs`` running the job is queued and the handle is PENDING.
        """
        return self.start(self.prepare(job))

    def backend_of(self, job: Job) -> str:
        """Return the name of the backend that would run a job here; NoBackend when none would."""
        return backend_of(self._parts, job)

    def reserve(self, requirement: Mapping[str, Any], job_id: str) -> Reservation | None:
        """Reserve what a job will need, before there is a job; ResourcesRefused when the site's manager says no.

        None without a manager: such a site says yes to everything. Give it to :meth:`prepare` or :meth:`cancel`.
        """
        return reserve(self._parts, requirement, job_id)

    def cancel(self, reservation: Reservation) -> None:
        """Give a reservation back that no job has taken; harmless when done before."""
        if self._parts.manager is not None:
            self._parts.manager.cancel(reservation.token)

    def start(self, prepared: Prepared) -> Handle:
        """Start what :meth:`prepare` returned."""
        return self._handle(prepared.launch())

    def render(self, job: Job) -> object:
        """Return what would be submitted, with secrets masked; nothing stays reserved, nothing is started.

        LaunchError if the site could never start it.
        """
        launcher, request = build_request(self._parts, job)
        check_renderable(self._parts, job)
        return launcher.render(request)

    def attach(self, job_id: str) -> Handle:
        """Return a handle on any job of this site, running or ended; UnknownJob if there is none."""
        tracked = self._parts.driver.known(job_id)
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
        return Handle(self._parts, tracked, self._adopter.adopt)

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
        findings += self._check_trust()
        for launcher in self._parts.launchers.values():
            findings += launcher.check()
        return findings

    def _check_trust(self) -> list[Finding]:
        """Look at what the site's file promises and at who may change it."""
        findings = []
        for name, source in self.file.job_secrets.items():
            try:
                source.read(self.file.base_dir)
            except ValueError as error:
                remedy = "Jobs that ask for it are refused until it is there"
                findings.append(Finding(level="warn", subject=f"secret {name}", message=str(error), remedy=remedy))
        path = Path(self.file.file)
        if path.is_file() and path.stat().st_mode & 0o022:
            remedy = f"chmod go-w {path}: whoever can write it decides what runs here"
            findings.append(Finding(level="warn", subject="site file", message="others may write it", remedy=remedy))
        return findings

    def gc(self, *, dry_run: bool = False, running: bool = False) -> list[Garbage]:
        """Remove what retention (``keep``) no longer holds, orphans on platforms, and folders of no job.

        Orphans are jobs on a platform that the store does not know; those that run are ended only with ``running``.
        """
        garbage = []
        for row, reason in self._old_jobs():
            if not dry_run:
                if not self._is_off_its_platform(row):
                    continue
                self._parts.store.delete([row.job_id])
                remove_tree(self._parts.job_folder(row.job_id))
            garbage.append(Garbage(kind="job", job_id=row.job_id, reason=reason))
        garbage += self._folders_of_no_job(dry_run=dry_run)
        return garbage + self._orphans(dry_run=dry_run, running=running)

    def _old_jobs(self) -> Iterator[tuple[JobRow, str]]:
        """Yield the jobs that retention no longer holds, and why."""
        done = self._parts.store.rows((Phase.REPORTED, Phase.REMOVED))
        keep, oldest = self._parts.file.keep, time.time() - self._parts.file.keep.days * 86400
        surplus = len(done) - keep.jobs
        for index, row in enumerate(done):
            if index < surplus:
                yield row, f"more than {keep.jobs} ended jobs"
            elif (row.ended_at or row.created_at) < oldest:
                yield row, f"ended more than {keep.days:g} days ago"

    def _is_off_its_platform(self, row: JobRow) -> bool:
        """Have the platform forget an ended job if it has not; False when that cannot be done now: the job stays."""
        launcher = self._parts.launchers.get(row.backend)
        if row.phase is Phase.REMOVED or row.ref is None or launcher is None:
            return True
        try:
            launcher.remove(row.ref)
        except Exception as error:
            self._parts.log.warning("job %s stays: it cannot be removed from its platform now: %s", row.job_id, error)
            return False
        return True

    def _folders_of_no_job(self, *, dry_run: bool) -> list[Garbage]:
        known = {row.job_id for row in self._parts.store.rows()}
        garbage = []
        for folder in sorted((self.state_dir / "jobs").iterdir()):
            if folder.name in known or folder.is_symlink() or not folder.is_dir():
                continue
            try:
                lock = OwnerLock(folder)
            except OSError:  # gone meanwhile, or not ours to touch
                continue
            if lock.acquire(wait=False) and self._parts.store.get(folder.name) is None:
                garbage.append(Garbage(kind="folder", job_id=folder.name, reason="belongs to no job"))
                if not dry_run:  # at once, under its lock: a job that is just being launched may want it
                    aside = folder.rename(folder.with_name(f".{folder.name}"))
                    remove_tree(aside)
            lock.release()
        return garbage

    def _orphans(self, *, dry_run: bool, running: bool) -> list[Garbage]:
        garbage: list[Garbage] = []
        for launcher in self._parts.launchers.values():
            try:
                for ref in launcher.list_jobs() or ():
                    garbage += self._orphan(launcher, ref, dry_run=dry_run, running=running)
            except Exception as error:
                self._parts.log.warning("backend %s: its orphans cannot be removed now: %s", launcher.name, error)
        return garbage

    def _orphan(self, launcher: Launcher, ref: JobRef, *, dry_run: bool, running: bool) -> list[Garbage]:
        row = self._parts.store.get(ref.job_id)
        if row is not None and not row.done:
            return []
        status = launcher.poll(ref)
        never_ran = status.state is JobState.PENDING and status.reachable
        if not (status.state.ended or never_ran or running):
            return []
        if not dry_run:
            if not status.state.ended:
                launcher.terminate(ref, self._parts.file.grace)
            launcher.remove(ref)
        known = "its end is stored" if row is not None else "it is no job of this site's store"
        words = f"{'ended' if status.state.ended else 'waits' if never_ran else 'runs'} on {launcher.name}, and {known}"
        return [Garbage(kind="orphan", job_id=ref.job_id, reason=words)]
