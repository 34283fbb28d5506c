"""Leases on disk: whose they are, when they end, and what anybody may have put beside them."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from siteward import ResourceError
from siteward_gpu_resources import leases as module

from .helpers import check, gpus, names_of, refusal, take, until

ROOT = Path(__file__).parents[3]


def files(host, kind):
    return sorted(host.leases.glob(f"*.{kind}"))


def change_holder(path, **changes):
    """Write a lease as it would be of another process, job or boot."""
    data = json.loads(path.read_text())
    data["holder"].update(changes)
    path.write_text(json.dumps(data))


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lease_ends_with_a_launch_that_was_killed(eight, dead):
    """Of a job that its site's store does not know, only the process that took it could still launch it."""
    take(eight.manager(), gpus(8), "a")
    assert refusal(eight.manager(), gpus(1)).reason == "busy"
    change_holder(files(eight, "h")[0], pid=dead)
    assert len(check(eight.manager(site="other"), gpus(8)).units) == 8


def test_a_process_number_that_is_used_again_is_another_process(eight):
    """It began at another time."""
    take(eight.manager(), gpus(8), "a")
    change_holder(files(eight, "h")[0], started=1)
    check(eight.manager(), gpus(1))


def test_a_process_of_another_namespace_cannot_be_seen(eight, dead):
    """A container has process numbers of its own; then doubt counts as living."""
    take(eight.manager(), gpus(8), "a")
    change_holder(files(eight, "h")[0], pid=dead, namespace="pid:[1]")
    refusal(eight.manager(), gpus(1))


def test_another_user_s_lease_stays(eight, dead, monkeypatch):
    """Only that user's siteward can tell whether the job lives."""
    take(eight.manager(), gpus(8), "a")
    change_holder(files(eight, "h")[0], pid=dead)
    monkeypatch.setattr(module.os, "geteuid", lambda: 12345)
    refusal(eight.manager(), gpus(1))


@pytest.mark.parametrize("ours", [True, False])
def test_no_lease_outlives_the_host_s_boot(eight, monkeypatch, ours):
    """After a restart no job uses a GPU of this host any more, whoever's it was."""
    take(eight.manager(), gpus(4), "a")
    check(eight.manager(), gpus(4), "b")
    for path in [*files(eight, "h"), *files(eight, "r")]:
        change_holder(path, boot="an earlier one")
    if not ours:
        monkeypatch.setattr(module.os, "geteuid", lambda: 12345)
    assert len(check(eight.manager(), gpus(8)).units) == 8


def test_gpus_elsewhere_are_held_over_a_restart(host):
    """A cluster's job goes on; the site's store says when it has ended."""
    take(host.virtual(1), gpus(1), "a")
    lease = next((host.folder / "site/plugins/gpu/leases").glob("*.h"))
    change_holder(lease, namespace="pid:[1]")
    refusal(host.virtual(1), gpus(1))


def test_a_lease_that_may_not_be_removed_is_not_counted(eight, monkeypatch):
    """In a sticky folder only its owner can remove it; what is gone is gone all the same."""
    take(eight.manager(), gpus(8), "a")
    (path,) = files(eight, "h")
    change_holder(path, boot="an earlier one")
    unlink = os.unlink

    def refuse(target):
        if str(target) == str(path):
            raise PermissionError(1, "Operation not permitted")
        unlink(target)

    monkeypatch.setattr(module.os, "unlink", refuse)
    manager = eight.manager()
    for _ in range(2):
        manager.siteward_cancel_resources(check(manager, gpus(8)).token)
    assert path.exists()


def test_killed_between_reserving_and_holding(eight):
    """A token whose reservation was not removed yet counts once, as held."""
    manager = eight.manager()
    token = check(manager, gpus(1), "a").token
    reservation = files(eight, "r")[0]
    data = reservation.read_bytes()
    manager.siteward_allocate_resources(token, "a")
    reservation.write_bytes(data)
    assert names_of(eight.manager(num_of_gpus=2)) == {"GPU 0": ["a"], "GPU 1": []}
    manager.siteward_free_resources(token)
    assert names_of(eight.manager(num_of_gpus=1)) == {"GPU 0": []}


def name(number):
    return f"{number:040x}.h"


RUBBISH = {
    "no JSON": lambda folder: (folder / name(1)).write_text("{"),
    "a list": lambda folder: (folder / name(1)).write_text("[]"),
    "nothing": lambda folder: (folder / name(1)).touch(),
    "a deep nest": lambda folder: (folder / name(1)).write_text("[" * 100_000),
    "wrong types": lambda folder: (folder / name(1)).write_text(
        json.dumps({"holder": {"pid": "x"}, "grants": 3, "since": "now", "expires": []})
    ),
    "grants of no kind": lambda folder: (folder / name(1)).write_text(
        json.dumps({"holder": {}, "grants": {"a": {}}, "since": 1, "expires": None})
    ),
    "a folder": lambda folder: (folder / name(1)).mkdir(),
    "a pipe": lambda folder: os.mkfifo(folder / name(1)),
    "a link": lambda folder: (folder / name(1)).symlink_to("/dev/zero"),
    "a link to nothing": lambda folder: (folder / name(1)).symlink_to("nothing"),
    "too large": lambda folder: os.truncate(_touched(folder / name(1)), 1 << 30),
    "another name": lambda folder: (folder / "README").write_text("hello"),
    "a draft of a killed process": lambda folder: (folder / "x.1.2.tmp").write_text("half"),
}


def _touched(path):
    path.touch()
    return path


@pytest.mark.parametrize("kind", RUBBISH)
def test_what_is_no_lease_holds_nothing(eight, kind):
    """Users of the host can put anything into the folder; none of it keeps others from their GPUs."""
    manager = eight.manager()
    RUBBISH[kind](eight.leases)
    take(manager, gpus(8), "a")
    assert all(names == ["a"] for names in names_of(manager).values())


def test_the_folder_is_all_users_own(eight):
    """It is like /tmp, and its files can be read by all, whatever the umask is."""
    before = os.umask(0o077)
    try:
        take(eight.manager(), gpus(1))
    finally:
        os.umask(before)
    assert oct(eight.leases.stat().st_mode & 0o7777) == "0o1777"
    assert {oct(path.stat().st_mode & 0o777) for path in eight.leases.iterdir()} == {"0o644"}


def test_a_site_s_own_leases_are_private(host):
    """Nobody else has to see them."""
    take(host.virtual(1), gpus(1))
    folder = host.folder / "site/plugins/gpu/leases"
    assert oct(folder.stat().st_mode & 0o7777) == "0o700"
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o600"}


def test_a_folder_that_cannot_be_made_is_told(eight):
    """With what to do."""
    eight.leases.write_text("a file is here")
    with pytest.raises(ResourceError, match="lease_dir"):
        eight.manager()


def test_a_folder_that_vanishes_is_told(eight):
    """Somebody has removed it: no traceback, and nothing is handed out."""
    manager = eight.manager()
    eight.leases.rename(eight.leases.with_name("aside"))
    with pytest.raises(ResourceError, match="cannot be used: No such file"):
        manager.siteward_check_resources(gpus(1), "a")


def test_a_lock_that_is_replaced_still_excludes(eight):
    """Its owner removed it while others wait: they see that, and take the new one."""
    manager = eight.manager()
    take(manager, gpus(1), "a")
    (eight.leases / "lock").unlink()
    take(manager, gpus(7), "b")
    assert (eight.leases / "lock").exists()
    refusal(manager, gpus(1))


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    """The lock is free when its holder is killed, though a child that it had forked just then lives on."""
    script = textwrap.dedent(
        f"""
        import os, signal, sys, time
        from siteward_gpu_resources.lockfile import locked
        with locked({str(tmp_path / "lock")!r}, mode=0o600):
            if os.fork() == 0:
                print(os.getpid(), flush=True)
                time.sleep(60)
                os._exit(0)
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        try:
            process.wait(60)
            with module.locked(str(tmp_path / "lock"), mode=0o600):
                os.kill(child, 0)
        finally:
            os.kill(child, 9)


def test_a_lock_that_is_never_let_go_is_told(eight, monkeypatch):
    """A stopped process, or an unkind user: the words say which file to look at."""
    import fcntl

    manager = eight.manager()
    take(manager, gpus(1))
    monkeypatch.setattr("siteward_gpu_resources.lockfile._WAIT", 0.05)
    with (eight.leases / "lock").open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(ResourceError, match=r"another process has held .*lock for"):
            manager.siteward_check_resources(gpus(1), "b")
    take(manager, gpus(1), "b")


def test_a_full_disk_hands_out_nothing(eight, monkeypatch):
    """A lease that cannot be written whole does not exist."""
    manager = eight.manager()
    take(manager, gpus(1), "a")
    with monkeypatch.context() as patch:
        patch.setattr("siteward_gpu_resources.lockfile.os.write", lambda _fd, data: len(data) - 1)
        with pytest.raises(ResourceError, match="No space left"):
            manager.siteward_check_resources(gpus(1), "b")
    assert sorted(path.suffix for path in eight.leases.iterdir()) == ["", ".h"]


def test_many_cycles_leave_nothing(eight):
    """Neither on disk nor in memory."""
    manager = eight.manager()
    for number in range(300):
        manager.siteward_free_resources(take(manager, gpus(2), f"job-{number}").token)
    assert [path.name for path in eight.leases.iterdir()] == ["lock"]
    assert len(manager._desk.leases._read) < 50
    until(lambda: not any(names_of(manager).values()))
