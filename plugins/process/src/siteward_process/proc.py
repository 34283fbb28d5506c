"""What /proc says about processes (proc(5)), and signals that can only reach the process that was meant."""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import NamedTuple

_MARKERS = (b"SITEWARD_JOB_DIR=", b"SITEWARD_JOB_ID=", b"SITEWARD_ATTEMPT=")

# What is short now and may not be later.
SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)

Marker = tuple[bytes, bytes, bytes]


class Stat(NamedTuple):
    """One process. ``start`` is in clock ticks since boot: with pid and boot id it names a process for ever."""

    pid: int
    state: str
    ppid: int
    pgid: int
    sid: int
    start: int

    @property
    def alive(self) -> bool:
        """Whether it still runs: a zombie does not."""
        return self.state not in "ZX"


def read(path: str) -> bytes:
    """Return the contents of a small file of /proc."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, 65536)
        while more := os.read(fd, 65536) if len(data) >= 4096 else b"":
            data += more
        return data
    finally:
        os.close(fd)


def stat(pid: int) -> Stat | None:
    """Look at a process (or a thread, which looks the same); None when there is none of this number.

    OSError when that cannot be known: for want of descriptors or memory, or of permission (``hidepid``).
    """
    try:
        data = read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses is the process's own choice and may hold anything, parentheses too.
    fields = data[data.rindex(b")") + 2 :].split()
    return Stat(pid, fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def start_of(pid: int) -> int:
    """Return when a process was started, in clock ticks since boot; 0 when there is none of this number."""
    try:
        data = read(f"/proc/{pid}/stat")
    except OSError:
        return 0
    return int(data[data.rindex(b")") + 2 :].split(None, 20)[19])


class StartClock:
    """Says when a process was started that was just spawned, mostly without /proc.

    A program that begins holds up whoever looks at it (exec_update_lock), at worst until it has ended. But the
    kernel takes the start from a clock that we can read too: when that shows the same tick before and after, this
    is it. It is believed only as long as it agrees with /proc whenever that was asked.
    """

    def __init__(self) -> None:
        self._nanoseconds = 10**9 // os.sysconf("SC_CLK_TCK")
        self._agrees = False

    def now(self) -> int:
        """Return the ticks since boot."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // self._nanoseconds

    def start_of(self, pid: int, earliest: int) -> int:
        """Return the start of a child that was spawned since ``earliest``."""
        latest = self.now()
        if self._agrees and latest == earliest:
            return latest
        start = start_of(pid)
        self._agrees = earliest <= start <= latest
        return start


def is_alive(pid: int, start: int) -> bool:
    """Whether exactly this process still runs, not another that was given its number; OSError as of :func:`stat`."""
    found = stat(pid)
    return found is not None and found.start == start and found.alive


def marker_of(directory: str, job_id: str, attempt: int) -> Marker:
    """Return what the environment of this job's processes says."""
    return os.fsencode(directory), job_id.encode(), str(attempt).encode()


def marker(pid: int) -> Marker | None:
    """Return the job marker in a process's environment as it was at its start; None without one.

    OSError when it cannot be read for want of descriptors or memory. Who may not read it is no job's parent.
    """
    try:
        environment = read(f"/proc/{pid}/environ").split(b"\0")
    except OSError as error:
        if error.errno in SCARCE:
            raise
        return None
    found = {}
    for entry in environment:
        for name in _MARKERS:
            if entry.startswith(name):
                found[name] = entry[len(name) :]
    return (found[_MARKERS[0]], found[_MARKERS[1]], found[_MARKERS[2]]) if len(found) == 3 else None


def send(pid: int, start: int, number: signal.Signals) -> bool:
    """Signal exactly this process through a pidfd; False when it is gone (or is a mere thread)."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        found = stat(pid)
        if found is None or found.start != start:
            return False
        signal.pidfd_send_signal(fd, number)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def boot_id() -> str:
    """Return the id of this boot of the machine."""
    return read("/proc/sys/kernel/random/boot_id").decode().strip()


def last_pid() -> int:
    """Return the number last given to a process or thread; 0 where the kernel does not say."""
    try:
        return int(read("/proc/loadavg").split()[-1])
    except (OSError, ValueError, IndexError):
        return 0


def forks() -> int:
    """Return how many processes and threads the machine has started since boot."""
    try:
        data = read("/proc/stat")
        return int(data[data.index(b"\nprocesses ") + 11 :].split(None, 1)[0])
    except (OSError, ValueError):
        return 0


def pid_max() -> int:
    """Return where process numbers wrap."""
    return int(read("/proc/sys/kernel/pid_max"))


def pids() -> list[int]:
    """Return every process there is."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
