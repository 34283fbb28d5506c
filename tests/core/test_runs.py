"""One job at several sites: the verdict's table, the first cause, who ends whom, and when nothing starts."""

import threading
from itertools import pairwise

import pytest
from attrs import evolve

from siteward import (
    FailureReport,
    FileError,
    JobState,
    LaunchRefused,
    Reason,
    Verdict,
    ended,
    hookimpl,
    judge,
    run,
)
from siteward.failures import is_reportable

from .fake import job, until


def end(code=None, reason=None, report=True):
    result = ended(exit_code=code, reason=reason)
    if result.state is JobState.SUCCEEDED:
        return result
    wire = int(result.return_code)
    return evolve(
        result,
        report=FailureReport(
            site="s", job_id="j", backend="b", code=wire, reason=str(result.reason), reportable=is_reportable(wire)
        ),
    )


GOOD, BAD, ABORTED = end(0), end(1), end(reason=Reason.ABORTED)
VERDICTS = {
    "all succeeded": ({"a": GOOD, "b": GOOD}, {}, ("SUCCEEDED", 0, None)),
    "101 fails it": ({"a": end(101), "b": ABORTED}, {"cause": "a"}, ("FAILED", 101, "a")),
    "103 fails it": ({"a": end(103), "b": ABORTED}, {"cause": "a"}, ("FAILED", 103, "a")),
    "104 fails it": ({"a": end(104), "b": ABORTED}, {"cause": "a"}, ("FAILED", 104, "a")),
    "102 stops it": ({"a": end(102), "b": ABORTED}, {"cause": "a"}, ("STOPPED", 102, "a")),
    "a job stopped by hand stops it": ({"a": ABORTED, "b": ABORTED}, {"cause": "a"}, ("STOPPED", 9, "a")),
    "lost fails it": ({"a": end(reason=Reason.NODE_LOST), "b": ABORTED}, {"cause": "a"}, ("FAILED", 104, "a")),
    "the cause goes before an abort": (
        {"a": end(101), "b": ABORTED},
        {"cause": "a", "aborted": True},
        ("FAILED", 101, "a"),
    ),
    "the cause goes before the lead": ({"a": end(101), "b": GOOD}, {"cause": "a", "lead": "b"}, ("FAILED", 101, "a")),
    "an abort of the whole run": ({"a": ABORTED, "b": ABORTED}, {"aborted": True}, ("ABORTED", 9, None)),
    "an abort goes before the lead": ({"a": GOOD, "b": ABORTED}, {"aborted": True, "lead": "a"}, ("ABORTED", 9, None)),
    "an abort that came too late": ({"a": GOOD, "b": GOOD}, {"aborted": True}, ("ABORTED", 9, None)),
    "the lead succeeded, noise elsewhere": ({"a": GOOD, "b": BAD}, {"lead": "a"}, ("SUCCEEDED", 0, None)),
    "the lead failed": ({"a": BAD, "b": GOOD}, {"lead": "a"}, ("FAILED", 1, "a")),
    "without a lead noise counts": ({"a": GOOD, "b": BAD}, {}, ("FAILED", 1, "b")),
    "a lead that does not run": ({"a": GOOD, "b": GOOD}, {"lead": "c"}, ("SUCCEEDED", 0, None)),
    "one site's noise": ({"a": BAD}, {}, ("FAILED", 1, "a")),
}
ORDER = (101, 103, 104, 102)
for worse, better in pairwise(ORDER):
    VERDICTS[f"{worse} is worse than {better}"] = (
        {"a": end(better), "b": end(worse)},
        {},
        ("FAILED", worse, "b"),
    )
VERDICTS["102 is worse than 9"] = ({"a": ABORTED, "b": end(102)}, {}, ("FAILED", 102, "b"))
VERDICTS["9 is worse than 1"] = ({"a": BAD, "b": ABORTED}, {}, ("FAILED", 9, "b"))


@pytest.mark.parametrize(("results", "facts", "expected"), VERDICTS.values(), ids=VERDICTS)
def test_verdict(results, facts, expected):
    """Cause, then abort, then lead, then all, then the worst code."""
    judgement = judge(results, **facts)
    assert (judgement.verdict.value, judgement.code, judgement.cause) == expected
    assert judgement.message


@pytest.mark.parametrize(("names", "words"), [(["a"], "a succeeded"), (["a", "b"], "all 2 sites succeeded")])
def test_success_in_words(names, words):
    """One site is no crowd."""
    assert judge(dict.fromkeys(names, GOOD)).message == words


def test_the_code_is_that_of_the_filtered_report():
    """What the filters made of a cause decides the verdict, as it decided that this is one."""
    result = end(102)
    result = evolve(result, report=evolve(result.report, code=101))
    judgement = judge({"a": result}, cause="a")
    assert (judgement.verdict, judgement.code) == (Verdict.FAILED, 101)


@pytest.fixture
def trio(places):
    """Three sites, open: server, site-1 and site-2."""
    made = {name: places("watch", "list", "remove", name=name) for name in ("server", "site-1", "site-2")}
    return made, [place.site() for place in made.values()]


def test_a_run_starts_everywhere_and_succeeds(trio):
    """Results are by site, the verdict is SUCCEEDED when all did, and not there before."""
    made, sites = trio
    started = run(job(id="a"), sites)
    assert (started.verdict, started.code) == (None, 127)
    with pytest.raises(TimeoutError, match="waiting for"):
        started.wait(0.01)
    for place in made.values():
        place.end("a")
    assert started.wait(10) is Verdict.SUCCEEDED
    assert set(started.results) == set(made)
    assert started.code == 0


CAUSES = {
    "FAIL_RUN": ({"exit_code": 101}, Verdict.FAILED, 101),
    "STOP_RUN": ({"exit_code": 102}, Verdict.STOPPED, 102),
    "lost": ({"reason": "NodeLost"}, Verdict.FAILED, 104),
}


@pytest.mark.parametrize(("how", "verdict", "code"), CAUSES.values(), ids=CAUSES)
def test_a_cause_ends_the_other_sites(trio, how, verdict, code):
    """FAIL_RUN and STOP_RUN end the others; a site ended by the run is no cause."""
    made, sites = trio
    started = run(job(id="a"), sites)
    made["site-1"].end("a", **how)
    assert started.wait(10) is verdict
    assert (started.code, started.cause) == (code, "site-1")
    assert {name: str(result.reason) for name, result in started.results.items() if name != "site-1"} == {
        "server": "Aborted",
        "site-2": "Aborted",
    }


def test_the_first_cause_stays(trio):
    """Ends that come after it, worse ones too, change nothing."""
    made, sites = trio
    for place in made.values():
        place.control.obeys = False
    started = run(job(id="a"), sites)
    made["site-1"].end("a", exit_code=102)
    until(lambda: made["site-2"].platform.get("a")["stops"])
    made["site-2"].end("a", exit_code=101)
    made["server"].end("a", exit_code=103)
    assert started.wait(10) is Verdict.STOPPED
    assert (started.cause, started.code) == ("site-1", 102)


def test_noise_does_not_end_the_run(trio):
    """A bare exit 1 of a worker leaves the others alone; the lead decides."""
    made, sites = trio
    started = run(job(id="a", sites=["server", "site-1", "site-2"], lead="server"), sites)
    made["site-2"].end("a", exit_code=1)
    until(lambda: "site-2" in started.results)
    assert made["server"].platform.get("a")["stops"] == []
    made["server"].end("a")
    made["site-1"].end("a")
    assert started.wait(10) is Verdict.SUCCEEDED


def test_one_job_stopped_by_hand_stops_the_run(trio):
    """STOPPED with code 9, and the others are ended."""
    _, sites = trio
    started = run(job(id="a"), sites)
    started.handles["site-2"].terminate()
    assert started.wait(10) is Verdict.STOPPED
    assert (started.code, started.cause) == (9, "site-2")


def test_terminating_the_run_is_an_abort(trio):
    """ABORTED 9, no site is the cause."""
    made, sites = trio
    started = run(job(id="a"), sites)
    started.terminate(grace=3)
    assert started.wait(10) is Verdict.ABORTED
    assert (started.code, started.cause) == (9, None)
    assert all(place.platform.get("a") is None or place.platform.get("a")["stops"] == [3] for place in made.values())


LATE = {
    "a second end of a site": ("site-1", {}, "known already"),
    "a site that is not in the run": ("elsewhere", {}, "the run has no job there"),
    "a report for another site": ("server", {"site": "site-2"}, "it speaks for site 'site-2'"),
    "a report of another job": ("server", {"job_id": "b"}, "it is about the job 'b'"),
}


@pytest.mark.parametrize(("site", "changes", "words"), LATE.values(), ids=LATE)
def test_reports_that_are_not_a_sites_own_first_one_are_dropped(trio, caplog, site, changes, words):
    """Duplicate, of an unknown site or job, or somebody else's: a line in the log, and the run goes on."""
    made, sites = trio
    started = run(job(id="a", lead="server", sites=["server", "site-1", "site-2"]), sites)
    made["site-1"].end("a", exit_code=1)
    until(lambda: "site-1" in started.results)
    result = end(101)
    report = evolve(result.report, **({"site": site, "job_id": "a"} | changes))
    started._site_ended(site, evolve(result, report=report))
    assert words in caplog.text
    assert started.cause is None
    assert set(started.results) <= {"site-1", site}
    made["server"].end("a")
    made["site-2"].end("a")
    verdict = started.wait(10)
    caplog.clear()
    started._site_ended("site-2", result)
    assert "the run is over" in caplog.text
    assert started.verdict is verdict


# What a first site reports, then a second one: the code that the run keeps. NVIDIA FLARE's server lets 104 stick and
# 9 override nothing; here the first cause stays, which is both.
STICKY = [(first, second) for first in (9, 101, 102, 103, 104) for second in (9, 101, 102, 103, 104, 1)]


@pytest.mark.parametrize(("first", "second"), STICKY, ids=lambda code: str(code))
def test_the_first_code_sticks(trio, first, second):
    """For every pair of codes; 1 concerns nobody, before and after."""
    made, sites = trio
    for place in made.values():
        place.control.obeys = False
    started = run(job(id="a"), sites)
    made["server"].end("a", exit_code=1)
    until(lambda: "server" in started.results)
    how = {"reason": "Aborted"} if first == 9 else {"exit_code": first}
    made["site-1"].end("a", **how)
    until(lambda: made["site-2"].platform.get("a")["stops"])
    made["site-2"].end("a", **({"reason": "Aborted"} if second == 9 else {"exit_code": second}))
    verdict = Verdict.STOPPED if first in (9, 102) else Verdict.FAILED
    assert started.wait(10) is verdict
    assert (started.code, started.cause) == (first, "site-1")


def test_one_site_that_cannot_be_told_does_not_save_the_others(trio, monkeypatch):
    """An exception of one site's stop is logged; every other site is told."""
    made, sites = trio
    started = run(job(id="a"), sites)
    real = type(started.handles["server"]).terminate

    def terminate(self, grace=None):
        if self.site == "server":
            raise OSError("no disk")
        real(self, grace)

    monkeypatch.setattr(type(started.handles["server"]), "terminate", terminate)
    made["site-1"].end("a", exit_code=101)
    until(lambda: "site-2" in started.results)
    made["server"].end("a", exit_code=0)
    assert started.wait(10) is Verdict.FAILED


def test_a_filter_that_makes_an_end_unreportable_makes_it_no_cause(places):
    """The site's filters have the last word on what concerns the run."""

    class Quiet:
        api = 1

        @hookimpl
        def siteward_filter_failure_report(self, report):
            return evolve(report, reportable=False)

    first = places("watch", name="a", plugins=[("siteward.plugins", "quiet", Quiet())])
    second = places("watch", name="b")
    started = run(job(id="j"), [first.site(), second.site()])
    first.end("j", exit_code=101)
    until(lambda: "a" in started.results)
    assert second.platform.get("j")["stops"] == []
    second.end("j")
    assert started.wait(10) is Verdict.FAILED


# --- who runs ---


def test_sites_are_those_of_the_job_that_were_given(trio):
    """The job's sites ∩ the sites given, in the job's order; min_sites defaults to all of those."""
    made, sites = trio
    started = run(job(id="a", sites=["site-2", "server", "elsewhere"]), sites)
    assert list(started.handles) == ["site-2", "server"]
    for name in started.handles:
        made[name].end("a")
    assert started.wait(10) is Verdict.SUCCEEDED
    assert made["site-1"].platform.jobs() == []


WRONG = {
    "no site of the job": ({"sites": ["elsewhere"]}, "none of its sites was given"),
    "too few": ({"sites": ["server", "x", "y"], "min_sites": 2}, "2 sites are needed, 1 given"),
}


@pytest.mark.parametrize(("fields", "words"), WRONG.values(), ids=WRONG)
def test_names_that_do_not_fit(trio, fields, words):
    """It is an error of the file, and nothing is started."""
    made, sites = trio
    with pytest.raises(FileError, match=words):
        run(job(**fields), sites)
    assert all(place.platform.jobs() == [] for place in made.values())


def test_two_sites_of_one_name(places):
    """They could not be told apart."""
    with pytest.raises(FileError, match="same name"):
        run(job(), [places("watch").site(), places("watch").site()])


@pytest.mark.parametrize("which", ["first", "later"])
def test_a_platform_that_refuses(places, which):
    """The first site to be launched raises, with nothing left; a later one fails the run and ends the others."""
    good, bad = places("watch", name="good"), places("watch", name="bad")

    def fault(_request):
        raise LaunchRefused("not here")

    bad.control.faults["launch"] = fault
    sites = [bad.site(), good.site()] if which == "first" else [good.site(), bad.site()]
    if which == "first":
        with pytest.raises(LaunchRefused, match="not here"):
            run(job(id="a"), sites)
        assert good.platform.jobs() == []
        return
    started = run(job(id="a"), sites)
    assert started.wait(10) is Verdict.FAILED
    assert (started.code, started.cause) == (101, "bad")
    assert started.results["bad"].reason is Reason.LAUNCH_FAILED
    assert started.results["good"].reason is Reason.ABORTED


def test_waiting_for_a_run_whose_site_was_closed(places):
    """The error says that the job goes on; nobody waits for ever."""
    place = places("watch")
    site = place.site()
    started = run(job(id="a"), [site])
    waiter = threading.Thread(target=site.close)
    waiter.start()
    with pytest.raises(Exception, match="goes on"):
        started.wait(10)
    waiter.join(10)
