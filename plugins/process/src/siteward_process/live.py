"""The keeper's roll: which jobs are on record, which of them live, and by what processes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Protocol

from siteward_process import proc
from siteward_process.cap import OutputCap
from siteward_process.journal import Journal, Record, key_of
from siteward_process.limits import Group
from siteward_process.tree import Tree
from siteward_process.wire import Message

LOST = "BackendLost"
LAUNCH_FAILED = "LaunchFailed"
OOM_KILLED = "OOMKilled"


class Host(Protocol):
    """The loop that jobs live in."""

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something after a while."""

    def tell(self, record: Record) -> None:
        """Tell of a job's end, which is written down already."""

    def wait_for(self, pidfd: int) -> None:
        """Wait for a process that is no child."""


class LiveJob:
    """A job whose end has not been told yet. ``status`` is its wait status, once its main process has ended."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.key = record_key(record)
        self.pid: int = record["pid"]
        self.start: int = record["start"]
        self.marker = proc.marker_of(record["dir"], record["id"], record["attempt"])
        self.group: Group | None = None
        self.watch: int | None = None
        self.pidfd: int | None = None
        self.kill_at: float | None = None
        self.status: int | None = None
        self.usage: tuple[float, int] | None = None
        self.settle_by = 0.0
        self.forgotten = False


class Roll:
    """All jobs of one keeper: on record in the journal, alive here."""

    def __init__(self, journal: Journal, host: Host) -> None:
        self.journal = journal
        self.host = host
        self.boot = proc.boot_id()
        self.tree = Tree()
        self.cap = OutputCap()
        self.live: dict[str, LiveJob] = {}
        self.mains: dict[int, LiveJob] = {}

    def admit(self, job: LiveJob, *, survivor: bool = False) -> None:
        """Take in a job whose main process runs; a survivor's was started by an earlier keeper."""
        self.live[job.key] = self.mains[job.pid] = job
        self.tree.add(job.key, job.pid, job.start, job.marker, survivor=survivor)
        if job.record["cap"]:
            job.watch = self.cap.add(job.record["log"], job.record["cap"])

    def dismiss(self, job: LiveJob) -> None:
        """Let go of a job that has ended."""
        del self.live[job.key]
        if self.mains.get(job.pid) is job:
            del self.mains[job.pid]
        self.tree.drop(job.key, job.pid, job.marker)
        self.cap.remove(job.watch)

    def close(self, record: Record, end: Message) -> None:
        """Write an end down, then tell it."""
        with contextlib.suppress(OSError):
            # On a full disk the end is still told; the journal is written anew at the next chance.
            self.journal.put(record_key(record), end=end)
        self.host.tell(record)


def record_key(record: Message) -> str:
    """Return the key of a record, or of a request that names a job."""
    return key_of(record["id"], record["attempt"])


def end_of(reason: str | None, message: str = "", exit_code: int | None = None, signal: int | None = None) -> Message:
    """Return an end as it is written down and told: with a reason of the backend's, or how the process ended."""
    return {
        "reason": reason,
        "message": message,
        "exit": exit_code,
        "signal": signal,
        "at": time.time(),
        "cpu": None,
        "memory": None,
        "notes": [],
    }
