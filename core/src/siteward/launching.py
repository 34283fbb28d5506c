"""From a job to something that runs: check everything, then reserve, store the intent, and hand it over.

:func:`prepare` starts nothing and reserves at most resources; :meth:`Prepared.launch` does the rest. A failure
before something may exist raises and leaves nothing behind; any later one gives a job that can be watched.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict, define, evolve

from siteward.config import Problems, nearest
from siteward.ends import JobState
from siteward.errors import (
    DuplicateJob,
    LaunchError,
    LaunchUncertain,
    NoBackend,
    OptionsRefused,
    Problem,
    ResourcesRefused,
    SitewardError,
    StoreError,
)
from siteward.job import Job, SiteSpec
from siteward.launcher import Launcher, choose_backend, offered_backends, where_offered
from siteward.request import JobRef, JobRequest, JobStatus
from siteward.resources import Allocation, Refusal, Reservation, portable_resources, requirement
from siteward.settling import fail_launch, find_job, look_for, stage
from siteward.statedir import OwnerLock, copy_workspace
from siteward.store import NOTE, Phase
from siteward.tracked import Tracked

if TYPE_CHECKING:
    from siteward.parts import SiteParts


_GC_MOMENT = 0.5


def backend_of(parts: SiteParts, job: Job) -> str:
    """Return the name of the backend that would run a job here; NoBackend when none would."""
    return _choose(parts, offered_backends(job, parts.file.name))


def build_request(parts: SiteParts, job: Job, secrets: Mapping[str, str] | None = None) -> tuple[Launcher, JobRequest]:
    """Choose the backend and check all that the job asks of this site; nothing is reserved or started.

    ``secrets`` are further ones by variable, with their values. NoBackend, or OptionsRefused with every other
    problem at once.
    """
    file = parts.file
    if job.sites is not None and file.name not in job.sites:
        raise LaunchError(f"job {job.name!r} does not run at site {file.name!r}; its sites: {', '.join(job.sites)}")
    offered = offered_backends(job, file.name)
    name = _choose(parts, offered)
    launcher = parts.launcher(name)
    resources = portable_resources(job.resource_spec, file.name)
    problems: list[Problem] = []
    options = None
    try:
        options = launcher.job_options(offered.get(name, {}), resources)
    except OptionsRefused as error:
        problems += [problem.under(where_offered(job, file.name, name, problem.path)) for problem in error.problems]
    study, study_env = _study(parts, job, launcher, problems)
    spec = job.site_spec.get(file.name, SiteSpec())
    own = spec.command is not None or spec.module is not None
    command, module = (spec.command, spec.module) if own else (job.command, job.module)
    if command is None and module is None:
        problems.append(Problem(f"site_spec.{file.name}", "neither here nor in the job is a command or a module"))
    request = JobRequest(
        job_id=job.id,
        name=job.name,
        site=file.name,
        job_dir=Path(f"{parts.job_folder(job.id)}/work"),
        options=options,
        study=study,
        study_name=job.study,
        resources=resources,
        timeout=job.timeout,
        grace=file.grace,
        labels={"site": file.name, "job-id": job.id, "attempt": "1", "name": job.name},
        backend=name,
        command=command,
        module=module,
        args=spec.args if spec.args is not None else job.args,
        env={**file.env, **study_env, **job.env, **spec.env},
        secrets={**_secrets(parts, job, problems), **(secrets or {})},
    )
    if problems:
        raise OptionsRefused(Problem(p.path, f"at site {file.name!r}: {p.message}", p.suggestion) for p in problems)
    return launcher, request


def _choose(parts: SiteParts, offered: Mapping[str, Any]) -> str:
    enabled, default = tuple(parts.file.backends), parts.file.default_backend
    with suppress(NoBackend):
        return choose_backend(offered, enabled, default)
    # Only now is it worth loading all plugins, to see which are broken.
    broken = {each.name: each.reason for each in parts.plugins.records() if each.status == "broken"}
    return choose_backend(offered, enabled, default, broken, site=parts.file.name)


def _study(parts: SiteParts, job: Job, launcher: Launcher, problems: list[Problem]) -> tuple[Any, Mapping[str, str]]:
    if job.study is None:
        return None, {}
    studies = parts.file.studies
    if job.study not in studies:
        known = ", ".join(studies) or "none"
        words = f"site {parts.file.name!r} has no study {job.study!r}; its studies: {known}"
        problems.append(Problem("study", words, nearest(job.study, studies)))
        return None, {}
    try:
        options = launcher.study_options(parts.file.study_block(job.study, launcher.name))
    except Problems as error:
        problems += [problem.under(f"studies.{job.study}.{launcher.name}") for problem in error.problems]
        options = None
    return options, parts.file.study_env(job.study)


def _secrets(parts: SiteParts, job: Job, problems: list[Problem]) -> dict[str, str]:
    values, lent = {}, parts.file.job_secrets
    for variable, name in job.secrets.items():
        try:
            values[variable] = parts.file.read_secret(name)
        except ValueError as error:
            close = None if name in lent else nearest(name, lent)
            problems.append(Problem(f"secrets.{variable}", str(error), close))
    return values


def prepare(
    parts: SiteParts,
    job: Job,
    *,
    secrets: Mapping[str, str] | None = None,
    reservation: Reservation | None = None,
) -> Prepared:
    """Check a job and reserve its resources, unless a reservation for it is given already.

    ResourcesRefused if the site's manager says no.
    """
    launcher, request = build_request(parts, job, secrets)
    if os.path.lexists(request.job_dir) and parts.store.get(job.id) is not None:
        raise _duplicate(parts, job.id)
    if reservation is None:
        reservation = _reserve(parts, job)
    return Prepared(parts=parts, job=job, launcher=launcher, request=request, reservation=reservation)


def check_renderable(parts: SiteParts, job: Job) -> None:
    """Refuse a job whose resources this site can never have; what it has but not just now is no hindrance.

    The reservation that the answer comes with is given back at once.
    """
    try:
        reservation = _reserve(parts, job)
    except ResourcesRefused as error:
        if error.refusal.permanent:
            raise
        return
    if reservation is not None and parts.manager is not None:
        parts.manager.cancel(reservation.token)


def _duplicate(parts: SiteParts, job_id: str) -> DuplicateJob:
    words = f"site {parts.file.name!r} already has a job {job_id!r}; leave `id` out to get a new one each time"
    return DuplicateJob(words)


def _reserve(parts: SiteParts, job: Job) -> Reservation | None:
    if parts.manager is None:
        return None
    spec, site = job.resource_spec, parts.file.name
    wanted = requirement(spec, site)
    if parts.manager.portable:
        portable = portable_resources(spec, site)
        counted = {"num_of_cpus": portable.num_of_cpus, "memory": portable.memory}
        wanted |= {name: value for name, value in counted.items() if value is not None}
    return reserve(parts, wanted, job.id)


def reserve(parts: SiteParts, wanted: Mapping[str, Any], job_id: str) -> Reservation | None:
    """Reserve what the manager is asked for, None without a manager; ResourcesRefused when it says no."""
    if parts.manager is None:
        return None
    answer = parts.manager.check(wanted, job_id)
    if isinstance(answer, Refusal):
        raise ResourcesRefused(parts.file.name, answer)
    return answer


@define(kw_only=True)
class Prepared:
    """A job that its site has said yes to: :meth:`launch` it or :meth:`cancel` it."""

    parts: SiteParts
    job: Job
    launcher: Launcher
    request: JobRequest
    reservation: Reservation | None
    inserted: bool = False

    def cancel(self) -> None:
        """Give the reservation back; a manager that cannot take it is logged (reservations expire)."""
        if self.reservation is not None and self.parts.manager is not None:
            reservation, self.reservation = self.reservation, None
            try:
                self.parts.manager.cancel(reservation.token)
            except Exception as error:
                self.parts.log.error("job %s: its reservation cannot be cancelled: %s", self.job.id, error)

    def launch(self) -> Tracked:
        """Start the job, or queue it while ``max_jobs`` run; LaunchError with nothing left behind otherwise."""
        tracked = None
        try:
            tracked = self._claim()
            if self.parts.file.max_jobs is None:
                self._start(tracked, new=True)
            else:
                self._queue(tracked)
        except Exception as error:
            self.cancel()
            if tracked is not None:
                self._leave_nothing(tracked)
            if isinstance(error, OSError):
                words = f"the job directory cannot be made: {error}. Check the disk's free space and permissions"
                raise StoreError(words) from error
            raise
        except BaseException:  # interrupted: the next driver settles from the intent whether the job exists
            if tracked is not None:
                self.parts.driver.untrack(tracked)
            raise
        return tracked

    def _claim(self) -> Tracked:
        """Take the job's folder and lock; whoever comes second gets DuplicateJob."""
        job_dir = str(self.request.job_dir)
        folder = os.path.dirname(job_dir)
        lock, new = _lock_folder(folder, lambda: self.parts.store.get(self.job.id) is not None)
        if lock is None or (not new and self.parts.store.get(self.job.id) is not None):
            if lock is not None:
                lock.release()
            raise _duplicate(self.parts, self.job.id)
        tracked = Tracked(
            job_id=self.job.id,
            name=self.job.name,
            backend=self.launcher.name,
            folder=folder,
            grace=self.request.grace,
            timeout=self.request.timeout,
            launcher=self.launcher,
            lock=lock,
        )
        try:
            self.parts.driver.track(tracked)
            if not new and os.path.lexists(job_dir):  # left by a crash before the intent was stored
                shutil.rmtree(job_dir)
            os.mkdir(job_dir, 0o700)
            if (workspace := self.job.workspace_path()) is not None:
                copy_workspace(workspace, self.request.job_dir, self.parts.state_dir)
                self.request.job_dir.chmod(0o700)
        except BaseException:
            self._leave_nothing(tracked)
            raise
        return tracked

    def _leave_nothing(self, tracked: Tracked) -> None:
        """Undo what a launch that failed has done; a row that cannot be deleted is settled by the next driver."""
        self._free(tracked)
        try:
            if self.inserted:
                self.parts.store.delete([self.job.id])
            shutil.rmtree(tracked.folder, ignore_errors=True)
        except StoreError as error:
            self.parts.log.error("job %s: %s", self.job.id, error)
        self.parts.driver.untrack(tracked)

    def _free(self, tracked: Tracked) -> None:
        if tracked.token is not None and self.parts.manager is not None:
            token, tracked.token = tracked.token, None
            try:
                self.parts.manager.free(token)
            except Exception as error:
                self.parts.log.error("job %s: its resources cannot be freed: %s", self.job.id, error)

    def _insert(self, tracked: Tracked, phase: Phase, **more: Any) -> None:
        tracked.phase = phase
        inserted = self.parts.store.insert(
            self.job.id,
            name=self.job.name,
            backend=self.launcher.name,
            phase=phase,
            grace=self.request.grace,
            timeout=self.request.timeout,
            driver=self.parts.driver.name,
            **more,
        )
        if not inserted:
            raise _duplicate(self.parts, self.job.id)
        self.inserted = True

    # --- starting ---

    def _start(self, tracked: Tracked, *, new: bool) -> None:
        if self.reservation is not None:
            tracked.notes = tuple(self.reservation.notes)
        allocation = self._allocate()
        request = self.request
        if allocation is not None:
            request = evolve(request, allocation=allocation.placed(self.launcher.devices))
            tracked.token = allocation.token if allocation.to_free else None
        if new:
            self._insert(tracked, Phase.INTENT, token=tracked.token)
        else:
            self.parts.store.update(self.job.id, token=tracked.token)
        for words in tracked.notes:
            self.parts.driver.note(tracked, NOTE, words)
        self.parts.driver.ensure_watch(self.launcher)
        ref, message = self._hand_over(request)
        if ref is None:
            look_for(self.parts, tracked, message)
            return
        self.parts.driver.launched(tracked, ref, message)
        if self.launcher.stages:
            self.parts.driver.submit(stage, self.parts, tracked)
        if message:  # of a job that may not exist, no watch has news
            self.parts.driver.submit(self.parts.driver.poll, tracked)

    def _allocate(self) -> Allocation | None:
        if self.reservation is None or self.parts.manager is None:
            return None
        try:
            allocation = self.parts.manager.allocate(self.reservation.token, self.job.id)
        except Exception as error:
            raise LaunchError(f"the job's reservation cannot be allocated: {error}") from error
        self.reservation = None
        return allocation

    def _hand_over(self, request: JobRequest) -> tuple[JobRef | None, str]:
        """Call the backend; a ref, or None when nobody can say yet whether the job exists."""
        try:
            return self.launcher.launch(request), ""
        except LaunchUncertain as uncertain:
            return uncertain.ref, str(uncertain)
        except LaunchError:
            raise
        except Exception as error:
            words = f"backend {self.launcher.name!r} failed to launch the job: {type(error).__name__}: {error}"
            try:
                found = find_job(self.launcher, self.job.id)
            except Exception:
                return None, words
            if found is None:
                raise LaunchError(words) from error
            return found, words

    # --- queueing ---

    def _queue(self, tracked: Tracked) -> None:
        tracked.launch = partial(self.start_queued, tracked)
        job = {key: value for key, value in asdict(self.job).items() if key != "base_dir"}
        self._insert(tracked, Phase.QUEUED, job={**job, "workspace": None})
        self.cancel()
        self.parts.admit(here=tracked)

    def start_queued(self, tracked: Tracked) -> None:
        """Launch a queued job at its turn; refused resources put it back into the queue, other failures end it."""
        try:
            self.reservation = self.reservation or _reserve(self.parts, self.job)
            self._start(tracked, new=False)
        except ResourcesRefused as refused:
            words = refused.refusal.message
            if refused.refusal.permanent:
                fail_launch(self.parts, tracked, words)
                return
            with tracked.changed:
                tracked.phase = Phase.QUEUED
                tracked.not_before = time.monotonic() + self.parts.file.poll_interval
                tracked.status = JobStatus(state=JobState.PENDING, message=words)
                self.parts.driver.note(tracked, "waiting", words, phase=Phase.QUEUED, message=words)
                tracked.changed.notify_all()
            if tracked.stop_cause is not None:
                self.parts.driver.send_stop(tracked)
            self.parts.driver.loop.call_later(self.parts.file.poll_interval, self.parts.admit)
        except Exception as error:
            self.cancel()
            words = str(error) if isinstance(error, (SitewardError, OSError)) else f"{type(error).__name__}: {error}"
            fail_launch(self.parts, tracked, words)


def _lock_folder(folder: str, taken: Callable[[], bool]) -> tuple[OwnerLock | None, bool]:
    """Return the lock on a job's folder (None if another has it), and whether the folder is new.

    ``taken`` says whether the folder is a job's; when it is not, gc may hold the lock for a moment.
    """
    give_up = time.monotonic() + _GC_MOMENT
    while True:
        try:
            os.mkdir(folder, 0o700)
            new = True
        except FileExistsError:
            new = False
        try:
            lock = OwnerLock(folder)
        except FileNotFoundError:  # gc took the folder for an abandoned one
            continue
        if lock.acquire(wait=False):
            if lock.intact():
                return lock, new
            lock.release()
        else:
            lock.release()
            if taken() or time.monotonic() > give_up:
                return None, new
            time.sleep(0.005)
