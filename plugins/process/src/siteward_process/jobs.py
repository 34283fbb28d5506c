"""What clients ask of jobs: launch, find, terminate, forget."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from siteward_process import proc
from siteward_process.adopt import Survivors
from siteward_process.ending import Endings
from siteward_process.journal import Journal, parts_of
from siteward_process.limits import Cgroups, Group
from siteward_process.live import LAUNCH_FAILED, REF, Host, LiveJob, Roll, end_of
from siteward_process.spawn import Spawner, SpawnFailed
from siteward_process.wire import Message, encode

_LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_KILL_AGAIN = 0.5
_LONGEST_GRACE = 1e8


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
        self.survivor_ended = self._survivors.ended

    @property
    def live(self) -> int:
        """How many jobs have not ended."""
        return len(self._roll.live)

    def adopt(self) -> None:
        """Take over the jobs of the keeper before this one, and the KILLs that it had still to send."""
        self._survivors.adopt_all()
        now = time.monotonic()
        for job in self._roll.live.values():
            if "kill" in job.record:
                # The clock is the one that nobody sets; should it be another one all the same, grace is the longest.
                wait = min(max(0.0, job.record["kill"] - now), job.record.get("grace", 0.0))
                job.kill_at = now + wait
                self._kill_later(job, wait)

    def lines(self, key: str = "") -> list[str]:
        """Return what is known of one job, or of every job that is not forgotten, each encoded."""
        records = self._journal.records
        keys = list(records) if not key else [key] if key in records else []
        return [encode({"k": each, **records[each]}) for each in keys]

    def launch(self, message: Message) -> str:
        """Start a job, once per key, and return its encoded record; with an ``end`` when it could not be started."""
        key = message["k"]
        if key in self._journal.records:
            return self.lines(key)[0]
        log, boot, t0 = message["log"], self._roll.boot, time.time()
        try:
            # Written first: a keeper that dies right after spawning leaves a trace of what to look for.
            self._journal.intend(key, dir=message["dir"], log=log, cap=message["cap"], boot=boot, t0=t0)
        except OSError as error:
            raise Refused(
                f"the keeper's record of jobs cannot be written: {error.strerror}. Make room for it."
            ) from error
        try:
            pid, start, group = self._spawn(message)
        except SpawnFailed as error:
            return self._roll.close(key, end_of(LAUNCH_FAILED, str(error), exit_code=error.exit_code))
        except Exception as error:
            self._roll.close(key, end_of(LAUNCH_FAILED, f"the keeper failed to start it: {error!r}; see keeper.log"))
            raise
        words = [*message.get("notes", ()), *(group.notes if group else ())]
        notes = {"notes": words} if words else {}
        line = self._journal.put(key, pid=pid, start=start, boot=boot, log=log, t0=t0, **notes)
        job = LiveJob(key, self._journal.records[key])
        job.group = group
        self._roll.admit(job)
        if group and group.is_too_small:
            self._kill(job)
        return line

    def _spawn(self, message: Message) -> tuple[int, int, Group | None]:
        try:
            log = os.open(message["log"], _LOG_FLAGS, 0o600)
        except OSError as error:
            raise SpawnFailed(f"the output file {message['log']!r} cannot be written: {error.strerror}.") from error
        group = None
        try:
            os.set_blocking(log, True)
            if message["cpus"] or message["memory"]:
                group = self._cgroups.group(message["k"], message["cpus"], message["memory"])
                group.enter()
            pid, start = self._spawner.spawn(message["argv"], message["env"], message["dir"], log)
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
        if group:
            group.limit_memory()
        return pid, start, group

    def knows(self, message: Message) -> bool:
        """Whether a ref means a job on record, or one whose living process can be taken on record now.

        A ref whose process is not the one on record is of another job.
        """
        pid, start, boot = message.get("pid"), message.get("start"), message.get("boot")
        record = self._journal.records.get(message["k"])
        if record is not None:
            return pid is None or (pid, start, boot) == (record.get("pid"), record.get("start"), record.get("boot"))
        if pid is None or start is None or boot != self._roll.boot or not proc.is_alive(pid, start):
            return False
        marker = proc.marker(pid)
        if pid in self._roll.mains or marker is None or marker[1:] != proc.marker_of("", *parts_of(message["k"]))[1:]:
            return False
        known = {name: message.get(name) for name in REF}
        self._journal.put(
            message["k"], **{**known, "t0": known["t0"] or time.time()}, dir=os.fsdecode(marker[0]), cap=0
        )
        self._survivors.adopt(message["k"], self._journal.records[message["k"]])
        return True

    def terminate(self, message: Message) -> None:
        """TERM now, KILL after ``grace`` seconds; a later call can only bring the KILL forward."""
        job = self._roll.live.get(message["k"]) if self.knows(message) else None
        grace = min(max(0.0, message["grace"]), _LONGEST_GRACE)
        kill_at = time.monotonic() + grace
        if job is None or job in self._endings or (job.kill_at is not None and kill_at >= job.kill_at):
            return
        first = job.kill_at is None
        job.kill_at = kill_at
        self._journal.put(job.key, kill=kill_at, grace=grace)
        if grace == 0:
            self._kill(job)
            return
        self._kill_later(job, grace)
        if first:
            self._signal(job, signal.SIGTERM)
            # A stopped process takes no TERM.
            self._signal(job, signal.SIGCONT)

    def _kill_later(self, job: LiveJob, seconds: float) -> None:
        self._roll.host.later(seconds, lambda: self._kill(job))

    def _kill(self, job: LiveJob) -> None:
        if self._roll.live.get(job.key) is job and job not in self._endings:
            # What the job was just starting may miss it.
            self._kill_later(job, _KILL_AGAIN)
            self._signal(job, signal.SIGKILL)

    def _signal(self, job: LiveJob, number: signal.Signals) -> None:
        """Signal the job's group, and what left the group."""
        with contextlib.suppress(OSError):
            if not job.survivor or proc.is_alive(job.pid, job.start):
                os.killpg(job.pid, number)
        with contextlib.suppress(OSError):
            self._roll.tree.look()
        for pid, start in self._roll.tree.members(job.key).items():
            with contextlib.suppress(OSError):
                stat = proc.stat(pid)
                if stat and stat.pgid != job.pid:
                    proc.send(pid, start, number)

    def forget(self, message: Message) -> None:
        """Drop what is remembered of a job, at its end if it still runs."""
        if not self.knows(message):
            return
        job = self._roll.live.get(message["k"])
        if job is not None:
            job.forgotten = True
        else:
            self._journal.forget(message["k"])
