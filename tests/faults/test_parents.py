"""Several processes use one site: sharing, foreign handles, takeover when a driver dies, one queue."""

import threading

import pytest

from siteward import DuplicateJob, JobState, Reason, SitewardError, UnknownJob

from ..core.fake import Child, job, until
from ..core.managers import units, with_units


@pytest.fixture
def parent(place):
    """Another process that launches job "a" and drives it until the test lets it leave, by a file."""

    def drive(leave=lambda site: site.close(), **fields):
        def work():
            site = place.site()
            site.launch(job(id="a", **fields))
            (place.path / "launched").touch()
            until((place.path / "leave").exists, deadline=60)
            leave(site)

        child = Child(work)
        children.append(child)
        until((place.path / "launched").exists)
        return child

    children = []
    yield drive
    for child in children:
        child.kill()


def test_a_second_parent_sees_and_waits(place, parent):
    """Its handle has the state, the ref and the result; the driver stays the one driver."""
    child = parent()
    site = place.site()
    handle = site.attach("a")
    assert site._parts.driver.tracked("a") is None
    place.platform.put("a", state="RUNNING")
    assert handle.ref == site.row("a").ref
    with pytest.raises(TimeoutError):
        handle.wait(0.05)
    (place.path / "leave").touch()
    child.wait()
    place.end("a", exit_code=4)
    assert handle.wait(20).exit_code == 4


def test_a_stop_by_a_second_parent_goes_through_the_driver(places):
    """It is stored, the driver is woken, and sends it."""
    place = places("list")

    def work():
        site = place.site()
        handle = site.launch(job(id="a"))
        (place.path / "launched").touch()
        handle.wait(60)
        site.close()

    with Child(work) as child:
        until((place.path / "launched").exists)
        site = place.site()
        handle = site.attach("a")
        handle.terminate(grace=3)
        assert handle.wait(20).reason is Reason.ABORTED
        assert handle.done()
        assert child.wait() == 0
    assert place.platform.get("a")["stops"] == [3]
    assert place.control.count("terminate") == 0
    assert site.row("a").driver != site._parts.driver.name


TAKEOVERS = ["wait", "wait_until", "callback", "logs", "terminate"]


@pytest.mark.parametrize("how", TAKEOVERS)
def test_whoever_waits_takes_over_when_the_driver_dies(place, parent, how):
    """Without opening the site anew, whatever it is that waits."""
    child = parent()
    site = place.site()
    handle = site.attach("a")
    heard = []
    if how == "wait":
        waiter = threading.Thread(target=lambda: heard.append(handle.wait(20)))
    elif how == "wait_until":
        waiter = threading.Thread(target=lambda: heard.append(handle.wait_until(JobState.FAILED, 20)))
    else:
        waiter = threading.Thread(target=lambda: None)
        if how == "callback":
            handle.add_done_callback(heard.append)
    waiter.start()
    child.kill()
    if how == "terminate":
        handle.terminate(grace=1)
        assert handle.wait(20).reason is Reason.ABORTED
        return
    if how == "logs":
        handle.add_done_callback(heard.append)
    until(lambda: site._parts.driver.tracked("a"))
    place.end("a", exit_code=4)
    assert handle.wait(20).exit_code == 4
    waiter.join(20)
    until(lambda: heard)


def test_a_driver_that_leaves_hands_over(place, parent):
    """A parent that closes its site leaves the job running, and a waiter goes on with it."""
    child = parent()
    site = place.site()
    handle = site.attach("a")
    waiter = threading.Thread(target=lambda: handle.wait(20))
    waiter.start()
    (place.path / "leave").touch()
    assert child.wait() == 0
    until(lambda: site._parts.driver.tracked("a"))
    place.end("a", exit_code=4)
    assert handle.wait(20).exit_code == 4
    waiter.join(20)


def test_of_many_waiters_one_takes_over(place, parent):
    """Several sites and handles wait; one drives, all have the same result, and the end is told once."""
    child = parent()
    sites = [place.site(), place.site()]
    handles = [site.attach("a") for site in sites for _ in range(3)]
    results = []
    waiters = [threading.Thread(target=lambda each=each: results.append(each.wait(20))) for each in handles]
    for waiter in waiters:
        waiter.start()
    child.kill()
    until(lambda: any(site._parts.driver.tracked("a") for site in sites))
    assert sum(site._parts.driver.tracked("a") is not None for site in sites) == 1
    place.end("a", exit_code=4)
    for waiter in waiters:
        waiter.join(20)
    assert len(results) == 6
    assert all(result == results[0] for result in results)
    assert [event.kind for event in sites[0].events("a")].count("ended") == 1


def test_a_stop_while_the_driver_changes_is_not_lost(place, parent):
    """Asked just when the old driver is dead and the new one is taking over, the job is ended."""
    child = parent()
    site, asking = place.site(), place.site()
    handle, other = site.attach("a"), asking.attach("a")
    waiter = threading.Thread(target=lambda: handle.wait(20))
    waiter.start()
    child.kill()
    other.terminate(grace=0)
    assert handle.wait(20).reason is Reason.ABORTED
    assert other.wait(20).reason is Reason.ABORTED
    waiter.join(20)


def test_closing_a_site_wakes_those_who_wait_for_other_drivers(place, parent):
    """They get an error, though the driver lives on."""
    parent()
    site = place.site()
    handle = site.attach("a")
    failures = []

    def wait():
        try:
            handle.wait()
        except SitewardError as error:
            failures.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    until(lambda: site._parts.driver.followed)
    site.close()
    waiter.join(20)
    assert "goes on" in str(failures[0])


def test_a_job_whose_folder_is_gone_is_an_error_not_a_hang(place, parent):
    """gc of another process may have taken an ended job; a broken disk, more."""
    child = parent()
    site = place.site()
    handle = site.attach("a")
    child.kill()
    import shutil

    shutil.rmtree(handle.job_dir.parent)
    with pytest.raises(SitewardError, match="folder"):
        handle.wait(20)


def test_ids_are_shared(place, parent):
    """What another process launched, nobody launches again."""
    parent()
    with pytest.raises(DuplicateJob):
        place.site().launch(job(id="a"))


def test_looking_adopts_nothing(place, parent):
    """With adopt=False (ps, status) jobs of dead drivers stay as they are."""
    parent().kill()
    site = place.site(adopt=False)
    assert site._parts.driver.jobs() == []
    assert site.attach("a").state is JobState.PENDING
    with pytest.raises(UnknownJob):
        site.attach("b")


# --- one queue ---


def test_one_queue_of_two_processes(places):
    """max_jobs counts the jobs of all; a slot that is freed here starts what waits there."""
    place = places("list", max_jobs=1)

    def work():
        site = place.site()
        site.launch(job(id="b")).wait(60)
        site.close()

    site = place.site()
    first = site.launch(job(id="a"))
    with Child(work) as child:
        until(lambda: len(site.jobs()) == 2)
        second = site.launch(job(id="c"))
        assert place.platform.jobs() == ["a"]
        place.end("a")
        first.wait(20)
        until(lambda: place.platform.get("b"))
        assert place.platform.get("c") is None
        place.end("b")
        assert child.wait() == 0
        until(lambda: place.platform.get("c"))
        place.end("c")
        assert second.wait(20).state is JobState.SUCCEEDED


@pytest.mark.parametrize("how", ["dies", "leaves"])
@pytest.mark.parametrize("which", ["running", "waiting"])
def test_a_queue_goes_on_without_one_of_its_drivers(places, how, which):
    """A slot held, or a place taken, by a process that is gone is not lost; nobody opens the site anew."""
    place = places("list", max_jobs=1)

    def work():
        site = place.site()
        site.launch(job(id="b"))
        (place.path / "ready").touch()
        until((place.path / "leave").exists, deadline=60)
        site.close()

    def gone(child):
        if how == "dies":
            child.kill()
        else:
            (place.path / "leave").touch()
            assert child.wait() == 0

    site = place.site()
    if which == "running":
        with Child(work) as child:
            until((place.path / "ready").exists)
            mine = site.launch(job(id="c"))
            gone(child)
        place.end("b", exit_code=3)
    else:
        first = site.launch(job(id="a"))
        with Child(work) as child:
            until((place.path / "ready").exists)
            mine = site.launch(job(id="c"))
            gone(child)
        place.end("a")
        first.wait(20)
        until(lambda: place.platform.get("b"))
        place.end("b", exit_code=3)
    until(lambda: place.platform.get("c"))
    place.end("c")
    assert mine.wait(20).state is JobState.SUCCEEDED
    assert site.attach("b").wait(20).exit_code == 3


def test_a_job_that_waits_for_resources_holds_up_no_other_process(places):
    """Refused at its turn, it lets the jobs of other drivers pass; nobody spins meanwhile."""
    manager = units(1)
    place = places("watch", "remove", max_jobs=2, **with_units(manager))
    here, there = place.site(), place.site()
    blocked = here.prepare(job(id="a"))
    manager.held.clear()
    manager.free = 0
    first = here.start(blocked)
    until(lambda: "asked" in first.status().message)
    second = there.prepare(job(id="b", resource_spec={"site-1": {"units": 0}}))
    handle = there.start(second)
    until(lambda: place.platform.get("b"))
    place.end("b")
    assert handle.wait(20).state is JobState.SUCCEEDED
    manager.free = 1
    until(lambda: place.platform.get("a"))
    place.end("a")
    assert first.wait(20).state is JobState.SUCCEEDED


def test_waiting_again_and_again_costs_nothing_more(place, parent):
    """Attaching anew for every look at another driver's job leaves one thread and one descriptor, not one each."""
    parent()
    site = place.site()
    followers = lambda: [thread for thread in threading.enumerate() if thread.name.startswith("siteward-follow")]  # noqa: E731
    before = len(followers())
    for _ in range(20):
        with pytest.raises(TimeoutError):
            site.attach("a").wait(0.001)
    assert len(followers()) - before == 1
