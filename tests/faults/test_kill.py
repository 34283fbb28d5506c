"""kill -9 of the parent at every step of a job's way: the next site has the job's true end, once."""

import os

import pytest

from siteward import Job, JobState, Reason, UnknownJob, hookimpl
from siteward.store import Phase, Store

from ..core.fake import Child, die, job, until
from ..core.managers import DiskUnits

WHOLE = ("watch", "list", "remove", "collect")


class Observer:
    """Dies when it hears of an end; before that, it is one more step of the way."""

    api = 1
    dies = False

    @hookimpl
    def siteward_job_launched(self, ref):
        if self.dies == "launched":
            die()

    @hookimpl
    def siteward_job_ended(self, ref, result):
        if self.dies == "ended":
            die()


def at(hook):
    """Die when the core calls this hook of the backend."""

    def arm(place):
        place.control.faults[hook] = die

    return arm


def observing(what):
    def arm(place):
        Observer.dies = what

    return arm


def managing(hook):
    def arm(place):
        DiskUnits.fault = staticmethod(lambda called: die() if called == hook else None)

    return arm


def storing(method, when, phase=None):
    """Die before or after a transaction of the store (one that stores this phase)."""

    def arm(place):
        real = getattr(Store, method)

        def replaced(self, *arguments, **fields):
            mine = phase is None or fields.get("phase") == phase
            if mine and when == "before":
                die()
            answer = real(self, *arguments, **fields)
            if mine:
                die()
            return answer

        setattr(Store, method, replaced)

    return arm


NO_JOB, NEVER_RAN = "no job", "never ran"
POINTS = {
    "before the intent is stored": (storing("insert", "before"), NO_JOB),
    "after the intent is stored": (storing("insert", "after"), NEVER_RAN),
    "before the platform has it": (at("launch"), NEVER_RAN),
    "when the platform has it": (at("launch done"), 42),
    "before the ref is stored": (storing("update", "before", Phase.LAUNCHED), 42),
    "after the ref is stored": (storing("update", "after", Phase.LAUNCHED), 42),
    "when observers hear of the launch": (observing("launched"), 42),
    "before the end is stored": (storing("update", "before", Phase.ENDED), 42),
    "after the end is stored": (storing("update", "after", Phase.ENDED), 42),
    "while its files are collected": (at("collect"), 42),
    "before the collection is stored": (storing("update", "before", Phase.COLLECTED), 42),
    "after the collection is stored": (storing("update", "after", Phase.COLLECTED), 42),
    "before its resources are freed": (managing("free"), 42),
    "when its resources are free": (managing("free done"), 42),
    "after that is stored": (storing("update", "after", Phase.FREED), 42),
    "before the report is stored": (storing("update", "before", Phase.REPORTED), 42),
    "after the report is stored": (storing("update", "after", Phase.REPORTED), 42),
    "when observers hear of the end": (observing("ended"), 42),
    "before it is removed": (at("remove"), 42),
    "before the removal is noted": (storing("mark_removed", "before"), 42),
    "after the removal is noted": (storing("mark_removed", "after"), 42),
}


@pytest.fixture
def whole(places):
    """A place with every step there is: a collection, resources, an observer."""
    return places(
        *WHOLE,
        resources={"units": {}},
        plugins=[("siteward.resources", "units", DiskUnits), ("siteward.plugins", "observer", Observer())],
    )


def run_and_die(place, arm):
    """Launch a job in a child that dies at the armed point; say how the child ended."""

    def parent():
        arm(place)
        with place.site() as site:
            handle = site.launch(job(id="a"))
            place.end("a", exit_code=42)
            handle.wait(20)

    return Child(parent).wait()


@pytest.mark.parametrize(("arm", "expected"), POINTS.values(), ids=POINTS)
def test_killed(whole, arm, expected):
    """Whatever the step: one launch, one end, the true one; resources free, files home, the platform clean."""
    assert run_and_die(whole, arm) == -9
    if (left := whole.platform.get("a")) is not None and left["end"] is None:
        whole.end("a", exit_code=42)
    site = whole.site()
    if expected is NO_JOB:
        with pytest.raises(UnknownJob):
            site.attach("a")
        site.gc()
        assert list((whole.state_dir / "jobs").iterdir()) == []
        return
    result = site.attach("a").wait(20)
    if expected is NEVER_RAN:
        assert (result.reason, int(result.return_code)) == (Reason.LAUNCH_FAILED, 101)
        assert whole.platform.jobs() == []
    else:
        assert (result.state, result.exit_code) == (JobState.FAILED, 42)
        assert (site.attach("a").job_dir / "result").exists()
        assert whole.control.count("launch") == 0
    until(lambda: site.resources() == {"units": {"held": []}})
    until(lambda: whole.platform.jobs() == [])
    assert site.row("a").result == result
    site.close()

    def phase():
        with whole.site() as site:
            return site.row("a").phase

    # A site that is closed at once leaves the last step to the next one.
    until(lambda: phase() is Phase.REMOVED)


@pytest.mark.parametrize("features", [("watch", "list", "remove"), ("list",)], ids=["watched", "polled"])
def test_killed_while_its_job_runs_on(places, features):
    """The next site follows the job, and can end it."""
    place = places(*features)

    def parent():
        site = place.site()
        for name in "abc":
            site.launch(job(id=name))
            place.start(name)
        until(lambda: all(row.state is JobState.RUNNING for row in site.jobs()))
        die()

    assert Child(parent).wait() == -9
    place.end("b", exit_code=3)
    site = place.site()
    place.end("a", exit_code=42)
    handle = site.attach("c")
    handle.terminate(grace=1)
    assert site.attach("a").wait(20).exit_code == 42
    assert site.attach("b").wait(20).exit_code == 3
    assert handle.wait(20).reason is Reason.ABORTED
    assert place.platform.get("c") is None or place.platform.get("c")["stops"] == [1]


STOPS = {
    "before the stop is stored": (storing("request_stop", "before"), None),
    "after the stop is stored": (storing("request_stop", "after"), "abort"),
    "before it is sent": (at("terminate"), "abort"),
}


@pytest.mark.parametrize(("arm", "cause"), STOPS.values(), ids=STOPS)
def test_killed_while_it_ends_a_job(place, arm, cause):
    """A stop that was stored is sent by the next driver; one that was not, never was."""

    def parent():
        arm(place)
        place.site().launch(job(id="a")).terminate(grace=2)

    assert Child(parent).wait() == -9
    site = place.site()
    assert site.row("a").stop_cause == cause
    handle = site.attach("a")
    if cause is None:
        place.end("a")
    assert handle.wait(20).reason is (Reason.ABORTED if cause else Reason.COMPLETED)


def test_killed_with_a_deadline_running(place):
    """The next driver keeps it, counted from when the job started."""

    def parent():
        place.site().launch(job(id="a", timeout=0.2))
        place.start("a")
        die()

    assert Child(parent).wait() == -9
    assert place.site().attach("a").wait(20).reason is Reason.DEADLINE_EXCEEDED


def test_killed_between_launch_and_staging(places):
    """The next driver brings the job's inputs to the platform, while the job still waits for them."""
    place = places("watch", "list", "stage")

    def parent():
        place.control.faults["stage"] = die
        site = place.site()
        site.launch(job(id="a"))
        until(lambda: False)

    assert Child(parent).wait() == -9
    handle = place.site().attach("a")
    until(lambda: place.platform.get("a").get("staged") == [])
    place.start("a")
    place.end("a")
    assert handle.wait(20).state is JobState.SUCCEEDED


def test_a_running_job_is_not_staged_again(places):
    """Its inputs are there; a second staging could only do harm."""
    place = places("watch", "list", "stage")

    def parent():
        site = place.site()
        site.launch(job(id="a"))
        until(lambda: "staged" in place.platform.get("a"))
        die()

    assert Child(parent).wait() == -9
    place.start("a")
    handle = place.site().attach("a")
    assert handle.wait_until(JobState.RUNNING, 20)
    place.end("a")
    handle.wait(20)
    assert place.control.count("stage") == 0


QUEUE = {
    "while jobs wait": (lambda place: None, {"a": 42, "b": 43}),
    "before a slot is taken": (storing("admit", "before"), {"a": 43}),
    "after a slot is taken": (storing("admit", "after"), {"a": NEVER_RAN}),
}


@pytest.mark.parametrize(("arm", "expected"), QUEUE.values(), ids=QUEUE)
def test_killed_with_a_queue(places, arm, expected):
    """Jobs that waited start under the next driver; one whose turn it just was is not launched a second time."""
    place = places("watch", "list", max_jobs=1)
    (place.path / "app").mkdir()
    (place.path / "app" / "input").touch()

    def parent():
        arm(place)
        site = place.site()
        site.launch(job(id="a"))
        site.launch(job(id="b", timeout=9))
        die()

    assert Child(parent).wait() == -9
    site = place.site()
    for number, name in enumerate(expected):
        if expected[name] is NEVER_RAN:
            assert site.attach(name).wait(20).reason is Reason.LAUNCH_FAILED
            continue
        until(lambda name=name: place.platform.get(name))
        place.end(name, exit_code=42 + number if len(expected) > 1 else 43)
        assert site.attach(name).wait(20).exit_code == expected[name]


def test_a_queued_job_keeps_what_it_is(places):
    """Adopted from the queue, a job has its options, study, resources, environment and workspace as before."""
    place = places(
        "watch",
        "list",
        max_jobs=1,
        studies={"s": {"env": {"STUDY": "1"}, "fake": {"room": "r"}}},
        job_secrets={"x": {"file": "secret"}},
    )
    (place.path / "secret").write_text("hush")
    (place.path / "app").mkdir()
    (place.path / "app" / "input").touch()
    data = {
        "name": "n",
        "id": "b",
        "module": "m",
        "args": ["x"],
        "workspace": "app",
        "study": "s",
        "timeout": 7,
        "env": {"A": "1"},
        "secrets": {"S": "x"},
        "sites": ["site-1"],
        "lead": "site-1",
        "min_sites": 1,
        "site_spec": {"site-1": {"args": ["y"], "env": {"B": "2"}}},
        "launcher_spec": {"default": {"fake": {"level": 3}}},
        "resource_spec": {"@default": {"memory": "1Gi"}},
    }

    def parent():
        site = place.site()
        site.launch(job(id="a"))
        site.launch(Job.from_mapping(data, base_dir=place.path))
        die()

    assert Child(parent).wait() == -9
    assert b"hush" not in (place.state_dir / "siteward.db-wal").read_bytes()
    site = place.site()
    place.end("a")
    [(request,)] = until(lambda: place.control.calls["launch"])
    assert request.argv("py", "/d") == ["py", "-u", "-m", "m", "y"]
    assert (request.options.level, request.study.room, request.timeout) == (3, "r", 7)
    assert request.resources.memory == 2**30
    environment = request.environment("/d")
    assert {name: environment[name] for name in ("A", "B", "STUDY", "S")} == {
        "A": "1",
        "B": "2",
        "STUDY": "1",
        "S": "hush",
    }
    assert [path.name for path in request.job_dir.iterdir()] == ["input"]
    place.end("b")
    assert site.attach("b").wait(20).state is JobState.SUCCEEDED


def test_a_queued_job_that_the_site_would_not_take_any_more_ends(places):
    """Its backend is disabled or its secret gone: the site opens, and the job ends as LaunchFailed, in words."""
    place = places("watch", "list", max_jobs=1, job_secrets={"x": {"file": "secret"}})
    (place.path / "secret").write_text("hush")

    def parent():
        site = place.site()
        site.launch(job(id="a"))
        site.launch(job(id="b", secrets={"S": "x"}))
        die()

    assert Child(parent).wait() == -9
    (place.path / "secret").unlink()
    site = place.site()
    result = site.attach("b").wait(20)
    assert result.reason is Reason.LAUNCH_FAILED
    assert "secret" in result.message
    place.end("a")
    assert site.attach("a").wait(20).state is JobState.SUCCEEDED


def test_the_lock_of_a_killed_driver_is_free(place):
    """Also when the driver had forked: a child of the host program does not hold its locks or seem to be a driver."""
    ready = place.path / "ready"

    def parent():
        site = place.site()
        site.launch(job(id="a"))
        if os.fork() == 0:
            ready.write_text(str(os.getpid()))
            until(lambda: (place.path / "leave").exists())
            os._exit(0)
        until(ready.exists)
        die()

    assert Child(parent).wait() == -9
    try:
        site = place.site()
        assert site._parts.driver.tracked("a") is not None
        place.end("a", exit_code=3)
        assert site.attach("a").wait(20).exit_code == 3
    finally:
        (place.path / "leave").touch()
