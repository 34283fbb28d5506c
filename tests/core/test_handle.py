"""What a launch returns: state, result, logs, waiting from any thread, and ending the job."""

import threading

import pytest

from siteward import BackendError, JobState, Reason, UnknownJob

from .fake import job, until


@pytest.fixture
def handle(place):
    """The handle of a job that was just launched; ``handle.place`` is where."""
    return place.site().launch(job(id="a"))


def test_what_it_says(place, handle):
    """Who the job is, where it runs and where its files are."""
    assert (handle.job_id, handle.site, handle.backend) == ("a", "site-1", "fake")
    assert handle.job_dir == place.state_dir / "jobs" / "a" / "work"
    assert handle.ref.job_id == "a"
    assert repr(handle) == "<Handle a at 'site-1': PENDING>"
    assert not handle.done()
    place.end("a")
    handle.wait(20)
    assert handle.done()
    assert repr(handle) == "<Handle a at 'site-1': SUCCEEDED>"


def test_a_timeout_leaves_the_job_alone(place, handle):
    """TimeoutError names the job; a later wait has its end."""
    with pytest.raises(TimeoutError, match=r"job a has not ended within 0.01 s"):
        handle.wait(timeout=0.01)
    assert place.platform.get("a")["stops"] == []
    place.end("a", exit_code=3)
    assert handle.wait().exit_code == 3
    assert handle.wait(0).exit_code == 3


UNTIL = {
    "entered": (["start"], JobState.RUNNING, True),
    "entered and left": (["start", "end"], JobState.RUNNING, True),
    "an end": (["start", "end"], JobState.SUCCEEDED, True),
    "another end": (["start", "end"], JobState.FAILED, False),
    "ended without": (["lost"], JobState.RUNNING, False),
    "pending, always": (["lost"], JobState.PENDING, True),
}


@pytest.mark.parametrize(("steps", "state", "answer"), UNTIL.values(), ids=UNTIL)
@pytest.mark.parametrize("first", [False, True], ids=["asked before", "asked after"])
def test_wait_until(place, handle, steps, state, answer, first):
    """True when the state was entered, False when the job ended first; however quick it was."""
    do = {
        "start": lambda: place.start("a"),
        "end": lambda: place.end("a"),
        "lost": lambda: place.end("a", reason="Deleted"),
    }
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(handle.wait_until(state, 20)))
    if not first:
        waiter.start()
    for step in steps:
        do[step]()
    if first:
        handle.wait(20) if "start" not in steps or "end" in steps else None
        waiter.start()
    waiter.join(20)
    assert answers == [answer]
    place.end("a")


def test_wait_until_gives_up(place, handle):
    """TimeoutError says where the job is."""
    with pytest.raises(TimeoutError, match=r"is PENDING, not RUNNING, after 0.01 s"):
        handle.wait_until(JobState.RUNNING, timeout=0.01)
    place.end("a")


def test_waiting_from_many_threads(place, handle):
    """All have the same result."""
    results = []
    waiters = [threading.Thread(target=lambda: results.append(handle.wait(20))) for _ in range(8)]
    for waiter in waiters:
        waiter.start()
    place.end("a", exit_code=3)
    for waiter in waiters:
        waiter.join(20)
    assert len(results) == 8
    assert len({id(result) for result in results}) == 1


def test_callbacks(place, handle):
    """Each is called once, with the handle; at once for a job that has ended; it may wait for other jobs."""
    heard, other = [], place.site().launch(job(id="b"))
    handle.add_done_callback(lambda each: heard.append(("first", each)))
    handle.add_done_callback(lambda each: heard.append((other.wait(20).exit_code, each)))
    place.end("a")
    handle.wait(20)
    until(lambda: heard == [("first", handle)])
    place.end("b", exit_code=3)
    until(lambda: len(heard) == 2)
    handle.add_done_callback(lambda each: heard.append(("last", each)))
    until(lambda: len(heard) == 3)
    assert heard == [("first", handle), (3, handle), ("last", handle)]


def test_terminating_an_ended_job_changes_nothing(place, handle):
    """Nor does it reach the platform."""
    place.end("a", exit_code=3)
    result = handle.wait(20)
    handle.terminate()
    assert handle.wait(0) == result
    assert place.control.count("terminate") == 0


def test_the_default_grace_is_the_site_s(place, handle):
    """A negative one is none."""
    place.control.obeys = False
    handle.terminate()
    handle.terminate(grace=-3)
    assert place.platform.get("a")["stops"] == [0.5, 0.0]
    place.end("a", signal=9)
    assert handle.wait(20).reason is Reason.ABORTED


def test_attaching(place):
    """A handle of any job, running or ended, in this site or a later one; the same end for all."""
    site = place.site()
    handle = site.launch(job(id="a"))
    assert site.attach("a").ref == handle.ref
    place.end("a", exit_code=3)
    result = handle.wait(20)
    assert site.attach("a").wait(0) == result
    site.close()
    later = place.site()
    assert later.attach("a").wait(0) == result
    assert later.attach("a").done()
    with pytest.raises(UnknownJob, match=r"'aa'.*Did you mean 'a'"):
        later.attach("aa")


# --- logs ---


@pytest.fixture
def talking(places):
    """A place whose backend has logs."""
    return places("watch", "list", "logs")


def test_logs_are_lines_of_bytes(talking):
    """Cut at newlines wherever the chunks end; each with its newline, the last one perhaps without."""
    chunks = [b"on", b"e\ntw", b"o\n\n", b"\xff\0thr", b"ee"]
    talking.control.faults["logs"] = lambda *_: None
    site = talking.site()
    handle = site.launch(job(id="a"))
    backend = talking.control.backends[-1]
    real = type(backend).siteward_read_logs

    site._parts.launchers["fake"].read_logs = lambda ref, *, follow, tail: iter(chunks)
    assert list(handle.logs()) == [b"one\n", b"two\n", b"\n", b"\xff\0three"]
    assert real
    talking.end("a")


def test_logs_of_a_live_job_come_from_the_backend(talking):
    """follow and tail are passed on."""
    site = talking.site()
    handle = site.launch(job(id="a"))
    assert list(handle.logs(follow=True, tail=2)) == [b"one line\n", b"another\n"]
    assert [call[1:] for call in talking.control.calls["logs"]] == [(True, 2)]
    talking.end("a")
    handle.wait(20)


TAILS = {None: 3, 0: 0, 1: 1, 2: 2, 3: 3, 9: 3}


@pytest.mark.parametrize(("tail", "count"), TAILS.items())
def test_logs_of_an_ended_job_are_kept(talking, tail, count):
    """They were saved whole when it ended, and need no platform; a tail is the last so many lines."""
    talking.control.faults["logs"] = lambda *_: None
    site = talking.site()
    handle = site.launch(job(id="a"))
    lines = [b"first\n", b"\n", b"last"]
    site._parts.launchers["fake"].read_logs = lambda ref, *, follow, tail: iter([b"".join(lines)])
    talking.end("a")
    assert handle.wait(20).log_tail == "first\n\nlast"
    site.close()
    later = talking.site()
    assert list(later.attach("a").logs(follow=True, tail=tail)) == lines[len(lines) - count :]


def test_a_follower_can_leave(talking):
    """The backend's iterator is closed."""
    closed = []

    def endless():
        try:
            while True:
                yield b"line\n"
        finally:
            closed.append(True)

    site = talking.site()
    handle = site.launch(job(id="a"))
    real = site._parts.launchers["fake"].read_logs
    site._parts.launchers["fake"].read_logs = lambda ref, *, follow, tail: endless()
    lines = handle.logs(follow=True)
    assert next(lines) == b"line\n"
    lines.close()
    assert closed == [True]
    site._parts.launchers["fake"].read_logs = real
    talking.end("a")


def test_following_a_queued_job_waits_for_it(places):
    """It has no output yet; when it ends without any, following ends."""
    place = places("watch", "logs", max_jobs=1)
    site = place.site()
    first, second = site.launch(job(id="a")), site.launch(job(id="b"))
    lines = []
    follower = threading.Thread(target=lambda: lines.extend(second.logs(follow=True)))
    follower.start()
    place.end("a")
    first.wait(20)
    follower.join(20)
    assert lines == [b"one line\n", b"another\n"]
    until(lambda: place.platform.get("b"))
    place.end("b")
    second.wait(20)


def test_a_backend_without_logs_says_so(place):
    """In words, while the job runs; afterwards there are none."""
    handle = place.site().launch(job(id="a"))
    with pytest.raises(BackendError, match=r"keeps no logs"):
        list(handle.logs())
    place.end("a")
    handle.wait(20)
    assert list(handle.logs()) == []
