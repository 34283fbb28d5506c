"""The driver: states only forward, the first end stays, stops, deadlines, and every phase stored."""

import threading

import pytest

from siteward import BackendError, JobState, JobStatus, Reason, SitewardError, StoreError, Unreachable, ended
from siteward.store import Phase

from .fake import job, until


def verdict(result):
    return result.state.value, result.reason.value, int(result.return_code)


def status(state, **end):
    result = ended(**end) if end else None
    return JobStatus(state=JobState(state), result=result)


DONE = ("SUCCEEDED", "Completed", 0)
FAILED = ("FAILED", "Error", 1)
NEWS = {
    "the usual way": ([("RUNNING", {}), ("SUCCEEDED", {"exit_code": 0})], DONE),
    "from PENDING to an end": ([("SUCCEEDED", {"exit_code": 0})], DONE),
    "the same news twice": ([("RUNNING", {}), ("RUNNING", {}), *[("FAILED", {"exit_code": 2})] * 2], FAILED),
    "RUNNING does not go back": ([("RUNNING", {}), ("PENDING", {}), ("SUCCEEDED", {"exit_code": 0})], DONE),
    "the first end stays": ([("FAILED", {"exit_code": 2}), ("SUCCEEDED", {"exit_code": 0})], FAILED),
    "nothing comes after an end": ([("SUCCEEDED", {"exit_code": 0}), ("RUNNING", {}), ("PENDING", {})], DONE),
    "lost, then found": (
        [("RUNNING", {}), ("LOST", {"reason": Reason.NODE_LOST}), ("SUCCEEDED", {"exit_code": 0})],
        ("LOST", "NodeLost", 104),
    ),
    "an end without a result": ([("SUCCEEDED", {})], DONE),
    "lost without a result": ([("LOST", {})], ("LOST", "BackendLost", 104)),
    "failed without a result": ([("FAILED", {})], FAILED),
    "a result decides, not the state beside it": ([("SUCCEEDED", {"exit_code": 3})], FAILED),
}


@pytest.mark.parametrize(("news", "expected"), NEWS.values(), ids=NEWS)
@pytest.mark.parametrize("early", [False, True], ids=["after the launch", "before launch has returned"])
def test_news(places, news, expected, early):
    """Whatever comes, and when, a job goes only forward and its first end stays."""
    place = places("watch")
    site = place.site()

    def publish(*_):
        backend = place.control.backends[-1]
        for state, end in news:
            backend.publish(backend.ref("a"), status(state, **end))

    if early:
        place.control.faults["launch done"] = publish
    handle = site.launch(job(id="a"))
    if not early:
        publish()
    assert verdict(handle.wait(10)) == expected
    assert site.row("a").result == handle.wait(0)
    assert handle.state is handle.wait(0).state


def test_news_of_other_jobs_and_attempts_is_dropped(place, caplog):
    """A watch may tell of jobs that this process does not drive; an end that is dropped has a line in the log."""
    caplog.set_level("DEBUG", "siteward")
    site = place.site()
    handle = site.launch(job(id="a"))
    backend = place.control.backends[-1]
    for ref in (backend.ref("b"), backend.ref("a", attempt=2)):
        backend.publish(ref, status("FAILED", exit_code=1))
    assert handle.state is JobState.PENDING
    assert "an end of job b (FAILED) is dropped: it is no job that this driver has" in caplog.text
    assert "an end of job a (FAILED) is dropped: it is of another attempt or backend" in caplog.text
    place.end("a")
    assert handle.wait(10).state is JobState.SUCCEEDED


def test_unreachable_is_not_an_end(place):
    """A status that is not reachable keeps the last state, whatever state it has, and says why."""
    site = place.site()
    handle = site.launch(job(id="a"))
    place.start("a")
    backend = place.control.backends[-1]
    for state in ("RUNNING", "PENDING", "LOST", "SUCCEEDED"):
        backend.publish(backend.ref("a"), JobStatus(state=JobState(state), reachable=False, message="no route"))
        seen = handle.status()
        assert (seen.state, seen.reachable, seen.message, seen.result) == (JobState.RUNNING, False, "no route", None)
    assert site.row("a").reachable is False
    place.start("a")
    assert handle.status().reachable is True
    assert site.row("a").reachable is True
    assert [event.kind for event in site.events("a") if "reachable" in event.kind] == ["unreachable", "reachable again"]
    place.end("a")
    assert verdict(handle.wait(10)) == DONE


def test_messages_of_a_pending_job_are_its_history(place):
    """`events` says in words why a job is pending; the same words are noted once."""
    site = place.site()
    handle = site.launch(job(id="a"))
    for message in ("no node fits", "no node fits", "pulling"):
        place.platform.put("a", message=message)
        place.tell("a")
    assert handle.status().message == "pulling"
    assert [event.message for event in site.events("a") if event.kind == "pending"] == ["no node fits", "pulling"]
    place.end("a")
    handle.wait(10)


PHASES = {
    "quick": (("watch", "list", "remove"), ["intent", "launched", "reported", "removed"]),
    "with a collection": (
        ("watch", "list", "remove", "collect"),
        ["intent", "launched", "ended", "collected", "reported", "removed"],
    ),
}


@pytest.mark.parametrize(("features", "phases"), PHASES.values(), ids=PHASES)
def test_phases_are_stored_in_order(places, monkeypatch, features, phases):
    """Every phase is stored when its step is done, in the order of the design."""
    from siteward.store import Store

    place = places(*features)
    seen = []

    def note(self, original, job_id, *args, **fields):
        seen.extend(str(fields[key]) for key in ("phase",) if key in fields)
        return original(self, job_id, *args, **fields)

    for name in ("insert", "update"):
        original = getattr(Store, name)
        monkeypatch.setattr(Store, name, lambda self, *a, _o=original, **f: note(self, _o, *a, **f))
    with place.site() as site:
        handle = site.launch(job(id="a"))
        place.end("a")
        handle.wait(10)
        until(lambda: place.platform.get("a") is None)
    assert seen == phases[:-1]
    assert place.site().row("a").phase is Phase.REMOVED


def test_times_are_in_order(place):
    """created ≤ launched ≤ started ≤ ended, as seconds since the epoch."""
    site = place.site()
    handle = site.launch(job(id="a"))
    place.start("a")
    place.end("a", exit_code=0)
    handle.wait(10)
    row = site.row("a")
    assert row.created_at <= row.launched_at <= row.started_at <= row.ended_at


STOPS = {
    "aborted": ({"signal": 15}, ("ABORTED", "Aborted", 9)),
    "aborted, saving": ({"exit_code": 0}, ("ABORTED", "Aborted", 9)),
    "aborted, with a code of its own": ({"exit_code": 103}, ("ABORTED", "Aborted", 9)),
    "aborted, gone": ({"reason": "Deleted"}, ("ABORTED", "Aborted", 9)),
}


@pytest.mark.parametrize(("end", "expected"), STOPS.values(), ids=STOPS)
def test_a_job_that_was_asked_to_end_is_aborted(place, end, expected):
    """However it then ends; exit code and signal stay."""
    site = place.site()
    place.control.obeys = False
    handle = site.launch(job(id="a"))
    handle.terminate(grace=2)
    assert handle.state is JobState.PENDING
    place.end("a", **end)
    result = handle.wait(10)
    assert verdict(result) == expected
    assert (result.exit_code, result.signal) == {
        "signal": (143, 15),
        "exit_code": (end.get("exit_code"), None),
        "reason": (None, None),
    }[next(iter(end))]


def test_an_end_seen_before_the_stop_is_no_abort(places):
    """Once the end was seen, a stop changes nothing and reaches no platform."""
    place = places("watch", "collect")
    held = threading.Event()
    place.control.faults["collect"] = lambda *_: held.wait(20) and None
    site = place.site()
    handle = site.launch(job(id="a"))
    place.end("a", exit_code=3)
    until(lambda: place.control.count("collect"))
    handle.terminate()
    held.set()
    assert verdict(handle.wait(10)) == FAILED
    handle.terminate()
    assert place.control.count("terminate") == 0


def test_a_shorter_grace_is_sent_again_a_longer_one_is_not_stored(place):
    """terminate is idempotent; later calls can only shorten the grace."""
    site = place.site()
    place.control.obeys = False
    handle = site.launch(job(id="a"))
    for grace in (9, 5, 7):
        handle.terminate(grace=grace)
    assert place.platform.get("a")["stops"] == [9, 5, 5]
    assert site.row("a").stop_grace == 5
    place.end("a", signal=15)
    handle.wait(10)


def test_the_stop_is_stored_before_it_is_sent(place):
    """A crash between the two loses no stop."""
    site = place.site()
    stored = []
    place.control.faults["terminate"] = lambda ref, grace: stored.append(site.row(ref.job_id).stop_cause)
    handle = site.launch(job(id="a"))
    handle.terminate()
    assert handle.wait(10).reason is Reason.ABORTED
    assert stored == ["abort"]


def test_a_stop_that_fails_is_sent_again(place):
    """A platform that cannot be told to end a job is told again until it can."""
    failures = iter([OSError("no route"), SystemExit(1), BackendError("busy")])

    def fault(*_):
        if (error := next(failures, None)) is not None:
            raise error

    place.control.faults["terminate"] = fault
    site = place.site()
    handle = site.launch(job(id="a"))
    handle.terminate()
    assert handle.wait(20).reason is Reason.ABORTED
    assert place.control.count("terminate") == 4


def test_a_stop_during_the_launch_is_not_lost(place):
    """A job told to end while its launch is under way is ended as soon as it has a ref."""
    entered, go = threading.Event(), threading.Event()

    def fault(_request):
        entered.set()
        go.wait(20)

    place.control.faults["launch"] = fault
    site, other = place.site(), place.site()
    launching = threading.Thread(target=site.launch, args=[job(id="a")])
    launching.start()
    entered.wait(20)
    other.attach("a").terminate(grace=0)
    go.set()
    launching.join(20)
    assert verdict(other.attach("a").wait(10)) == ("ABORTED", "Aborted", 9)


def test_terminate_returns_while_another_call_about_the_job_is_under_way(places):
    """Calls are serial per job, but nobody who asks for a stop waits for the one before."""
    place = places("list")
    inside, go = threading.Event(), threading.Event()

    def slow(_ref):
        inside.set()
        go.wait(20)

    place.control.faults["poll"] = slow
    site = place.site()
    handle = site.launch(job(id="a"))
    inside.wait(20)
    handle.terminate(grace=0)
    assert place.control.count("terminate") == 0
    go.set()
    assert handle.wait(10).reason is Reason.ABORTED


def test_calls_about_one_job_are_serial(places):
    """poll, terminate, collect and remove of one job never overlap."""
    place = places("list", "collect", "remove")
    inside, most = [], []

    def enter(*_):
        inside.append(1)
        most.append(len(inside))
        threading.Event().wait(0.005)
        inside.pop()

    place.control.faults = dict.fromkeys(("poll", "terminate", "collect", "remove"), enter)
    site = place.site()
    handle = site.launch(job(id="a"))
    until(lambda: place.control.count("poll") > 2)
    for _ in range(3):
        handle.terminate(grace=1)
    handle.wait(10)
    until(lambda: place.control.count("remove"))
    assert set(most) == {1}


def test_the_deadline_counts_from_running(place):
    """A pending job has no deadline; a running one ends as DeadlineExceeded, its files come home."""
    site = place.site()
    handle = site.launch(job(id="a", timeout=0.05))
    with pytest.raises(TimeoutError):
        handle.wait(0.2)
    assert place.control.count("terminate") == 0
    place.start("a")
    result = handle.wait(10)
    assert verdict(result) == ("FAILED", "DeadlineExceeded", 101)
    assert "0.05 s" in result.message
    assert place.control.calls["terminate"][0][1] == 0.5


def test_a_deadline_does_not_undo_an_abort(place):
    """The first cause of a stop stays."""
    site = place.site()
    place.control.obeys = False
    handle = site.launch(job(id="a", timeout=0.05))
    place.start("a")
    handle.terminate(grace=3)
    until(lambda: place.control.count("terminate") > 1)
    place.end("a", signal=9)
    assert handle.wait(10).reason is Reason.ABORTED


def test_without_a_watch_jobs_are_polled(places):
    """States and ends come by polling, and polling goes on after the first look."""
    place = places("list")
    site = place.site()
    first, second = site.launch(job(id="a")), site.launch(job(id="b"))
    place.start("a")
    assert first.wait_until(JobState.RUNNING, 10)
    place.end("a", exit_code=4)
    assert first.wait(10).exit_code == 4
    place.end("b")
    assert second.wait(10).exit_code == 0


def test_with_a_watch_nobody_polls(place):
    """While a watch tells of the jobs, the platform is not asked."""
    site = place.site()
    handle = site.launch(job(id="a"))
    place.start("a")
    with pytest.raises(TimeoutError):
        handle.wait(0.1)
    place.end("a")
    handle.wait(10)
    assert (place.control.count("watch"), place.control.count("poll")) == (1, 0)


@pytest.mark.parametrize("how", ["raises", "exits", "fails later", "fails at once"])
def test_a_watch_that_cannot_see_gives_way_to_polling(place, how):
    """After an exception of the watch, or publish.failed, the jobs are polled."""

    def fault(publish):
        if how == "raises":
            raise OSError("no stream")
        if how == "exits":
            raise SystemExit(1)
        if how == "fails at once":
            publish.failed(OSError("no stream"))

    place.control.faults["watch"] = fault
    site = place.site()
    handle = site.launch(job(id="a"))
    if how == "fails later":
        place.control.backends[-1].publish.failed(OSError("cut off"))
    place.platform.put("a", end={"exit_code": 5})
    assert handle.wait(10).exit_code == 5


def test_the_watch_is_there_before_the_first_launch(place):
    """Of launches at one time none goes ahead of the watch, which is started once."""
    order = []
    begin = threading.Event()

    def watch(_publish):
        begin.wait(0.05)
        order.append("watch")

    place.control.faults["watch"] = watch
    place.control.faults["launch"] = lambda request: order.append(request.job_id)
    site = place.site()
    threads = [threading.Thread(target=site.launch, args=[job(id=f"j{n}")]) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert order[0] == "watch"
    assert order.count("watch") == 1
    assert len(order) == 7


def test_news_from_within_a_call_does_no_harm(place):
    """A backend may publish from inside terminate (or any call about the job)."""
    site = place.site()
    handle = site.launch(job(id="a"))
    done = threading.Thread(target=handle.terminate, daemon=True)
    done.start()
    done.join(20)
    assert not done.is_alive()
    assert handle.wait(10).reason is Reason.ABORTED


def test_closing_leaves_jobs_running_and_tells_who_waits(place):
    """Waiters get an error that says so; the next site has the job."""
    site = place.site()
    handle = site.launch(job(id="a"))
    failures = []

    def wait():
        try:
            handle.wait()
        except SitewardError as error:
            failures.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    site.close()
    waiter.join(20)
    assert "goes on" in str(failures[0])
    with pytest.raises(SitewardError, match="goes on"):
        handle.wait_until(JobState.RUNNING, 5)
    assert place.platform.get("a")["stops"] == []
    again = place.site().attach("a")
    place.end("a", exit_code=6)
    assert again.wait(10).exit_code == 6


def test_a_closed_site_launches_nothing(place):
    """It says that it is closed."""
    site = place.site()
    site.close()
    site.close()
    with pytest.raises(SitewardError):
        site.launch(job(id="a"))
    assert place.platform.jobs() == []


def test_a_removal_that_fails_is_tried_again(places, monkeypatch):
    """A platform that is away just when it is to forget a job is asked again: nothing stays there while a site is open.

    Until then the job has its end like any other.
    """
    monkeypatch.setattr("siteward.removing._FIRST_PAUSE", 0.01)
    place = places("watch", "list", "remove")
    tries = iter(range(3))

    def away(ref):
        if next(tries, None) is not None:
            raise Unreachable("the platform is away")

    place.control.faults["remove"] = away
    site = place.site()
    handle = site.launch(job(id="a"))
    place.end("a", exit_code=0)
    assert handle.wait(20).state is JobState.SUCCEEDED
    until(lambda: place.platform.get("a") is None, what="the platform forgets the job")
    until(lambda: site.row("a").phase is Phase.REMOVED, what="that is stored")
    assert place.control.count("remove") == 4


def test_removals_that_fail_keep_nothing_else_waiting(places, monkeypatch):
    """They are tried one after the other, and where the platform is away, with one job each time."""
    monkeypatch.setattr("siteward.removing._FIRST_PAUSE", 0.01)
    monkeypatch.setattr("siteward.removing._LONGEST_PAUSE", 0.01)
    place = places("watch", "list", "remove")
    tried, at_once, most, away = [], threading.Semaphore(1), [], [True]

    def remove(ref):
        if threading.current_thread().name == "siteward-step":
            most.append(at_once.acquire(blocking=False))
            tried.append(ref.job_id)
            at_once.release()
        if away:
            raise Unreachable("the platform is away")

    place.control.faults["remove"] = remove
    site = place.site()
    handles = [site.launch(job(id=name)) for name in "abcdef"]
    for handle in handles:
        place.end(handle.job_id, exit_code=0)
        handle.wait(20)
    until(lambda: len(tried) > 10, what="it is tried again")
    assert all(most)
    away.clear()
    until(lambda: not place.platform.jobs(), what="the platform forgets all jobs")


def test_a_removal_is_tried_again_though_the_store_was_away(places, monkeypatch):
    """A disk that is full for a moment ends nothing."""
    monkeypatch.setattr("siteward.removing._FIRST_PAUSE", 0.01)
    place = places("watch", "list", "remove")
    site = place.site()
    store, faults = site._parts.store, [StoreError("disk full"), StoreError("disk full")]
    read = store.get

    def get(job_id):
        if threading.current_thread().name == "siteward-step" and faults:
            raise faults.pop()
        return read(job_id)

    def away(ref):
        if faults:
            raise Unreachable("the platform is away")

    monkeypatch.setattr(store, "get", get)
    place.control.faults["remove"] = away
    handle = site.launch(job(id="a"))
    place.end("a", exit_code=0)
    handle.wait(20)
    until(lambda: not place.platform.jobs(), what="the platform forgets the job")
    assert not faults


@pytest.mark.parametrize("features", [("watch", "remove"), ("watch", "remove", "collect")], ids=["quick", "slow"])
def test_a_site_may_be_closed_by_who_hears_of_an_end(places, features):
    """From within a callback, in whatever thread it comes: no deadlock, and the end is stored."""
    place = places(*features)
    site = place.site()
    closed = threading.Event()
    handle = site.launch(job(id="a"))

    def close(_handle):
        site.close()
        closed.set()

    handle.add_done_callback(close)
    place.end("a", exit_code=7)
    assert closed.wait(20)
    assert handle.wait(10).exit_code == 7
    until(lambda: place.site().row("a").result is not None)


def test_an_end_that_comes_while_the_site_is_closed_is_not_doubled(places):
    """Closing waits for an end that is being stored, or leaves it whole to the next site."""
    for round_ in range(10):
        place = places("watch", "remove")
        site = place.site()
        handle = site.launch(job(id="a"))
        ending = threading.Thread(target=place.end, args=["a"], kwargs={"exit_code": round_})
        ending.start()
        site.close()
        ending.join(20)
        again = place.site()
        assert again.attach("a").wait(10).exit_code == round_
        if handle._tracked.future.exception() is None:
            assert handle.wait(0) == again.row("a").result
