"""Refs and results as plain JSON data: what the store keeps and ``--json`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import asdict

from siteward.ends import JobState, Reason, Result, Usage
from siteward.failures import FailureReport
from siteward.request import JobRef


def ref_data(ref: JobRef) -> dict[str, Any]:
    """Return a ref as JSON data."""
    return {**asdict(ref, recurse=False), "data": dict(ref.data)}


def read_ref(data: Mapping[str, Any]) -> JobRef:
    """Return the ref that :func:`ref_data` wrote."""
    return JobRef(**data)


def result_data(result: Result) -> dict[str, Any]:
    """Return a result as JSON data: enums as their values, ``usage`` and ``report`` as mappings or None."""
    return {
        **asdict(result, recurse=False),
        "state": result.state.value,
        "return_code": int(result.return_code),
        "reason": result.reason.value,
        "usage": None if result.usage is None else asdict(result.usage),
        "report": None if result.report is None else asdict(result.report),
    }


def read_result(data: Mapping[str, Any]) -> Result:
    """Return the result that :func:`result_data` wrote."""
    usage, report = data["usage"], data["report"]
    return Result(
        **{
            **data,
            "state": JobState(data["state"]),
            "reason": Reason(data["reason"]),
            "usage": None if usage is None else Usage(**usage),
            "report": None if report is None else FailureReport(**report),
        }
    )
