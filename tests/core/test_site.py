"""A site, open: adoption, retention and gc, what is left when opening fails, and looking without touching."""

import os
import threading
import time

import pytest

from siteward import (
    BackendError,
    DuplicateJob,
    FileError,
    JobState,
    Plugins,
    Reason,
    ResourcesRefused,
    Site,
    SitewardError,
    StoreError,
    UnknownJob,
    Unreachable,
)
from siteward.statedir import OwnerLock
from siteward.store import Phase

from .fake import job, threads, until
from .managers import units, with_units


def launch_and_leave(place, *ids, **fields):
    """Launch jobs, and close the site: they run on without a driver."""
    with place.site() as site:
        for each in ids:
            site.launch(job(id=each, **fields))


def finish(place, site, *ids, **end):
    """Launch jobs and see them end."""
    for each in ids:
        handle = site.launch(job(id=each))
        place.end(each, **end)
        handle.wait(20)


# --- opening and closing ---


def test_opening_starts_nothing(place):
    """No thread, no platform call, until there is a job."""
    before = threads()
    site = place.site()
    assert threads() == before
    assert place.control.count("watch") == place.control.count("list") == 0
    assert (site.name, site.state_dir) == ("site-1", place.state_dir)


WRONG = {
    "a backend's options": ({"backends": {"fake": {"mots": 3}}}, "backends.fake.mots"),
    "a backend that is not there": ({"backends": {"fake": {}, "fkae": {}}}, "backends.fkae"),
    "a manager that is not there": ({"resources": {"gpus": {}}}, "resources.gpus"),
}


@pytest.mark.parametrize(("fields", "path"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_told_before_any_job(place, fields, path):
    """FileError with the path in the site file; nothing stays open."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileError) as caught:
        place.site(**fields)
    assert [problem.path for problem in caught.value.problems] == [path]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_backend_that_cannot_be_set_up_is_told_with_the_others(place):
    """Whatever its constructor raises."""

    def fault(*_):
        raise OSError("no socket")

    place.control.faults["init"] = fault
    with pytest.raises(FileError, match=r"backends.fake: .*no socket"):
        place.site()


def test_nothing_stays_open_after_closing(place):
    """Descriptors, threads and the drivers' FIFOs; many times over."""
    place.site().close()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        site = place.site()
        finish(place, site, f"ended-{number}")
        site.launch(job(id=f"runs-{number}"))
        site.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert threads() == []
    assert list((place.state_dir / "drivers").iterdir()) == []


def test_an_ended_job_keeps_nothing_open(place):
    """Its lock is free, its folder can be removed, this process holds no descriptor for it."""
    site = place.site()
    site.launch(job(id="other"))
    before = len(os.listdir("/proc/self/fd"))
    finish(place, site, *(f"j{number}" for number in range(10)))
    until(lambda: len(os.listdir("/proc/self/fd")) == before)
    lock = OwnerLock(place.state_dir / "jobs" / "j0")
    assert lock.acquire(wait=False)
    lock.release()
    assert [tracked.job_id for tracked in site._parts.driver.jobs()] == ["other"]


def test_a_site_that_is_left_by_an_exception_is_closed(place):
    """Jobs go on."""
    with pytest.raises(ZeroDivisionError), place.site() as site:
        handle = site.launch(job(id="a"))
        raise ZeroDivisionError
    with pytest.raises(SitewardError, match=r"goes on"):
        handle.wait(1)
    assert place.platform.get("a")["stops"] == []


# --- adoption (kill -9 at each step: tests/faults) ---


def test_the_next_site_goes_on_with_what_runs(place):
    """Ended meanwhile, still running, or not begun: all have their true end."""
    launch_and_leave(place, "a", "b", "c")
    place.end("a", exit_code=3)
    site = place.site()
    place.start("b")
    assert site.attach("b").wait_until(JobState.RUNNING, 20)
    place.end("b", exit_code=4)
    place.end("c", signal=9)
    assert [site.attach(each).wait(20).exit_code for each in "abc"] == [3, 4, 137]
    assert [event.kind for event in site.events("a")].count("adopted") == 1


def test_a_job_that_is_gone_from_the_platform_is_lost(place):
    """Seen to be gone by a look; never running for ever, never a success."""
    launch_and_leave(place, "a")
    place.platform.remove("a")
    result = place.site().attach("a").wait(20)
    assert (result.state, result.reason, int(result.return_code)) == (JobState.LOST, Reason.DELETED, 104)


def test_a_live_driver_keeps_its_jobs(place):
    """A second site opened beside it adopts none of them."""
    site = place.site()
    site.launch(job(id="a"))
    assert place.site()._parts.driver.jobs() == []
    assert site._parts.driver.tracked("a") is not None


def test_a_job_whose_backend_is_not_enabled_any_more(place):
    """The site opens, waiting for the job is an error that says what to do, and enabling the backend mends it."""
    launch_and_leave(place, "a")
    place.plugins.append(("siteward.backends", "other", place.backend))
    site = place.site(backends={"other": {}})
    handle = site.attach("a")
    with pytest.raises(BackendError, match=r"'fake' is not in the site file any more"):
        handle.wait(20)
    site.close()
    place.end("a", exit_code=3)
    assert place.site().attach("a").wait(20).exit_code == 3


def test_one_job_that_cannot_be_taken_over_keeps_no_site_from_opening(place, caplog):
    """It is logged; the other jobs are adopted."""
    launch_and_leave(place, "a", "b")
    owner = place.state_dir / "jobs" / "a" / "owner"
    owner.unlink()
    owner.mkdir()
    site = place.site()
    place.end("b", exit_code=3)
    assert site.attach("b").wait(20).exit_code == 3
    assert "job a" in caplog.text


def test_what_was_not_removed_is_removed_by_the_next_site(place):
    """In the background, one after another."""
    with place.site() as site:
        finish(place, site, "a", "b")
    for each in "ab":
        site = place.site()
        site._parts.store.update(each, phase=Phase.REPORTED)
        site.close()
        place.platform.put(each, end={"exit_code": 0})
    place.site()
    until(lambda: place.platform.jobs() == [])


def test_two_sites_of_one_process_share_it(place):
    """One drives, both have the result."""
    first, second = place.site(), place.site()
    mine, theirs = first.launch(job(id="a")), second.attach("a")
    results = []
    waiter = threading.Thread(target=lambda: results.append(theirs.wait(20)))
    waiter.start()
    place.end("a", exit_code=3)
    assert mine.wait(20).exit_code == 3
    waiter.join(20)
    assert results == [mine.wait(0)]


# --- looking ---


def test_jobs_rows_and_events(place):
    """Oldest first; those not ended alone; unknown ids with the near miss."""
    site = place.site()
    finish(place, site, "first")
    site.launch(job(id="second"))
    assert [row.job_id for row in site.jobs()] == ["first", "second"]
    assert [row.job_id for row in site.jobs(ended=False)] == ["second"]
    assert site.row("first").state is JobState.SUCCEEDED
    assert site.events("first")[0].kind == "launching"
    for call in (site.row, site.events, site.attach):
        with pytest.raises(UnknownJob) as caught:
            call("secnod")
        assert caught.value.suggestion == "second"


def test_rendering_refuses_what_the_site_can_never_give(places):
    """As a launch would; what is only taken just now is rendered. No reservation stays."""
    manager = units(free=0, most=2)
    site = places("render", **with_units(manager)).site()
    with pytest.raises(ResourcesRefused, match="3 units asked, there are 2"):
        site.render(job(resource_spec={"site-1": {"units": 3}}))
    assert site.render(job(id="a"))["argv"] == ["work"]
    manager.free = 1
    site.render(job(id="a"))
    assert (manager.free, manager.held) == (1, {})


def test_rendering_touches_nothing(places):
    """No row, no folder, no reservation, no platform; a backend that cannot says so."""
    place = places("render")
    site = place.site()
    assert site.render(job(id="a"))["argv"] == ["work"]
    assert (site.jobs(), place.platform.jobs(), list((place.state_dir / "jobs").iterdir())) == ([], [], [])
    with pytest.raises(BackendError, match=r"cannot render"):
        places().site().render(job())


def test_doctor_looks_at_the_site_and_its_backends(places):
    """A backend that checks nothing is said to."""
    findings = places().site().doctor()
    assert [finding.subject for finding in findings] == ["site", "disk", "fake"]
    assert all(finding.remedy or finding.level == "ok" for finding in findings)


def test_platform_jobs_are_what_the_platforms_list(places):
    """Also those that the store does not know; a backend that cannot list has none."""
    place = places("list", "watch")
    site = place.site()
    site.launch(job(id="a"))
    place.platform.put("stranger")
    assert [ref.job_id for ref in site.platform_jobs()] == ["a", "stranger"]
    assert places("watch").site().platform_jobs() == []


# --- retention ---


def garbage(found):
    return [(each.kind, each.job_id) for each in found]


def aged(site, job_id, days):
    site._parts.store.update(job_id, ended_at=time.time() - days * 86400)


def test_gc_keeps_what_the_file_says(place):
    """The newest so many, and those ended within so many days; folders and history go with the job."""
    site = place.site(keep={"jobs": 3, "days": 10})
    finish(place, site, *"abcde")
    site.launch(job(id="runs"))
    aged(site, "d", 11)
    planned = site.gc(dry_run=True)
    assert garbage(planned) == [("job", "a"), ("job", "b"), ("job", "d")]
    assert len(site.jobs()) == 6
    assert site.gc() == planned
    assert [row.job_id for row in site.jobs()] == ["c", "e", "runs"]
    assert sorted(path.name for path in (place.state_dir / "jobs").iterdir()) == ["c", "e", "runs"]
    assert site.gc() == []
    place.end("runs")


def test_gc_never_takes_a_job_that_is_not_done(place):
    """However old, and however few are kept."""
    site = place.site(keep={"jobs": 0, "days": 0})
    handle = site.launch(job(id="a"))
    site._parts.store.update("a", created_at=1.0)
    assert site.gc() == []
    place.end("a")
    assert handle.wait(20).state is JobState.SUCCEEDED
    assert garbage(site.gc()) == [("job", "a")]


def test_gc_keeps_a_job_that_its_platform_does_not_forget(places):
    """Or nobody would know any more what is left there, and another job could have its id."""
    place, away = places("watch", "list", "remove"), [True]

    def remove(ref):
        if away:
            raise Unreachable("the platform is away")

    place.control.faults["remove"] = remove
    site = place.site(keep={"jobs": 0, "days": 0})
    finish(place, site, "a")
    assert site.gc() == []
    with pytest.raises(DuplicateJob):
        site.launch(job(id="a"))
    away.clear()
    assert garbage(site.gc()) == [("job", "a")]
    assert place.platform.jobs() == []


def test_gc_removes_folders_of_no_job(place):
    """Those that a crash left; not one that a launch is just making."""
    site = place.site()
    for name in ("left", "being-made"):
        (place.state_dir / "jobs" / name / "work").mkdir(parents=True)
    lock = OwnerLock(place.state_dir / "jobs" / "being-made")
    lock.acquire(wait=False)
    assert garbage(site.gc(dry_run=True)) == garbage(site.gc()) == [("folder", "left")]
    assert [path.name for path in (place.state_dir / "jobs").iterdir()] == ["being-made"]
    lock.release()


def test_gc_takes_no_folder_from_under_a_launch(place):
    """While one process collects garbage, every job that is launched keeps its folder."""
    site, other = place.site(), place.site()
    over = threading.Event()

    def collect():
        while not over.is_set():
            other.gc()

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        handles = [site.launch(job(id=f"j{number}")) for number in range(40)]
    finally:
        over.set()
        collector.join(20)
    assert all(handle.job_dir.is_dir() for handle in handles)


def test_gc_removes_orphans(place):
    """Jobs on the platform that the store does not know: ended ones; running ones only when told to."""
    site = place.site()
    site.launch(job(id="mine"))
    place.platform.put("ended", end={"exit_code": 0})
    place.platform.put("runs", state="RUNNING")
    assert garbage(site.gc(dry_run=True)) == [("orphan", "ended")]
    assert garbage(site.gc()) == [("orphan", "ended")]
    assert place.platform.jobs() == ["mine", "runs"]
    assert place.control.count("terminate") == 0
    assert garbage(site.gc(running=True)) == [("orphan", "runs")]
    assert place.control.count("terminate") == 1
    assert place.platform.jobs() == ["mine"]


# --- other ---


def test_a_site_can_be_loaded_from_its_file(tmp_path, place):
    """Paths are relative to the file."""
    plugins = Plugins(disabled=[])
    plugins.add("siteward.backends", "fake", place.backend)
    (tmp_path / "site.yaml").write_text("name: s\nbackends: {fake: {}}\nstate_dir: ./here\n")
    with Site.load(tmp_path / "site.yaml", plugins=plugins) as site:
        assert site.state_dir == tmp_path / "here"
        assert site.file.name == "s"


def test_names_from_files_never_leave_the_state_directory(places):
    """Site names of any characters, plugin names, job ids."""
    place = places("watch", name=".. ü")
    place.plugins.append(("siteward.backends", "../../x", place.backend))
    site = place.site(backends={"fake": {}, "../../x": {}})
    site.launch(job(id="a"))
    outside = [path.name for path in place.path.iterdir()]
    assert outside == ["state"]
    for wrong in ("../b", "/b", ".", "..", "a/b", "a\0b", ""):
        with pytest.raises(FileError):
            job(id=wrong)


def test_threads_launch_side_by_side(place):
    """Each job its own folder, row and end."""
    site = place.site()
    handles = {}

    def launch(number):
        handles[number] = site.launch(job(id=f"j{number}"))

    workers = [threading.Thread(target=launch, args=[number]) for number in range(24)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    for number in handles:
        place.end(f"j{number}", exit_code=number)
    assert [handles[number].wait(20).exit_code for number in range(24)] == list(range(24))


def test_store_errors_of_a_closed_site_are_in_words(place):
    """Not sqlite3's."""
    site = place.site()
    site.close()
    with pytest.raises(StoreError):
        site.jobs()
