"""What a driver holds of each job it drives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from attrs import Factory, define, evolve

from siteward.ends import JobState, Reason, Result, because, ended
from siteward.launcher import Launcher
from siteward.request import JobRef, JobStatus
from siteward.statedir import OwnerLock
from siteward.store import JobRow, Phase

_NO_RESULT = "the backend says no more about this end"
_UNEXPLAINED = {
    JobState.SUCCEEDED: Reason.COMPLETED,
    JobState.FAILED: Reason.ERROR,
    JobState.ABORTED: Reason.ABORTED,
    JobState.LOST: Reason.BACKEND_LOST,
}


@define(eq=False, kw_only=True)
class Tracked:
    """One job, from the moment its driver holds its lock until it is done.

    ``folder`` holds all that the site keeps of the job. ``changed`` guards the mutable fields and is
    notified at each change; ``calls`` makes platform calls about this job serial (reentrant, because a backend
    may publish from within one). ``ref`` is None until the platform has the job. ``launch`` runs a queued job's
    launch. ``notes`` are what the resource manager does not promise this job.
    """

    job_id: str
    name: str
    backend: str
    folder: str
    grace: float
    timeout: float | None = None
    attempt: int = 1
    launcher: Launcher | None = None
    lock: OwnerLock | None = None
    ref: JobRef | None = None
    phase: Phase = Phase.INTENT
    status: JobStatus = JobStatus(state=JobState.PENDING)
    token: str | None = None
    started_at: float | None = None
    stop_cause: str | None = None
    stop_grace: float | None = None
    stop_words: str = ""
    stop_tries: int = 0
    finish_tries: int = 0
    not_before: float = 0.0
    finishing: bool = False
    polling: bool = False
    notes: tuple[str, ...] = ()
    launch: Callable[[], Any] | None = None
    early: list[JobStatus] = Factory(list)
    future: Future[Result] = Factory(Future)
    changed: threading.Condition = Factory(threading.Condition)
    calls: threading.RLock = Factory(threading.RLock)

    @classmethod
    def from_row(cls, row: JobRow, folder: str) -> Tracked:
        """Return what was stored; a done job's future has its result."""
        tracked = cls(
            job_id=row.job_id,
            name=row.name,
            backend=row.backend,
            folder=folder,
            grace=row.grace,
            timeout=row.timeout,
            attempt=row.attempt,
            ref=row.ref,
            phase=row.phase,
            status=row.status,
            token=row.token,
            started_at=row.started_at,
            stop_cause=row.stop_cause,
            stop_grace=row.stop_grace,
        )
        if row.done and row.result is not None:
            tracked.future.set_result(row.result)
        return tracked

    @property
    def job_dir(self) -> Path:
        """The job directory."""
        return Path(f"{self.folder}/work")

    @property
    def log_file(self) -> str:
        """The job's output, as far as it is at the site."""
        return f"{self.folder}/output.log"

    def some_ref(self) -> JobRef:
        """Return the ref, or one with no data for a job that never reached the platform."""
        return self.ref or JobRef(site="", backend=self.backend, job_id=self.job_id, attempt=self.attempt)


def settle(tracked: Tracked, status: JobStatus, now: float) -> Result:
    """Return the job's result from what its backend saw: by the table of ends, aborts and deadlines first.

    Pure. Once a stop was asked for before an end was seen, that explains the end; exit code and signal stay.
    """
    seen = status.result
    never_ran = seen is not None and seen.reason is Reason.LAUNCH_FAILED
    result = ended(
        reason=seen.reason if seen else _UNEXPLAINED[status.state],
        exit_code=seen.exit_code if seen else 0 if status.state is JobState.SUCCEEDED else None,
        signal=seen.signal if seen else None,
        message=(seen.message if seen else "") or status.message or ("" if seen else _NO_RESULT),
        started_at=None if never_ran else (seen.started_at if seen else None) or tracked.started_at,
        ended_at=(seen.ended_at if seen else None) or now,
        usage=seen.usage if seen else None,
    )
    if tracked.notes and not never_ran:
        result = evolve(result, message="; ".join((result.message, *tracked.notes)).removeprefix("; "))
    if seen is not None and (seen.log_tail or seen.workspace != result.workspace):
        result = evolve(result, log_tail=seen.log_tail, workspace=seen.workspace)
    if tracked.stop_cause == "abort":
        return because(result, Reason.ABORTED, f"ended on request; {result.message}")
    if tracked.stop_cause == "deadline":
        words = f"the job ran longer than its timeout of {tracked.timeout:g} s; {result.message}"
        return because(result, Reason.DEADLINE_EXCEEDED, words)
    if tracked.stop_cause == "staging":
        return because(result, Reason.LAUNCH_FAILED, tracked.stop_words or result.message)
    return result
