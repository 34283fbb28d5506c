"""Whether a job lives, as another process of its user sees it."""

import contextlib
import sqlite3

import pytest
import yaml

from siteward import Liveness, Plugins, job_lives, liveness

from .fake import Child, die, job, until
from .managers import DiskUnits, with_units


@pytest.fixture
def place(places):
    """A place with a resource manager that outlives processes."""
    return places("watch", "list", **with_units(DiskUnits))


def see(place, token="t-a", **more):
    return job_lives(place.state_dir, "a", token, **more)


def by_file(place, monkeypatch):
    """Write the place's site file, and let whoever reads it find its fake backend."""
    path = place.path / "site.yaml"
    file = {"name": place.name, "backends": {"fake": {}}, "state_dir": "./state"}
    path.write_text(yaml.safe_dump(file))

    def plugins():
        found = Plugins()
        for group, name, plugin in place.plugins:
            found.add(group, name, plugin)
        return found

    monkeypatch.setattr(liveness, "Plugins", plugins)
    return path


def launch_and_die(place):
    """Launch job `a` in a process that is then killed."""

    def launch():
        place.site().launch(job(id="a"))
        die()

    with Child(launch) as child:
        child.wait()


def test_a_job_that_is_driven_lives(place):
    """Its driver frees what it held; then it is gone."""
    handle = place.site().launch(job(id="a"))
    assert see(place) is Liveness.LIVES
    place.end("a")
    handle.wait(20)
    until(lambda: see(place) is Liveness.GONE)


def test_of_an_unknown_job_nothing_is_seen(place):
    """Not of a site without a store, not of a job that the store does not have, not of another token."""
    assert job_lives(place.path / "nothing", "a", "t-a") is Liveness.ABSENT
    place.site().launch(job(id="a"))
    assert job_lives(place.state_dir, "b", "t-b") is Liveness.ABSENT
    assert see(place, "t-other") is Liveness.ABSENT


def test_a_store_that_cannot_be_read_says_nothing(place):
    """A damaged one, or another user's."""
    place.state_dir.mkdir()
    (place.state_dir / "siteward.db").write_text("this is no database, but some text that is long enough\n" * 100)
    assert see(place) is Liveness.UNSEEN


def test_a_store_of_an_older_siteward_is_left_as_it_is(place):
    """Its own program may be running."""
    place.state_dir.mkdir()
    with contextlib.closing(sqlite3.connect(place.state_dir / "siteward.db")) as store:
        assert see(place) is Liveness.UNSEEN
        assert store.execute("PRAGMA user_version").fetchone() == (0,)


def test_a_job_without_a_driver_is_looked_for_on_its_platform(place, monkeypatch):
    """It lives until the platform says that it has ended; nobody has to open its site."""
    launch_and_die(place)
    path = by_file(place, monkeypatch)
    assert see(place, site_file=path) is Liveness.LIVES
    place.platform.put("a", state="RUNNING", end={"exit_code": 3})
    assert see(place) is Liveness.LIVES, "without the site's file there is no platform to ask"
    assert see(place, site_file=path) is Liveness.GONE


def test_a_launch_that_was_killed_before_the_platform_had_it_is_gone(place, monkeypatch):
    """Of an intent alone the platform says whether anything came of it."""
    place.control.faults["launch"] = die
    with Child(lambda: place.site().launch(job(id="a"))) as child:
        child.wait()
    path = by_file(place, monkeypatch)
    assert see(place) is Liveness.LIVES
    assert see(place, site_file=path) is Liveness.GONE


def test_doubt_counts_as_living(place, monkeypatch):
    """A platform that cannot be asked, a file that is gone or tells of another site."""
    launch_and_die(place)
    place.platform.put("a", state="RUNNING", end={"exit_code": 0})
    path = by_file(place, monkeypatch)

    def fail(*_):
        raise OSError("no network")

    place.control.faults["poll"] = fail
    assert see(place, site_file=path) is Liveness.LIVES
    place.control.faults.clear()
    assert see(place, site_file=path.with_name("nothing.yaml")) is Liveness.LIVES
    path.write_text(path.read_text().replace("./state", "./other"))
    assert see(place, site_file=path) is Liveness.LIVES


def test_looking_changes_nothing(place, monkeypatch):
    """The job is not adopted: its site's next process does that."""
    launch_and_die(place)
    path = by_file(place, monkeypatch)
    see(place, site_file=path)
    site = place.site()
    assert [event.kind for event in site.events("a")].count("adopted") == 1
    place.end("a")
    assert site.attach("a").wait(20).exit_code == 0
