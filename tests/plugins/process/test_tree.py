"""Nothing of a job stays: terminated with grace, killed with all it started, cleared of leftovers at its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from siteward import JobState, Reason
from siteward_process import proc

from .helpers import is_alive, poll_end, read_pid, until

SH = "/bin/sh"
# A daemon as daemons are made: two forks and a session of its own; the last one writes its number and stays.
DAEMON = """
import os, signal, sys, time
def daemon(clean, stubborn):
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if clean:
        code = "import os, time; open('daemon', 'w').write(f'{os.getpid()}\\\\n'); time.sleep(600)"
        os.execve(sys.executable, [sys.executable, "-S", "-c", code], {})
    open('daemon', 'w').write(f'{os.getpid()}\\n')
    time.sleep(600)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_a_polite_job_saves_its_work_in_its_grace(watched):
    """TERM comes first; a job that ends within its grace ends its own way."""
    place, backend, watch = watched
    code = (
        "import signal, sys, time\n"
        "def save(*_): time.sleep(0.3); open('saved', 'w').write('all'); sys.exit(5)\n"
        "signal.signal(signal.SIGTERM, save); open('ready', 'w').close(); time.sleep(600)"
    )
    request = place.request(*python(code))
    ref = backend.siteward_launch_job(request)
    until((request.job_dir / "ready").exists)
    backend.siteward_terminate_job(ref, 30)
    assert watch.end_of(ref).result.exit_code == 5
    assert (request.job_dir / "saved").read_text() == "all"


def test_a_job_without_a_handler_ends_by_term(watched):
    place, backend, watch = watched
    ref = backend.siteward_launch_job(place.request("sleep", "600"))
    backend.siteward_terminate_job(ref, 30)
    result = watch.end_of(ref).result
    assert (result.reason, result.signal) == (Reason.SIGNAL, signal.SIGTERM)


def test_a_stubborn_job_and_its_grandchild_are_killed_after_the_grace(watched):
    """Who ignores TERM gets KILL, and so does every process below."""
    place, backend, watch = watched
    script = 'trap "" TERM; (trap "" TERM; sh -c "echo \\$\\$ > grandchild; sleep 600; :"; :) & echo $$ > main; wait'
    request = place.request(SH, "-c", script)
    ref = backend.siteward_launch_job(request)
    pids = [read_pid(request.job_dir / name) for name in ("main", "grandchild")]
    before = time.monotonic()
    backend.siteward_terminate_job(ref, 0.3)
    assert time.monotonic() - before < 0.3, "terminate waits for nothing"
    assert watch.end_of(ref).result.signal == signal.SIGKILL
    assert not any(is_alive(pid) for pid in pids)


def test_a_second_call_can_only_shorten_the_grace(watched):
    place, backend, watch = watched
    request = place.request(SH, "-c", 'trap "" TERM; echo $$ > main; while :; do sleep 1; done')
    ref = backend.siteward_launch_job(request)
    read_pid(request.job_dir / "main")
    backend.siteward_terminate_job(ref, 600)
    backend.siteward_terminate_job(ref, 1200)
    backend.siteward_terminate_job(ref, 0)
    assert watch.end_of(ref).result.signal == signal.SIGKILL


def test_a_stopped_job_dies_too(watched):
    """A process under SIGSTOP takes no TERM until it is continued."""
    place, backend, watch = watched
    ref = backend.siteward_launch_job(place.request("sleep", "600"))
    os.kill(ref.data["pid"], signal.SIGSTOP)
    until(lambda: proc.stat(ref.data["pid"]).state == "T")
    backend.siteward_terminate_job(ref, 30)
    assert watch.end_of(ref).result.signal == signal.SIGTERM


def test_terminating_what_has_ended_or_never_was_does_nothing(watched):
    place, backend, watch = watched
    from attrs import evolve

    ref = backend.siteward_launch_job(place.request("true"))
    watch.end_of(ref)
    backend.siteward_terminate_job(ref, 0)
    backend.siteward_terminate_job(evolve(ref, job_id="never-was"), 0)
    assert backend.siteward_poll_job(ref).state is JobState.SUCCEEDED


@pytest.mark.parametrize("clean", [False, True], ids=["marked", "environment wiped"])
def test_daemons_die_with_their_job(watched, clean):
    """A process that left session and group, and even its environment, is ended before the job's end is told."""
    place, backend, watch = watched
    request = place.request(*python(DAEMON + f"daemon({clean}, True)\nwhile not os.path.exists('daemon'): pass"))
    ref = backend.siteward_launch_job(request)
    status = watch.end_of(ref)
    assert status.state is JobState.SUCCEEDED
    assert not is_alive(read_pid(request.job_dir / "daemon"))


@pytest.mark.parametrize("clean", [False, True], ids=["marked", "environment wiped"])
def test_daemons_are_terminated_with_their_job(watched, clean):
    """TERM and KILL reach what left the group, while other jobs run on."""
    place, backend, watch = watched
    bystander = backend.siteward_launch_job(place.request("sleep", "600"))
    request = place.request(*python(DAEMON + f"daemon({clean}, True)\nsignal.pause()"))
    ref = backend.siteward_launch_job(request)
    pid = read_pid(request.job_dir / "daemon")
    backend.siteward_terminate_job(ref, 0.2)
    watch.end_of(ref)
    if clean:
        # It might be the bystander's as well: it goes when that cannot be any more.
        backend.siteward_terminate_job(bystander, 0)
        watch.end_of(bystander)
    else:
        assert not backend.siteward_poll_job(bystander).state.ended
    assert not is_alive(pid)


def test_a_daemon_of_a_running_job_is_left_alone(watched):
    """Other jobs' ends look for leftovers; what belongs to a job that runs is none."""
    place, backend, watch = watched
    request = place.request(*python(DAEMON + "daemon(False, False)\nsignal.pause()"))
    backend.siteward_launch_job(request)
    pid = read_pid(request.job_dir / "daemon")
    for _ in range(5):
        watch.end_of(backend.siteward_launch_job(place.request(SH, "-c", "sleep 5 & true")))
    assert is_alive(pid)


def test_what_a_job_leaves_in_the_background_ends_with_it(watched):
    """As in a container; the job's own end is untouched."""
    place, backend, watch = watched
    sleeper = backend.siteward_launch_job(place.request("sleep", "600"))
    request = place.request(SH, "-c", "sleep 600 & echo $! > left; exit 3")
    status = watch.end_of(backend.siteward_launch_job(request))
    assert status.result.exit_code == 3
    assert not is_alive(read_pid(request.job_dir / "left"))
    assert not backend.siteward_poll_job(sleeper).state.ended


def test_a_job_that_forks_without_end_is_gone_after_kill(watched):
    """A chain in which each process starts the next and exits is caught up with."""
    place, backend, watch = watched
    code = (
        "import os, time\nos.setsid() if os.fork() == 0 else time.sleep(600)\n"
        "end = time.monotonic() + 60\n"
        "while time.monotonic() < end:\n"
        "    time.sleep(0.002)\n"
        "    if os.fork(): os._exit(0)\n"
        "    open('links', 'a').write('x')\n"
    )
    request = place.request(*python(code))
    ref = backend.siteward_launch_job(request)
    links = request.job_dir / "links"
    until(lambda: links.exists() and links.stat().st_size > 10, "the chain has some links")
    backend.siteward_terminate_job(ref, 0)
    watch.end_of(ref)
    mark = proc.marker_of(str(request.job_dir), request.job_id, 1)
    until(lambda: not [pid for pid in proc.pids() if proc.marker(pid) == mark and is_alive(pid)], "the chain ends")


def test_the_parent_of_a_job_lives_as_long_as_the_job(place):
    """A job's immediate parent is the keeper, whatever becomes of those who launched it."""
    backend = place.backend()
    request = place.request(
        *python("import os, time; open('parent', 'w').write(f'{os.getppid()}\\n'); time.sleep(600)")
    )
    ref = backend.siteward_launch_job(request)
    parent = read_pid(request.job_dir / "parent")
    assert parent == place.keeper_pid()
    backend.siteward_close_backend()
    time.sleep(0.5)
    assert proc.stat(ref.data["pid"]).ppid == parent
    assert is_alive(parent)


def test_an_index_of_processes_sees_strangers_as_nobodys():
    """A process that does not come from a job is a member of none, also when all numbers are read anew."""
    done = subprocess.run([sys.executable, "-c", LOOK_TWICE], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("{}\n{}\n", "")


# In a program of its own: the tests' own children are no strangers, they would be taken for a job's.
LOOK_TWICE = """
from siteward_process import proc
from siteward_process.tree import Tree
tree = Tree()
tree.add("1/x", 2**22 - 1, 1, proc.marker_of("/nowhere", "x", 1))
for _ in range(2):
    tree.look()
    print(tree.members("1/x"))
    tree._last = 0
"""


def test_the_stat_of_a_process_with_a_confusing_name(place):
    """A process may call itself anything, parentheses and spaces too."""
    backend = place.backend()
    request = place.request("./) R 1 (x y", env={"PATH": "/usr/bin:/bin"})
    (request.job_dir / ") R 1 (x y").symlink_to("/bin/sleep")
    request = place.request(*request.command, "600", job_dir=request.job_dir)
    ref = backend.siteward_launch_job(request)
    assert proc.stat(ref.data["pid"]).ppid == place.keeper_pid()
    backend.siteward_terminate_job(ref, 0)
    poll_end(backend, ref)
