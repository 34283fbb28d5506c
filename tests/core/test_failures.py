"""Failure reports: the default policy, dispositions, and filters that cannot leak what they were to hide."""

from __future__ import annotations

import attrs
import pytest

from siteward.ends import Reason, ended
from siteward.failures import WITHHELD, Disposition, FailureReport, disposition, fold_filters, is_reportable

# NVIDIA FLARE's REPORTABLE_JOB_FAILURES with 104 (2.9), and the narrowing of 1 (#4576).
POLICY = {
    0: (False, Disposition.IGNORE),
    1: (False, Disposition.IGNORE),
    9: (True, Disposition.STOP_RUN),
    101: (True, Disposition.FAIL_RUN),
    102: (True, Disposition.STOP_RUN),
    103: (True, Disposition.FAIL_RUN),
    104: (True, Disposition.FAIL_RUN),
    127: (False, Disposition.IGNORE),
    -9: (False, Disposition.IGNORE),
    137: (False, Disposition.IGNORE),
}


def a_report(**changes: object) -> FailureReport:
    report = FailureReport(
        site="site-1",
        job_id="job-1",
        backend="process",
        code=101,
        reason="Error",
        message="key=abc",
        log_tail="password=xyz",
        reportable=True,
    )
    return attrs.evolve(report, **changes)


@pytest.mark.parametrize(("code", "row"), POLICY.items(), ids=str)
def test_each_code_has_its_policy(code: int, row: tuple[bool, Disposition]) -> None:
    """Explicit failures are told and act on the run; a bare 1 does neither."""
    assert (is_reportable(code), disposition(code)) == row


@pytest.mark.parametrize("reason", Reason)
def test_only_codes_that_are_told_act_on_a_run(reason: Reason) -> None:
    """No end stops a run that its coordinator does not hear of, and none is told for nothing."""
    code = ended(reason=reason).return_code
    assert is_reportable(code) == (disposition(code) is not Disposition.IGNORE)


def test_filters_see_what_the_one_before_left() -> None:
    """Filters are folded in the order given."""
    seen = []

    def number(n: int):
        def run_filter(report: FailureReport) -> FailureReport:
            seen.append(report.message)
            return attrs.evolve(report, message=f"{report.message}{n}")

        return run_filter

    result = fold_filters(a_report(message=""), [("a", number(1)), ("b", number(2)), ("c", lambda _r: None)])
    assert seen == ["", "1"]
    assert result.message == "12"


def test_none_leaves_the_report_alone() -> None:
    """A filter with nothing to say returns None."""
    assert fold_filters(a_report(), [("a", lambda _report: None)]) == a_report()


def test_a_filter_may_change_what_is_reported_but_not_whose_it_is() -> None:
    """Text, code and ``reportable`` are a filter's; site, job and backend are the site's."""
    forged = a_report(site="other", job_id="other", backend="other", message="hidden", reportable=False, code=104)
    result = fold_filters(a_report(), [("a", lambda _report: forged)])
    assert (result.site, result.job_id, result.backend) == ("site-1", "job-1", "process")
    assert (result.message, result.reportable, result.code) == ("hidden", False, 104)


def _raises(_report: FailureReport) -> FailureReport:
    raise RuntimeError("broken filter")


@pytest.mark.parametrize(
    "broken", [_raises, lambda _report: "a string", lambda _report: {}], ids=["raises", "str", "dict"]
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_broken_filter_withholds_all_text_and_says_so(broken, place: int) -> None:
    """Code and reason survive, free text does not, wherever in the order the broken filter stands."""
    errors = []
    others = [("x", lambda _report: None), ("y", lambda report: attrs.evolve(report, message="key=abc", log_tail="!"))]
    others.insert(place, ("broken", broken))
    result = fold_filters(a_report(), others, lambda name, error: errors.append((name, type(error).__name__)))
    assert (result.code, result.reason, result.message, result.log_tail) == (101, "Error", WITHHELD, "")
    assert [name for name, _ in errors] == ["broken"]


def test_a_broken_filter_does_not_stop_the_others() -> None:
    """Filters after a broken one still decide what is reportable."""
    filters = [("broken", _raises), ("b", lambda report: attrs.evolve(report, reportable=False))]
    assert fold_filters(a_report(), filters).reportable is False
