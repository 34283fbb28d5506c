"""CPU and memory: enforced where the kernel lets us, and said where not."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path

import pytest

from siteward import JobState, LaunchRefused, PortableResources, Reason
from siteward_process.ending import describe
from siteward_process.limits import Cgroups, _controller_paths, _delegated, _inside
from siteward_process.live import LiveJob

from .helpers import poll_end, until

SH = "/bin/sh"
MIB = 2**20
_BLOCKED = Cgroups("siteward-test").blocked


def needs(controller: str) -> pytest.MarkDecorator:
    why = f"run as a user who may write to the {controller} cgroup: {_BLOCKED.get(controller)}"
    return pytest.mark.skipif(controller in _BLOCKED, reason=why)


def eat(mib: int, then: str = "") -> list[str]:
    return [sys.executable, "-S", "-c", f"x = bytearray(b'x' * ({mib} << 20))\n{then}"]


def leftovers() -> list[Path]:
    # not rglob: it stumbles over groups of other programs that go meanwhile
    tops = [top for top, _groups, _files in os.walk("/sys/fs/cgroup")]
    return [Path(top) for top in tops if os.path.basename(top).startswith("siteward-")]


@needs("memory")
def test_a_job_over_its_memory_is_killed_and_says_why(watched):
    place, backend, watch = watched
    before = leftovers()
    ref = backend.siteward_launch_job(place.request(*eat(200), resources=PortableResources(memory=64 * MIB)))
    status = watch.end_of(ref)
    assert (status.state, status.result.reason, status.result.return_code) == (JobState.FAILED, Reason.OOM_KILLED, 104)
    assert status.result.signal == signal.SIGKILL
    assert "more memory than its limit" in status.result.message
    until(lambda: leftovers() == before, "the cgroup is removed")


@needs("memory")
def test_a_child_out_of_memory_is_told_but_is_not_the_jobs_end(place):
    """The main process decides the end; that the limit was met is in the message."""
    command = [SH, "-c", f"{sys.executable} -S -c \"x = b'x' * ({200 * MIB})\"; exit 0"]
    result = place.run(*command, resources=PortableResources(memory=64 * MIB)).result
    assert (result.state, result.reason) == (JobState.SUCCEEDED, Reason.COMPLETED)
    assert "reached its memory limit" in result.message


@needs("memory")
def test_a_kill_by_hand_is_no_lack_of_memory(place):
    result = place.run(SH, "-c", "kill -KILL $$", resources=PortableResources(memory=512 * MIB)).result
    assert (result.reason, result.signal) == (Reason.SIGNAL, signal.SIGKILL)


@needs("memory")
def test_the_sites_cap_limits_jobs_that_ask_for_nothing(place):
    place.backend(max_memory=64 * MIB)
    assert place.run(*eat(200)).result.reason is Reason.OOM_KILLED


@needs("cpu")
def test_a_job_gets_no_more_cpu_than_it_asked_for(place):
    """Two busy processes under a limit of one CPU together use about one."""
    busy = "import time; end = time.monotonic() + 0.8\nwhile time.monotonic() < end: pass"
    command = [SH, "-c", f'python3 -S -c "{busy}" & python3 -S -c "{busy}"; wait']
    result = place.run(*command, resources=PortableResources(num_of_cpus=1)).result
    assert result.usage.cpu_seconds / (result.ended_at - result.started_at) < 1.3


@needs("memory")
def test_the_keeper_itself_is_under_no_jobs_limit(place):
    backend = place.backend()
    before = Path("/proc/self/cgroup").read_text()
    ref = backend.siteward_launch_job(place.request("sleep", "600", resources=PortableResources(memory=64 * MIB)))
    assert Path(f"/proc/{place.keeper_pid()}/cgroup").read_text() == before
    assert "siteward-" in Path(f"/proc/{ref.data['pid']}/cgroup").read_text()


@needs("memory")
def test_a_limited_command_that_cannot_start_leaves_no_group(place):
    before = leftovers()
    result = place.run("no-such-command-anywhere", resources=PortableResources(memory=64 * MIB)).result
    assert result.reason is Reason.LAUNCH_FAILED
    until(lambda: leftovers() == before, "the cgroup is removed")


@needs("memory")
def test_groups_of_survivors_are_removed_by_the_next_keeper(place):
    before = leftovers()
    backend = place.backend()
    ref = backend.siteward_launch_job(place.request("sleep", "600", resources=PortableResources(memory=64 * MIB)))
    place.kill_keeper()
    backend.siteward_terminate_job(ref, 0)
    poll_end(backend, ref)
    backend.siteward_remove_job(ref)
    until(lambda: leftovers() == before, "the cgroup is removed")


@needs("memory")
def test_a_small_limit_and_a_large_environment_never_cost_the_keeper(watched, monkeypatch):
    """While it spawns, the keeper stands in the job's group: the limit is set when it is out again."""
    place, backend, watch = watched
    monkeypatch.setattr("siteward_process.backend._LEAST_MEMORY", 1)
    other = backend.siteward_launch_job(place.request(SH, "-c", "while [ ! -e go ]; do sleep 0.05; done; exit 7"))
    keeper = place.keeper_pid()
    env = {f"V{number}": "x" * 100_000 for number in range(15)}
    for _ in range(5):
        request = place.request("sleep", "600", env=env, resources=PortableResources(memory=64 * 1024))
        result = watch.end_of(backend.siteward_launch_job(request)).result
        assert (result.reason, result.signal) == (Reason.OOM_KILLED, signal.SIGKILL)
    assert place.keeper_pid() == keeper
    (place.root / "jobs" / other.job_id / "work" / "go").touch()
    assert watch.end_of(other).result.exit_code == 7


def test_memory_in_which_nothing_can_run_is_refused(place):
    backend = place.backend()
    with pytest.raises(LaunchRefused, match=r"1048576 bytes of memory.*16Mi.*resource_spec"):
        backend.siteward_launch_job(place.request("true", resources=PortableResources(memory=MIB)))
    assert place.keeper_pid() is None, "nothing was started"


def test_a_job_that_was_over_its_limit_before_it_was_set_ends_for_want_of_memory(tmp_path, monkeypatch):
    """Version 1 sets no limit below what is in use (EBUSY): the job is killed, and its end says why."""
    _home, cgroup, mountinfo = make_unified(tmp_path, "a")
    path = tmp_path / "fs" / "a" / "siteward-x-1-job"
    path.mkdir()
    for name in ("memory.limit_in_bytes", "cgroup.procs"):
        (path / name).write_text("")
    group = Cgroups("siteward-x", str(cgroup), str(mountinfo)).group("1-job", None, 64 * MIB)
    write = os.write

    def busy(fd: int, data: bytes) -> int:
        if data == str(64 * MIB).encode():
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return write(fd, data)

    group.enter()
    group.leave()
    monkeypatch.setattr(os, "write", busy)
    group.limit_memory()
    monkeypatch.undo()
    assert (group.is_too_small, group.notes) == (True, [])
    job = LiveJob("1/job", {"pid": 1, "start": 1, "dir": "/"})
    job.group, job.status = group, signal.SIGKILL
    end = describe(job)
    assert end["reason"] == Reason.OOM_KILLED
    assert "limit is too small" in end["message"]
    job.status = 0
    assert describe(job)["exit"] == 0, "one that was done before the KILL came is done"


def make_unified(root: Path, delegated: str) -> tuple[Path, Path, Path]:
    """Make a tree that looks like a version 2 hierarchy: /a/b, where this process is in b."""
    home = root / "fs" / "a" / "b"
    home.mkdir(parents=True)
    for folder in (root / "fs", root / "fs" / "a", home):
        (folder / "cgroup.controllers").write_text("cpu memory pids\n")
        (folder / "cgroup.subtree_control").write_text("\n")
        (folder / "cgroup.procs").write_text("")
    (root / "fs" / delegated / "cgroup.subtree_control").write_text("cpu memory\n")
    cgroup, mountinfo = root / "cgroup", root / "mountinfo"
    cgroup.write_text("0::/a/b\n")
    mountinfo.write_text(f"30 24 0:26 / {root / 'fs'} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n")
    return home, cgroup, mountinfo


def test_version_2_groups_are_made_where_controllers_are_handed_down(tmp_path):
    """A group with processes hands nothing down, so the job's group becomes a sibling of ours."""
    home, cgroup, mountinfo = make_unified(tmp_path, "a")
    groups = Cgroups("siteward-x", str(cgroup), str(mountinfo))
    assert (groups.version, groups.blocked) == (2, {})
    path = home.parent / "siteward-x-1-job"
    path.mkdir()
    for name in ("cpu.max", "memory.max", "memory.swap.max", "cgroup.procs"):
        (path / name).write_text("")
    (path / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\noom_group_kill 0\n")
    group = groups.group("1-job", 2, 64 * MIB)
    group.enter()
    assert (path / "cpu.max").read_text() == "200000 100000"
    assert (path / "memory.max").read_text() == "max", "whoever steps in is under no limit yet"
    assert (path / "cgroup.procs").read_text() == "0"
    group.leave()
    group.limit_memory()
    assert (path / "memory.max").read_text() == str(64 * MIB)
    assert (path / "memory.swap.max").read_text() == "0"
    assert (home / "cgroup.procs").read_text() == "0"
    assert (group.notes, group.oom_kills()) == ([], 2)


def test_version_2_without_delegation_is_said(tmp_path):
    _home, cgroup, mountinfo = make_unified(tmp_path, "a/b")
    (tmp_path / "fs" / "a" / "b" / "cgroup.subtree_control").write_text("pids\n")
    groups = Cgroups("siteward-x", str(cgroup), str(mountinfo))
    group = groups.group("1-job", 1, MIB)
    assert set(groups.blocked) == {"cpu", "memory"}
    assert [note.split(":")[0] for note in group.notes] == ["cpu was not enforced", "memory was not enforced"]
    assert group.oom_kills() == 0
    assert group.remove()


def test_a_machine_without_cgroups_is_said(tmp_path):
    for name, text in (("cgroup", "0::/\n"), ("mountinfo", "")):
        (tmp_path / name).write_text(text)
    groups = Cgroups("siteward-x", str(tmp_path / "cgroup"), str(tmp_path / "mountinfo"))
    assert groups.blocked == {"cpu": "this machine has no cpu cgroup", "memory": "this machine has no memory cgroup"}


def test_limits_that_are_not_enforced_are_in_the_result(place, tmp_path, monkeypatch):
    """As for a user without write access: the job runs, and its message says what did not hold."""
    from siteward_process.backend import _result

    record = {"t0": 1.0}
    end = {"exit": 0, "at": 2.0}
    result = _result(record, {**end, "notes": ["memory was not enforced: /sys/fs/cgroup/x is not writable"]})
    assert result.message == "the job completed; memory was not enforced: /sys/fs/cgroup/x is not writable"


def test_paths_of_controllers_are_read_as_the_kernel_writes_them():
    text = "12:cpu,cpuacct:/docker/1\n4:memory:/docker/1:odd\n1:name=systemd:/x\n0::/y\n"
    paths = _controller_paths(text)
    assert (paths["cpu"], paths["memory"], paths[""]) == ("/docker/1", "/docker/1:odd", "/y")


def test_a_mount_may_show_a_part_of_the_tree(tmp_path):
    """In a container the mount's root is the container's own group, or the group is out of sight."""
    (tmp_path / "below").mkdir()
    assert _inside(str(tmp_path), "/docker/1", "/docker/1/below") == tmp_path / "below"
    assert _inside(str(tmp_path), "/", "/below") == tmp_path / "below"
    assert _inside(str(tmp_path), "/", "/docker/elsewhere") == tmp_path
    assert _delegated(tmp_path / "below", tmp_path, "cpu") is None


def test_a_user_who_may_not_write_is_told(tmp_path):
    _home, cgroup, mountinfo = make_unified(tmp_path, "a")
    (tmp_path / "fs" / "a").chmod(0o500)
    if os.geteuid() == 0:
        (tmp_path / "fs" / "a" / "b" / "cgroup.procs").unlink()
    groups = Cgroups("siteward-x", str(cgroup), str(mountinfo))
    (tmp_path / "fs" / "a").chmod(0o700)
    assert "is not writable" in groups.blocked["memory"]


def test_gpus_that_nobody_handed_out_are_said(watched):
    """A job that asks for GPUs at a site without a resource manager runs, and its result says what was not done."""
    place, backend, watch = watched
    ref = backend.siteward_launch_job(place.request(SH, "-c", "exit 0", resources=PortableResources(num_of_gpus=1)))
    result = watch.end_of(ref).result
    assert result.reason is Reason.COMPLETED
    assert "num_of_gpus was not enforced" in result.message
