"""What a sink writes of an end: the failure report that the filters left, and what it means. Pure."""

from __future__ import annotations

from typing import Any

import attrs

from siteward import Disposition, JobRef, Result, disposition, safe_name

SCHEMA = 1


def record_of(ref: JobRef, result: Result) -> dict[str, Any] | None:
    """Return an end's report as JSON data, None for an end that has none.

    ``schema`` 1: the fields of :class:`siteward.FailureReport`, ``attempt``, ``ended_at`` (seconds since the epoch) and
    ``disposition``, which is IGNORE for what is not reportable.
    """
    report = result.report
    if report is None:
        return None
    meaning = disposition(report.code) if report.reportable else Disposition.IGNORE
    return {
        "schema": SCHEMA,
        **attrs.asdict(report),
        "code": int(report.code),
        "attempt": ref.attempt,
        "ended_at": result.ended_at,
        "disposition": meaning.value,
    }


def key_of(record: dict[str, Any]) -> str:
    """Return what tells this end from any other of its site."""
    return f"{record['job_id']}.{record['attempt']}"


def identity_of(record: dict[str, Any]) -> str:
    """Return what tells this end from any other of any site, in ASCII: a receiver that knows it has heard of it."""
    return f"{safe_name(record['site'])}.{key_of(record)}"
