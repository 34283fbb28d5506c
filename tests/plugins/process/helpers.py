"""Real backends over real keepers, and facts about processes that do not come from them."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from siteward import BackendError, Context, JobRef, JobRequest, JobStatus
from siteward_process import proc, wire
from siteward_process.backend import Backend
from siteward_process.client import Address

DEADLINE = 15.0


def until(fact: Callable[[], Any], what: str = "", seconds: float = DEADLINE) -> Any:
    """Wait for a fact, with a deadline, and return it."""
    end = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < end, f"never happened: {what or fact}"
        time.sleep(0.005)
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody reaped does not."""
    found = proc.stat(pid)
    return found is not None and found.alive


def read_pid(path: Path) -> int:
    """Wait until a job has written a process id (a whole line) to a file."""
    return int(until(lambda: path.exists() and path.read_text().endswith("\n") and path.read_text(), str(path)))


class Watch:
    """What a watch publishes."""

    def __init__(self) -> None:
        self.news: list[tuple[JobRef, JobStatus]] = []
        self.errors: list[BaseException] = []
        self._changed = threading.Condition()

    def __call__(self, ref: JobRef, status: JobStatus) -> None:
        with self._changed:
            self.news.append((ref, status))
            self._changed.notify_all()

    def failed(self, error: BaseException) -> None:
        with self._changed:
            self.errors.append(error)
            self._changed.notify_all()

    def end_of(self, ref: JobRef, seconds: float = DEADLINE) -> JobStatus:
        def find() -> JobStatus | None:
            ends = (status for known, status in self.news if known.job_id == ref.job_id and status.state.ended)
            return next(ends, None)

        with self._changed:
            assert self._changed.wait_for(find, seconds), f"no end of {ref.job_id}; failures: {self.errors}"
            found = find()
            assert found
            return found


class Place:
    """One site: a folder for the backend, one for jobs, and backends upon them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "backend"
        self.directory.mkdir(mode=0o700, parents=True)
        self.backends: list[Backend] = []
        self._count = 0

    def backend(self, **options: Any) -> Backend:
        context = Context(site="here", backend="process", directory=self.directory, log=logging.getLogger("test"))
        backend = Backend(context, Backend.SiteOptions(**options))
        self.backends.append(backend)
        return backend

    def request(self, *command: str, **fields: Any) -> JobRequest:
        self._count += 1
        fields = {"job_id": f"job-{self._count}", "command": command, **fields}
        fields.setdefault("job_dir", self.root / "jobs" / fields["job_id"] / "work")
        Path(fields["job_dir"]).mkdir(parents=True, exist_ok=True)
        return JobRequest(name="job", site="here", backend="process", **fields)

    def run(self, *command: str, **fields: Any) -> JobStatus:
        """Launch a job on the first backend and return its end."""
        backend = self.backends[0] if self.backends else self.backend()
        ref = backend.siteward_launch_job(self.request(*command, **fields))
        return poll_end(backend, ref)

    def keeper_pid(self) -> int | None:
        """The keeper that runs, None without one."""
        try:
            return int(ask_keeper(self.directory)["pid"])
        except (BackendError, OSError):
            return None

    def kill_keeper(self) -> int:
        pid = self.keeper_pid()
        assert pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_alive(pid), "the keeper dies")
        return pid

    def clean(self) -> None:
        for backend in self.backends:
            backend.siteward_close_backend()
        pid = self.keeper_pid()
        if pid is None:
            return
        backend = self.backend()
        for ref in backend.siteward_list_jobs():
            backend.siteward_terminate_job(ref, 0)
        backend.siteward_close_backend()
        try:
            until(lambda: not is_alive(pid), "the keeper leaves")
        finally:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


def ask_keeper(directory: Path) -> dict[str, Any]:
    with Address(directory).connect(start=False) as sock:
        sock.sendall(wire.pack({"do": "check"}))
        frames = wire.Frames()
        while data := sock.recv(65536):
            for message in frames.feed(data):
                return message
    raise ConnectionResetError


def poll_end(backend: Backend, ref: JobRef, seconds: float = DEADLINE) -> JobStatus:
    """Poll until the job has ended; return that status."""
    last: list[JobStatus] = []

    def ended() -> bool:
        last[:] = [backend.siteward_poll_job(ref)]
        return last[0].state.ended

    until(ended, f"{ref.job_id} ends", seconds)
    return last[0]
