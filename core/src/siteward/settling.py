"""Jobs whose launch is behind them: whether they exist, whether their inputs came, and when they never began."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from siteward.ends import JobState, Reason, ended
from siteward.errors import Unreachable
from siteward.launcher import Launcher
from siteward.request import JobRef, JobStatus
from siteward.tracked import Tracked

if TYPE_CHECKING:
    from siteward.parts import SiteParts

_STAGE_TRIES = 5
_OUTAGE = 300.0


def find_job(launcher: Launcher, job_id: str) -> JobRef | None:
    """Return the platform's job of this id, None if there is none; whatever listing raises if it cannot be asked."""
    return next((ref for ref in launcher.list_jobs() or () if ref.job_id == job_id), None)


def look_for(parts: SiteParts, tracked: Tracked, message: str) -> None:
    """Settle, as soon as the platform can be asked, whether a job exists of which only the intent is known."""
    launcher = tracked.launcher
    assert launcher is not None
    try:
        found = find_job(launcher, tracked.job_id)
    except Exception as error:
        words = f"{message}; whether the job exists cannot be seen yet: {error}".removeprefix("; ")
        parts.driver.apply(tracked, JobStatus(state=JobState.PENDING, reachable=False, message=words))
        again = partial(parts.driver.submit, look_for, parts, tracked, message)
        parts.driver.loop.call_later(parts.file.poll_interval, again)
        return
    if found is None:
        fail_launch(parts, tracked, message or "the site stopped while launching it, and the platform has no such job")
        return
    parts.driver.ensure_watch(launcher)
    parts.driver.launched(tracked, found, message)
    if launcher.stages:
        stage(parts, tracked)
    parts.driver.poll(tracked)


def catch_up(parts: SiteParts, tracked: Tracked) -> None:
    """Look at a job that a driver before this one launched; its inputs may not have come yet."""
    parts.driver.poll(tracked)
    launcher, status = tracked.launcher, tracked.status
    if launcher is None or not launcher.stages or status.state is not JobState.PENDING:
        return
    if status.reachable:
        stage(parts, tracked)
    else:
        again = partial(parts.driver.submit, catch_up, parts, tracked)
        parts.driver.loop.call_later(parts.file.poll_interval, again)


def fail_launch(parts: SiteParts, tracked: Tracked, message: str) -> None:
    """End a job that never came to exist."""
    result = ended(reason=Reason.LAUNCH_FAILED, message=message)
    parts.driver.apply(tracked, JobStatus(state=JobState.FAILED, result=result))


def stage(parts: SiteParts, tracked: Tracked) -> None:
    """Bring the job directory to the platform; a job whose inputs cannot come is ended as LaunchFailed.

    It gives up after a few errors, and on an outage after some minutes.
    """
    tries, give_up = 0, time.monotonic() + _OUTAGE
    while tracked.status.state is JobState.PENDING and not (tracked.finishing or parts.driver.closed):
        try:
            assert tracked.launcher is not None
            assert tracked.ref is not None
            tracked.launcher.stage(tracked.ref, tracked.job_dir)
            return
        except Exception as error:
            if tracked.finishing or parts.driver.closed:
                return
            tries += 1
            parts.driver.note(tracked, "cannot stage", str(error))
            if time.monotonic() > give_up if isinstance(error, Unreachable) else tries >= _STAGE_TRIES:
                parts.driver.fail_running(tracked, f"the job directory cannot be brought to the platform: {error}")
                return
            time.sleep(min(0.1 * 2**tries, 10.0))
