"""What clients ask of jobs: launch, find, terminate, forget."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from siteward_process import proc
from siteward_process.adopt import Survivors
from siteward_process.ending import Endings
from siteward_process.journal import Journal, Record
from siteward_process.limits import Cgroups, Group
from siteward_process.live import LAUNCH_FAILED, Host, LiveJob, Roll, end_of, record_key
from siteward_process.spawn import Spawner, SpawnFailed
from siteward_process.wire import Message

_WANTED = ("id", "attempt", "dir", "log", "cap")
_REF = {*_WANTED, "boot", "pid", "start", "t0"}
_LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_KILL_AGAIN = 0.5


class Refused(Exception):
    """A launch of which nothing was started; the text says why."""


class Jobs:
    """All jobs of one keeper, as its clients see them."""

    def __init__(self, journal: Journal, cgroups: Cgroups, spawner: Spawner, host: Host) -> None:
        self._journal = journal
        self._cgroups = cgroups
        self._spawner = spawner
        self._roll = Roll(journal, host)
        self._endings = Endings(self._roll)
        self._survivors = Survivors(self._roll, self._endings, cgroups)
        self.cap = self._roll.cap
        self.reap = self._endings.reap
        self.adopt = self._survivors.adopt_all
        self.survivor_ended = self._survivors.ended

    @property
    def live(self) -> int:
        """How many jobs have not ended."""
        return len(self._roll.live)

    def records(self) -> list[Record]:
        """Return every job that is not forgotten."""
        return list(self._journal.records.values())

    def launch(self, message: Message) -> Record:
        """Start a job, once per id and attempt; its record has an ``end`` at once when it could not be started."""
        key = record_key(message)
        known = self._journal.records.get(key)
        if known is not None:
            return known
        wanted = {name: message[name] for name in _WANTED}
        try:
            # Written first: a keeper that dies right after spawning leaves a trace of what to look for.
            self._journal.put(key, **wanted, boot=self._roll.boot, t0=time.time())
        except OSError as error:
            self._journal.forget(key)
            raise Refused(
                f"the keeper's record of jobs cannot be written: {error.strerror}. Make room for it."
            ) from error
        record = self._journal.records[key]
        try:
            pid, group = self._spawn(message)
        except SpawnFailed as error:
            self._roll.close(record, end_of(LAUNCH_FAILED, str(error), exit_code=error.exit_code))
            return record
        stat = proc.stat(pid)
        with contextlib.suppress(OSError):
            notes = {"notes": group.notes} if group and group.notes else {}
            self._journal.put(key, pid=pid, start=stat.start if stat else 0, **notes)
        job = LiveJob(record)
        job.group = group
        self._roll.admit(job)
        return record

    def _spawn(self, message: Message) -> tuple[int, Group | None]:
        try:
            log = os.open(message["log"], _LOG_FLAGS, 0o600)
        except OSError as error:
            raise SpawnFailed(f"the output file {message['log']!r} cannot be written: {error.strerror}.") from error
        group = None
        try:
            os.set_blocking(log, True)
            if message["cpus"] or message["memory"]:
                group = self._cgroups.group(f"{message['attempt']}-{message['id']}", message["cpus"], message["memory"])
                group.enter()
            return self._spawner.spawn(message["argv"], message["env"], message["dir"], log), group
        except (SpawnFailed, OSError) as error:
            if group:
                self._endings.remove_group(group)
            if isinstance(error, OSError):
                raise SpawnFailed(f"the job's cgroup cannot be entered: {error}") from error
            raise
        finally:
            os.close(log)
            if group:
                group.leave()

    def find(self, message: Message) -> Record | None:
        """Return the record that a ref means; adopt it if only its living process is known.

        A ref whose process is not the one on record is of another job: None.
        """
        record = self._journal.records.get(record_key(message))
        pid, start, boot = message.get("pid"), message.get("start"), message.get("boot")
        if record is not None:
            same = pid is None or (pid, start, boot) == (record.get("pid"), record.get("start"), record["boot"])
            return record if same else None
        if pid is None or start is None or boot != self._roll.boot or not message.keys() >= _REF:
            return None
        marker = proc.marker_of(message["dir"], message["id"], message["attempt"])
        if not proc.is_alive(pid, start) or pid in self._roll.mains or proc.marker(pid) != marker:
            return None
        with contextlib.suppress(OSError):
            self._journal.put(record_key(message), **{name: message[name] for name in _REF})
        record = self._journal.records[record_key(message)]
        self._survivors.adopt(record)
        return record

    def terminate(self, message: Message) -> None:
        """TERM now, KILL after ``grace`` seconds; a later call can only bring the KILL forward."""
        record = self.find(message)
        job = self._roll.live.get(record_key(record)) if record else None
        grace = max(0.0, message["grace"])
        kill_at = time.monotonic() + grace
        if job is None or job in self._endings or (job.kill_at is not None and kill_at >= job.kill_at):
            return
        first = job.kill_at is None
        job.kill_at = kill_at
        if grace == 0:
            self._kill(job)
            return
        if first:
            self._signal(job, signal.SIGTERM)
            # A stopped process takes no TERM.
            self._signal(job, signal.SIGCONT)
        self._roll.host.later(grace, lambda: self._kill(job))

    def _kill(self, job: LiveJob) -> None:
        if self._roll.live.get(job.key) is job and job not in self._endings:
            self._signal(job, signal.SIGKILL)
            # What the job was just starting may have missed it.
            self._roll.host.later(_KILL_AGAIN, lambda: self._kill(job))

    def _signal(self, job: LiveJob, number: signal.Signals) -> None:
        """Signal the job's group, and what left the group."""
        if job.pidfd is None or proc.is_alive(job.pid, job.start):
            with contextlib.suppress(OSError):
                os.killpg(job.pid, number)
        self._roll.tree.look()
        for pid, start in self._roll.tree.members(job.key).items():
            stat = proc.stat(pid)
            if stat and stat.pgid != job.pid:
                proc.send(pid, start, number)

    def forget(self, message: Message) -> None:
        """Drop what is remembered of a job, at its end if it still runs."""
        record = self.find(message)
        job = self._roll.live.get(record_key(record)) if record else None
        if job is not None:
            job.forgotten = True
        elif record is not None:
            self._journal.forget(record_key(record))
