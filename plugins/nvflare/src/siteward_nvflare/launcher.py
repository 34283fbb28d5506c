"""FLARE's job launchers over a siteward site: one for clients, one for the server.

Each is the only launcher of its site. Names of classes are unique in FLARE, which knows event handlers by them.
"""

from __future__ import annotations

import os
import time
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, JobConstants
from nvflare.apis.job_launcher_spec import JobLauncherSpec, JobReturnCode, add_launcher

from siteward import Site, SiteFile, SitewardError
from siteward_nvflare.bridge import PROPERTY, Bridge, Wanted, job_name
from siteward_nvflare.handle import SitewardJobHandle
from siteward_nvflare.meta import offered_backends, resource_block, study_of
from siteward_nvflare.process import read_job_process
from siteward_nvflare.sites import open_site

# The server waits 20 s for a client's answer, and forgets the client when there is none.
_LAUNCH_WITHIN = 8.0
_END_WITHIN = 5.0


class SitewardLauncher(JobLauncherSpec):  # type: ignore[misc]
    """What both have in common; FLARE is given one of its subclasses."""

    server = False

    def __init__(self, site_file: str, shared: list[str] | None = None) -> None:
        """Read the site file; ValueError with every mistake in it, so that a wrong one is told when FLARE starts.

        ``shared`` are the backends whose jobs see this machine's files at the same paths: FLARE's workspace is used
        in place there, and carried to and fro for all others. Default: ``process``.
        """
        super().__init__()
        self._site_file = site_file
        self._shared = tuple(["process"] if shared is None else shared)
        self._bridge: Bridge | None = None
        self._handles: list[SitewardJobHandle] = []
        try:
            SiteFile.load(site_file)
        except SitewardError as error:
            raise ValueError(f"{type(self).__name__}: {error}") from error

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:
        """Open the site when FLARE starts, offer this launcher for each job, close the site when FLARE ends."""
        if event_type == EventType.SYSTEM_BOOTSTRAP:
            self._open(fl_ctx)
        elif event_type == EventType.BEFORE_JOB_LAUNCH:
            add_launcher(self, fl_ctx)
        elif event_type == EventType.SYSTEM_END and self._bridge is not None:
            self._close(self._bridge.site)

    def _open(self, fl_ctx: Any) -> None:
        if self._bridge is not None:
            return
        workspace = os.path.abspath(fl_ctx.get_prop(FLContextKey.ARGS).workspace)
        self._bridge = Bridge(
            open_site(self._site_file),
            name=job_name(fl_ctx.get_identity_name(), workspace),
            shared=self._shared,
            inherited_path=tuple(each for each in os.environ.get("PYTHONPATH", "").split(":") if each),
            log=self.logger,
        )
        fl_ctx.set_prop(PROPERTY, self._bridge, private=True, sticky=True)
        self._bridge.remove_left_over()
        self._bridge.end_left_over()

    def _close(self, site: Site) -> None:
        """End what runs, as FLARE's own launchers do with their parent, and let go of the site."""
        running = [each for each in self._handles if each.poll() == JobReturnCode.UNKNOWN]
        for each in running:
            each.terminate()
        give_up = time.monotonic() + site.file.grace + _END_WITHIN
        for each in running:
            if not each.ended_within(max(0.0, give_up - time.monotonic())):
                self.logger.warning("a job has not ended yet; it will be ended when this parent starts again")
        site.close()

    def launch_job(self, job_meta: dict[str, Any], fl_ctx: Any) -> SitewardJobHandle:
        """Launch a job and return soon, whatever the platform takes; RuntimeError in words when it cannot start."""
        job_id = job_meta.get(JobConstants.JOB_ID)
        try:
            if not job_id:
                raise ValueError(f"the job's meta has no {JobConstants.JOB_ID}")
            self._open(fl_ctx)
            bridge = self._bridge
            assert bridge is not None
            wanted = self._read(str(job_id), job_meta, fl_ctx, bridge)
            handle = SitewardJobHandle(
                wanted.job_id,
                lambda: bridge.start(wanted),
                lambda done, result: bridge.finish(wanted, done, result),
                self.logger,
            )
            handle.launch(_LAUNCH_WITHIN)
            self._handles = [each for each in self._handles if each.poll() == JobReturnCode.UNKNOWN] + [handle]
        except (SitewardError, ValueError, OSError) as error:
            raise RuntimeError(f"siteward cannot start job {job_id}: {error}") from error
        return handle

    def _read(self, job_id: str, meta: dict[str, Any], fl_ctx: Any, bridge: Bridge) -> Wanted:
        site = fl_ctx.get_identity_name()
        return Wanted(
            job_id=job_id,
            site=site,
            meta=meta,
            offered=offered_backends(meta, site),
            resources=resource_block(meta, site),
            study=study_of(meta, bridge.site.file.studies),
            process=read_job_process(fl_ctx, job_id, server=self.server),
        )


class ClientSitewardLauncher(SitewardLauncher):
    """Launches the jobs of a FLARE client."""


class ServerSitewardLauncher(SitewardLauncher):
    """Launches the jobs of a FLARE server."""

    server = True
