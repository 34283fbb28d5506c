"""Failure reports: which ends a coordinator should hear of, and what it should do about them.

The default policy is NVIDIA FLARE's after its narrowing (#4576): explicit failure codes are reported, a bare
exit 1 is not, because a worker's teardown noise must not fail a run that has finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum

from attrs import evolve, frozen

_REPORTABLE = frozenset({9, 101, 102, 103, 104})
WITHHELD = "withheld: a failure filter raised"


class Disposition(StrEnum):
    """What an end means for the run it belongs to."""

    FAIL_RUN = "FAIL_RUN"
    STOP_RUN = "STOP_RUN"
    IGNORE = "IGNORE"


@frozen(kw_only=True)
class FailureReport:
    """What a site tells about a job that did not succeed. Filters may rewrite any text, or ``reportable``."""

    site: str
    job_id: str
    backend: str
    code: int
    reason: str
    message: str = ""
    log_tail: str = ""
    reportable: bool = False


def is_reportable(code: int) -> bool:
    """Whether the default policy tells the coordinator of this code: 9 and 101 to 104."""
    return code in _REPORTABLE


def disposition(code: int) -> Disposition:
    """Say what this code means for the run: 101, 103, 104 fail it, 102 and 9 stop it, others do nothing."""
    if code in (101, 103, 104):
        return Disposition.FAIL_RUN
    return Disposition.STOP_RUN if code in (102, 9) else Disposition.IGNORE


def rejection(report: FailureReport, *, site: str, job_id: str) -> str | None:
    """Say why a report that came from ``site`` about its job is not accepted, None if it is: it is that site's own."""
    if report.site != site:
        return f"it speaks for site {report.site!r}"
    return None if report.job_id == job_id else f"it is about the job {report.job_id!r}"


def fold_filters(
    report: FailureReport,
    filters: Iterable[tuple[str, Callable[[FailureReport], FailureReport | None]]],
    on_error: Callable[[str, Exception], None] = lambda _name, _error: None,
) -> FailureReport:
    """Send a report through the filters in the order given, each seeing what the one before left.

    None leaves the report alone. A filter that raises (or returns something else) must not leak what it was
    there to hide: from then on code and reason survive and all free text is withheld, and the report says so.
    The fields that say whose report it is (site, job, backend) are the site's own and never change.
    """
    site, job_id, backend = report.site, report.job_id, report.backend
    withheld = False
    for name, run_filter in filters:
        try:
            answer = run_filter(report)
            if answer is not None:
                if not isinstance(answer, FailureReport):
                    raise TypeError(f"expected a FailureReport or None, got {type(answer).__name__}")
                report = evolve(answer, site=site, job_id=job_id, backend=backend)
        except Exception as error:
            on_error(name, error)
            withheld = True
        if withheld:
            report = evolve(report, message=WITHHELD, log_tail="")
    return report
