"""The keeper's roll: which jobs are on record, which of them live, and by what processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from siteward_process import proc
from siteward_process.cap import INTERVAL, OutputCap
from siteward_process.journal import Journal, Record, parts_of
from siteward_process.limits import Group
from siteward_process.tree import Tree
from siteward_process.wire import Message

# What a ref is made of, besides the key, and when the job began.
REF = ("pid", "start", "boot", "log", "t0")
LOST = "BackendLost"
LAUNCH_FAILED = "LaunchFailed"
OOM_KILLED = "OOMKilled"


class Host(Protocol):
    """The loop that jobs live in."""

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something after a while."""

    def tell(self, key: str, line: str) -> None:
        """Tell of a job's end by the line that is on disk already."""

    def wait_for(self, pidfd: int) -> None:
        """Wait for a process that is no child."""


class LiveJob:
    """A job whose end has not been told yet. ``status`` is its wait status, once its main process has ended.

    A survivor was started by an earlier keeper.
    """

    def __init__(self, key: str, record: Record) -> None:
        self.key = key
        self.record = record
        self.pid: int = record["pid"]
        self.start: int = record["start"]
        self.marker = proc.marker_of(record["dir"], *parts_of(key))
        self.group: Group | None = None
        self.watch: int | None = None
        self.pidfd: int | None = None
        self.survivor = False
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
        self._unwatched: list[LiveJob] = []

    def admit(self, job: LiveJob) -> None:
        """Take in a job whose main process runs."""
        self.live[job.key] = self.mains[job.pid] = job
        self.tree.add(job.key, job.pid, job.start, job.marker, survivor=job.survivor)
        if job.record["cap"]:
            self._unwatched.append(job)
            if len(self._unwatched) == 1:
                # Most short jobs have ended by then; what they wrote is shortened at their end.
                self.host.later(INTERVAL, self._watch_outputs)

    def _watch_outputs(self) -> None:
        jobs, self._unwatched = self._unwatched, []
        for job in jobs:
            if self.live.get(job.key) is job:
                job.watch = self.cap.add(job.record["log"], job.record["cap"])

    def dismiss(self, job: LiveJob) -> None:
        """Let go of a job that has ended."""
        del self.live[job.key]
        if self.mains.get(job.pid) is job:
            del self.mains[job.pid]
        self.tree.drop(job.key, job.pid, job.marker)
        self.cap.remove(job.watch)

    def close(self, key: str, end: Message) -> str:
        """Write an end down, then tell it; return the line that does both."""
        record = self.journal.records[key]
        line = self.journal.put(key, **{name: record.get(name) for name in REF}, end=end)
        self.host.tell(key, line)
        return line


def end_of(reason: str | None, message: str = "", exit_code: int | None = None, signal: int | None = None) -> Message:
    """Return an end as it is written down and told: with a reason of the backend's, or how the process ended.

    What is not known is left out. ``cpu`` (seconds), ``memory`` (peak bytes) and ``notes`` may be added.
    """
    end = {"reason": reason, "message": message, "exit": exit_code, "signal": signal, "at": time.time()}
    return {name: value for name, value in end.items() if value not in (None, "")}
