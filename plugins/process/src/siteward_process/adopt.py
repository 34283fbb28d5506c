"""After a keeper was killed: its jobs run on, are found again, and end as BackendLost."""

from __future__ import annotations

import contextlib
import os
import time

from siteward_process import proc
from siteward_process.ending import Endings
from siteward_process.journal import Record, parts_of
from siteward_process.limits import Cgroups
from siteward_process.live import LOST, LiveJob, Roll, end_of

_LOOKS = 3
_BETWEEN_LOOKS = 0.02


class Survivors:
    """Jobs that an earlier keeper started. They are no children: a pidfd tells when they end."""

    def __init__(self, roll: Roll, endings: Endings, cgroups: Cgroups) -> None:
        self._roll = roll
        self._cgroups = cgroups
        self._endings = endings
        self._waiting: dict[int, LiveJob] = {}

    def adopt_all(self) -> None:
        """Take over what the journal says was running when the keeper before this one died."""
        unsettled = {key: record for key, record in self._roll.journal.records.items() if "end" not in record}
        for key, record in unsettled.items():
            if record["boot"] != self._roll.boot:
                self._roll.close(key, end_of(LOST, "the machine was restarted while the job ran"))
        unsettled = {key: record for key, record in unsettled.items() if "end" not in record}
        self._find_unwritten({key: record for key, record in unsettled.items() if "pid" not in record})
        for key, record in unsettled.items():
            if "pid" in record:
                self.adopt(key, record)
            else:
                why = "the keeper was killed as it started the job, and no process of it is left"
                self._roll.close(key, end_of(LOST, why))

    def adopt(self, key: str, record: Record) -> None:
        """Watch one job, or end it if its main process is gone."""
        job = LiveJob(key, record)
        job.group = self._cgroups.found(key)
        self._roll.admit(job, survivor=True)
        with contextlib.suppress(OSError):
            # The pidfd first: what is found alive after it was opened is what it was opened for.
            job.pidfd = os.pidfd_open(job.pid)
        if job.pidfd is not None and not proc.is_alive(job.pid, job.start):
            os.close(job.pidfd)
            job.pidfd = None
        if job.pidfd is None:
            self._endings.begin(job)
            return
        self._waiting[job.pidfd] = job
        self._roll.host.wait_for(job.pidfd)

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
