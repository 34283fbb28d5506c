"""One lock for all processes of a host: flock(2) on a file that every user may read, and so lock."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from siteward import ResourceError

_WAIT = 30.0
_PRIVATE = 0o600
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.005
_open_here: set[int] = set()


def make_folder(path: Path, *, shared: bool) -> None:
    """Create a folder for leases: 0700, or ``shared`` by all users of the host (1777, from the first moment on)."""
    if path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}.{os.getpid()}.{random.getrandbits(32):08x}")
    made.mkdir(mode=0o700)
    if shared:
        made.chmod(0o1777)
    try:
        made.rename(path)
    except OSError as error:  # another process was first
        made.rmdir()
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


@contextmanager
def locked(path: str, *, mode: int) -> Iterator[None]:
    """Hold the lock, for a moment; ResourceError when another holds it for half a minute."""
    deadline, pause = time.monotonic() + _WAIT, _FIRST_PAUSE
    fd = _open(path, mode)
    try:
        while not _take(fd, path):
            if time.monotonic() > deadline:
                raise ResourceError(f"another process has held {path} for {_WAIT:g} s; see who with `fuser {path}`")
            if _is_current(fd, path):
                time.sleep(pause * random.random())  # noqa: S311
                pause = min(pause * 1.5, _LONGEST_PAUSE)
            else:
                _close(fd)
                fd = -1
                fd = _open(path, mode)
        yield
    finally:
        _close(fd)


def _take(fd: int, path: str) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    if _is_current(fd, path):
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _is_current(fd: int, path: str) -> bool:
    """Whether the file is still the one of this name: its owner could have removed it."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (status.st_dev, status.st_ino) == (mine.st_dev, mine.st_ino)


def _open(path: str, mode: int) -> int:
    # Never with O_CREAT when it is there: in a sticky folder the kernel refuses that for other users' files
    # (fs.protected_regular, proc(5)).
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            fd = os.open(path, flags)
        except FileNotFoundError:
            write_file(path, b"", mode, replace=False)
        else:
            _open_here.add(fd)
            return fd


def _close(fd: int) -> None:
    """Let go, in the process that opened it: a child just being forked may have a copy still."""
    if fd in _open_here:
        _open_here.discard(fd)
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def write_file(path: str, data: bytes, mode: int, *, replace: bool = True) -> None:
    """Create a file that is complete, with its mode, from the first moment on; without ``replace`` the first stays."""
    draft = f"{path}.{os.getpid()}.{random.getrandbits(32):08x}.tmp"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)
    try:
        try:
            if os.write(fd, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if mode != _PRIVATE:
                os.fchmod(fd, mode)  # whatever the umask is
        finally:
            os.close(fd)
        if replace:
            os.rename(draft, path)
            return
        # The draft may be gone: whoever has the lock meanwhile takes it for one that a killed process left.
        with suppress(FileExistsError, FileNotFoundError):
            os.link(draft, path)
        with suppress(FileNotFoundError):
            os.unlink(draft)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise


def _forget() -> None:
    """In a forked child: close copies, or the lock would outlive its holder."""
    for fd in _open_here:
        with suppress(OSError):
            os.close(fd)
    _open_here.clear()


os.register_at_fork(after_in_child=_forget)
