"""The siteward site of one FLARE parent: opened once, shared by its launcher and its resource manager."""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from logging import Logger
from pathlib import Path
from typing import Any
from uuid import uuid4

from attrs import frozen

from siteward import Handle, Job, Reservation, ResourceError, Result, Site, UnknownJob, remove_tree, safe_name
from siteward_nvflare.carrying import bring_home, forget_kit, pack
from siteward_nvflare.meta import own_code, without_repeats
from siteward_nvflare.process import JOB_DIR, JobProcess
from siteward_nvflare.sites import RESERVED_FOR

PROPERTY = "_siteward_bridge"
_LEFT_OVER = 30.0
# What a job is sent is packed here for as long as that takes, with the site's keys in it.
_CARRIED, _CARRIED_WITHIN = "flare-", 3600.0


@frozen(kw_only=True)
class Wanted:
    """One job that FLARE wants at this site: what it asks (``offered``, ``resources``, ``study``) and what runs."""

    job_id: str
    site: str
    meta: Mapping[str, Any]
    offered: Mapping[str, dict[str, Any]]
    resources: Mapping[str, Any]
    study: str | None
    process: JobProcess


@frozen(kw_only=True)
class _Reserved:
    job_id: str
    siteward_id: str
    reservation: Reservation | None
    until: float


def _until(reservation: Reservation | None) -> float:
    """Return when a reservation is void, by the monotonic clock: as its manager says, else as FLARE's own would be."""
    expires_at = None if reservation is None else reservation.expires_at
    return time.monotonic() + (RESERVED_FOR if expires_at is None else expires_at - time.time())


class Bridge:
    """Launches FLARE's jobs at a siteward site. ``shared`` backends see the files of this machine at the same paths."""

    def __init__(
        self, site: Site, *, name: str, shared: tuple[str, ...], inherited_path: tuple[str, ...], log: Logger
    ) -> None:
        self.site = site
        self._name = name
        self._shared = shared
        self._inherited_path = inherited_path
        self._log = log
        self._lock = threading.Lock()
        self._reserved: dict[str, _Reserved] = {}
        self._allocated: dict[str, str] = {}

    # --- resources, as FLARE's protocol goes: check, then cancel or allocate, then launch, then free ---

    def reserve(self, requirement: Mapping[str, Any], job_id: str, site: str) -> str:
        """Reserve for a job of FLARE's and return a token; ResourcesRefused when the site's manager says no."""
        self._forget_old()
        siteward_id = self._unused_id(job_id, site)
        reservation = self.site.reserve(requirement, siteward_id)
        token = uuid4().hex
        with self._lock:
            self._reserved[token] = _Reserved(
                job_id=job_id, siteward_id=siteward_id, reservation=reservation, until=_until(reservation)
            )
        return token

    def _forget_old(self) -> None:
        """Give back what a server has asked for and, gone meanwhile perhaps, neither used nor cancelled."""
        now = time.monotonic()
        with self._lock:
            kept = set(self._allocated.values())
            old = [token for token, each in self._reserved.items() if each.until < now and token not in kept]
        for token in old:
            self.give_back(token)

    def allocate(self, token: str) -> None:
        """Keep a reservation for the launch that follows; ResourceError when there is none."""
        with self._lock:
            if token not in self._reserved:
                raise ResourceError("nothing is reserved under this token; FLARE must check the resources again")
            self._allocated[self._reserved[token].job_id] = token

    def give_back(self, token: str) -> None:
        """Give back what no launch has taken; harmless otherwise: what a job holds goes back at its end."""
        with self._lock:
            reserved = self._reserved.pop(token, None)
            if reserved is not None and self._allocated.get(reserved.job_id) == token:
                del self._allocated[reserved.job_id]
        self._cancel(reserved)

    def _cancel(self, reserved: _Reserved | None) -> None:
        if reserved is None or reserved.reservation is None:
            return
        try:
            self.site.cancel(reserved.reservation)
        except Exception as error:
            self._log.error("job %s: its reservation cannot be given back: %s", reserved.job_id, error)

    def _take(self, job_id: str) -> _Reserved | None:
        with self._lock:
            token = self._allocated.pop(job_id, None)
            return None if token is None else self._reserved.pop(token)

    # --- jobs ---

    def start(self, wanted: Wanted) -> Handle:
        """Launch a job; LaunchError, FileError or ValueError, and nothing left behind, when it cannot be."""
        reserved = self._take(wanted.job_id)
        try:
            self._end_earlier(wanted)
            siteward_id = reserved.siteward_id if reserved else self._unused_id(wanted.job_id, wanted.site)
            backend = self.site.backend_of(Job.from_mapping(self._description(wanted, siteward_id)))
            words = own_code(wanted.meta, wanted.offered.get(backend, {}))
            if words is not None:
                raise ValueError(f"job {wanted.job_id}: {words}")
            if backend in self._shared:
                return self._launch(wanted, siteward_id, reserved)
            with tempfile.TemporaryDirectory(prefix=_CARRIED, dir=self.site.state_dir) as folder:
                target = Path(folder) / "workspace"
                pack(Path(wanted.process.workspace), wanted.job_id, target, leave_out=self._own_files())
                return self._launch(wanted, siteward_id, reserved, carried=folder)
        except BaseException:
            self._cancel(reserved)
            raise

    def _own_files(self) -> list[Path]:
        """Return what is the site's alone: should it lie among FLARE's files, it does not go to jobs."""
        file = self.site.file
        secrets = [file.base_dir / Path(each.file).expanduser() for each in file.job_secrets.values() if each.file]
        return [file.base_dir / Path(file.file).name, self.site.state_dir, *secrets]

    def _launch(
        self, wanted: Wanted, siteward_id: str, reserved: _Reserved | None, *, carried: str | None = None
    ) -> Handle:
        process = wanted.process
        if carried is None:
            args, path, more = process.args, [*process.python_path, *self._inherited_path], {}
        else:
            args, path = process.args_in(JOB_DIR), process.python_path_in(".")
            more = {"workspace": "workspace"}
        data = {**self._description(wanted, siteward_id), **more, "args": list(args)}
        data["env"] = {"PYTHONPATH": ":".join(path)} if path else {}
        job = Job.from_mapping(data, file=f"job {wanted.job_id}", base_dir=carried or ".")
        reservation = reserved.reservation if reserved else None
        prepared = self.site.prepare(job, secrets=process.credentials, reservation=reservation)
        handle = self.site.start(prepared)
        self._log.info("job %s runs as %s on backend %s", wanted.job_id, handle.job_id, handle.backend)
        return handle

    def _description(self, wanted: Wanted, siteward_id: str) -> dict[str, Any]:
        offered = without_repeats(wanted.offered, wanted.resources)
        return {
            "name": self._name,
            "id": siteward_id,
            "module": wanted.process.module,
            "launcher_spec": {"default": offered} if offered else {},
            "resource_spec": {self.site.name: dict(wanted.resources)} if wanted.resources else {},
            **({"study": wanted.study} if wanted.study else {}),
        }

    def finish(self, wanted: Wanted, handle: Handle, result: Result) -> None:
        """Bring the results of a job home to FLARE's workspace, if they are not there already."""
        if handle.backend in self._shared:
            return
        if result.workspace != "returned":
            self._log.error("job %s: its results are %s: %s", wanted.job_id, result.workspace, result.message)
        try:
            for words in bring_home(handle.job_dir, wanted.job_id, Path(wanted.process.workspace)):
                self._log.warning("job %s: not taken back: %s", wanted.job_id, words)
        finally:
            forget_kit(handle.job_dir)

    # --- a parent that is started again ---

    def remove_left_over(self) -> None:
        """Remove what a parent that was killed had packed for its jobs; another one may be packing just now."""
        oldest = time.time() - _CARRIED_WITHIN
        for folder in self.site.state_dir.glob(f"{_CARRIED}*"):
            with suppress(OSError):
                if folder.stat(follow_symlinks=False).st_mtime < oldest:
                    remove_tree(folder)

    def end_left_over(self) -> None:
        """End the jobs of this FLARE site that a parent before this one left running, without waiting for it.

        A parent that starts again gets a new token and tells the server that it has no jobs: the server takes a
        job process of before for dead, whatever that does (``_sync_client_jobs`` in FLARE's server).
        """
        for row in self.site.jobs(ended=False):
            if row.name == self._name:
                words = "job %s was left by a parent that is gone; FLARE cannot take it back, so it is ended"
                self._log.warning(words, row.job_id)
                handle = self.site.attach(row.job_id)
                handle.add_done_callback(lambda done: forget_kit(done.job_dir))
                handle.terminate()

    def _end_earlier(self, wanted: Wanted) -> None:
        """End an earlier process of the same job: a server that restores a job would have two that write one folder."""
        for job_id in self._used_ids(wanted.job_id, wanted.site):
            handle = self.site.attach(job_id)
            if not handle.done():
                handle.terminate(grace=0)
                handle.wait(_LEFT_OVER)

    # --- names ---

    def _used_ids(self, job_id: str, site: str) -> list[str]:
        used = []
        for number in range(1, 1000):
            try:
                used.append(self.site.row(siteward_id(job_id, site, number)).job_id)
            except UnknownJob:
                break
        return used

    def _unused_id(self, job_id: str, site: str) -> str:
        return siteward_id(job_id, site, len(self._used_ids(job_id, site)) + 1)


def siteward_id(job_id: str, site: str, number: int) -> str:
    """Return siteward's id of the ``number``-th process of a FLARE job at a FLARE site."""
    base = f"{safe_name(job_id, 36)}-{safe_name(site, 21)}"
    return base if number == 1 else f"{base}-{number}"


def job_name(site: str, workspace: str) -> str:
    """Return the name that all jobs of one FLARE site have: of this workspace, should two sites have one name."""
    digest = hashlib.sha256(workspace.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{safe_name(site, 31)}-{digest}"
