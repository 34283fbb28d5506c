"""Who holds a lease, written so that any later process can tell whether the holder is still there."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from attrs import fields, frozen

from siteward import Context


@frozen(kw_only=True)
class Holder:
    """A job, and the process that takes something for it; ``started`` is in clock ticks since boot (proc(5))."""

    job_id: str
    site: str
    state_dir: str
    site_file: str | None
    pid: int
    started: int | None
    boot: str
    namespace: str

    @classmethod
    def of(cls, context: Context, job_id: str) -> Holder:
        """Return this process's holder for a job of its site."""
        boot, namespace, started = _this_process(os.getpid())
        return cls(
            job_id=job_id,
            site=context.site,
            state_dir=str(context.state_dir),
            site_file=None if context.site_file is None else str(context.site_file),
            pid=os.getpid(),
            started=started,
            boot=boot,
            namespace=namespace,
        )

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Holder:
        """Return what :attr:`data` is; ValueError for anything else."""
        holder = cls(**data)
        texts = (holder.job_id, holder.site, holder.state_dir, holder.boot, holder.namespace)
        optional = (holder.site_file is None or type(holder.site_file) is str) and (
            holder.started is None or type(holder.started) is int
        )
        if not (optional and type(holder.pid) is int and holder.pid > 0 and all(type(text) is str for text in texts)):
            raise ValueError("not a holder")
        return holder

    @property
    def data(self) -> dict[str, Any]:
        """It as JSON data."""
        return {name: getattr(self, name) for name in _FIELDS}

    def is_gone(self, token: str, *, ours: bool, dies_with_host: bool) -> bool:
        """Whether nothing of the job is left that could use what it holds; doubt counts as no.

        Of another user's job (``ours`` is False) only a restart of the host tells, and only for what is of use on
        this host alone (``dies_with_host``).
        """
        if dies_with_host and self.boot != boot_id():
            return True
        if not ours:
            return False
        from siteward import Liveness, job_lives  # only now: it brings the store with it

        site_file = None if self.site_file is None else Path(self.site_file)
        found = job_lives(Path(self.state_dir), self.job_id, token, site_file=site_file)
        return found is Liveness.GONE or (found is Liveness.ABSENT and not self.process_lives())

    def process_lives(self) -> bool:
        """Whether the process that took the lease may still be there."""
        if self.boot != boot_id():
            return False
        if self.namespace != _this_process(os.getpid())[1]:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        started = _started(self.pid)
        return started is None or self.started is None or started == self.started


def now() -> float:
    """Return seconds that every process of this host counts alike, whoever sets the clock (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@cache
def boot_id() -> str:
    """Return the id of this boot of the host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@cache
def _this_process(pid: int) -> tuple[str, str, int | None]:
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return boot_id(), namespace, _started(pid)


def _started(pid: int) -> int | None:
    """Return when a process began, None if it cannot be seen or is a zombie's."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    rest = stat[stat.rindex(b")") + 2 :].split()
    return -1 if rest[0] in (b"Z", b"X") else int(rest[19])


_FIELDS = tuple(field.name for field in fields(Holder))
