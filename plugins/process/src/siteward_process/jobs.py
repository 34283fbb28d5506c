"""The keeper's jobs: started, signalled, reaped with what they left behind, and written down before anyone is told."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from siteward_process import linux, output, proc, spawn
from siteward_process.cap import OutputCap
from siteward_process.journal import Journal, Record, key_of
from siteward_process.limits import Cgroups, Group
from siteward_process.tree import Tree
from siteward_process.wire import Message

_SETTLE = 5.0
_AGAIN = 0.05
_REF = {"id", "attempt", "dir", "log", "cap", "boot", "pid", "start", "t0"}
_PEEK = os.WEXITED | os.WNOHANG | os.WNOWAIT
LOST = "BackendLost"
LAUNCH_FAILED = "LaunchFailed"



class Host(Protocol):
    """The loop that jobs live in."""

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something after a while."""

    def tell(self, record: Record) -> None:
        """Tell of a job's end, which is written down already."""

    def wait_for(self, pidfd: int) -> None:
        """Call ``pidfd_ready`` when this process has ended."""


class Refused(Exception):
    """A launch of which nothing was started; the text says why."""


class LiveJob:
    """A job whose end has not been told yet. ``status`` is its wait status, once its main process has ended."""

    def __init__(self, key: str, record: Record) -> None:
        self.key = key
        self.record = record
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


class Jobs:
    """All jobs of one keeper."""

    def __init__(
        self, journal: Journal, cgroups: Cgroups, ignored: Sequence[signal.Signals], host: Host
    ) -> None:
        self._journal = journal
        self._cgroups = cgroups
        self._ignored = ignored
        self._host = host
        self._later = host.later
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._boot = proc.boot_id()
        self._tree = Tree()
        self._live: dict[str, LiveJob] = {}
        self._mains: dict[int, LiveJob] = {}
        self._ending: dict[str, LiveJob] = {}
        self._settle_planned = False
        self.cap = OutputCap()
        self._pidfds: dict[int, LiveJob] = {}

    @property
    def live(self) -> int:
        """How many jobs have not ended."""
        return len(self._live)

    def records(self) -> list[Record]:
        """Return every job that is not forgotten."""
        return list(self._journal.records.values())

    # --- launch ---------------------------------------------------------------------------------------------

    def launch(self, message: Message) -> Record:
        """Start a job, once per id and attempt; its record has an ``end`` at once when it could not be started."""
        key = key_of(message["id"], message["attempt"])
        known = self._journal.records.get(key)
        if known is not None:
            return known
        wanted = {name: message[name] for name in ("id", "attempt", "dir", "log", "cap")}
        try:
            # Written first: a keeper that dies right after spawning leaves a trace of what to look for.
            self._journal.put(key, **wanted, boot=self._boot, t0=time.time())
        except OSError as error:
            self._journal.forget(key)
            raise Refused(f"the keeper's record of jobs cannot be written: {error.strerror}. Make room for it.") from error
        record = self._journal.records[key]
        try:
            group = self._spawn(message, record)
        except spawn.SpawnFailed as error:
            end = _end(LAUNCH_FAILED, str(error), exit_code=error.exit_code)
            self._close(key, record, end)
            return record
        job = LiveJob(key, record)
        job.group = group
        self._know(job)
        return record

    def _spawn(self, message: Message, record: Record) -> Group | None:
        cpus, memory = message.get("cpus"), message.get("memory")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        try:
            log = os.open(message["log"], flags, 0o600)
        except OSError as error:
            raise spawn.SpawnFailed(f"the output file {message['log']!r} cannot be written: {error.strerror}.") from error
        group = None
        try:
            os.set_blocking(log, True)
            if cpus or memory:
                group = self._cgroups.group(f"{message['attempt']}-{message['id']}", cpus, memory)
                record["notes"] = group.notes
                group.enter()
            pid = spawn.spawn(message["argv"], message["env"], message["dir"], self._null, log, self._ignored)
        except (spawn.SpawnFailed, OSError) as error:
            if group:
                self._later(_AGAIN, lambda: self._remove_group(group))
            if isinstance(error, OSError):
                raise spawn.SpawnFailed(f"the job's cgroup cannot be entered: {error}") from error
            raise
        finally:
            os.close(log)
            if group:
                group.leave()
        stat = proc.stat(pid)
        changes = {"pid": pid, "start": stat.start if stat else 0, **({"notes": group.notes} if group else {})}
        with contextlib.suppress(OSError):
            self._journal.put(record_key(record), **changes)
        return group

    def _know(self, job: LiveJob, *, survivor: bool = False) -> None:
        self._live[job.key] = self._mains[job.pid] = job
        self._tree.add(job.key, job.pid, job.start, job.marker, survivor=survivor)
        if job.record["cap"]:
            job.watch = self.cap.add(job.record["log"], job.record["cap"])

    # --- after another keeper -------------------------------------------------------------------------------

    def adopt(self) -> None:
        """Take over what an earlier keeper left: its living jobs run on, and end as BackendLost."""
        open_records = {key: record for key, record in self._journal.records.items() if "end" not in record}
        for key, record in open_records.items():
            if record["boot"] != self._boot:
                self._close(key, record, _end(LOST, "the machine was restarted while the job ran"))
        unsettled = {key: record for key, record in open_records.items() if record["boot"] == self._boot}
        self._find_unwritten({key: record for key, record in unsettled.items() if "pid" not in record})
        for key, record in unsettled.items():
            if "pid" in record:
                self.survive(key, record)
            else:
                self._close(key, record, _end(LOST, "the keeper died as it started the job; no process of it is left"))
        self._cgroups.remove_stale()

    def _find_unwritten(self, missing: dict[str, Record]) -> None:
        """Look for jobs that were spawned but whose process id did not get written down."""
        wanted = {proc.marker_of(each["dir"], each["id"], each["attempt"]): key for key, each in missing.items()}
        for attempt in range(3) if missing else ():
            for pid in proc.pids():
                key = wanted.get(proc.marker(pid) or (b"", b"", b""))
                stat = proc.stat(pid) if key else None
                if key and stat and stat.sid == pid and "pid" not in missing[key]:
                    with contextlib.suppress(OSError):
                        self._journal.put(key, pid=pid, start=stat.start)
            if all("pid" in record for record in missing.values()):
                return
            # Between fork and exec the new process still has the keeper's environment.
            time.sleep(0.02 * (attempt + 1))

    def survive(self, key: str, record: Record) -> None:
        """Watch a job that an earlier keeper started, or end it if it is gone."""
        job = LiveJob(key, record)
        self._know(job, survivor=True)
        if proc.is_alive(job.pid, job.start):
            with contextlib.suppress(OSError):
                job.pidfd = os.pidfd_open(job.pid)
        if job.pidfd is None or not proc.is_alive(job.pid, job.start):
            self._begin_ending(job)
        else:
            self._pidfds[job.pidfd] = job
            self._host.wait_for(job.pidfd)

    def pidfd_ready(self, fd: int) -> bool:
        """Take note that a survivor has ended; False when the descriptor is not one of theirs."""
        job = self._pidfds.pop(fd, None)
        if job is None:
            return False
        self._begin_ending(job)
        return True

    def _begin_ending(self, job: LiveJob) -> None:
        job.settle_by = time.monotonic() + _SETTLE
        self._ending[job.key] = job
        # Its parent, whoever that is now, needs a moment to reap it: only then the kernel gives its exit code.
        self._plan_settle(_AGAIN)

    def find(self, message: Message) -> Record | None:
        """Return the record that a ref means; adopt it if only its living process is known.

        A ref whose process is not the one on record is of another job: None.
        """
        key = key_of(message["id"], message["attempt"])
        record = self._journal.records.get(key)
        pid, start = message.get("pid"), message.get("start")
        if record is not None:
            same = pid is None or (pid, start, message.get("boot")) == (record.get("pid"), record.get("start"), record["boot"])
            return record if same else None
        if not _REF <= message.keys() or message["boot"] != self._boot or not proc.is_alive(pid or 0, start or 0):
            return None
        if pid in self._mains or proc.marker(pid) != proc.marker_of(message["dir"], message["id"], message["attempt"]):
            return None
        kept = {name: message[name] for name in _REF}
        with contextlib.suppress(OSError):
            self._journal.put(key, **kept)
        self.survive(key, self._journal.records[key])
        return self._journal.records[key]

    # --- terminate ------------------------------------------------------------------------------------------

    def terminate(self, message: Message) -> None:
        """TERM now, KILL after ``grace`` seconds; a later call can only bring the KILL forward."""
        record = self.find(message)
        job = self._live.get(record_key(record)) if record else None
        if job is None or job.key in self._ending:
            return
        first = job.kill_at is None
        kill_at = time.monotonic() + max(0.0, message["grace"])
        if job.kill_at is not None and kill_at >= job.kill_at:
            return
        job.kill_at = kill_at
        if message["grace"] <= 0:
            self._kill(job)
            return
        if first:
            self._signal(job, signal.SIGTERM)
            self._signal(job, signal.SIGCONT)
        self._later(message["grace"], lambda: self._kill(job))

    def _kill(self, job: LiveJob) -> None:
        if self._live.get(job.key) is job and job.key not in self._ending:
            self._signal(job, signal.SIGKILL)
            # What the job was just starting may have missed it; a process in a disk wait dies when it returns.
            self._later(0.5, lambda: self._kill(job))

    def _signal(self, job: LiveJob, number: signal.Signals) -> None:
        if job.pidfd is None or proc.is_alive(job.pid, job.start):
            with contextlib.suppress(OSError):
                os.killpg(job.pid, number)
        self._tree.look()
        for pid, start in self._tree.members(job.key).items():
            stat = proc.stat(pid)
            if stat and stat.pgid != job.pid:
                proc.send(pid, start, number)

    # --- ends -----------------------------------------------------------------------------------------------

    def reap(self) -> None:
        """Take in every child that has ended, and bring the jobs among them to their end."""
        alone = False
        while True:
            try:
                seen = os.waitid(os.P_ALL, 0, _PEEK)
            except ChildProcessError:
                alone = True
                break
            if seen is None:
                break
            job = self._mains.get(seen.si_pid)
            if job is not None and job.pidfd is None and job.key not in self._ending:
                # As long as the zombie is there its number, and its group's, can mean nothing else.
                with contextlib.suppress(OSError):
                    os.killpg(job.pid, signal.SIGKILL)
            else:
                job = None
            _pid, status, used = os.wait4(seen.si_pid, 0)
            if job is not None:
                job.status = status
                job.usage = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
                job.settle_by = time.monotonic() + _SETTLE
                self._ending[job.key] = job
        if self._ending:
            self._settle(alone)

    def _settle(self, alone: bool = False) -> None:
        """Tell the ends of jobs of which nothing is left; end what is left of the others."""
        survivors = any(job.status is None for job in self._ending.values())
        if not alone or survivors:
            self._tree.look()
        now = time.monotonic()
        for job in list(self._ending.values()):
            left = {} if alone and job.status is not None else self._tree.members(job.key)
            for pid, start in left.items():
                proc.send(pid, start, signal.SIGKILL)
            if not left or now >= job.settle_by:
                self._finish(job, len(left))
        if self._ending:
            self._plan_settle(_AGAIN)

    def _plan_settle(self, seconds: float) -> None:
        if not self._settle_planned:
            self._settle_planned = True
            self._later(seconds, self._planned_settle)

    def _planned_settle(self) -> None:
        self._settle_planned = False
        if self._ending:
            self._settle()

    def _finish(self, job: LiveJob, left: int) -> None:
        record = job.record
        end = self._describe(job)
        notes = [*record.get("notes", ()), *end["notes"]]
        if left:
            notes.append(f"{left} processes that it left could not be ended yet")
        end["notes"] = notes
        self.cap.remove(job.watch)
        if record["cap"]:
            try:
                output.compact(record["log"], record["cap"])
            except OSError as error:
                notes.append(f"the output could not be shortened: {error.strerror}")
        if job.group:
            self._remove_group(job.group)
        if job.pidfd is not None:
            os.close(job.pidfd)
        del self._live[job.key], self._ending[job.key]
        if self._mains.get(job.pid) is job:
            del self._mains[job.pid]
        self._tree.drop(job.key, job.pid, job.marker)
        self._close(job.key, record, end)
        if job.forgotten:
            self._journal.forget(job.key)

    def _describe(self, job: LiveJob) -> Message:
        if job.status is None:
            status = linux.exit_status(job.pidfd) if job.pidfd is not None else None
            seen = "" if status is None else f" (the kernel says exit code {_exit_code(status)})"
            return _end(LOST, f"the keeper that started the job was killed, and the job's end was not seen{seen}")
        cpu, memory = job.usage or (None, None)
        killed = os.WTERMSIG(job.status) if os.WIFSIGNALED(job.status) else None
        end = _end(None, "", exit_code=None if killed else os.WEXITSTATUS(job.status), number=killed)
        end.update(cpu=cpu, memory=memory)
        oom = job.group.oom_kills() if job.group else 0
        if oom and killed == signal.SIGKILL:
            end.update(reason="OOMKilled", message="the job used more memory than its limit; ask for more in resource_spec")
        elif oom:
            end["notes"] = [f"{oom} of its processes were killed because the job reached its memory limit"]
        return end

    def _close(self, key: str, record: Record, end: Message) -> None:
        with contextlib.suppress(OSError):
            # On a full disk the end is still told; the journal is written anew at the next chance.
            self._journal.put(key, end=end)
        self._host.tell(record)

    def _remove_group(self, group: Group, tries: int = 20) -> None:
        if not group.remove() and tries:
            self._later(_AGAIN, lambda: self._remove_group(group, tries - 1))

    def forget(self, message: Message) -> None:
        """Drop what is remembered of a job, at its end if it still runs."""
        record = self.find(message)
        if record is None:
            return
        key = record_key(record)
        job = self._live.get(key)
        if job is not None:
            job.forgotten = True
        else:
            self._journal.forget(key)


def record_key(record: Record) -> str:
    """Return the key of a record."""
    return key_of(record["id"], record["attempt"])


def _exit_code(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _end(reason: str | None, message: str, exit_code: int | None = None, number: int | None = None) -> Message:
    return {
        "reason": reason,
        "message": message,
        "exit": exit_code,
        "signal": number,
        "at": time.time(),
        "cpu": None,
        "memory": None,
        "notes": [],
    }


