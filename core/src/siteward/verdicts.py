"""The verdict on a run: a pure table of what its sites' ends mean for it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from attrs import frozen

from siteward.ends import JobState, Result, ReturnCode
from siteward.failures import Disposition, disposition

_WORST_FIRST = (101, 103, 104, 102, 9, 1)


class Verdict(StrEnum):
    """How a run ended."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    ABORTED = "ABORTED"
    REFUSED = "REFUSED"


@frozen(kw_only=True)
class Judgement:
    """A verdict with the wire code, the site that caused it (None: none did), and words."""

    verdict: Verdict
    code: int
    cause: str | None = None
    message: str = ""


def judge(
    results: Mapping[str, Result], *, cause: str | None = None, aborted: bool = False, lead: str | None = None
) -> Judgement:
    """Return a run's verdict; pure. ``cause`` is the first site whose (filtered) report failed or stopped the run.

    In this order: the cause's disposition; an abort of the whole run; the lead's own end; all succeeded; the
    worst code (101, 103, 104, 102, 9, 1, then others).
    """
    if cause is not None:
        result = results[cause]
        code = int(result.report.code if result.report is not None else result.return_code)
        verdict = Verdict.STOPPED if disposition(code) is Disposition.STOP_RUN else Verdict.FAILED
        return Judgement(verdict=verdict, code=code, cause=cause, message=_words(cause, result))
    if aborted:
        return Judgement(verdict=Verdict.ABORTED, code=int(ReturnCode.ABORTED), message="the run was ended on request")
    if lead is not None and lead in results:
        result = results[lead]
        good = result.state is JobState.SUCCEEDED
        verdict = Verdict.SUCCEEDED if good else Verdict.FAILED
        return Judgement(
            verdict=verdict,
            code=int(result.return_code),
            cause=None if good else lead,
            message=_words(lead, result),
        )
    failed = [site for site, result in results.items() if result.state is not JobState.SUCCEEDED]
    if not failed:
        words = f"all {len(results)} sites succeeded" if len(results) > 1 else f"{next(iter(results), 'it')} succeeded"
        return Judgement(verdict=Verdict.SUCCEEDED, code=0, message=words)
    worst = min(failed, key=lambda site: _badness(results[site].return_code))
    result = results[worst]
    return Judgement(verdict=Verdict.FAILED, code=int(result.return_code), cause=worst, message=_words(worst, result))


def _badness(code: int) -> int:
    return _WORST_FIRST.index(code) if code in _WORST_FIRST else len(_WORST_FIRST)


def _words(site: str, result: Result) -> str:
    return f"{site}: {result.state.value} ({result.reason.value}): {result.message}"


def is_cause(result: Result) -> bool:
    """Whether a site's end concerns the whole run: reported (filters may change that), and not to be ignored."""
    report = result.report
    return report is not None and report.reportable and disposition(report.code) is not Disposition.IGNORE
