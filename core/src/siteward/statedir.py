"""A site's state directory: private, on a local disk, one folder a job, one lock a job.

``jobs/<job_id>/`` holds ``work/`` (the job directory), ``output.log`` and ``owner``. Whoever holds ``flock`` on
``owner`` is the job's driver; the kernel gives the lock to the next one waiting when a driver dies.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import resource
import shutil
import stat
import threading
import uuid
import weakref
from contextlib import suppress
from pathlib import Path

from siteward.errors import StoreError, WorkspaceError

# Descriptors that jobs' locks leave for calls to the platform and for reading files.
_SPARE = 16
_NETWORK = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "afs",
        "ncpfs",
        "9p",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "glusterfs",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.ceph",
    ]
)


def prepare(path: Path) -> Path:
    """Create the state directory (mode 0700) and its parts; StoreError when it cannot be used."""
    try:
        for part in (path, path / "jobs", path / "drivers", path / "plugins"):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = path.resolve()
        status = path.stat()
        if status.st_uid != os.geteuid():
            raise StoreError(f"{path} belongs to another user; set `state_dir` to a folder of your own")
        if stat.S_IMODE(status.st_mode) != 0o700:
            path.chmod(0o700)
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"state_dir {path} cannot be used: {reason}. Set `state_dir` to a writable folder") from error
    kind = _filesystem(path)
    if kind in _NETWORK:
        raise StoreError(
            f"state_dir {path} is on a network file system ({kind}), where locks cannot be trusted; "
            "set `state_dir` to a local folder"
        )
    return path


def _filesystem(path: Path) -> str:
    best, kind = "", ""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split()
        mount = fields[4].encode().decode("unicode_escape")
        if len(mount) >= len(best) and (path == Path(mount) or Path(mount) in path.parents):
            best, kind = mount, fields[fields.index("-") + 1]
    return kind


_held: weakref.WeakSet[OwnerLock] = weakref.WeakSet()
_forking = threading.Lock()


class OwnerLock:
    """The lock on one job's ``owner`` file; at most one holder on the machine."""

    def __init__(self, job_folder: str | Path) -> None:
        self._path = f"{job_folder}/owner"
        with _forking:  # a child forked between these two would keep the lock
            self._fd = _open(self._path)
            _held.add(self)

    def acquire(self, *, wait: bool) -> bool:
        """Take the lock, waiting for its holder to let go or die if ``wait``; False if another holds it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def intact(self) -> bool:
        """Whether the file that is locked is still the job's: gc may have removed the folder before we had the lock."""
        try:
            status, mine = os.stat(self._path), os.fstat(self._fd)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == (mine.st_dev, mine.st_ino)

    def release(self) -> None:
        """Let go; harmless when done before."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # a child just being forked may have a copy still
            self.forget()

    def forget(self) -> None:
        """Close this process's copy only: in a forked child, the lock is the parent's."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def _open(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno != errno.EMFILE or not _raise_limit():
            raise
        fd = os.open(path, flags, 0o600)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft != resource.RLIM_INFINITY and fd >= soft - _SPARE and not _raise_limit():
        os.close(fd)
        raise OSError(errno.EMFILE, "too many open files (each live job needs one; raise `ulimit -n`)")
    return fd


def _raise_limit() -> bool:
    """Raise the soft limit on open files: 1,024 is history's, the hard limit the machine's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= hard and hard != resource.RLIM_INFINITY:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return True


def _forget_locks() -> None:
    """In a forked child: close our copies, or the locks would outlive their holder."""
    _forking.release()
    for lock in list(_held):
        lock.forget()


os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_forget_locks)


def open_plain(path: str, flags: int) -> int:
    """Open what may be anything by now, the job could replace it: no link is followed, no pipe waited for."""
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


def copy_workspace(source: Path, target: Path, state_dir: Path | None = None) -> None:
    """Copy the contents of ``source`` into the job directory; links stay links, special files are refused.

    The site's own ``state_dir`` is left out, should it lie in the workspace.
    """

    def ignore(folder: str, names: list[str]) -> list[str]:
        own = [name for name in names if os.path.join(folder, name) == str(state_dir)]
        _refuse_special(folder, [name for name in names if name not in own])
        return own

    try:
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=ignore)
    except (OSError, shutil.Error) as error:
        raise WorkspaceError(f"workspace {source} cannot be copied: {_words(error)}") from error


def _refuse_special(folder: str, names: list[str]) -> None:
    for name in names:
        mode = os.lstat(Path(folder, name)).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            raise WorkspaceError(f"workspace {folder}: {name!r} is neither a file, a folder nor a link")


def remove_tree(folder: str | Path) -> None:
    """Remove a folder and all in it, as far as that can be done.

    A job may have put more folders into each other than a recursion, or a path, can follow.
    """
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        _remove_deep(folder)


def _remove_deep(folder: str | Path) -> None:
    """Remove a folder after moving every folder in it, and in those, to its own top."""
    mark, left = uuid.uuid4().hex, [str(folder)]
    for number in itertools.count():
        if number == len(left):
            break
        with os.scandir(left[number]) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                os.chmod(entry.path, 0o700)
                moved = os.path.join(folder, f"{mark}.{len(left)}")
                os.rename(entry.path, moved)
                left.append(moved)
    for each in reversed(left):
        os.rmdir(each)


def _words(error: Exception) -> str:
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return "; ".join(f"{source}: {reason}" for source, _, reason in error.args[0][:3])
    return str(error)
