"""How jobs end: reaped, cleared of what they left running, described, and only then told."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from siteward_process import linux, output, proc
from siteward_process.limits import Group
from siteward_process.live import LOST, OOM_KILLED, LiveJob, Roll, end_of
from siteward_process.wire import Message

# How long an end is held back for processes that do not die of KILL (in a disk wait, say).
_SETTLE_WITHIN = 5.0
_AGAIN = 0.05
_PEEK = os.WEXITED | os.WNOHANG | os.WNOWAIT


class Endings:
    """Brings jobs of a roll to their end."""

    def __init__(self, roll: Roll) -> None:
        self._roll = roll
        self._ending: dict[str, LiveJob] = {}
        self._planned = False

    def __contains__(self, job: LiveJob) -> bool:
        return job.key in self._ending

    def begin(self, job: LiveJob) -> None:
        """Bring a job to its end whose main process was no child of ours and is gone."""
        job.settle_by = time.monotonic() + _SETTLE_WITHIN
        self._ending[job.key] = job
        # Its parent, whoever that is now, needs a moment to reap it: only then the kernel gives its exit code.
        self._plan(_AGAIN)

    def reap(self) -> None:
        """Take in every child that has ended, and bring the jobs among them to their end."""
        alone = False
        while True:
            try:
                seen = os.waitid(os.P_ALL, 0, _PEEK)
            except ChildProcessError:
                # No child at all: what the ended jobs left would have become ours, so they left nothing.
                alone = True
                break
            if seen is None:
                break
            job = self._roll.mains.get(seen.si_pid)
            if job is not None and (job.survivor or job in self):
                job = None
            if job is not None:
                # As long as the zombie is there its number, and its group's, can mean nothing else.
                with contextlib.suppress(OSError):
                    os.killpg(job.pid, signal.SIGKILL)
            _pid, status, used = os.wait4(seen.si_pid, 0)
            if job is not None:
                job.status = status
                job.usage = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
                job.settle_by = time.monotonic() + _SETTLE_WITHIN
                self._ending[job.key] = job
        if self._ending:
            self._settle(alone)

    def _settle(self, alone: bool = False) -> None:
        """Tell the ends of jobs of which nothing is left; end what is left of the others."""
        try:
            alone = alone and all(job.status is not None for job in self._ending.values())
            if not alone:
                self._roll.tree.look()
            for job in list(self._ending.values()):
                left = {} if alone else self._roll.tree.members(job.key)
                for pid, start in left.items():
                    proc.send(pid, start, signal.SIGKILL)
                if not left or time.monotonic() >= job.settle_by:
                    self._finish(job, len(left))
        finally:
            # Whatever went wrong (no descriptor left, say), no end is given up.
            if self._ending:
                self._plan(_AGAIN)

    def _plan(self, seconds: float) -> None:
        if not self._planned:
            self._planned = True
            self._roll.host.later(seconds, self._settle_as_planned)

    def _settle_as_planned(self) -> None:
        self._planned = False
        if self._ending:
            self._settle()

    def _finish(self, job: LiveJob, left: int) -> None:
        record = job.record
        end = describe(job)
        notes = [*record.get("notes", ()), *end.get("notes", ())]
        if left:
            notes.append(f"{left} processes that it left could not be ended yet")
        if record["cap"]:
            try:
                output.compact(record["log"], record["cap"])
            except OSError as error:
                notes.append(f"the output could not be shortened: {error.strerror}")
        if notes:
            end["notes"] = notes
        self._roll.close(job.key, end)
        del self._ending[job.key]
        self._roll.dismiss(job)
        if job.forgotten:
            self._roll.journal.forget(job.key)
        if job.pidfd is not None:
            os.close(job.pidfd)
        if job.group:
            self.remove_group(job.group)

    def remove_group(self, group: Group, tries: int = 20) -> None:
        """Delete a job's cgroups as soon as the kernel lets go of them."""
        if not group.remove() and tries:
            self._roll.host.later(_AGAIN, lambda: self.remove_group(group, tries - 1))


def describe(job: LiveJob) -> Message:
    """Say how a job ended whose main process is gone."""
    if job.status is None:
        status = linux.exit_status(job.pidfd) if job.pidfd is not None else None
        code = (
            None if status is None else 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        )
        seen = "" if code is None else f" (the kernel says exit code {code})"
        return end_of(LOST, f"the keeper that started the job was killed, so nobody saw the job's end{seen}")
    killed = os.WTERMSIG(job.status) if os.WIFSIGNALED(job.status) else None
    end = end_of(None, exit_code=None if killed else os.WEXITSTATUS(job.status), signal=killed)
    if job.usage:
        end["cpu"], end["memory"] = job.usage
    oom = job.group.oom_kills() if job.group else 0
    if job.group and job.group.is_too_small and killed == signal.SIGKILL:
        end.update(
            reason=OOM_KILLED,
            message="the job's memory limit is too small: it held more before the limit could be set; ask for more in"
            " resource_spec",
        )
    elif oom and killed == signal.SIGKILL:
        end.update(reason=OOM_KILLED, message="the job used more memory than its limit; ask for more in resource_spec")
    elif oom:
        end["notes"] = [f"{oom} of its processes were killed because the job reached its memory limit"]
    return end
