"""Refs and results as plain JSON data: what the store keeps and ``--json`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import asdict, fields

from siteward.ends import JobState, Reason, Result, Usage
from siteward.failures import FailureReport
from siteward.request import JobRef

_REF_FIELDS = tuple(each.name for each in fields(JobRef))
_RESULT_FIELDS = tuple(each.name for each in fields(Result))


def ref_data(ref: JobRef) -> dict[str, Any]:
    """Return a ref as JSON data."""
    data = {name: getattr(ref, name) for name in _REF_FIELDS}
    data["data"] = dict(ref.data)
    return data


def read_ref(data: Mapping[str, Any]) -> JobRef:
    """Return the ref that :func:`ref_data` wrote."""
    return JobRef(**data)


def result_data(result: Result) -> dict[str, Any]:
    """Return a result as JSON data: enums as their values, ``usage`` and ``report`` as mappings or None."""
    data = {name: getattr(result, name) for name in _RESULT_FIELDS}
    data.update(state=result.state.value, return_code=int(result.return_code), reason=result.reason.value)
    if result.usage is not None:
        data["usage"] = asdict(result.usage)
    if result.report is not None:
        data["report"] = asdict(result.report)
    return data


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
