"""The state directory, the lock of each job, and the copy of a workspace."""

import os
import stat

import pytest

from siteward import StoreError, WorkspaceError, statedir
from siteward.statedir import OwnerLock, copy_workspace, prepare, remove_tree

from .fake import Child, until


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_private(tmp_path):
    """0700, with all that belongs in it, whatever the umask."""
    previous = os.umask(0o000)
    try:
        path = prepare(tmp_path / "a" / "state")
    finally:
        os.umask(previous)
    assert {each.name: mode(each) for each in path.iterdir()} == dict.fromkeys(("jobs", "drivers", "plugins"), 0o700)
    assert mode(path) == 0o700


def test_one_that_is_open_to_others_is_closed(tmp_path):
    """As it may be when somebody else made it."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    assert mode(prepare(tmp_path / "state")) == 0o700


def test_one_of_another_user_is_refused(tmp_path):
    """It says so: their jobs are not ours."""
    if os.geteuid() != 0:
        pytest.skip("run as root, to give a folder to another user")
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", 65534, 65534)
    with pytest.raises(StoreError, match=r"another user"):
        prepare(tmp_path / "state")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_network_file_system_is_refused(tmp_path, monkeypatch, kind):
    """Locks cannot be trusted there; the message names it."""
    monkeypatch.setattr(statedir, "_filesystem", lambda _path: kind)
    with pytest.raises(StoreError, match=rf"network file system .{kind}."):
        prepare(tmp_path / "state")


MOUNTS = """\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 0:5 / {base} rw shared:1 - tmpfs tmpfs rw
23 22 0:6 / {base}/my\\040data rw - nfs4 server:/x rw
24 22 0:7 / {base}/my\\040data/local rw - xfs /dev/sdb rw
"""
PLACES = {"": "tmpfs", "other": "tmpfs", "my data": "nfs4", "my data/deep": "nfs4", "my data/local/x": "xfs"}


@pytest.mark.parametrize(("folder", "kind"), PLACES.items())
def test_the_nearest_mount_counts(tmp_path, monkeypatch, folder, kind):
    """Spaces in its path, and mounts within mounts."""
    (tmp_path / "mountinfo").write_text(MOUNTS.format(base="/base"))
    real = statedir.Path
    monkeypatch.setattr(
        statedir, "Path", lambda *parts: tmp_path / "mountinfo" if parts == ("/proc/self/mountinfo",) else real(*parts)
    )
    assert statedir._filesystem(real("/base", folder)) == kind


# --- locks ---


def test_one_holder(tmp_path):
    """In one process too: every lock has an open file of its own."""
    first, second = OwnerLock(tmp_path), OwnerLock(tmp_path)
    assert first.acquire(wait=False)
    assert not second.acquire(wait=False)
    first.release()
    first.release()
    assert second.acquire(wait=False)
    second.release()


def test_the_kernel_gives_it_to_the_next_when_the_holder_is_killed(tmp_path):
    """Whoever waits has it then."""
    ready = tmp_path / "ready"

    def hold():
        lock = OwnerLock(tmp_path)
        lock.acquire(wait=True)
        ready.touch()
        until(lambda: False)

    child = Child(hold)
    until(ready.exists)
    lock = OwnerLock(tmp_path)
    assert not lock.acquire(wait=False)
    child.kill()
    assert lock.acquire(wait=True)
    lock.release()


def test_a_forked_child_does_not_hold_it(tmp_path):
    """The child lives on; the lock goes with the parent that let go of it."""
    lock = OwnerLock(tmp_path)
    lock.acquire(wait=False)
    with Child(lambda: until((tmp_path / "leave").exists)) as child:
        lock.release()
        other = OwnerLock(tmp_path)
        assert other.acquire(wait=False)
        other.release()
        (tmp_path / "leave").touch()
        assert child.wait() == 0


def test_a_lock_on_a_folder_that_is_gone_is_not_intact(tmp_path):
    """gc may have removed it between mkdir and lock; also when there is a new one in its place."""
    folder = tmp_path / "job"
    folder.mkdir()
    lock = OwnerLock(folder)
    lock.acquire(wait=False)
    assert lock.intact()
    (folder / "owner").unlink()
    assert not lock.intact()
    (folder / "owner").touch()
    assert not lock.intact()
    lock.release()


def test_the_lock_s_file_is_private_and_no_link(tmp_path):
    """0600; a link in its place is not followed."""
    lock = OwnerLock(tmp_path)
    assert mode(tmp_path / "owner") == 0o600
    lock.release()
    (tmp_path / "owner").unlink()
    (tmp_path / "owner").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"symbolic|levels"):
        OwnerLock(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


# --- workspaces ---


def test_a_copy_is_whole(tmp_path):
    """Names of any kind, empty folders, modes, links as links (dangling ones too)."""
    source, target = tmp_path / "s", tmp_path / "t"
    (source / "ä b" / "empty").mkdir(parents=True)
    (source / "-rf").write_bytes(b"\0\xff")
    (source / "run").write_text("x")
    (source / "run").chmod(0o755)
    (source / "dangling").symlink_to("nowhere")
    copy_workspace(source, target)
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == [
        "-rf",
        "dangling",
        "run",
        "ä b",
        "ä b/empty",
    ]
    assert (target / "-rf").read_bytes() == b"\0\xff"
    assert mode(target / "run") == 0o755
    assert os.readlink(target / "dangling") == "nowhere"


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    """By name; reading a FIFO would never end."""
    import socket

    source = tmp_path / "s"
    (source / "deep").mkdir(parents=True)
    if kind == "fifo":
        os.mkfifo(source / "deep" / "odd")
    else:
        with socket.socket(socket.AF_UNIX) as each:
            each.bind(str(source / "deep" / "odd"))
    with pytest.raises(WorkspaceError, match=r"'odd'"):
        copy_workspace(source, tmp_path / "t")


def test_what_cannot_be_read_is_told(tmp_path):
    """With the file's name and the reason."""
    with pytest.raises(WorkspaceError, match=r"gone"):
        copy_workspace(tmp_path / "gone", tmp_path / "t")


def test_a_tree_that_no_recursion_can_follow_is_removed(tmp_path):
    """However deep, and with links and shut folders in it; what the links lead to stays."""
    (tmp_path / "kept").mkdir()
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(tmp_path / "kept")
    fd = os.open(top, os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("file", os.O_CREAT, dir_fd=fd))
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.fchmod(fd, 0)
    os.close(fd)
    remove_tree(top)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
