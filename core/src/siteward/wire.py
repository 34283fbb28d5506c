"""Refs and results as plain JSON data: what the store keeps and ``--json`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import fields

from siteward.ends import JobState, Reason, Result, Usage
from siteward.failures import FailureReport
from siteward.request import JobRef

_REF, _RESULT, _USAGE, _REPORT = (
    tuple(each.name for each in fields(cls)) for cls in (JobRef, Result, Usage, FailureReport)
)


def _data(value: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def ref_data(ref: JobRef) -> dict[str, Any]:
    """Return a ref as JSON data."""
    data = _data(ref, _REF)
    data["data"] = dict(ref.data)
    return data


def read_ref(data: Mapping[str, Any]) -> JobRef:
    """Return the ref that :func:`ref_data` wrote."""
    return JobRef(**data)


def result_data(result: Result) -> dict[str, Any]:
    """Return a result as JSON data: enums as their values, ``usage`` and ``report`` as mappings or None."""
    data = _data(result, _RESULT)
    data.update(state=result.state.value, return_code=int(result.return_code), reason=result.reason.value)
    if result.usage is not None:
        data["usage"] = _data(result.usage, _USAGE)
    if result.report is not None:
        data["report"] = _data(result.report, _REPORT)
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
