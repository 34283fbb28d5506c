"""Start a keeper so that it is no child of ours, whatever the program that hosts us does with signals and children."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

from siteward import BackendError
from siteward_process import wire

_PATIENCE = 20.0
# What Python itself may need to run, and the marks of a job that we may be part of.
_KEPT = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH",
    "SITEWARD_JOB_ID", "SITEWARD_JOB_DIR", "SITEWARD_ATTEMPT",
)  # fmt: skip


def start_keeper(directory: Path) -> bool:
    """Start a keeper for a directory and wait until it listens; False when another one is just there.

    The process that we start forks and exits at once, so the keeper belongs to init (or the nearest
    subreaper). BackendError says why one cannot be started.
    """
    program = sys.executable or shutil.which("python3") or "python3"
    read, write = os.pipe()
    try:
        pid = os.posix_spawn(
            program,
            [program, "-I", "-S", "-E", "-X", "utf8", str(Path(__file__).parent), str(directory)],
            {name: os.environ[name] for name in _KEPT if name in os.environ},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, write, 1),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, str(directory / wire.LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP},
        )
        os.close(write)
        write = -1
        words = _read_all(read, time.monotonic() + _PATIENCE)
    except OSError as error:
        raise BackendError(
            f"the keeper of {directory} cannot be started with {program}: {error.strerror}."
            " Check that the directory is writable and that this Python runs."
        ) from error
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)
    # The host may reap our child before we do, or ignore SIGCHLD so that nobody can.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    if words in ("ready", "busy"):
        return words == "ready"
    raise BackendError(
        f"the keeper of {directory} did not start: {words or 'it said nothing'}. {directory / wire.LOG} may say more."
    )


def _read_all(fd: int, deadline: float) -> str:
    data = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while data not in (b"ready", b"busy"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return f"it did not get ready within {_PATIENCE:.0f} s"
        more = os.read(fd, 4096)
        if not more:
            break
        data += more
    return data.decode(errors="replace")
