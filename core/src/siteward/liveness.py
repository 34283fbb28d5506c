"""Whether a job still lives, as any process of its user can tell: for what outlives the process that took it."""

from __future__ import annotations

import logging
from enum import StrEnum
from pathlib import Path

from siteward.launcher import Launcher
from siteward.loop import wake
from siteward.parts import make_context
from siteward.plugins import Plugins
from siteward.settling import find_job
from siteward.sitefile import SiteFile
from siteward.store import JobRow, Phase, Store

_FREED = (Phase.FREED, Phase.REPORTED, Phase.REMOVED)
_log = logging.getLogger("siteward.liveness")


class Liveness(StrEnum):
    """What can be told of a job that holds a resource manager's token."""

    LIVES = "lives"
    GONE = "gone"
    ABSENT = "absent"
    UNSEEN = "unseen"


def job_lives(state_dir: Path, job_id: str, token: str, *, site_file: Path | None = None) -> Liveness:
    """Look whether a job of this or another site of this user may still use what was allocated to it.

    GONE: it has ended, or what it held is freed. ABSENT: its site's store has no such job with this token, which
    only the process that is just launching it could explain. UNSEEN: the store cannot be read. Anything else,
    doubt too, is LIVES. Only a job that no process drives is looked for on its platform, for which the backend is
    set up as ``site_file`` says; no job is changed or adopted.
    """
    store = None
    try:
        if not (state_dir / "siteward.db").exists():
            return Liveness.ABSENT
        store = Store(state_dir, migrate=False)
        row = store.get(job_id)
    except Exception as error:
        _log.info("job %s in %s cannot be looked at: %s", job_id, state_dir, error)
        return Liveness.UNSEEN
    finally:
        if store is not None:
            store.close()
    if row is None or row.token != token:
        return Liveness.ABSENT
    if row.phase in _FREED:
        return Liveness.GONE
    if row.driver is not None and wake(state_dir / "drivers", row.driver, b""):
        return Liveness.LIVES
    if row.result is not None:
        return Liveness.GONE
    try:
        return _look(row, state_dir, site_file)
    except Exception as error:
        _log.info("job %s in %s: its platform cannot be asked: %s", job_id, state_dir, error)
        return Liveness.LIVES


def _look(row: JobRow, state_dir: Path, site_file: Path | None) -> Liveness:
    """Ask the platform of a job that nobody drives."""
    if site_file is None:
        return Liveness.LIVES
    file = SiteFile.load(site_file)
    if file.state_path().resolve() != state_dir or row.backend not in file.backends:
        return Liveness.LIVES
    launcher = Launcher(Plugins(), make_context(file, row.backend, state_dir, _log), file.backends[row.backend])
    try:
        ref = row.ref or find_job(launcher, row.job_id)
        if ref is None:
            return Liveness.GONE if launcher.has("list_jobs") else Liveness.LIVES
        status = launcher.poll(ref)
        return Liveness.GONE if status.state.ended and status.reachable else Liveness.LIVES
    finally:
        launcher.close()
