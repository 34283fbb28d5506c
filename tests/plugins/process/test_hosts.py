"""The backend in all kinds of programs, and the keeper as a good neighbour."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from siteward import BackendError, JobState, LaunchRefused, Reason
from siteward_process import proc, wire
from siteward_process.client import Address

from .helpers import Place, Watch, ask_keeper, is_alive, poll_end, until
from .test_adoption import FewFiles

SH = "/bin/sh"
# Runs two jobs, on a keeper that is started here, and says how they ended.
PROGRAM = """
import logging, os, signal, sys, threading, time
from pathlib import Path
from siteward import Context, JobRequest
from siteward_process.backend import Backend

{setup}

root = Path(sys.argv[1])
backend = Backend(
    Context(site="here", backend="process", directory=root / "backend", log=logging.getLogger()), Backend.SiteOptions()
)
for code in (0, 7):
    job_dir = root / "jobs" / f"job-{{code}}" / "work"
    job_dir.mkdir(parents=True)
    ref = backend.siteward_launch_job(
        JobRequest(
            job_id=f"job-{{code}}", name="job", site="here", job_dir=job_dir, command=["sh", "-c", f"exit {{code}}"]
        )
    )
    while not (status := backend.siteward_poll_job(ref)).state.ended:
        time.sleep(0.005)
    print(status.result.exit_code)
"""
HOSTS = {
    "plain": "",
    "handles SIGCHLD": "signal.signal(signal.SIGCHLD, lambda *_: None)",
    "reaps in its handler": "def reap(*_):\n"
    "    try:\n"
    "        while os.waitpid(-1, os.WNOHANG)[0]: pass\n"
    "    except ChildProcessError: pass\n"
    "signal.signal(signal.SIGCHLD, reap)",
    "ignores SIGCHLD": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "reaps everything in a thread": "def reap():\n"
    "    while True:\n"
    "        try: os.waitpid(-1, 0)\n"
    "        except ChildProcessError: time.sleep(0.001)\n"
    "threading.Thread(target=reap, daemon=True).start()",
    "blocks signals": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "has closed standard files": "out = os.dup(1)\n"
    "for number in (0, 1, 2): os.close(number)\n"
    "def print(text): os.write(out, f'{text}\\n'.encode())",
    "has a subreaper's children": "import ctypes\nctypes.CDLL(None).prctl(36, 1, 0, 0, 0)",
    "is itself a job": "os.environ.update(SITEWARD_JOB_ID='outer', SITEWARD_JOB_DIR='/outer', SITEWARD_ATTEMPT='1')",
}


@pytest.mark.parametrize("setup", HOSTS.values(), ids=HOSTS)
def test_any_program_can_host_the_backend(place: Place, setup):
    """Whatever it does with signals and children, it gets the true ends."""
    program = PROGRAM.format(setup=setup)
    command = [sys.executable, "-c", program, str(place.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("0\n7\n", "")


def test_the_backend_works_inside_asyncio(place: Place):
    """From the loop's thread and from its executor, beside asyncio's own children."""
    backend, watch = place.backend(), Watch()
    backend.siteward_watch_jobs(watch)

    async def main() -> list[int]:
        child = await asyncio.create_subprocess_exec("sleep", "0.05")
        here = backend.siteward_launch_job(place.request(SH, "-c", "exit 3"))
        there = await asyncio.to_thread(backend.siteward_launch_job, place.request(SH, "-c", "exit 4"))
        ends = [await asyncio.to_thread(watch.end_of, ref) for ref in (here, there)]
        assert await child.wait() == 0
        return [end.result.exit_code for end in ends]

    assert asyncio.run(main()) == [3, 4]


def test_many_threads_launch_at_once(watched):
    """Every launch gets its own ref, every job its own end."""
    place, backend, watch = watched
    requests = [place.request(SH, "-c", f"exit {code}") for code in range(100)]
    with ThreadPoolExecutor(16) as pool:
        refs = list(pool.map(backend.siteward_launch_job, requests))
    assert [watch.end_of(ref).result.exit_code for ref in refs] == list(range(100))
    assert len({ref.data["pid"] for ref in refs}) == 100


def test_a_launch_does_not_wait_for_other_jobs(watched):
    """Also while another job's end waits for what it left, and a client does not read."""
    place, backend, watch = watched
    with Address(place.directory).connect() as deaf:
        deaf.sendall(wire.pack({"do": "watch", "k": ""}))
        long = backend.siteward_launch_job(place.request(SH, "-c", "sleep 600"))
        for _ in range(20):
            watch.end_of(backend.siteward_launch_job(place.request("true")))
        assert not backend.siteward_poll_job(long).state.ended


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_program_has_a_connection_of_its_own(place: Place):
    """A child of the host does not speak into its parent's connection."""
    backend = place.backend()
    ref = backend.siteward_launch_job(place.request("sleep", "600"))
    pid = os.fork()
    if not pid:
        os._exit(0 if all(backend.siteward_poll_job(ref).state is JobState.RUNNING for _ in range(50)) else 1)
    assert all(backend.siteward_poll_job(ref).state is JobState.RUNNING for _ in range(50))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_program_that_closes_cuts_off_nobody(watched):
    """Its parent still hears of every end, on the connection it had."""
    place, backend, watch = watched
    ref = backend.siteward_launch_job(place.request(SH, "-c", "while [ ! -e go ]; do sleep 0.05; done; exit 5"))
    gone = backend.siteward_launch_job(place.request("true"))
    watch.end_of(gone)
    backend.siteward_remove_job(gone)
    sock = backend._subscription._sock
    pid = os.fork()
    if not pid:
        backend.siteward_close_backend()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    (place.root / "jobs" / ref.job_id / "work" / "go").touch()
    assert watch.end_of(ref).result.exit_code == 5
    assert backend._subscription._sock is sock
    assert [each.job_id for each in backend.siteward_list_jobs()] == [ref.job_id], "what it was told is told once"


@pytest.mark.parametrize("grace", [3_000_000, 1e300, float("inf"), 2**70])
def test_any_grace_leaves_the_keeper_at_work(watched, grace):
    """Longer than the longest wait of the system: the job goes on, and so do all others."""
    place, backend, watch = watched
    request = place.request(SH, "-c", "trap '' TERM; touch ready; while :; do sleep 0.1; done")
    patient = backend.siteward_launch_job(request)
    until((request.job_dir / "ready").exists)
    backend.siteward_terminate_job(patient, grace)
    assert watch.end_of(backend.siteward_launch_job(place.request(SH, "-c", "exit 3"))).result.exit_code == 3
    place.kill_keeper()
    assert backend.siteward_poll_job(patient).state is JobState.RUNNING
    backend.siteward_terminate_job(patient, 0)
    assert watch.end_of(patient).result.reason is Reason.BACKEND_LOST
    assert "Error" not in (place.directory / "keeper.log").read_text()


def test_more_clients_than_descriptors_cost_no_end(place):
    """Who comes last waits; the keeper keeps what jobs need, sleeps, and takes the others when it can."""
    few = FewFiles(place, 60, 60)
    backend, watch = place.backend(), Watch()
    backend.siteward_watch_jobs(watch)
    ref = backend.siteward_launch_job(place.request(SH, "-c", "while [ ! -e go ]; do sleep 0.05; done; exit 3"))
    keeper = place.keeper_pid()
    crowd = []
    try:
        for _ in range(100):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(place.directory / "keeper.sock"))
            crowd.append(sock)
        until(lambda: len(os.listdir(f"/proc/{keeper}/fd")) >= 44, "the crowd is let in as far as there is room")
        assert watch.end_of(backend.siteward_launch_job(place.request(SH, "-c", "exit 4"))).result.exit_code == 4
        (place.root / "jobs" / ref.job_id / "work" / "go").touch()
        assert watch.end_of(ref).result.exit_code == 3
        assert len(os.listdir(f"/proc/{keeper}/fd")) < 60
    finally:
        for sock in crowd:
            sock.close()
        few.close()
    assert place.keeper_pid() == keeper
    assert "Error" not in (place.directory / "keeper.log").read_text()


def test_directories_of_any_length_work(tmp_path):
    """Unix socket addresses end at 108 bytes; state directories do not."""
    root = tmp_path
    while len(str(root)) < 1000:
        root = root / ("long-" * 20)
    place = Place(root)
    try:
        assert place.run(SH, "-c", "exit 5").result.exit_code == 5
    finally:
        place.clean()


def test_no_secret_is_in_any_command_line_or_file(place: Place):
    """Environments go to the keeper by the socket: /proc/*/cmdline, the record and the keeper's log stay clean."""
    secret = "hush-4711"
    backend = place.backend()
    ref = backend.siteward_launch_job(place.request("sleep", "600", secrets={"TOKEN": secret}))
    keeper = place.keeper_pid()
    seen = []
    for pid in proc.pids():
        try:
            seen.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        except OSError:
            continue
    seen.append(Path(f"/proc/{keeper}/environ").read_bytes())
    seen += [path.read_bytes() for path in place.directory.iterdir() if path.is_file()]
    assert not [data for data in seen if secret.encode() in data]
    assert secret.encode() in Path(f"/proc/{ref.data['pid']}/environ").read_bytes()


def test_the_keeper_is_a_daemon(place: Place):
    """Own session, no terminal, no folder, no file of its parent; its files are for its user alone."""
    leaked = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(leaked, True)
    with socket.socket() as held:
        held.set_inheritable(True)
        place.backend().siteward_launch_job(place.request("sleep", "600"))
        keeper = place.keeper_pid()
    os.close(leaked)
    stat = proc.stat(keeper)
    assert stat.sid == keeper
    assert stat.ppid != os.getpid()
    assert proc.read(f"/proc/{keeper}/stat").rsplit(b")", 1)[1].split()[4] == b"0", "it has no terminal"
    assert os.readlink(f"/proc/{keeper}/cwd") == "/"
    names = [os.readlink(f"/proc/{keeper}/fd/{number}") for number in range(3)]
    assert names == ["/dev/null", "/dev/null", str(place.directory / "keeper.log")]
    targets = {os.readlink(entry) for entry in Path(f"/proc/{keeper}/fd").iterdir() if entry.is_symlink()}
    ours = (str(place.directory), "anon_inode", "socket:", "/dev/null")
    assert all(target.startswith(ours) for target in targets), targets
    files = [path for path in place.directory.iterdir() if path.name != "keeper.sock"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_the_keeper_leaves_when_nothing_is_left(place: Place):
    """Not while a job lives or a parent is connected; TERM does not make it leave its jobs."""
    backend = place.backend()
    ref = backend.siteward_launch_job(place.request("sleep", "600"))
    keeper = place.keeper_pid()
    backend.siteward_close_backend()
    os.kill(keeper, signal.SIGTERM)
    os.kill(keeper, signal.SIGHUP)
    other = place.backend()
    assert other.siteward_poll_job(ref).state is JobState.RUNNING
    assert place.keeper_pid() == keeper
    other.siteward_terminate_job(ref, 0)
    poll_end(other, ref)
    assert is_alive(keeper)
    other.siteward_close_backend()
    until(lambda: not is_alive(keeper), "the keeper leaves")


def test_clients_that_come_as_the_keeper_leaves_are_served(place: Place):
    """Whether they find the old keeper, none, or a new one."""
    for number in range(12):
        backend = place.backend()
        ref = backend.siteward_launch_job(place.request(SH, "-c", f"exit {number}"))
        assert poll_end(backend, ref).result.exit_code == number
        backend.siteward_close_backend()
        # The keeper leaves a tenth of a second after its last client.
        time.sleep(0.085 + number * 0.003)


def test_an_idle_keeper_sleeps(place: Place):
    """Between launch and end nothing is polled: the keeper is not even woken."""
    backend = place.backend()
    backend.siteward_launch_job(place.request("sleep", "600"))
    keeper = place.keeper_pid()

    def switches() -> str:
        status = Path(f"/proc/{keeper}/status").read_text()
        return status[status.index("voluntary_ctxt_switches") :]

    def sleeps() -> bool:
        before = switches()
        time.sleep(0.5)
        return switches() == before

    until(sleeps, "half a second without a wake-up")


def test_a_keeper_of_another_version_is_named(place: Place, monkeypatch):
    backend = place.backend()
    ref = backend.siteward_launch_job(place.request("sleep", "600"))
    monkeypatch.setattr(wire, "PROTOCOL", 99)
    stranger = place.backend()
    status = stranger.siteward_poll_job(ref)
    assert (status.state, status.reachable) == (JobState.RUNNING, False)
    with pytest.raises(LaunchRefused, match="another version of siteward-process"):
        stranger.siteward_launch_job(place.request("true"))


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff", b"\0\0\0\4nope", b"\0\0\0\2[]", wire.pack({"do": "launch"}), wire.pack({"do": "fly"})],
    ids=["huge", "no JSON", "no mapping", "incomplete", "unknown"],
)
def test_nonsense_costs_its_sender_the_connection_only(place: Place, data):
    backend = place.backend()
    ref = backend.siteward_launch_job(place.request("sleep", "600"))
    with Address(place.directory).connect() as sock:
        sock.sendall(data)
        answer = sock.recv(4096)
    assert answer == b"" or b"knows no request" in answer
    assert backend.siteward_poll_job(ref).state is JobState.RUNNING


def test_a_client_that_never_reads_is_cut_off(place: Place):
    """What waits for a client is bounded."""
    backend = place.backend()
    backend.siteward_launch_job(place.request("sleep", "600"))
    keeper = place.keeper_pid()
    request = wire.pack({"do": "list"})
    with Address(place.directory).connect() as deaf, pytest.raises((BrokenPipeError, ConnectionResetError)):
        while True:
            deaf.sendall(request * 1000)
    memory = Path(f"/proc/{keeper}/status").read_text().split("VmRSS:")[1].split()[0]
    assert int(memory) < 150_000
    assert ask_keeper(place.directory)["pid"] == keeper


def test_a_directory_that_cannot_hold_a_keeper_is_a_refusal(place: Place):
    """Nothing was started, and the words say where to look."""
    backend = place.backend()
    (place.directory / "keeper.lock").mkdir()
    with pytest.raises(LaunchRefused, match=r"did not start.*keeper\.log"):
        backend.siteward_launch_job(place.request("true"))
    (place.directory / "keeper.lock").rmdir()
    place.directory.rename(place.root / "moved")
    with pytest.raises(LaunchRefused, match="cannot be opened"):
        backend.siteward_launch_job(place.request("true"))
    with pytest.raises(BackendError):
        backend.siteward_list_jobs()
    (place.root / "moved").rename(place.directory)


def test_importing_the_backend_loads_nothing_heavy():
    code = "import sys, siteward_process.backend; print({'ctypes', 'asyncio', 'psutil', 'sqlite3'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_the_keeper_imports_the_standard_library_alone(place: Place):
    """It starts with -I -S -E: no site-packages, nothing of the environment decides what it runs."""
    place.backend().siteward_launch_job(place.request("sleep", "600"))
    words = Path(f"/proc/{place.keeper_pid()}/cmdline").read_bytes().split(b"\0")
    assert words[1:4] == [b"-I", b"-S", b"-E"]
