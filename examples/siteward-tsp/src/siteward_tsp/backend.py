"""Jobs as tasks of task-spooler: one tsp server a site. A task's label says which job it is."""

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
from typing import Any

from attrs import field, frozen

from siteward import Context, Finding, JobRef, JobRequest, JobState, JobStatus, Reason, ended, hookimpl

TASK = re.compile(r"^(?P<id>\d+) +(?P<state>\w+) +(?P<output>\S+) .*?\[(?P<label>.+?)\]/usr/bin/env ", re.M)
EXIT = re.compile(r"Exit status: (died with exit code|killed by signal) (-?\d+)\n")


class Backend:
    """Hands jobs to tsp, and asks it how they are."""

    api = 1

    @frozen(kw_only=True)
    class SiteOptions:
        slots: int = field(default=100, metadata={"help": "how many jobs run at once; more wait in the queue"})
        python_path: str = field(default="python3", metadata={"help": "Python of jobs that name a module"})

    def __init__(self, context: Context, options: SiteOptions) -> None:
        self.context, self.options, self.directory = context, options, context.directory

    @hookimpl
    def siteward_launch_job(self, request: JobRequest) -> JobRef:
        ref = self._ref(f"{request.job_id} {request.attempt} {request.job_dir}")
        base = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TZ", "USER") if key in os.environ}
        env = {**base, **request.environment(request.job_dir)}
        argv = request.argv(self.options.python_path, request.job_dir)
        if not shutil.which(request.job_dir / argv[0] if "/" in argv[0] else argv[0], path=env.get("PATH")):
            return self._ref(ref.data["label"], missing=argv[0])
        # tsp runs the job in its own directory and environment; env puts right what we change there for tsp.
        tmpdir = [f"TMPDIR={env['TMPDIR']}"] if "TMPDIR" in env else ["-u", "TMPDIR"]
        command = ["/usr/bin/env", "-u", "TS_SOCKET", "-C", str(request.job_dir), *tmpdir, *argv]
        with self._locked():
            if self._find(ref) is None:
                self._tsp("-S", str(self.options.slots))
                self._tsp("-L", ref.data["label"], *command, env=env)
        return ref

    @hookimpl
    def siteward_poll_job(self, ref: JobRef) -> JobStatus:
        if "missing" in ref.data:
            return _end(reason=Reason.LAUNCH_FAILED, message=f"there is no program {ref.data['missing']!r}")
        task = self._find(ref)
        if task is None:
            return _end(reason=Reason.DELETED, message="tsp has no such task")
        if task["state"] != "finished":
            return JobStatus(state=JobState.RUNNING if task["state"] == "running" else JobState.PENDING)
        _kill(ref)  # what the job left behind
        status = EXIT.match(self._tsp("-i", task["id"]))
        assert status is not None, "tsp says of each finished task how it ended"
        how, number = status.groups()  # tsp takes an exit code for a signed byte
        return _end(signal=int(number)) if how == "killed by signal" else _end(exit_code=int(number) % 256)

    @hookimpl
    def siteward_terminate_job(self, ref: JobRef, grace: float) -> None:
        task = self._find(ref)
        if task and task["state"] != "finished":
            with suppress(subprocess.CalledProcessError):  # it may have begun or ended just now
                self._tsp("-k" if task["state"] == "running" else "-r", task["id"])
            timer = threading.Timer(grace, _kill, [ref])
            timer.daemon = True
            timer.start()

    @hookimpl
    def siteward_read_logs(self, ref: JobRef, follow: bool, tail: int | None) -> Iterator[bytes]:
        while (task := self._find(ref)) and task["output"].startswith("(") and follow:
            time.sleep(0.1)  # tsp has not started it yet
        if task and not task["output"].startswith("("):
            until = ["-f", "-s", "0.1", f"--pid={self._tsp('-p', task['id']).strip()}"] if follow else []
            command = ["tail", "-n", "+1" if tail is None else str(tail), *until, task["output"]]
            with subprocess.Popen(command, cwd=self.directory, stdout=subprocess.PIPE) as reader:
                try:
                    yield from reader.stdout or ()
                finally:
                    reader.kill()

    @hookimpl
    def siteward_list_jobs(self) -> list[JobRef]:
        return [self._ref(task["label"]) for task in self._tasks()]

    @hookimpl
    def siteward_remove_job(self, ref: JobRef) -> None:
        if task := self._find(ref):
            self._tsp("-r", task["id"])
            (self.directory / task["output"]).unlink(missing_ok=True)

    @hookimpl
    def siteward_check_backend(self) -> list[Finding]:
        return [Finding(level="ok", subject="task-spooler", message=self._tsp("-V").splitlines()[0])]

    @hookimpl
    def siteward_close_backend(self) -> None:
        with self._locked():
            if (self.directory / "socket").exists() and not self._tasks():
                self._tsp("-K")

    def _ref(self, label: str, **data: str) -> JobRef:
        site, backend, (job_id, attempt, _) = self.context.site, self.context.backend, label.split(" ", 2)
        data["label"] = label
        return JobRef(site=site, backend=backend, job_id=job_id, attempt=int(attempt), data=data)

    def _tasks(self) -> list[re.Match[str]]:
        return list(TASK.finditer(self._tsp("-l")))

    def _find(self, ref: JobRef) -> re.Match[str] | None:
        return next((task for task in self._tasks() if task["label"] == ref.data["label"]), None)

    def _tsp(self, *args: str, env: Mapping[str, str] = {"TS_MAXFINISHED": "100000"}) -> str:
        """Run tsp where the socket and the outputs are: a socket's path must be short, so it is relative."""
        env, argv = {**env, "TS_SOCKET": "socket", "TMPDIR": "."}, [shutil.which("tsp") or "tsp", *args]
        run = subprocess.run(argv, cwd=self.directory, env=env, check=True, timeout=60, capture_output=True)
        return run.stdout.decode(errors="replace")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep this site's other processes from launching, and from ending the server, at the same time."""
        with (self.directory / "lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def _end(**seen: Any) -> JobStatus:
    result = ended(**seen)
    return JobStatus(state=result.state, result=result)


def _kill(ref: JobRef) -> None:
    """Kill the job's processes: those with its directory in their environment."""
    mark = f"SITEWARD_JOB_DIR={ref.data['label'].split(' ', 2)[2]}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in environ.read_bytes().split(b"\0"):
                os.kill(int(environ.parent.name), signal.SIGKILL)
