"""A full disk, a corrupt store, a state directory that cannot be used, too few file descriptors."""

import contextlib
import os
import resource
import sqlite3
import subprocess

import pytest

from siteward import JobState, JobStatus, Reason, SiteFile, StoreError, ended
from siteward.store import Store

from ..core.fake import Child, job, until


def full_store(monkeypatch):
    """Make every write to a store fail as on a full disk, until the list that is returned is emptied."""
    full = [True]
    names = ("insert", "update", "request_stop", "mark_removed", "admit", "delete")

    def refuse(real):
        def replaced(self, *arguments, **fields):
            if full:
                raise StoreError(f"{self.path} cannot be used: database or disk is full")
            return real(self, *arguments, **fields)

        return replaced

    for name in names:
        monkeypatch.setattr(Store, name, refuse(getattr(Store, name)))
    return full


def test_a_launch_on_a_full_disk_is_an_error_in_words(place, monkeypatch):
    """Nothing is started and nothing stays; with space it works."""
    site = place.site()
    full = full_store(monkeypatch)
    with pytest.raises(StoreError, match=r"disk is full"):
        site.launch(job(id="a"))
    assert place.platform.jobs() == []
    assert list((place.state_dir / "jobs").iterdir()) == []
    full.clear()
    handle = site.launch(job(id="a"))
    place.end("a")
    assert handle.wait(20).state is JobState.SUCCEEDED


def test_a_disk_that_fills_up_during_a_launch_loses_no_job(place, monkeypatch):
    """The platform has the job and its ref cannot be stored: there is a handle, and a later site finds the job."""
    site = place.site()
    full = []
    place.control.faults["launch done"] = lambda _: full.extend(full_store(monkeypatch))
    handle = site.launch(job(id="a"))
    assert handle.ref is not None
    assert handle.job_dir.is_dir()
    site.close()
    monkeypatch.undo()
    assert place.site().row("a").ref in (None, handle.ref)
    place.end("a", exit_code=3)
    assert place.site().attach("a").wait(20).exit_code == 3


@pytest.mark.parametrize("features", [("watch", "list", "remove"), ("watch", "list", "remove", "collect")])
def test_an_end_on_a_full_disk_is_told_and_stored_later(places, monkeypatch, features):
    """Who waits has the result at once; the platform keeps the job until the end is stored."""
    place = places(*features)
    site = place.site()
    handle = site.launch(job(id="a"))
    full = full_store(monkeypatch)
    place.end("a", exit_code=3)
    result = handle.wait(20)
    assert result.exit_code == 3
    assert "not stored" in result.message
    assert place.platform.jobs() == ["a"]
    full.clear()
    until(lambda: site.row("a").result is not None)
    assert "not stored" not in site.row("a").result.message
    until(lambda: place.platform.jobs() == [])


def test_a_slot_of_the_queue_survives_a_full_disk(places, monkeypatch):
    """What waits starts when there is space again."""
    place = places("watch", "list", max_jobs=1)
    site = place.site()
    handles = [site.launch(job(id=name)) for name in "ab"]
    full = full_store(monkeypatch)
    place.end("a")
    handles[0].wait(20)
    full.clear()
    until(lambda: place.platform.get("b"))
    place.end("b")
    assert handles[1].wait(20).state is JobState.SUCCEEDED


def test_a_job_can_be_ended_on_a_full_disk(place, monkeypatch):
    """It may be what fills it."""
    site = place.site()
    handle = site.launch(job(id="a"))
    full_store(monkeypatch)
    handle.terminate(grace=1)
    assert handle.wait(20).reason is Reason.ABORTED


def test_progress_on_a_full_disk_reaches_who_waits(place, monkeypatch):
    """What cannot be stored is known in this process, and the backend's thread is not harmed."""
    site = place.site()
    handle = site.launch(job(id="a"))
    full_store(monkeypatch)
    place.start("a")
    assert handle.wait_until(JobState.RUNNING, 20)
    assert handle.status().reachable


@pytest.fixture
def small_disk(tmp_path):
    """Return a file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("run as root where tmpfs can be mounted, to see a really full disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as stream:
        while stream.write(b"x" * 4096):
            pass


def test_a_really_full_disk(places, small_disk):
    """A file system without a free byte: errors in words, the running job's end is told, and nothing is lost."""
    place = places("watch", "list", state_dir=str(small_disk / "state"))
    place.state_dir = small_disk / "state"
    place.platform.folder = place.state_dir / "plugins" / "fake"
    site = place.site()
    handle = site.launch(job(id="a"))
    backend = place.control.backends[-1]
    fill(small_disk)
    with pytest.raises(StoreError, match=r"disk|space"):
        for number in range(100):
            site.launch(job(id=f"more-{number}"))
    result = ended(exit_code=3)
    backend.publish(backend.ref("a"), JobStatus(state=result.state, result=result))
    assert handle.wait(20).exit_code == 3
    (small_disk / "filler").unlink()
    until(lambda: site.row("a").result is not None and site.row("a").result.exit_code == 3)


def test_a_commit_that_fails_leaves_the_store_usable(tmp_path, small_disk):
    """No transaction is left open: other writers are not kept out, and later writes are not lost with it."""
    store = Store(small_disk)
    store.insert("a", name="a", backend="b", phase="intent", grace=1)
    fill(small_disk)
    with pytest.raises(StoreError), store.transaction():
        for _ in range(50):
            store.update("a", "event", "x" * 100_000)
    assert not store._db.in_transaction
    (small_disk / "filler").unlink()
    store.update("a", "event", "fits")
    other = Store(small_disk)
    assert [event.message for event in other.events("a") if event.kind == "event"] == ["fits"]
    store.close()
    other.close()


CORRUPT = {
    "garbage": lambda path: path.write_bytes(b"not a database, at all" * 1000),
    "a page overwritten": lambda path: _overwrite(path, 4096, b"\xff" * 4096),
    "a row that makes no sense": lambda path: _sql(path, "UPDATE jobs SET phase='no such phase'"),
    "json that is none": lambda path: _sql(path, "UPDATE jobs SET ref='{'"),
    "a newer version": lambda path: _sql(path, "PRAGMA user_version=99"),
}


def _overwrite(path, offset, data):
    _sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


def _sql(path, query):
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(query)


@pytest.mark.parametrize("damage", CORRUPT.values(), ids=CORRUPT)
def test_a_corrupt_store_is_an_error_in_words(place, damage):
    """It names the file and says what to do; moved aside, the site opens, and running jobs are seen as orphans."""
    site = place.site()
    site.launch(job(id="a"))
    site.close()
    path = place.state_dir / "siteward.db"
    damage(path)
    with pytest.raises(StoreError, match=r"siteward.db") as caught:
        place.site().jobs()
    assert any(word in str(caught.value) for word in ("Move it aside", "upgrade"))
    for each in place.state_dir.glob("siteward.db*"):
        each.rename(each.with_name(f"aside-{each.name}"))
    again = place.site()
    assert [ref.job_id for ref in again.platform_jobs()] == ["a"]
    assert [each.kind for each in again.gc(running=True)] == ["folder", "orphan"]
    assert place.control.count("terminate") == 1
    assert place.platform.jobs() == []


def test_an_empty_store_is_a_new_one(place):
    """What a crash while it was created may leave."""
    (place.state_dir).mkdir(parents=True)
    (place.state_dir / "siteward.db").touch()
    handle = place.site().launch(job(id="a"))
    place.end("a")
    assert handle.wait(20).state is JobState.SUCCEEDED


UNUSABLE = {
    "below a file": lambda base: base / "file" / "state",
    "a file": lambda base: base / "file",
    "a device": lambda base: "/dev/null",
    "in a file system of the kernel's": lambda base: "/proc/state",
}


@pytest.mark.parametrize("state_dir", UNUSABLE.values(), ids=UNUSABLE)
def test_a_state_dir_that_cannot_be_used(place, state_dir):
    """StoreError with the path and what to do."""
    (place.path / "file").touch()
    with pytest.raises(StoreError, match=r"state_dir"):
        place.site(state_dir=str(state_dir(place.path)))


def test_a_state_dir_without_permission(place):
    """As a user who may not write there."""
    if os.geteuid() != 0:
        pytest.skip("run as root, to become a user without permission")
    locked = place.path / "locked"
    locked.mkdir(mode=0o755)

    def unprivileged():
        for folder in (place.path, *place.path.parents):
            with contextlib.suppress(OSError):
                if not folder.stat().st_mode & 0o001:
                    folder.chmod(0o711)
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(StoreError, match=r"Permission denied"):
            place.site(state_dir=str(locked / "state"))

    assert Child(unprivileged).wait() == 0


def test_more_jobs_than_descriptors(place):
    """The soft limit on open files is raised as far as it goes: each live job needs one."""

    def few():
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        with place.site() as site:
            for number in range(100):
                site.launch(job(id=f"j{number}"))

    assert Child(few).wait() == 0
    assert len(place.platform.jobs()) == 100


def test_no_descriptors_at_all(place):
    """Beyond the hard limit a launch is an error in words; the jobs before it go on."""

    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
        with place.site() as site:
            launched = []
            with pytest.raises(StoreError):
                for number in range(100):
                    launched.append(site.launch(job(id=f"j{number}")))
            assert len(launched) > 5
            launched[0].terminate()
            assert launched[0].wait(20).reason is Reason.ABORTED
            assert len(site.jobs()) == len(launched)

    assert Child(few).wait() == 0


def test_the_default_state_dir_is_one_per_site(monkeypatch, tmp_path):
    """Names that differ only in case or punctuation have their own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    paths = {
        SiteFile.from_mapping({"name": name, "backends": {"x": {}}}).state_path() for name in ("A b", "a b", "a-b")
    }
    assert len(paths) == 3
    assert all(path.parent == tmp_path / "siteward" for path in paths)
