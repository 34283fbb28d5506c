"""`teardown_noise`: what goes wrong after a job has said that it is finished concerns nobody else."""

from types import SimpleNamespace

import pytest

from siteward import FailureReport
from siteward_report_filters.teardown_noise import MARKER, TeardownNoise

DONE, NOISE = f"epoch 3\n{MARKER}\nTraceback: broken pipe", "Traceback: broken pipe"
# code, log, reportable before, options: code and reportable after
DECISIONS = {
    "noise after the end": (1, DONE, True, {}, (1, False)),
    "noise after the end, not reported anyway": (1, DONE, False, {}, (1, False)),
    "no word of an end": (1, NOISE, False, {}, (1, False)),
    "no word of an end, and another filter reports it": (1, NOISE, True, {}, (1, True)),
    "no word of an end, to be reported": (1, NOISE, False, {"unfinished": "report"}, (101, True)),
    "an end, and others to be reported": (1, DONE, False, {"unfinished": "report"}, (1, False)),
    "an explicit code": (101, DONE, True, {}, (101, True)),
    "an abort": (9, DONE, True, {}, (9, True)),
    "infrastructure": (104, DONE, True, {"unfinished": "report"}, (104, True)),
    "the word in a sentence": (1, f"waiting for {MARKER}", True, {}, (1, True)),
    "the word with spaces around it": (1, f"  {MARKER}  ", True, {}, (1, False)),
    "a word of the site's": (1, "all rounds done", True, {"finished": ("all .* done",)}, (1, False)),
    "no log": (1, "", True, {}, (1, True)),
}


@pytest.mark.parametrize(("code", "log", "reportable", "options", "after"), DECISIONS.values(), ids=DECISIONS)
def test_decision(code, log, reportable, options, after):
    """EXECUTION_ERROR after the word is never reported; without it only if the site wants that."""
    plugin = TeardownNoise(SimpleNamespace(), TeardownNoise.SiteOptions(**options))
    report = FailureReport(
        site="s", job_id="j", backend="b", code=code, reason="Error", log_tail=log, reportable=reportable
    )
    answer = plugin.siteward_filter_failure_report(report) or report
    assert (answer.code, answer.reportable) == after
    assert answer.log_tail == log
