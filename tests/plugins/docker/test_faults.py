"""An engine that dies, goes away or refuses, and two parents: nothing is lost, and nothing has ended that has not."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest

from siteward import BackendError, JobState, LaunchRefused, Site
from siteward_docker.client import Engine

from ...engine import images
from .helpers import DEADLINE, Sites, end_of, run, sh, until
from .proxy import Proxy

# docker-py leaves a socket that it cannot connect to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
WAIT = "touch ready; while ! [ -e go ]; do sleep 0.05; done; exit "
SIGTERM_END = ("FAILED", "Signal", 1, 143)


@pytest.fixture(scope="module")
def mortal(own_engine):
    """An engine that is the tests' own to kill; containers outlive its stop."""
    engine = own_engine(live_restore=True)
    return engine, images.provide(engine, images.BUSYBOX)


@pytest.fixture
def sites(mortal, tmp_path):
    """Sites on the engine that may be killed."""
    engine, busybox = mortal
    sites = Sites(engine, tmp_path, default_image=busybox)
    yield sites
    if engine.pid is None:
        engine.start()
    sites.close()
    gc.collect()


def launch_waiting(site: Site, count: int):
    """Launch jobs that end with codes of their own when they are let go."""
    handles = [site.launch(sh(f"{WAIT}{10 + number}")) for number in range(count)]
    for handle in handles:
        until((handle.job_dir / "ready").exists, "the job is ready")
        handle.wait_until(JobState.RUNNING, DEADLINE)
    return handles


def let_go(handles):
    for handle in handles:
        (handle.job_dir / "go").touch()


def codes(handles):
    return [handle.wait(DEADLINE).exit_code for handle in handles]


def test_the_engine_is_killed_while_jobs_run(sites: Sites):
    """Its jobs go on without it: those that ended meanwhile and those that still run all have their true ends."""
    site = sites.open()
    handles = launch_waiting(site, 20)
    sites.engine.kill()
    until(lambda: not any(handle.status().reachable for handle in handles), "the outage is told")
    assert {handle.status().state for handle in handles} == {JobState.RUNNING}
    let_go(handles[:10])
    with pytest.raises(TimeoutError):
        handles[0].wait(1)
    sites.engine.start()
    assert codes(handles[:10]) == list(range(10, 20))
    until(lambda: all(handle.status().reachable for handle in handles[10:]), "the others are seen again")
    assert {handle.status().state for handle in handles[10:]} == {JobState.RUNNING}
    let_go(handles[10:])
    assert codes(handles) == list(range(10, 30))


def test_the_engine_is_restarted_while_jobs_run(sites: Sites):
    """With live-restore a restart is no end."""
    handles = launch_waiting(sites.open(), 3)
    sites.engine.stop()
    sites.engine.start()
    let_go(handles)
    assert codes(handles) == [10, 11, 12]


def test_an_engine_that_ends_its_jobs(own_engine, tmp_path):
    """Without live-restore an engine takes its jobs with it: they end as ended by TERM, which they were."""
    engine = own_engine()
    sites = Sites(engine, tmp_path, default_image=images.provide(engine, images.BUSYBOX))
    try:
        handles = launch_waiting(sites.open(), 2)
        engine.stop()
        engine.start()
        assert [end_of(handle.wait(DEADLINE)) for handle in handles] == [SIGTERM_END] * 2
    finally:
        if engine.pid is None:
            engine.start()
        sites.close()


def test_the_socket_goes_away(sites: Sites, mortal, proxy: Proxy):
    """Jobs are unreachable, not ended; a stop that is asked for meanwhile is sent when the engine can be asked."""
    site = sites.open(docker_host=proxy.host)
    handles = launch_waiting(site, 3)
    proxy.close()
    let_go(handles[:1])
    handles[1].terminate(grace=0)
    with pytest.raises(LaunchRefused, match="cannot be reached"):
        site.launch(sh("true"))
    time.sleep(3)
    assert not handles[1].done()
    again = Proxy(mortal[0].host, sites.folder)
    try:
        assert handles[0].wait(DEADLINE).exit_code == 10
        assert end_of(handles[1].wait(DEADLINE))[:3] == ("ABORTED", "Aborted", 9)
        assert not handles[2].done()
        let_go(handles)
        assert handles[2].wait(DEADLINE).exit_code == 12
        assert len(site.jobs()) == 3, "the refused launch left nothing"
    finally:
        site.close()
        again.close()


def test_following_goes_on_after_the_engine_was_killed(sites: Sites):
    """No line is lost, and none comes twice."""
    site = sites.open()
    handle = site.launch(sh("for i in 0 1 2; do echo $i; done; " + WAIT + "0; "))
    lines = handle.logs(follow=True)
    assert [next(lines) for _ in range(3)] == [b"0\n", b"1\n", b"2\n"]
    until((handle.job_dir / "ready").exists, "the job is ready")
    sites.engine.kill()
    sites.engine.start()
    let_go([handle])
    assert list(lines) == []
    assert handle.wait(DEADLINE).state is JobState.SUCCEEDED
    assert list(handle.logs()) == [b"0\n", b"1\n", b"2\n"]


def test_a_parent_is_killed_between_create_and_start(sites: Sites):
    """The container that it created is started by the next site, once."""
    file = sites.file()
    parent = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_START, file],
        input=json.dumps({"name": "test", "id": "half", "command": ["sh", "-c", "echo run >> runs; exit 9"]}),
        text=True,
        check=False,
    )
    assert parent.returncode == -signal.SIGKILL
    (found,) = sites.api.containers(all=True, filters={"label": ["siteward.job-id=half"]})
    assert found["State"] == "created"
    handle = sites.open().attach("half")
    assert handle.wait(DEADLINE).exit_code == 9
    assert (handle.job_dir / "runs").read_text() == "run\n"


KILLED_BEFORE_START = """
import json, os, signal, sys
from siteward import Job, Site
from siteward_docker.client import Engine
Engine.start = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
site = Site.load(sys.argv[1])
site.launch(Job.from_mapping(json.load(sys.stdin))).wait(60)
"""


def test_gc_takes_what_was_never_started(sites: Sites):
    """With the store lost, a container that nobody will start is left over like one that has ended."""
    job = json.dumps({"name": "test", "id": "half", "command": ["true"]})
    subprocess.run([sys.executable, "-c", KILLED_BEFORE_START, sites.file()], input=job, text=True, check=False)
    (sites.folder / "state").rename(sites.folder / "lost")
    assert [(each.kind, each.job_id) for each in sites.open().gc()] == [("orphan", "half")]
    assert sites.api.containers(all=True, filters={"label": ["siteward.job-id=half"]}) == []


def test_a_copy_of_a_jobs_container_is_not_the_job(sites: Sites, mortal):
    """Somebody commits a running job's container and runs that: labels are copied too, but it is not the job."""
    site = sites.open()
    (handle,) = launch_waiting(site, 1)
    sites.api.commit(sites.container(handle)["Id"], "siteward-test/copy", "1")
    try:
        copy = sites.api.create_container("siteward-test/copy:1", ["sh", "-c", "exit 3"], entrypoint=[])["Id"]
        sites.api.start(copy)
        until(lambda: sites.api.inspect_container(copy)["State"]["Status"] == "exited", "the copy ends")
        sites.api.remove_container(copy)
        assert not handle.done()
        let_go([handle])
        assert handle.wait(DEADLINE).exit_code == 10
    finally:
        until(lambda: not sites.containers(handle), "the containers are removed")
        sites.api.remove_image("siteward-test/copy:1", force=True)


def test_what_a_killed_parent_left_is_swept(sites: Sites, monkeypatch: pytest.MonkeyPatch):
    """A secret in memory and a note, of a job that never came to be, do not stay for ever."""
    monkeypatch.setenv("DB", "secret")
    study = {"docker": {"secret_mounts": {"db": {"source": "db", "mount_path": "/run/db"}}}}
    file = sites.file(fields={"studies": {"cancer": study}, "job_secrets": {"db": {"env": "DB"}}})
    job = {"name": "test", "command": ["true"], "study": "cancer"}
    parent = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_CREATE, file], input=json.dumps(job), text=True, check=False
    )
    assert parent.returncode == -signal.SIGKILL
    owner = (sites.folder / "state/plugins/docker/owner").read_text()
    left = [*Path(f"/dev/shm/siteward-{owner}").iterdir(), *(sites.folder / "state/plugins/docker/absent").iterdir()]
    assert len(left) == 2
    for each in left:
        os.utime(each, (0, 0))
    site = sites.open()
    run(site, sh("true"))
    until(lambda: not any(each.exists() for each in left), "they are removed")


KILLED_BEFORE_CREATE = """
import json, os, signal, sys
from siteward import Job, Site
from siteward_docker.client import Engine
Engine.create = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
site = Site.load(sys.argv[1])
site.launch(Job.from_mapping(json.load(sys.stdin)))
"""


def test_two_parents_on_one_site(sites: Sites):
    """Each drives its own jobs; when one is killed the other has the true ends of all."""
    file = sites.file()
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        site = sites.open()
        (mine,) = launch_waiting(site, 1)
        theirs, _ = parent.communicate(json.dumps({"name": "test", "command": ["sh", "-c", WAIT + "33"]}), timeout=60)
    handle = site.attach(theirs.strip())
    until((handle.job_dir / "ready").exists, "their job is ready")
    assert parent.returncode == -signal.SIGKILL
    let_go([mine, handle])
    assert (mine.wait(DEADLINE).exit_code, handle.wait(DEADLINE).exit_code) == (10, 33)


PARENT = """
import json, os, signal, sys
from siteward import Job, JobState, Site
site = Site.load(sys.argv[1])
handle = site.launch(Job.from_mapping(json.load(sys.stdin)))
handle.wait_until(JobState.RUNNING, 60)
print(handle.job_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_container_that_was_removed_while_nobody_looked(sites: Sites):
    """It is lost, and said to be; the jobs beside it are not."""
    site = sites.open()
    gone, stays = launch_waiting(site, 2)
    container = sites.container(gone)["Id"]
    site.close()
    sites.api.remove_container(container, force=True)
    site = sites.open()
    assert end_of(site.attach(gone.job_id).wait(DEADLINE)) == ("LOST", "Deleted", 104, None)
    let_go([stays])
    assert site.attach(stays.job_id).wait(DEADLINE).exit_code == 11


def test_an_engine_whose_disk_is_full(own_engine, tmp_path):
    """What the engine says reaches the user; nothing is left, and when there is room again jobs run."""
    engine = own_engine()
    sites = Sites(engine, tmp_path, default_image=images.provide(engine, images.BUSYBOX))
    containers = engine.folder / "root" / "containers"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", containers], check=True)
    try:
        (containers / "filler").write_bytes(b"x" * 61440)
        site = sites.open()
        with pytest.raises(LaunchRefused, match="no space left on device"):
            site.launch(sh("true"))
        assert site.jobs() == []
        (containers / "filler").unlink()
        assert run(site, sh("true"))[1].state is JobState.SUCCEEDED
    finally:
        sites.close()
        subprocess.run(["umount", "--lazy", containers], check=True)


def test_without_an_engine_nothing_starts(tmp_path):
    """A launch is refused with what to do; doctor says the same; nothing is left."""

    class Nowhere:
        host = f"unix://{tmp_path}/none.sock"

        @staticmethod
        def client():
            return None

    site = Site.load(Sites(Nowhere(), tmp_path, default_image="x").file())
    with site:
        with pytest.raises(LaunchRefused, match="set docker_host"):
            site.launch(sh("true"))
        assert site.jobs() == []
        assert not list((site.state_dir / "jobs").iterdir())
        (finding,) = (each for each in site.doctor() if each.subject == "engine")
        assert finding.level == "fail"
        assert finding.remedy


@pytest.fixture
def proxy(mortal, tmp_path):
    """A way to the engine on which things get lost."""
    proxy = Proxy(mortal[0].host, tmp_path)
    yield proxy
    proxy.close()


def test_the_answer_to_create_is_lost(proxy: Proxy, sites: Sites):
    """The container exists, and is found: it is the job, which runs once."""
    site = sites.open(docker_host=proxy.host)
    proxy.lose("/containers/create", "answer")
    handle = site.launch(sh("echo run >> runs; exit 4"))
    assert handle.wait(DEADLINE).exit_code == 4
    assert (handle.job_dir / "runs").read_text() == "run\n"
    assert [event.kind for event in site.events(handle.job_id)].count("uncertain") == 1


def test_the_request_to_create_is_lost(proxy: Proxy, sites: Sites):
    """There is no container: the job never began, and is not launched again by itself."""
    site = sites.open(docker_host=proxy.host)
    proxy.lose("/containers/create", "request")
    handle = site.launch(sh("true"))
    assert end_of(handle.wait(DEADLINE)) == ("FAILED", "LaunchFailed", 101, None)
    assert sites.containers(handle) == []


@pytest.mark.parametrize("what", ["request", "answer"])
def test_the_start_is_lost(proxy: Proxy, sites: Sites, what: str):
    """It is sent again; a container that runs already is left alone."""
    site = sites.open(docker_host=proxy.host)
    proxy.lose("/start", what)
    handle = site.launch(sh("echo run >> runs; sleep 1; exit 4"))
    assert handle.wait(DEADLINE).exit_code == 4
    assert (handle.job_dir / "runs").read_text() == "run\n"


def with_image(image: str):
    return {"launcher_spec": {"default": {"docker": {"image": image}}}}


@pytest.mark.parametrize("what", ["request", "answer"])
def test_the_start_behind_a_pull_is_lost(sites: Sites, mortal, registry, proxy: Proxy, what: str):
    """It is sent again too, though launch and staging are long over: the job runs, and once."""
    image = registry.push(*mortal)
    site = sites.open(docker_host=proxy.host, pull="missing")
    try:
        proxy.lose("/start", what)
        handle = site.launch(sh("echo run >> runs; exit 4", **with_image(image)))
        assert handle.wait(DEADLINE).exit_code == 4
        assert (handle.job_dir / "runs").read_text() == "run\n"
    finally:
        sites.api.remove_image(image)


def test_inputs_that_cannot_be_brought_behind_a_pull(sites: Sites, mortal, registry, monkeypatch: pytest.MonkeyPatch):
    """They are the job's end, in words; it does not wait for ever, and its container is gone."""

    def no_room(*_args):
        raise BackendError("no room for it")

    monkeypatch.setattr(Engine, "put_archive", no_room)
    image = registry.push(*mortal)
    try:
        site = sites.open(job_directory="copy", pull="missing")
        handle, result = run(site, sh("true", **with_image(image)))
        assert end_of(result) == ("FAILED", "LaunchFailed", 101, None)
        assert "no room for it" in result.message
        assert sites.containers(handle) == []
    finally:
        sites.api.remove_image(image)


def test_one_container_that_cannot_be_looked_at(proxy: Proxy, sites: Sites):
    """It keeps no other job's end from being seen, and its own is seen as soon as it can be."""
    site = sites.open(docker_host=proxy.host)
    (other,) = launch_waiting(site, 1)
    broken = site.launch(sh(f"{WAIT}126"))  # of which the event does not tell all
    until((broken.job_dir / "ready").exists, "the job is ready")
    proxy.refuse(f"/{sites.container(broken)['Id']}/json")
    let_go([broken])
    until(lambda: not broken.status().reachable, "that it cannot be seen is told")
    let_go([other])
    assert other.wait(DEADLINE).exit_code == 10
    assert broken.status().state is JobState.RUNNING
    proxy.refuse(None)
    assert broken.wait(DEADLINE).exit_code == 126


def test_an_ordinary_end_needs_no_look(proxy: Proxy, sites: Sites):
    """Its event tells all of it, also when."""
    site = sites.open(docker_host=proxy.host)
    (handle,) = launch_waiting(site, 1)
    state = sites.container(handle)["State"]
    proxy.refuse("/json")
    before = time.time()
    let_go([handle])
    result = handle.wait(DEADLINE)
    assert result.exit_code == 10
    assert result.started_at == pytest.approx(datetime.fromisoformat(state["StartedAt"]).timestamp(), abs=5)
    assert before - 1 < result.ended_at < time.time() + 1


def test_a_kill_that_the_engine_fails_to_do(proxy: Proxy, sites: Sites):
    """It is sent again: a job that does not end when it is asked to is ended in the end."""
    handle = sites.open(docker_host=proxy.host).launch(sh("trap '' TERM; touch ready; while :; do sleep 1; done"))
    until((handle.job_dir / "ready").exists, "the job is ready")
    proxy.refuse("signal=SIGKILL")
    handle.terminate(grace=0.1)
    with pytest.raises(TimeoutError):
        handle.wait(2)
    proxy.refuse(None)
    assert end_of(handle.wait(DEADLINE)) == ("ABORTED", "Aborted", 9, 137)


def test_a_stop_that_came_during_the_start_is_not_lost(proxy: Proxy, sites: Sites, monkeypatch: pytest.MonkeyPatch):
    """Also if the engine fails just when the job has been started, and the stop was to be sent."""
    site, launched, start, handles = sites.open(docker_host=proxy.host), threading.Event(), Engine.start, []

    def start_and_be_stopped(*args):
        start(*args)
        assert launched.wait(DEADLINE)
        handles[0].terminate(grace=0)
        proxy.refuse("/json")

    monkeypatch.setattr(Engine, "start", start_and_be_stopped)
    handles.append(site.launch(sh("sleep 100")))
    launched.set()
    with pytest.raises(TimeoutError):
        handles[0].wait(2)
    proxy.refuse(None)
    assert end_of(handles[0].wait(DEADLINE)) == ("ABORTED", "Aborted", 9, 137)


def test_jobs_that_were_taken_over_are_watched_like_others(sites: Sites, mortal, proxy: Proxy):
    """Of an outage they are told as well, and of what it hid."""
    site = sites.open()
    gone, stays = (each.job_id for each in launch_waiting(site, 2))
    site.close()
    site = sites.open(docker_host=proxy.host)
    handles = [site.attach(gone), site.attach(stays)]
    until(lambda: all(handle.status().reachable for handle in handles), "both are seen")
    run(site, sh("true"))
    proxy.close()
    until(lambda: not any(handle.status().reachable for handle in handles), "the outage is told")
    sites.api.remove_container(sites.container(handles[0])["Id"], force=True)
    again = Proxy(mortal[0].host, sites.folder)
    try:
        assert end_of(handles[0].wait(DEADLINE)) == ("LOST", "Deleted", 104, None)
        until(lambda: handles[1].status().reachable, "the other is seen again")
        let_go(handles[1:])
        assert handles[1].wait(DEADLINE).exit_code == 11
    finally:
        site.close()
        again.close()
