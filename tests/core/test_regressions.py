"""Defects of other launchers, each under its name: they are not to be had here."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from siteward import (
    Job,
    JobState,
    LaunchError,
    LaunchRefused,
    LaunchUncertain,
    Reason,
    Site,
    SiteFile,
    Unreachable,
    hookimpl,
)

from .fake import job, until
from .managers import units, with_units


def raising(error):
    def fault(*_):
        raise error

    return fault


@pytest.fixture
def real(tmp_path):
    """A site that runs processes, in a folder whose name has spaces."""
    pytest.importorskip("siteward_process", reason="needs the process backend: install siteward-process")
    folder = tmp_path / "my site's folder"
    folder.mkdir()
    data = {
        "name": "s",
        "backends": {"process": {}},
        "default_backend": "process",
        "state_dir": "the state",
        "grace": 5,
    }
    with Site(SiteFile.from_mapping(data, base_dir=folder)) as site:
        yield site
        for row in site.jobs(ended=False):
            site.attach(row.job_id).terminate(grace=0)
            site.attach(row.job_id).wait(20)


def process(*command, **fields):
    return Job.from_mapping({"name": "real", "command": list(command), **fields})


# --- ends ---


def test_parsl_truncated_exit_code_file(real):
    """A poll between truncating and writing the file of the exit code made quick jobs fail, 3 of 1,000."""
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: real.launch(process("true")).wait(60), range(100)))
    assert {(result.state, result.exit_code) for result in results} == {(JobState.SUCCEEDED, 0)}


@pytest.mark.parametrize("features", [("list",), ("watch", "list")], ids=["polled", "watched"])
def test_parsl_lost_pods_stay_running(places, monkeypatch, features):
    """A job that somebody deleted stayed RUNNING for ever."""
    monkeypatch.setattr("siteward.watching.SWEEP_INTERVALS", 5)
    place = places(*features)
    handle = place.site().launch(job(id="a"))
    place.start("a")
    handle.wait_until(JobState.RUNNING, 20)
    place.platform.remove("a")
    result = handle.wait(20)
    assert (result.state, result.reason, int(result.return_code)) == (JobState.LOST, Reason.DELETED, 104)


def test_dockerspawner_missing_container_is_a_clean_exit(places):
    """Gone before it was looked at once: never a success."""
    place = places("list")
    place.control.faults["launch done"] = lambda request: place.platform.remove(request.job_id)
    assert place.site().launch(job(id="a")).wait(20).state is JobState.LOST


OUTAGES = [Unreachable("no route"), OSError("500 internal server error"), TimeoutError(), KeyError("status")]


@pytest.mark.parametrize("error", OUTAGES, ids=lambda error: type(error).__name__)
def test_dagster_api_outage_fails_live_runs(places, error):
    """Also Docker's wait that returned, and DockerSpawner's 500 that meant gone: not being able to look is no end."""
    place = places("list")
    handle = place.site().launch(job(id="a"))
    place.start("a")
    handle.wait_until(JobState.RUNNING, 20)
    place.control.faults["poll"] = raising(error)
    until(lambda: not handle.status().reachable)
    seen = place.control.count("poll")
    until(lambda: place.control.count("poll") > seen + 5)
    assert (handle.state, handle.done()) == (JobState.RUNNING, False)
    place.control.faults.clear()
    place.end("a")
    assert handle.wait(20).state is JobState.SUCCEEDED


def test_dagster_created_or_paused_is_failed(places):
    """What is not running yet is pending, whatever the platform says about it."""
    place = places("list")
    handle = place.site().launch(job(id="a"))
    for words in ("untolerated taint", "ErrImagePull", "Insufficient memory"):
        place.platform.put("a", message=words)
        until(lambda words=words: handle.status().message == words)
        assert handle.state is JobState.PENDING
    place.end("a")
    assert handle.wait(20).state is JobState.SUCCEEDED


CODES = [*range(4), 42, 100, 101, 102, 103, 104, 105, 126, 127, 255]


@pytest.mark.parametrize("code", CODES)
def test_nvflare_exit_codes_are_flattened(place, code):
    """42 became 1, 101 to 104 became 1, and on Kubernetes all became ABORTED."""
    handle = place.site().launch(job(id="a"))
    place.end("a", exit_code=code)
    result = handle.wait(20)
    assert result.exit_code == code
    assert int(result.return_code) == (code if code in (0, 101, 102, 103, 104) else 1)
    assert result.state is (JobState.SUCCEEDED if code == 0 else JobState.FAILED)


REASONS = {
    Reason.OOM_KILLED: 104,
    Reason.EVICTED: 104,
    Reason.NODE_LOST: 104,
    Reason.DELETED: 104,
    Reason.IMAGE_ERROR: 101,
    Reason.CONFIG_ERROR: 103,
}


@pytest.mark.parametrize(("reason", "code"), REASONS.items(), ids=str)
def test_nvflare_everything_is_aborted(place, reason, code):
    """ABORTED is for what we were asked to end."""
    handle = place.site().launch(job(id="a"))
    place.end("a", reason=str(reason))
    result = handle.wait(20)
    assert (result.reason, int(result.return_code)) == (reason, code)


def test_nvflare_sigkilled_is_exit_1(real):
    """And TorchX had no code at all: signal and code are told, and it is not an abort."""
    result = real.launch(process("sh", "-c", "kill -9 $$")).wait(20)
    assert (result.signal, result.exit_code, result.reason) == (9, 137, Reason.SIGNAL)


def test_missing_command_is_an_exception(real):
    """Of TorchX, JupyterHub and NVFlare: here it is a job that has ended, with the reason."""
    result = real.launch(process("no-such-command-anywhere")).wait(20)
    assert (result.reason, int(result.return_code)) == (Reason.LAUNCH_FAILED, 101)
    assert "no-such-command-anywhere" in result.message


def test_stale_events_kill_a_new_job_of_the_same_name(place):
    """An hour-old event of an earlier job of the name: news of another attempt is not this job's."""
    handle = place.site().launch(job(id="a"))
    backend = place.control.backends[-1]
    place.platform.put("old", end={"exit_code": 1})
    backend.publish(backend.ref("a", attempt=0), place.platform.status("old"))
    assert not handle.done()
    place.end("a")
    assert handle.wait(20).state is JobState.SUCCEEDED


# --- launching ---


def test_prefect_create_is_not_idempotent(place):
    """A retry after an ambiguous timeout started two jobs."""
    ref = lambda request: place.control.backends[-1].ref(request.job_id)  # noqa: E731
    place.control.faults["launch done"] = lambda request: raising(LaunchUncertain(ref(request)))()
    handle = place.site().launch(job(id="a"))
    place.end("a")
    assert handle.wait(20).state is JobState.SUCCEEDED
    assert place.control.count("launch") == 1


def test_torchx_index_error_at_the_101st_live_job(place):
    """Its cache had room for 100."""
    site = place.site()
    handles = [site.launch(job(id=f"j{number}")) for number in range(150)]
    assert len(site.jobs(ended=False)) == 150
    for number in range(150):
        place.end(f"j{number}", exit_code=number % 7)
    assert [handle.wait(20).exit_code for handle in handles] == [number % 7 for number in range(150)]


def test_nvflare_launch_that_blocks_loses_the_client(places):
    """Launch returns while the job's inputs are still on their way, and other launches do not wait for a slow one."""
    place = places("watch", "stage")
    go, inside = threading.Event(), threading.Event()
    place.control.faults["stage"] = lambda *_: go.wait(20) and None

    def slow(request):
        if request.job_id == "slow":
            inside.set()
            go.wait(20)

    place.control.faults["launch"] = slow
    site = place.site()
    launching = threading.Thread(target=site.launch, args=[job(id="slow")])
    launching.start()
    inside.wait(20)
    handle = site.launch(job(id="quick"))
    assert handle.state is JobState.PENDING
    go.set()
    launching.join(20)
    for name in ("slow", "quick"):
        place.end(name)
        site.attach(name).wait(20)


def test_dockerspawner_one_slow_call_blocks_every_poll(places):
    """It had one thread for all calls of all jobs."""
    place = places("list")
    go = threading.Event()
    place.control.faults["poll"] = lambda ref: go.wait(20) and None if ref.job_id == "slow" else None
    site = place.site()
    slow, quick = site.launch(job(id="slow")), site.launch(job(id="quick"))
    place.end("quick", exit_code=3)
    assert quick.wait(20).exit_code == 3
    go.set()
    place.end("slow")
    slow.wait(20)


def test_kubespawner_a_dead_watch_is_used_for_ever(place):
    """A watch that has stopped is followed by polling; the next site starts a new one."""
    site = place.site()
    handle = site.launch(job(id="a"))
    place.control.backends[-1].publish.failed(OSError("gave up after 32 s"))
    place.platform.put("a", end={"exit_code": 3})
    assert handle.wait(20).exit_code == 3
    site.close()
    again = place.site().launch(job(id="b"))
    assert place.control.count("watch") == 2
    place.end("b")
    assert again.wait(20).state is JobState.SUCCEEDED


def test_nvflare_abort_during_launch_is_lost(place):
    """The request comes before there is a ref: it is sent as soon as there is one."""
    site, other = place.site(), place.site()
    place.control.faults["launch done"] = lambda request: other.attach(request.job_id).terminate(grace=0)
    handle = site.launch(job(id="a"))
    assert handle.wait(20).reason is Reason.ABORTED


# --- slots and resources ---


def test_airflow_slots_leak(places):
    """Jobs that failed to launch, were refused, aborted or lost kept their slot for ever."""
    place = places("watch", "list", max_jobs=1)
    site = place.site()
    for number, error in enumerate([LaunchRefused("no"), OSError("no"), LaunchRefused("no")]):
        place.control.faults["launch"] = raising(error)
        assert site.launch(job(id=f"failed-{number}")).wait(20).reason is Reason.LAUNCH_FAILED
    place.control.faults.clear()
    aborted = site.launch(job(id="aborted"))
    aborted.terminate()
    aborted.wait(20)
    lost = site.launch(job(id="lost"))
    place.end("lost", reason="NodeLost")
    lost.wait(20)
    handle = site.launch(job(id="last"))
    until(lambda: place.platform.get("last"))
    place.end("last")
    assert handle.wait(20).state is JobState.SUCCEEDED


def test_nvflare_double_free_inflates_resources(places):
    """Each allocation is freed by its own token, once, however the job ends and however often it is stopped."""
    manager = units(3)
    place = places("watch", "list", **with_units(manager))
    site = place.site()
    for name in "abc":
        handle = site.launch(job(id=name))
        for _ in range(3):
            handle.terminate()
        handle.wait(20)
        handle.terminate()
    assert sorted(token for hook, token in manager.log if hook == "free") == ["t-a", "t-b", "t-c"]
    assert [hook for hook, _ in manager.log].count("cancel") == 0
    assert manager.free == 3


def test_nvflare_cuda_visible_devices_is_the_parent_s(places):
    """What a job was allocated was set for the whole process, raced, and was inherited by jobs without GPUs."""
    manager = units(2)
    place = places("watch", **with_units(manager))
    before = dict(os.environ)
    site = place.site()
    need = lambda name, count: job(id=name, resource_spec={"site-1": {"units": count}})  # noqa: E731
    for name, count in (("a", 2), ("b", 0)):
        site.launch(need(name, count))
    requests = [request for (request,) in place.control.calls["launch"]]
    assert [request.environment("/d")["UNITS"] for request in requests] == ["2", "0"]
    assert dict(os.environ) == before
    for name in "ab":
        place.end(name)
        site.attach(name).wait(20)


def test_nvflare_expired_reservation(places):
    """30 s between check and start were sometimes too few: an error in words, nothing kept."""
    manager = units(1)
    place = places("watch", **with_units(manager))
    site = place.site()
    prepared = site.prepare(job(id="a"))
    manager.held.clear()
    with pytest.raises(LaunchError, match="reservation cannot be allocated: unknown token t-a"):
        site.start(prepared)
    assert site.jobs() == []


def test_nvflare_a_failing_poll_leaks_the_resources(places):
    """An exception in the waiter's thread ended it, and nothing was ever freed."""
    manager = units(1)
    place = places("list", **with_units(manager))
    failures = [ValueError("unexpected"), SystemExit(1), RuntimeError()]
    place.control.faults["poll"] = lambda _ref: raising(failures.pop())() if failures else None
    handle = place.site().launch(job(id="a"))
    place.end("a")
    assert handle.wait(20).state is JobState.SUCCEEDED
    assert manager.free == 1


# --- ending ---


SAVE = "trap 'touch saved; exit 7' TERM; touch ready; while :; do sleep 0.01; done"


def test_psij_cancel_is_sigkill_at_once(real):
    """And NVFlare's: a polite job has its grace and can save; success is not misreported (JupyterHub: 0)."""
    handle = real.launch(process("sh", "-c", SAVE))
    until((handle.job_dir / "ready").exists)
    handle.terminate()
    result = handle.wait(20)
    assert (result.state, result.exit_code, int(result.return_code)) == (JobState.ABORTED, 7, 9)
    assert (handle.job_dir / "saved").exists()


def test_parsl_cancelled_is_reported_but_the_job_lives(real):
    """ABORTED is told when the job, and what it started, is gone; asking does not wait for that."""
    stay = "trap '' TERM; while :; do sleep 0.01; done"
    script = f"trap '' TERM; ({stay}) & echo $! > pid; touch ready; wait; wait"
    handle = real.launch(process("sh", "-c", script))
    until((handle.job_dir / "ready").exists)
    handle.terminate(grace=0.2)
    assert not handle.done()
    assert handle.wait(20).state is JobState.ABORTED
    pid = int((handle.job_dir / "pid").read_text())
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


# --- paths, plugins, imports ---


def test_nvflare_spaces_in_paths(real):
    """Folders, arguments and file names went through a shell-like split."""
    code = "import sys, os; open('a file', 'w').write('|'.join(sys.argv[1:]) + os.getcwd())"
    handle = real.launch(process(sys.executable, "-c", code, "two words", "", "$HOME; `x`", '"q"'))
    assert handle.wait(20).state is JobState.SUCCEEDED
    assert (handle.job_dir / "a file").read_text() == f'two words||$HOME; `x`|"q"{handle.job_dir}'


class Observer:
    """Hears of ends."""

    api = 1

    def __init__(self):
        self.heard = []

    @hookimpl
    def siteward_job_ended(self, ref, result):
        self.heard.append(ref.job_id)


def test_nvflare_two_handlers_of_one_class_name(places):
    """The second of two classes of one name was never registered."""
    first, second = Observer(), type("Observer", (Observer,), {})()
    plugins = [("siteward.plugins", "a", first), ("siteward.plugins", "b", second)]
    place = places("watch", plugins=plugins)
    handle = place.site().launch(job(id="a"))
    place.end("a")
    handle.wait(20)
    until(lambda: first.heard == second.heard == ["a"])


IMPORT = """
import os, signal, subprocess, sys, threading
before = {number: signal.getsignal(number) for number in signal.valid_signals()}
children = []
signal.signal(signal.SIGCHLD, lambda *_: children.append(1))
environment, umask = dict(os.environ), os.umask(0o22)
def load():
    import siteward
    import siteward.cli, siteward.site
thread = threading.Thread(target=load)
thread.start()
thread.join()
assert dict(os.environ) == environment
assert os.umask(umask) == 0o22
assert threading.active_count() == 1, threading.enumerate()
assert subprocess.Popen(["sh", "-c", "exit 3"]).wait() == 3
assert children == [1]
for number, handler in before.items():
    assert number == signal.SIGCHLD or signal.getsignal(number) is handler, number
"""


def test_psij_import_changes_sigchld():
    """Importing, from any thread, changes no signal handler, starts no thread, and leaves children to who has them."""
    run = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_a_program_with_its_own_sigchld_handling(real):
    """A handler that reaps every child it hears of takes no job's end away."""
    reaped = []

    def reap(*_):
        try:
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                reaped.append(found)
        except ChildProcessError:
            pass

    previous = signal.signal(signal.SIGCHLD, reap)
    try:
        results = [real.launch(process("sh", "-c", f"exit {code}")).wait(20) for code in (0, 3, 42)]
    finally:
        signal.signal(signal.SIGCHLD, previous)
    assert [result.exit_code for result in results] == [0, 3, 42]


def test_poc_stop_returns_before_all_is_gone(place):
    """When a site is closed its threads are gone, and the next one can be opened at once."""
    for _ in range(5):
        with place.site() as site:
            site.launch(Job.from_mapping({"name": "j", "command": ["x"], "launcher_spec": {"default": {"fake": {}}}}))
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("siteward")]
