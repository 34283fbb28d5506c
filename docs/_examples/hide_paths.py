"""Keep the paths of a site's data out of what leaves it."""

import re

import attrs

from siteward import FailureReport, hookimpl

api = 1
_PATH = re.compile(r"(?<!\w)/[^\s'\":,;)]+")


@hookimpl
def siteward_filter_failure_report(report: FailureReport) -> FailureReport:
    """Replace every absolute path in the free text."""
    return attrs.evolve(
        report,
        message=_PATH.sub("[path]", report.message),
        log_tail=_PATH.sub("[path]", report.log_tail),
    )
