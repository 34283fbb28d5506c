"""The few system calls that Python's ``os`` does not have: prctl(2), fallocate(2), inotify(7), pidfd ioctls."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import struct

_PR_SET_CHILD_SUBREAPER = 36
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_IN_MODIFY = 2
_IN_Q_OVERFLOW = 0x4000
_EVENT = struct.Struct("iIII")
_PIDFD_GET_INFO = 0xC0000000 | 64 << 16 | 0xFF << 8 | 11
_PIDFD_INFO_EXIT = 1 << 3
_FILES_IN_RESERVE = 16

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def become_subreaper() -> None:
    """Make this process the parent of every orphan among its descendants (prctl(2))."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def child_signals() -> int:
    """Block SIGCHLD in this thread, and return a descriptor that is readable when one came (signalfd(2))."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    mask = (ctypes.c_ulong * 16)(1 << (signal.SIGCHLD - 1))
    return _check(_libc.signalfd(-1, mask, os.O_NONBLOCK | os.O_CLOEXEC), "signalfd")


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give a range of a file back to the file system; it reads as zeros and the size stays (fallocate(2))."""
    arguments = ctypes.c_int64(offset), ctypes.c_int64(length)
    _check(_libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, *arguments), "fallocate")


def exit_status(pidfd: int) -> int | None:
    """Return a reaped process's wait status (Linux ≥ 6.15, PIDFD_GET_INFO), None where it cannot be known."""
    info = bytearray(struct.pack("Q", _PIDFD_INFO_EXIT).ljust(64, b"\0"))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    (mask,) = struct.unpack_from("Q", info)
    (status,) = struct.unpack_from("i", info, 60)
    return int(status) if mask & _PIDFD_INFO_EXIT else None


def is_scarce(fd: int) -> bool:
    """Whether a new descriptor is one of the last: the kernel gives the lowest number that is free."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit != resource.RLIM_INFINITY and fd >= limit - min(_FILES_IN_RESERVE, limit // 4)


class Inotify:
    """Tells which of some files were written to. ``fd`` becomes readable; nothing is polled."""

    def __init__(self) -> None:
        self.fd = _check(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), "inotify_init1")

    def add(self, path: str) -> int:
        """Watch a file; return the number that :meth:`read` names it by."""
        return _check(_libc.inotify_add_watch(self.fd, os.fsencode(path), _IN_MODIFY), "inotify_add_watch")

    def remove(self, watch: int) -> None:
        """Watch it no longer."""
        _libc.inotify_rm_watch(self.fd, watch)

    def read(self) -> tuple[set[int], bool]:
        """Return the files written to since the last read, and whether news were lost (then any may have been)."""
        found: set[int] = set()
        lost = False
        while True:
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                return found, lost
            at = 0
            while at < len(data):
                watch, mask, _cookie, length = _EVENT.unpack_from(data, at)
                found.add(watch)
                lost = lost or bool(mask & _IN_Q_OVERFLOW)
                at += _EVENT.size + length

    def close(self) -> None:
        """Let go of the file descriptor."""
        os.close(self.fd)
