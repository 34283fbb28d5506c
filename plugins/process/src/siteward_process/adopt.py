"""After a keeper was killed: its jobs run on, are found again, and end as BackendLost."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback

from siteward_process import linux, proc
from siteward_process.ending import Endings
from siteward_process.journal import Record, is_whole, parts_of
from siteward_process.limits import Cgroups
from siteward_process.live import LOST, LiveJob, Roll, end_of

_LOOKS = 3
_BETWEEN_LOOKS = 0.02
_LOOK_AGAIN = 0.5


class Survivors:
    """Jobs that an earlier keeper started. They are no children: a pidfd tells when they end."""

    def __init__(self, roll: Roll, endings: Endings, cgroups: Cgroups) -> None:
        self._roll = roll
        self._cgroups = cgroups
        self._endings = endings
        self._waiting: dict[int, LiveJob] = {}
        self._unwatched: list[LiveJob] = []

    def adopt_all(self) -> None:
        """Take over what the journal says was running when the keeper before this one died."""
        journal = self._roll.journal
        for key in [key for key, record in journal.records.items() if not is_whole(key, record)]:
            print(f"dropped an incomplete record of {key!r}: {journal.records[key]}", file=sys.stderr, flush=True)
            journal.forget(key)
        unsettled = {key: record for key, record in journal.records.items() if "end" not in record}
        for key, record in unsettled.items():
            if record["boot"] != self._roll.boot:
                self._roll.close(key, end_of(LOST, "the machine was restarted while the job ran"))
        unsettled = {key: record for key, record in unsettled.items() if "end" not in record}
        for key, record in unsettled.items():
            if "pid" in record:
                self._try_to_adopt(key, record)
        self._adopt_unwritten({key: record for key, record in unsettled.items() if "pid" not in record})

    def _adopt_unwritten(self, missing: dict[str, Record]) -> None:
        try:
            self._find_unwritten(missing)
        except OSError:
            # Not knowing is no reason to say that they are gone.
            self._roll.host.later(_LOOK_AGAIN, lambda: self._adopt_unwritten(missing))
            return
        for key, record in missing.items():
            if self._roll.journal.records.get(key) is not record:
                continue
            if "pid" in record:
                self._try_to_adopt(key, record)
            else:
                why = "the keeper was killed as it started the job, and no process of it is left"
                self._roll.close(key, end_of(LOST, why))

    def _try_to_adopt(self, key: str, record: Record) -> None:
        """Adopt one job; what is wrong with it must not cost the others."""
        try:
            self.adopt(key, record)
        except Exception:
            traceback.print_exc()

    def adopt(self, key: str, record: Record) -> None:
        """Watch one job, or end it if its main process is gone."""
        job = LiveJob(key, record)
        job.survivor = True
        job.group = self._cgroups.found(key)
        self._roll.admit(job)
        self._watch(job)

    def _watch(self, job: LiveJob) -> None:
        """Watch a job, end it, or look at it again later: not being able to look does not mean that it is gone."""
        try:
            # The pidfd first: what is found alive after it was opened is what it was opened for.
            job.pidfd = os.pidfd_open(job.pid)
        except ProcessLookupError:
            self._endings.begin(job)
            return
        except OSError:
            job.pidfd = None
        gone = known = False
        with contextlib.suppress(OSError):
            gone = not proc.is_alive(job.pid, job.start)
            known = True
        if job.pidfd is not None and (gone or not known or linux.is_scarce(job.pidfd)):
            os.close(job.pidfd)
            job.pidfd = None
        if gone:
            self._endings.begin(job)
        elif job.pidfd is None:
            if not self._unwatched:
                self._roll.host.later(_LOOK_AGAIN, self._look_again)
            self._unwatched.append(job)
        else:
            self._waiting[job.pidfd] = job
            self._roll.host.wait_for(job.pidfd)

    def _look_again(self) -> None:
        jobs, self._unwatched = self._unwatched, []
        for job in jobs:
            self._watch(job)

    def ended(self, pidfd: int) -> bool:
        """Take note that a survivor has ended; False when the descriptor is not one of theirs."""
        job = self._waiting.pop(pidfd, None)
        if job is None:
            return False
        self._endings.begin(job)
        return True

    def _find_unwritten(self, missing: dict[str, Record]) -> None:
        """Look for jobs that were spawned but whose process id did not get written down."""
        wanted = {proc.marker_of(record["dir"], *parts_of(key)): record for key, record in missing.items()}
        for look in range(_LOOKS if wanted else 0):
            # Between fork and exec the new process still has the keeper's environment.
            time.sleep(_BETWEEN_LOOKS * look)
            for pid in proc.pids():
                marker = proc.marker(pid)
                stat = proc.stat(pid) if marker in wanted else None
                if marker and stat and stat.sid == pid:
                    record = wanted.pop(marker)
                    record.update(pid=pid, start=stat.start)
            if not wanted:
                return
