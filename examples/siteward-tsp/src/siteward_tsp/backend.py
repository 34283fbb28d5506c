"""Jobs as tasks of a task-spooler queue: one tsp server a site, which keeps its tasks' output and exit status.

All that is known of a job is in its task's label, so that any process finds it again. tsp tells nobody when a
task ends: there is no watch, and siteward polls.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from attrs import field, frozen
from siteward import Context, Finding, JobRef, JobRequest, JobState, JobStatus, Reason, ended, hookimpl

BASE_ENV = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "USER")
TASK = re.compile(r"^(\d+) +(\w+) +(\S+) .*?\[(\S+) (\d+) (/.*?)\]\S*env -u TS_SOCKET ", re.MULTILINE)
EXIT = re.compile(r"Exit status: (?:died with exit code (?P<code>-?\d+)|killed by signal (?P<signal>\d+))\n")


@frozen(kw_only=True)
class SiteOptions:
    """What the site sets."""

    slots: int = field(default=100, metadata={"help": "how many jobs run at once; more wait in the queue"})
    python_path: str = field(default="python3", metadata={"help": "Python of jobs that name a module"})


class Task(NamedTuple):
    """A job as ``tsp -l`` shows it."""

    number: str
    state: str
    output: Path
    ref: JobRef


class Backend:
    """Hands jobs to tsp, and asks it how they are."""

    api = 1
    SiteOptions = SiteOptions

    def __init__(self, context: Context, options: SiteOptions) -> None:
        self.context, self.options = context, options

    @hookimpl
    def siteward_launch_job(self, request: JobRequest) -> JobRef:
        base = {name: os.environ[name] for name in BASE_ENV if name in os.environ}
        env = {**base, **request.environment(request.job_dir)}
        argv = request.argv(self.options.python_path, request.job_dir)
        program = request.job_dir / argv[0] if "/" in argv[0] else argv[0]
        if not shutil.which(program, path=env.get("PATH")):
            return self._ref(request.job_id, request.attempt, missing=argv[0])
        ref = self._ref(request.job_id, request.attempt, job_dir=str(request.job_dir))
        tmpdir = [f"TMPDIR={env['TMPDIR']}"] if "TMPDIR" in env else ["-u", "TMPDIR"]
        command = [_path("env"), "-u", "TS_SOCKET", "-C", ref.data["job_dir"], *tmpdir, *argv]
        with self._locked():
            if self._find(ref) is None:
                self._tsp("-S", str(self.options.slots))
                self._tsp("-L", f"{ref.job_id} {ref.attempt} {ref.data['job_dir']}", *command, env=env)
        return ref

    @hookimpl
    def siteward_poll_job(self, ref: JobRef) -> JobStatus:
        if "missing" in ref.data:
            return _end(reason=Reason.LAUNCH_FAILED, message=f"there is no program {ref.data['missing']!r}")
        task = self._find(ref)
        if task is None:
            return _end(reason=Reason.DELETED, message="tsp has no such task")
        if task.state != "finished":
            return JobStatus(state=JobState.RUNNING if task.state == "running" else JobState.PENDING)
        _kill(ref)  # what the job left behind
        status = EXIT.match(self._tsp("-i", task.number))
        if status is None:
            return _end(reason=Reason.BACKEND_LOST, message="tsp does not say how the task ended")
        # tsp takes the exit code for a signed byte.
        return _end(signal=int(status["signal"])) if status["signal"] else _end(exit_code=int(status["code"]) % 256)

    @hookimpl
    def siteward_terminate_job(self, ref: JobRef, grace: float) -> None:
        task = self._find(ref)
        if task is not None and task.state != "finished":
            with suppress(subprocess.CalledProcessError):  # it may have begun or ended just now
                self._tsp("-k" if task.state == "running" else "-r", task.number)
            timer = threading.Timer(grace, _kill, [ref])
            timer.daemon = True
            timer.start()

    @hookimpl
    def siteward_read_logs(self, ref: JobRef, follow: bool, tail: int | None) -> Iterator[bytes]:
        seen = b""
        while (task := self._find(ref)) is not None:
            output = task.output.read_bytes() if task.output.is_file() else b""  # none as long as it waits
            if tail is not None:
                output, tail = b"".join(output.splitlines(keepends=True)[-tail or len(output) :]), None
X
            if not follow or task.state == "finished":
                return
            time.sleep(0.1)

    @hookimpl
    def siteward_list_jobs(self) -> list[JobRef]:
        return [task.ref for task in self._tasks()]

    @hookimpl
    def siteward_remove_job(self, ref: JobRef) -> None:
        task = self._find(ref)
        if task is not None:
            self._tsp("-r", task.number)
            task.output.unlink(missing_ok=True)

    @hookimpl
    def siteward_check_backend(self) -> list[Finding]:
        return [Finding(level="ok", subject="task-spooler", message=self._tsp("-V").splitlines()[0])]

    @hookimpl
    def siteward_close_backend(self) -> None:
        with self._locked():
            if (self.context.directory / "socket").exists() and not self._tasks():
                self._tsp("-K")

    def _ref(self, job_id: str, attempt: int, **data: Any) -> JobRef:
        return JobRef(site=self.context.site, backend=self.context.backend, job_id=job_id, attempt=attempt, data=data)

    def _tasks(self) -> list[Task]:
        return [
            Task(number, state, self.context.directory / output, self._ref(job_id, int(attempt), job_dir=job_dir))
            for number, state, output, job_id, attempt, job_dir in TASK.findall(self._tsp("-l"))
        ]

    def _find(self, ref: JobRef) -> Task | None:
        return next((task for task in self._tasks() if task.ref == ref), None)

    def _tsp(self, *args: str, env: Mapping[str, str] = {"TS_MAXFINISHED": "100000"}) -> str:
        """Run tsp in our directory: the path of a socket must be short, so it is relative."""
        env = {**env, "TS_SOCKET": "socket", "TMPDIR": "."}
        run = subprocess.run(
            [_path("tsp"), *args], cwd=self.context.directory, env=env, check=True, timeout=60, capture_output=True
        )
        return run.stdout.decode(errors="replace")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep this site's other processes from launching, and from ending the server, at the same time."""
        with (self.context.directory / "lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def _path(program: str) -> str:
    return shutil.which(program) or program


def _end(**seen: Any) -> JobStatus:
    result = ended(**seen)
    return JobStatus(state=result.state, result=result)


def _kill(ref: JobRef) -> None:
    """Kill the job's processes: those with its directory in their environment."""
    mark = f"SITEWARD_JOB_DIR={ref.data['job_dir']}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in environ.read_bytes().split(b"\0"):
                os.kill(int(environ.parent.name), signal.SIGKILL)
