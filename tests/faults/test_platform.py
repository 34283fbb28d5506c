"""What platforms, backends, managers, filters and observers do wrong, and that no wait hangs on it."""

import os
import threading

import pytest

from siteward import BackendError, JobState, JobStatus, Reason, Result, Unreachable, hookimpl
from siteward.store import Phase

from ..core.fake import Child, job, until
from ..core.test_driver import verdict


def failing(*errors):
    """Return a fault that raises each of these once, then works."""
    left = list(errors)

    def fault(*_):
        if left:
            raise left.pop(0)

    return fault


OUTAGE = [Unreachable("no route"), OSError("reset"), TimeoutError()]


# --- events ---


def test_the_event_that_never_comes(place, monkeypatch):
    """A watch that has gone silent without knowing: its jobs are looked at, if rarely."""
    monkeypatch.setattr("siteward.watching.SWEEP_INTERVALS", 5)
    site = place.site()
    handle = site.launch(job(id="a"))
    place.platform.put("a", end={"exit_code": 3})
    assert handle.wait(20).exit_code == 3


def test_events_that_come_twice_late_and_from_many_threads(place):
    """The first end stays, is told once, and nothing after it is taken."""
    site = place.site()
    handle = site.launch(job(id="a"))
    heard = []
    handle.add_done_callback(heard.append)
    place.platform.put("a", end={"exit_code": 3})
    tellers = [threading.Thread(target=place.tell, args=["a"]) for _ in range(8)]
    for teller in tellers:
        teller.start()
    for teller in tellers:
        teller.join(20)
    result = handle.wait(20)
    place.start("a")
    place.end("a", exit_code=0)
    assert (heard, handle.wait(0), site.row("a").result) == ([handle], result, result)


def test_an_event_that_comes_before_the_launch_has_returned(place):
    """It is kept until the ref is known."""
    place.control.faults["launch done"] = lambda request: place.end(request.job_id, exit_code=3)
    assert place.site().launch(job(id="a")).wait(20).exit_code == 3


def test_an_event_for_a_site_that_is_closed(place):
    """Nobody is harmed by it, and the end is not lost."""
    site = place.site()
    site.launch(job(id="a"))
    site.close()
    place.end("a", exit_code=3)
    assert place.site().attach("a").wait(20).exit_code == 3


class Odd:
    """Not a result."""


NONSENSE = {
    "no status": lambda ref: "RUNNING",
    "no result in it": lambda ref: JobStatus(state=JobState.FAILED, result=Odd()),
    "nothing": lambda ref: None,
}


@pytest.mark.parametrize("kind", NONSENSE)
@pytest.mark.parametrize("road", ["published", "polled"])
def test_nonsense_ends_no_wait(places, kind, road):
    """A backend's nonsense never raises into its own threads, and never hangs who waits."""
    place = places(*(("watch",) if road == "published" else ()), "list")
    site = place.site()
    handle = site.launch(job(id="a"))
    if road == "published":
        backend = place.control.backends[-1]
        backend.publish(backend.ref("a"), NONSENSE[kind](None))
        backend.publish(None, None)
        place.end("a", exit_code=3)
    else:
        once = iter([NONSENSE[kind]])
        place.control.faults["poll"] = lambda ref: next(once, lambda _: None)(ref)
        place.platform.put("a", end={"exit_code": 3})
    result = handle.wait(20)
    assert isinstance(result, Result)
    assert verdict(result) == ("FAILED", "Error", 1)


# --- outages ---


def test_a_platform_that_is_unreachable_for_a_while(places):
    """No look that fails is an end; the job is not reachable, then it is, and ends as it did."""
    place = places("list")
    site = place.site()
    handle = site.launch(job(id="a"))
    place.start("a")
    handle.wait_until(JobState.RUNNING, 20)
    place.control.faults["poll"] = failing(*OUTAGE * 3)
    until(lambda: not handle.status().reachable)
    assert handle.state is JobState.RUNNING
    until(lambda: handle.status().reachable)
    place.end("a", exit_code=3)
    assert handle.wait(20).exit_code == 3


def test_an_outage_while_results_come_home(places, monkeypatch):
    """Collecting goes on until the platform is back; then the files are there and the platform is clean."""
    place = places("watch", "list", "collect", "logs", "remove")
    place.control.faults["collect"] = failing(*[Unreachable("no route")] * 3)
    site = place.site()
    handle = site.launch(job(id="a"))
    place.end("a", exit_code=3)
    result = handle.wait(20)
    assert (result.exit_code, result.workspace, result.log_tail) == (3, "returned", "one line\nanother")
    until(lambda: place.platform.jobs() == [])


def test_results_that_cannot_come_home_are_lost_in_words(places):
    """After some tries the end is told, with what was lost."""
    place = places("watch", "list", "collect")
    place.control.faults["collect"] = failing(*[OSError("disk gone")] * 9)
    site = place.site()
    handle = site.launch(job(id="a"))
    place.end("a")
    assert handle.wait(20).workspace == "lost"
    assert "disk gone" in next(event.message for event in site.events("a") if event.kind == "cannot collect")


def test_closing_during_an_outage_loses_no_results(places):
    """Closed while the files cannot come yet: nothing is called lost, nothing removed; the next site collects."""
    place = places("watch", "list", "collect", "remove")
    place.control.faults["collect"] = failing(*[Unreachable("no route")] * 999)
    site = place.site()
    site.launch(job(id="a"))
    place.end("a", exit_code=3)
    until(lambda: place.control.count("collect"))
    site.close()
    assert place.platform.jobs() == ["a"]
    place.control.faults.clear()
    again = place.site()
    assert again.row("a").phase in (Phase.ENDED, Phase.COLLECTED, Phase.REPORTED)
    result = again.attach("a").wait(20)
    assert (result.exit_code, result.workspace) == (3, "returned")


def test_a_platform_that_cannot_be_asked_when_a_site_is_opened(place):
    """Opening waits for nobody; what the store knows is there."""

    def parent():
        place.control.faults["launch done"] = lambda _: os.kill(os.getpid(), 9)
        place.site().launch(job(id="a"))

    assert Child(parent).wait() == -9
    place.control.faults["list"] = failing(*OUTAGE)
    handle = place.site().attach("a")
    until(lambda: not handle.status().reachable)
    place.end("a", exit_code=3)
    assert handle.wait(20).exit_code == 3


def test_a_removal_that_fails_is_made_up_for(places):
    """The end is told all the same; the next site removes what was left."""
    place = places("watch", "list", "remove")
    place.control.faults["remove"] = failing(OSError("busy"))
    site = place.site()
    handle = site.launch(job(id="a"))
    place.end("a")
    assert handle.wait(20).state is JobState.SUCCEEDED
    site.close()
    assert place.platform.jobs() == ["a"]
    place.site()
    until(lambda: place.platform.jobs() == [])


# --- a backend that raises anywhere ---

HOOKS = ["poll", "terminate", "collect", "stage", "logs", "remove", "list", "close", "check", "watch"]


@pytest.mark.parametrize("error", [ValueError("oh no"), SystemExit(3)], ids=["raises", "exits"])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_raises_once(places, hook, error):
    """The job ends as it does, and the site can be used, closed and opened again."""
    place = places("watch", "list", "collect", "stage", "logs", "remove", "close", "check")
    place.control.faults[hook] = failing(error)
    site = place.site()
    handle = site.launch(job(id="a"))
    site.doctor()
    handle.terminate(grace=0)
    until(lambda: (place.platform.get("a") or {"end": True})["end"])
    assert handle.wait(20).reason is Reason.ABORTED
    site.gc()
    site.close()
    assert place.site().attach("a").wait(20).reason is Reason.ABORTED


def test_gc_and_the_list_of_platform_jobs_say_when_a_platform_cannot_be_asked(places):
    """gc does what it can; platform_jobs raises in words."""
    place = places("watch", "list")
    site = place.site()
    place.control.faults["list"] = failing(*[OSError("no route")] * 2)
    assert site.gc() == []
    with pytest.raises(BackendError, match="no route"):
        site.platform_jobs()


# --- filters and observers ---


class Raising:
    """A plugin that raises wherever it is asked."""

    api = 1

    def __init__(self, error):
        self.error = error

    @hookimpl
    def siteward_filter_failure_report(self, report):
        raise self.error

    @hookimpl
    def siteward_job_launched(self, ref):
        raise self.error

    @hookimpl
    def siteward_job_ended(self, ref, result):
        raise self.error


class Hearing:
    """A plugin that remembers."""

    api = 1

    def __init__(self):
        self.heard = []

    @hookimpl
    def siteward_filter_failure_report(self, report):
        self.heard.append("filter")

    @hookimpl
    def siteward_job_launched(self, ref):
        self.heard.append(("launched", ref.job_id))

    @hookimpl
    def siteward_job_ended(self, ref, result):
        self.heard.append(("ended", ref.job_id, result.exit_code, result.report.reportable))


@pytest.mark.parametrize("error", [ValueError("leak: s3cret"), SystemExit(3)], ids=["raises", "exits"])
def test_plugins_that_raise_are_isolated(places, error, caplog):
    """The next one hears all; a report whose filter raised keeps code and reason, and withholds all text."""
    hearing = Hearing()
    plugins = [("siteward.plugins", "a-raising", Raising(error)), ("siteward.plugins", "b-hearing", hearing)]
    place = places("watch", "list", plugins=plugins)
    site = place.site()
    handle = site.launch(job(id="a"))
    place.end("a", exit_code=103)
    result = handle.wait(20)
    assert (result.report.code, result.report.reason, result.report.log_tail) == (103, "Error", "")
    assert "withheld" in result.report.message
    until(lambda: len(hearing.heard) == 3)
    assert hearing.heard == [("launched", "a"), "filter", ("ended", "a", 103, True)]
    assert "raising" in caplog.text


# --- the host program ---


def test_a_fork_in_the_host_program_takes_nothing_along(place):
    """The child of a fork holds no lock, and its end ends nothing of the parent's."""
    site = place.site()
    handle = site.launch(job(id="a"))
    with Child(lambda: None) as child:
        assert child.wait() == 0
    with Child(lambda: place.site().attach("a").wait_until(JobState.RUNNING, 20)) as child:
        place.start("a")
        assert child.wait() == 0
    place.end("a", exit_code=3)
    assert handle.wait(20).exit_code == 3


def test_a_callback_that_raises_harms_nobody(place, caplog):
    """It is logged, and the next callback is called."""
    handle = place.site().launch(job(id="a"))
    heard = []
    handle.add_done_callback(lambda _: 1 / 0)
    handle.add_done_callback(heard.append)
    place.end("a")
    assert handle.wait(20).state is JobState.SUCCEEDED
    until(lambda: heard == [handle] and "ZeroDivisionError" in caplog.text)
