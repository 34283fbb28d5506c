"""Filter ``teardown_noise``: whatever goes wrong after a job has said that it is finished concerns nobody else."""

from __future__ import annotations

import re
from typing import Literal

import attrs
from attrs import field, frozen

from siteward import Context, FailureReport, Problem, ReturnCode, hookimpl

MARKER = "SITEWARD_FINISHED"


def _check_finished(patterns: tuple[str, ...]) -> list[Problem] | str | None:
    problems = []
    for number, pattern in enumerate(patterns):
        try:
            re.compile(pattern)
        except re.error as error:
            problems.append(Problem(f"[{number}]", f"is not a regular expression: {error}"))
    return problems or (None if patterns else "expected at least one regular expression")


class TeardownNoise:
    """Keeps an EXECUTION_ERROR (1) from being reported when the job's output says that its work was done."""

    api = 1

    @frozen(kw_only=True)
    class SiteOptions:
        """How jobs say that they are finished, and what is made of those that have not."""

        finished: tuple[str, ...] = field(
            default=(rf"\s*{MARKER}\s*",),
            metadata={
                "help": "regular expressions of whole lines with which a job says that it is finished",
                "check": _check_finished,
            },
        )
        unfinished: Literal["leave", "report"] = field(
            default="leave",
            metadata={"help": "report: an EXECUTION_ERROR of a job that has not said so is told as EXCEPTION (101)"},
        )

    def __init__(self, context: Context, options: TeardownNoise.SiteOptions) -> None:
        self._finished = [re.compile(pattern) for pattern in options.finished]
        self._unfinished = options.unfinished

    @hookimpl
    def siteward_filter_failure_report(self, report: FailureReport) -> FailureReport | None:
        """Decide for EXECUTION_ERROR alone: explicit codes are never noise."""
        if report.code != ReturnCode.EXECUTION_ERROR:
            return None
        if self._said_finished(report.log_tail):
            words = f"{report.message} (after the job had said that it is finished)"
            return attrs.evolve(report, reportable=False, message=words)
        if self._unfinished == "report":
            return attrs.evolve(report, code=int(ReturnCode.EXCEPTION), reportable=True)
        return None

    def _said_finished(self, log_tail: str) -> bool:
        return any(pattern.fullmatch(line) for line in log_tail.splitlines() for pattern in self._finished)
