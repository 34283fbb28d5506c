"""Jobs as ``--json`` prints them and as tables show them."""

from __future__ import annotations

import time
from typing import Any

from attrs import fields

from siteward.ends import Result, ReturnCode
from siteward.request import JobStatus
from siteward.runs import Run
from siteward.store import JobRow, Phase
from siteward.wire import result_data

_RESULT_KEYS = tuple(field.name for field in fields(Result))
PS_COLUMNS = ("job_id", "backend", "state", "reason", "age", "message")


def job_document(
    job_id: str, site: str, backend: str, status: JobStatus, started_at: float | None = None
) -> dict[str, Any]:
    """Return one job: who it is, and its result. One that has not ended has the same keys, most of them null."""
    who = {"job_id": job_id, "site": site, "backend": backend}
    if status.result is not None:
        return {**who, **result_data(status.result)}
    unknown = dict.fromkeys(_RESULT_KEYS)
    return {
        **who,
        **unknown,
        "state": status.state.value,
        "return_code": int(ReturnCode.UNKNOWN),
        "message": status.message or None,
        "started_at": started_at,
    }


def row_document(site: str, row: JobRow) -> dict[str, Any]:
    """Return a stored job."""
    return job_document(row.job_id, site, row.backend, row.status, row.started_at)


def run_document(run: Run) -> dict[str, Any]:
    """Return a run: its verdict (null while it goes on), its code, and each site's job."""
    jobs = []
    for name in dict.fromkeys([*run.handles, *run.results]):
        handle, result = run.handles.get(name), run.results.get(name)
        if handle is not None and result is None:
            status = handle.status()
        else:
            assert result is not None
            status = JobStatus(state=result.state, message=result.message, result=result)
        jobs.append(job_document(run.job.id, name, handle.backend if handle else "", status))
    return {"verdict": run.verdict.value if run.verdict else None, "code": run.code, "jobs": jobs}


def words_of(row: JobRow, *, driven: bool = True) -> str:
    """Say what there is to say of a stored job, in one sentence; ``driven`` is whether a process looks after it."""
    if row.done:
        return row.message
    if not driven:
        return f"no process looks after this job just now; `siteward wait {row.job_id}` does, and finds its end"
    if row.state.ended:
        return row.message
    words = [row.message] if row.message else []
    if row.phase is Phase.QUEUED and not words:
        words.append("queued: as many jobs run as the site's max_jobs allows")
    if not row.reachable:
        words.insert(0, "unreachable")
    if row.stop_cause is not None:
        words.insert(0, "is being ended")
    return "; ".join(words)


def listing(site: str, row: JobRow, *, driven: bool = True) -> dict[str, Any]:
    """Return a stored job as ``ps`` lists it. ``age`` is in seconds, since it was launched or queued."""
    return {
        "job_id": row.job_id,
        "name": row.name,
        "site": site,
        "backend": row.backend,
        "state": row.state.value,
        "reason": None if row.result is None else row.result.reason.value,
        "age": round(time.time() - row.created_at, 3),
        "message": words_of(row, driven=driven),
        "reachable": row.reachable,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
    }
