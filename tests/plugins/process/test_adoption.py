"""Ends survive the death of whoever launched the job, and jobs survive the death of their keeper."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from attrs import evolve

from siteward import JobRef, JobState, LaunchUncertain, Reason
from siteward_process import linux, proc
from siteward_process.ending import Endings
from siteward_process.journal import Journal

from .helpers import Place, Watch, is_alive, poll_end, read_pid, until
from .test_tree import DAEMON, python

SH = "/bin/sh"


class Parent:
    """Another process that launches jobs on a place."""

    def __init__(self, place: Place) -> None:
        script = Path(__file__).parent / "parent.py"
        command = [sys.executable, str(script), str(place.directory)]
        self._place = place
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def launch(self, *command: str) -> JobRef:
        request = self._place.request(*command)
        fields = {"job_id": request.job_id, "job_dir": str(request.job_dir), "command": command}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(fields) + "\n")
        self._process.stdin.flush()
        return JobRef(**json.loads(self._process.stdout.readline()))

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def parent(place):
    parent = Parent(place)
    yield parent
    parent.kill()


def test_a_killed_parent_costs_no_end(place, parent):
    """After kill -9 of the parent: the true code of a job that runs on, and of one that ended meanwhile."""
    go = place.root / "go"
    ended = parent.launch(SH, "-c", "exit 41")
    running = parent.launch(SH, "-c", f"while [ ! -e {go} ]; do sleep 0.05; done; exit 42")
    missing = parent.launch("no-such-command-anywhere")
    parent.kill()
    backend, watch = place.backend(), Watch()
    assert {ref.job_id for ref in backend.siteward_list_jobs()} == {ended.job_id, running.job_id, missing.job_id}
    assert set(map(str, backend.siteward_list_jobs())) == set(map(str, [ended, running, missing]))
    backend.siteward_watch_jobs(watch)
    assert watch.end_of(ended).result.exit_code == 41
    assert watch.end_of(missing).result.reason is Reason.LAUNCH_FAILED
    assert backend.siteward_poll_job(running).state is JobState.RUNNING
    go.touch()
    assert watch.end_of(running).result.exit_code == 42
    assert poll_end(backend, ended).result.exit_code == 41


def test_ends_outlive_the_keeper_that_has_left(place, parent):
    """With no job and no parent the keeper leaves; what nobody has taken note of is kept on disk."""
    refs = [parent.launch(SH, "-c", f"exit {code}") for code in (1, 2, 3)]
    keeper = place.keeper_pid()
    parent.kill()
    until(lambda: not is_alive(keeper), "the keeper leaves")
    assert not (place.directory / "keeper.sock").exists()
    backend = place.backend()
    assert [backend.siteward_poll_job(ref).result.exit_code for ref in refs] == [1, 2, 3]
    for ref in refs:
        backend.siteward_remove_job(ref)
    backend.siteward_close_backend()
    until(lambda: (place.directory / "ends.log").stat().st_size == 0, "the record is empty")


def test_the_kill_after_a_terminate_survives_the_parent(place, parent):
    """The keeper sends KILL when the grace is over, whether or not anyone still waits for it."""
    request_dir = place.root / "jobs" / "job-1" / "work"
    ref = parent.launch(SH, "-c", 'trap "" TERM; echo $$ > main; while :; do sleep 1; done')
    pid = read_pid(request_dir / "main")
    backend = place.backend()
    backend.siteward_terminate_job(ref, 0.5)
    backend.siteward_close_backend()
    parent.kill()
    until(lambda: not is_alive(pid), "the job is killed")


def test_two_parents_share_one_keeper(place, parent):
    """Each sees the other's jobs, and every end is told to both."""
    backend, watch = place.backend(), Watch()
    backend.siteward_watch_jobs(watch)
    mine = backend.siteward_launch_job(place.request(SH, "-c", "exit 1"))
    theirs = parent.launch(SH, "-c", "exit 2")
    assert [watch.end_of(ref).result.exit_code for ref in (mine, theirs)] == [1, 2]
    assert sorted(map(str, backend.siteward_list_jobs())) == sorted(map(str, [mine, theirs]))


def test_parents_that_start_together_get_one_keeper(place):
    """The lock decides; the others find the one that won."""
    parents = [Parent(place) for _ in range(4)]
    try:
        parent_pids = set()
        for index, parent in enumerate(parents):
            (place.root / "jobs" / f"p{index}").mkdir(parents=True)
            parent.launch(SH, "-c", f"echo $PPID > {place.root}/parent-{index}; sleep 600")
        for index in range(len(parents)):
            parent_pids.add(read_pid(place.root / f"parent-{index}"))
        assert parent_pids == {place.keeper_pid()}
    finally:
        for parent in parents:
            parent.kill()


def test_jobs_survive_their_keeper_and_end_as_lost(watched):
    """After kill -9 of the keeper: jobs run on, another keeper finds them, and tells their end at once."""
    place, backend, watch = watched
    request = place.request(SH, "-c", "echo $$ > main; while [ ! -e go ]; do sleep 0.05; done; echo over > done")
    ref = backend.siteward_launch_job(request)
    told = backend.siteward_launch_job(place.request(SH, "-c", "exit 9"))
    watch.end_of(told)
    old = place.kill_keeper()
    assert is_alive(ref.data["pid"])
    assert backend.siteward_poll_job(ref).state is JobState.RUNNING
    new = until(place.keeper_pid, "another keeper")
    assert new != old
    (request.job_dir / "go").touch()
    result = watch.end_of(ref).result
    assert (result.state, result.reason, result.return_code) == (JobState.LOST, Reason.BACKEND_LOST, 104)
    assert (request.job_dir / "done").exists(), "the job itself came to its end"
    assert backend.siteward_poll_job(told).result.exit_code == 9


def test_the_watch_notices_a_killed_keeper_by_itself(watched):
    """Nobody has to ask: ends are pushed again from the next keeper on."""
    place, backend, watch = watched
    go = place.root / "go"
    ref = backend.siteward_launch_job(place.request(SH, "-c", f"while [ ! -e {go} ]; do sleep 0.05; done"))
    place.kill_keeper()
    until(place.keeper_pid, "another keeper")
    go.touch()
    assert watch.end_of(ref).result.reason is Reason.BACKEND_LOST
    later = backend.siteward_launch_job(place.request(SH, "-c", "exit 6"))
    assert watch.end_of(later).result.exit_code == 6


def test_a_job_that_ended_while_no_keeper_ran_is_lost(place):
    backend = place.backend()
    request = place.request(SH, "-c", "(setsid sleep 600 & echo $! > left); echo $$ > main; sleep 600")
    ref = backend.siteward_launch_job(request)
    left = read_pid(request.job_dir / "left")
    place.kill_keeper()
    os.kill(ref.data["pid"], signal.SIGKILL)
    assert poll_end(backend, ref).result.reason is Reason.BACKEND_LOST
    assert not is_alive(left), "what it left is ended all the same"


@pytest.mark.parametrize("grace", [0.2, 0.0])
def test_survivors_can_be_terminated(watched, grace):
    """With all they started, in their group or not."""
    place, backend, watch = watched
    request = place.request(*python(DAEMON + "signal.signal(15, signal.SIG_IGN)\ndaemon(False, True)\nsignal.pause()"))
    ref = backend.siteward_launch_job(request)
    daemon = read_pid(request.job_dir / "daemon")
    place.kill_keeper()
    backend.siteward_terminate_job(ref, grace)
    assert watch.end_of(ref).result.reason is Reason.BACKEND_LOST
    assert not is_alive(ref.data["pid"])
    assert not is_alive(daemon)


def test_the_kill_after_a_terminate_survives_the_keeper_too(watched):
    """What was still to be sent is on record; the next keeper sends it, unasked."""
    place, backend, watch = watched
    request = place.request(SH, "-c", 'trap "" TERM; echo $$ > main; while :; do sleep 1; done')
    ref = backend.siteward_launch_job(request)
    read_pid(request.job_dir / "main")
    backend.siteward_terminate_job(ref, 0.5)
    place.kill_keeper()
    assert watch.end_of(ref).result.reason is Reason.BACKEND_LOST
    assert not is_alive(ref.data["pid"])


def test_survivors_outputs_can_be_read(watched):
    place, backend, _watch = watched
    go = place.root / "go"
    script = f"echo one; while [ ! -e {go} ]; do sleep 0.05; done; echo two"
    ref = backend.siteward_launch_job(place.request(SH, "-c", script))
    reader = backend.siteward_read_logs(ref, True, None)
    assert next(reader) == b"one\n"
    place.kill_keeper()
    go.touch()
    assert b"".join(reader) == b"two\n"


def write_journal(place: Place, **record: object) -> None:
    with (place.directory / "ends.log").open("a") as file:
        file.write(json.dumps(record) + "\n")


def test_a_keeper_killed_between_spawn_and_its_record_loses_no_job(place):
    """What was written before the spawn is enough to find the job by its environment."""
    request = place.request(SH, "-c", "echo $$ > main; exec sleep 600")
    environment = {**os.environ, **request.environment(request.job_dir)}
    with subprocess.Popen(request.command, cwd=request.job_dir, env=environment, start_new_session=True) as process:
        record = {"dir": str(request.job_dir), "log": str(request.log_file)}
        write_journal(place, k=f"1/{request.job_id}", **record, cap=0, boot=proc.boot_id(), t0=1.0)
        read_pid(request.job_dir / "main")
        backend = place.backend()
        [ref] = backend.siteward_list_jobs()
        assert (ref.job_id, ref.data["pid"]) == (request.job_id, process.pid)
        assert backend.siteward_launch_job(request) == ref, "launched again, it is found, not started twice"
        assert backend.siteward_poll_job(ref).state is JobState.RUNNING
        backend.siteward_terminate_job(ref, 0)
    assert poll_end(backend, ref).result.reason is Reason.BACKEND_LOST


def test_a_keeper_killed_before_the_spawn_leaves_a_lost_job(place):
    """Whether its program ever ran nobody can know: it is not started a second time."""
    request = place.request("true")
    record = {"dir": str(request.job_dir), "log": str(request.log_file)}
    write_journal(place, k=f"1/{request.job_id}", **record, cap=0, boot=proc.boot_id(), t0=1.0)
    backend = place.backend()
    ref = backend.siteward_launch_job(request)
    assert poll_end(backend, ref).result.reason is Reason.BACKEND_LOST
    assert not request.log_file.exists()


def test_launches_go_on_while_keepers_are_killed(watched):
    """Whatever moment a keeper dies at: no launch fails, none is run twice, every job has an end."""
    place, backend, watch = watched
    stop = threading.Event()

    def kill_now_and_then() -> None:
        while not stop.wait(0.15):
            pid = place.keeper_pid()
            if pid:
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_now_and_then)
    requests = [place.request(SH, "-c", "echo $$ >> starts") for _ in range(40)]
    refs = []
    killer.start()
    try:
        for request in requests:
            try:
                refs.append(backend.siteward_launch_job(request))
            except LaunchUncertain as error:
                refs.append(error.ref)
    finally:
        stop.set()
        killer.join()
    watch.errors.clear()
    for ref, request in zip(refs, requests, strict=True):
        state = poll_end(backend, ref).state
        starts = request.job_dir / "starts"
        count = len(starts.read_text().split()) if starts.exists() else 0
        assert (state, count) == (JobState.SUCCEEDED, 1) or (state is JobState.LOST and count <= 1)


def test_a_ref_has_the_start_that_proc_shows(place):
    """However the keeper came to know when a process was started, it is what /proc says."""
    backend = place.backend()
    refs = [backend.siteward_launch_job(place.request("/bin/sleep", "600")) for _ in range(50)]
    assert [ref.data["start"] for ref in refs] == [proc.start_of(ref.data["pid"]) for ref in refs]


def test_a_clock_that_disagrees_with_proc_is_not_believed(monkeypatch):
    """Where the kernel counts otherwise, every start is read from /proc."""
    clock = proc.StartClock()
    monkeypatch.setattr(clock, "now", lambda: 1)
    assert [clock.start_of(os.getpid(), 1) for _ in range(3)] == [proc.start_of(os.getpid())] * 3


def test_after_a_restart_of_the_machine_its_jobs_are_lost(place):
    """Another boot id: process ids mean nothing any more."""
    request = place.request("true")
    record = {"dir": str(request.job_dir), "log": str(request.log_file)}
    pid, start = os.getpid(), proc.stat(os.getpid()).start
    write_journal(place, k=f"1/{request.job_id}", **record, cap=0, boot="of-yesterday", t0=1.0, pid=pid, start=start)
    backend = place.backend()
    [ref] = backend.siteward_list_jobs()
    result = backend.siteward_poll_job(ref).result
    assert result.reason is Reason.BACKEND_LOST
    assert "restarted" in result.message
    backend.siteward_terminate_job(ref, 0)
    other = evolve(ref, job_id="other")
    assert backend.siteward_poll_job(other).result.reason is Reason.BACKEND_LOST


def test_a_recycled_process_id_is_never_ours(place):
    """A ref whose number now means a stranger: not running, and not to be killed."""
    backend = place.backend()
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as stranger:
        known = backend.siteward_launch_job(place.request("sleep", "600"))
        start = proc.stat(stranger.pid).start
        for data in (
            {**known.data, "pid": stranger.pid, "start": start - 1},
            {**known.data, "pid": stranger.pid, "start": start},
            {**known.data, "start": known.data["start"] - 1},
        ):
            for ref in (evolve(known, data=data), evolve(known, job_id="elsewhere", data=data)):
                assert backend.siteward_poll_job(ref).result.reason is Reason.BACKEND_LOST
                backend.siteward_terminate_job(ref, 0)
                backend.siteward_remove_job(ref)
        assert backend.siteward_poll_job(known).state is JobState.RUNNING
        assert stranger.poll() is None
        stranger.kill()


def test_a_lost_record_costs_no_running_job(place):
    """With ends.log gone, a ref still finds its process, by number, start, boot and mark."""
    backend = place.backend()
    ref = backend.siteward_launch_job(place.request("sleep", "600"))
    place.kill_keeper()
    (place.directory / "ends.log").unlink()
    assert backend.siteward_poll_job(ref).state is JobState.RUNNING
    backend.siteward_terminate_job(ref, 0)
    assert poll_end(backend, ref).result.reason is Reason.BACKEND_LOST


def test_a_torn_record_costs_nothing_else(place):
    """A half-written line, as after a loss of power, is skipped."""
    backend = place.backend()
    ref = backend.siteward_launch_job(place.request(SH, "-c", "exit 4"))
    poll_end(backend, ref)
    place.kill_keeper()
    with (place.directory / "ends.log").open("a") as file:
        file.write('{"k": "1/torn", "id": "to')
    assert backend.siteward_poll_job(ref).result.exit_code == 4
    assert backend.siteward_list_jobs() == [ref]


INCOMPLETE = {
    "only a KILL": {"k": "1/zz", "kill": 1},
    "a key without an attempt": {"k": "zz", "dir": "/", "log": "/x", "cap": 0, "boot": "b", "t0": 1.0},
    "no key": {"pid": 1},
    "a key that is no text": {"k": 1, "end": {}},
    "a process without its start": {"k": "1/z", "dir": "/", "log": "/x", "cap": 0, "boot": "b", "t0": 1.0, "pid": 1},
    "an end that says nothing": {"k": "1/zz", "end": {}},
    "an end that is no mapping": {"k": "1/zz", "end": 4},
    "no mapping": 5,
}


@pytest.mark.parametrize("line", INCOMPLETE.values(), ids=INCOMPLETE)
def test_an_incomplete_record_costs_nothing_else(place, line):
    """It is dropped, and noted; every other job is found and has its end."""
    backend = place.backend()
    ended = backend.siteward_launch_job(place.request(SH, "-c", "exit 4"))
    poll_end(backend, ended)
    running = backend.siteward_launch_job(place.request("sleep", "600"))
    place.kill_keeper()
    with (place.directory / "ends.log").open("a") as file:
        file.write(json.dumps(line) + "\n")
    watch = Watch()
    backend.siteward_watch_jobs(watch)
    assert watch.end_of(ended).result.exit_code == 4
    assert {ref.job_id for ref in backend.siteward_list_jobs()} == {ended.job_id, running.job_id}
    assert backend.siteward_poll_job(running).state is JobState.RUNNING
    assert watch.errors == []
    if isinstance(line, dict) and isinstance(line.get("k"), str):
        assert f"incomplete record of {line['k']!r}" in (place.directory / "keeper.log").read_text()


@pytest.mark.parametrize("step", [-1e6, 1e6], ids=["back", "forth"])
def test_the_kill_after_a_terminate_outlives_a_clock_that_is_set(place, step):
    """What is on record as the moment of the KILL is kept within the grace, whatever the clock says."""
    backend = place.backend()
    request = place.request(SH, "-c", 'trap "" TERM; echo $$ > main; while :; do sleep 1; done')
    ref = backend.siteward_launch_job(request)
    pid = read_pid(request.job_dir / "main")
    backend.siteward_terminate_job(ref, 1.0)
    place.kill_keeper()
    lines = [json.loads(line) for line in (place.directory / "ends.log").read_text().splitlines()]
    [planned] = [line for line in lines if "kill" in line]
    assert planned["grace"] == 1.0
    write_journal(place, k=planned["k"], kill=planned["kill"] + step)
    assert poll_end(backend, ref).result.reason is Reason.BACKEND_LOST
    assert not is_alive(pid)


class FewFiles:
    """A program with few descriptors that starts a keeper on a place by asking it for its list."""

    CODE = """
import logging, resource, sys
from pathlib import Path
soft, hard = int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from siteward import Context
from siteward_process.backend import Backend
context = Context(site="here", backend="process", directory=Path(sys.argv[1]), log=logging.getLogger())
backend = Backend(context, Backend.SiteOptions())
print(len(backend.siteward_list_jobs()), flush=True)
sys.stdin.read()
"""

    def __init__(self, place: Place, soft: int, hard: int) -> None:
        command = [sys.executable, "-c", self.CODE, str(place.directory), str(soft), str(hard)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.jobs = int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate("")


def test_more_survivors_than_descriptors_are_not_lost(place):
    """Not being able to watch a job does not mean that it has ended; its end is still seen."""
    backend = place.backend()
    refs = [backend.siteward_launch_job(place.request("sleep", "600")) for _ in range(50)]
    place.kill_keeper()
    few = FewFiles(place, 40, 40)
    try:
        assert few.jobs == len(refs)
        assert {backend.siteward_poll_job(ref).state for ref in refs} == {JobState.RUNNING}
        for ref in refs:
            os.kill(ref.data["pid"], signal.SIGKILL)
        assert {poll_end(backend, ref).result.reason for ref in refs} == {Reason.BACKEND_LOST}
        assert place.run(SH, "-c", "exit 3").result.exit_code == 3
    finally:
        few.close()


def test_the_keeper_takes_all_descriptors_it_may_have_and_jobs_their_own(place):
    few = FewFiles(place, 100, 4000)
    try:
        limits = Path(f"/proc/{place.keeper_pid()}/limits").read_text()
        assert next(line for line in limits.splitlines() if "open files" in line).split()[3:5] == ["4000", "4000"]
        request = place.request(SH, "-c", "ulimit -Sn; ulimit -Hn")
        backend = place.backend()
        poll_end(backend, backend.siteward_launch_job(request))
        assert request.log_file.read_text().split() == ["100", "4000"]
    finally:
        few.close()


def test_a_process_that_cannot_be_looked_at_is_not_gone(monkeypatch):
    """For want of descriptors nothing is known: that is an error, never "there is none"."""

    def refuse(_path: str) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    assert proc.stat(2**22) is None
    monkeypatch.setattr(proc, "read", refuse)
    for look in (proc.stat, proc.marker, lambda pid: proc.is_alive(pid, 1)):
        with pytest.raises(OSError, match="Too many open files"):
            look(os.getpid())
    assert not linux.is_scarce(10)


def test_an_end_that_cannot_be_settled_now_is_settled_later():
    """Whatever goes wrong in between, the next try is planned."""

    class Short:
        def look(self) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    class Roll:
        tree, planned = Short(), []
        host = property(lambda self: self)

        def later(self, _seconds: float, call: object) -> None:
            self.planned.append(call)

    class Job:
        key, status, settle_by = "1/job", None, 0.0

    roll = Roll()
    endings = Endings(roll)
    endings.begin(Job())
    for tries in range(1, 4):
        assert len(roll.planned) == tries
        with pytest.raises(OSError, match="Too many open files"):
            roll.planned[-1]()


def test_the_record_on_disk_stays_small(tmp_path):
    """Thousands of jobs that were removed leave nothing; a busy site's record is rewritten when most of it is past."""
    folder = os.open(tmp_path, os.O_RDONLY)
    journal = Journal(folder, "ends.log")
    journal.intend("1/long-lived", log="y")
    largest = 0
    for number in range(10_000):
        journal.intend(f"1/{number}", log="x" * 200)
        journal.put(f"1/{number}", end={"exit": 0})
        journal.forget(f"1/{number}")
        if number % 100 == 0:
            largest = max(largest, (tmp_path / "ends.log").stat().st_size)
    assert largest < 1.1 * 2**20
    journal.close()
    again = Journal(folder, "ends.log")
    assert again.records == {"1/long-lived": {"log": "y"}}
    again.forget("1/long-lived")
    assert (tmp_path / "ends.log").stat().st_size == 0
    again.close()
    os.close(folder)


def test_a_record_that_could_not_be_written_is_written_later(tmp_path, monkeypatch):
    """A full disk: nothing new is begun, ends are kept in memory, and the next write that succeeds brings them all."""
    folder = os.open(tmp_path, os.O_RDONLY)
    journal = Journal(folder, "ends.log")
    journal.intend("1/a", log="a")
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
    with pytest.raises(OSError, match="No space left"):
        journal.intend("1/b", log="b")
    assert json.loads(journal.put("1/a", end={"exit": 3})) == {"k": "1/a", "end": {"exit": 3}}
    monkeypatch.undo()
    journal.intend("1/c", log="c")
    journal.close()
    again = Journal(folder, "ends.log")
    assert again.records == {"1/a": {"log": "a", "end": {"exit": 3}}, "1/c": {"log": "c"}}
    again.close()
    os.close(folder)
