"""Two backends for the tests of the kit: one with three hooks, and one with all of them.

Both let a keeper process run each job and write down its end, in a folder for each job.
"""

from __future__ import annotations

import marshal
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from attrs import field, frozen

from siteward import Finding, JobRef, JobState, JobStatus, Reason, ended, hookimpl

KEEPER = Path(__file__).with_name("keeper.py")


@frozen(kw_only=True)
class JobOptions:
    nice: int = field(default=0, metadata={"help": "how nice the job is to others"})


@frozen(kw_only=True)
class SiteOptions:
    least_nice: int = field(default=0, metadata={"help": "the least nice value that a job may have"})


class Minimal:
    """Launch, poll and terminate: the whole of a backend."""

    api = 1
    faults = ()
    JobOptions = JobOptions
    SiteOptions = SiteOptions

    def __init__(self, context, options):
        self.context = context
        self.options = options

    def folder(self, ref):
        return self.context.directory / f"{ref.job_id}.{ref.attempt}"

    def ref(self, job_id, attempt):
        folder = str(self.context.directory / f"{job_id}.{attempt}")
        return JobRef(
            site=self.context.site,
            backend=self.context.backend,
            job_id=job_id,
            attempt=attempt,
            data={"folder": folder},
        )

    def environment(self, request):
        base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return base | request.environment(request.job_dir)

    def argv(self, request):
        return request.argv(sys.executable, request.job_dir)

    def order(self, request):
        return {
            "argv": self.argv(request),
            "env": self.environment(request),
            "cwd": str(request.job_dir),
            "log": str(request.log_file),
            "faults": self.faults,
        }

    @hookimpl
    def siteward_launch_job(self, request):
        ref = self.ref(request.job_id, request.attempt)
        try:
            self.folder(ref).mkdir()
        except FileExistsError:
            return ref
        self.run(ref, request)
        return ref

    def run(self, ref, request):
        command = [sys.executable, "-I", "-S", str(KEEPER), str(self.folder(ref))]
        subprocess.run(command, input=marshal.dumps(self.order(request)), check=True, timeout=30)

    @hookimpl
    def siteward_poll_job(self, ref):
        return self.look(ref)

    def look(self, ref):
        folder = self.folder(ref)
        with suppress(FileNotFoundError):
            end = marshal.loads((folder / "end").read_bytes())
            reason = Reason(end.pop("reason")) if "reason" in end else None
            result = ended(reason=reason, **end)
            return JobStatus(state=result.state, result=result)
        if (folder / "started").exists():
            return JobStatus(state=JobState.RUNNING)
        if folder.exists():
            return JobStatus(state=JobState.PENDING)
        result = ended(reason=Reason.BACKEND_LOST, message="there is no such job")
        return JobStatus(state=result.state, result=result)

    @hookimpl
    def siteward_terminate_job(self, ref, grace):
        self.stop(ref, grace)

    def stop(self, ref, grace):
        folder = self.folder(ref)
        if not folder.exists() or (folder / "end").exists():
            return
        partial = folder / f"stop.{threading.get_ident()}"
        partial.write_bytes(marshal.dumps(float(grace)))
        partial.rename(folder / "stop")
        with suppress(OSError):
            os.kill(marshal.loads((folder / "started").read_bytes()), signal.SIGUSR1)


class Full(Minimal):
    """Every hook."""

    def __init__(self, context, options):
        super().__init__(context, options)
        self.closing = threading.Event()
        self.watcher = None

    @hookimpl
    def siteward_resolve_options(self, options):
        return JobOptions(nice=max(options.nice, self.options.least_nice))

    @hookimpl
    def siteward_watch_jobs(self, publish):
        self.watcher = threading.Thread(target=self.watch, args=(publish,), daemon=True)
        self.watcher.start()

    def watch(self, publish):
        told = {}
        while not self.closing.wait(0.005):
            for ref in self.refs():
                status = self.look(ref)
                if told.get(ref.job_id) is not status.state:
                    told[ref.job_id] = status.state
                    publish(ref, status)

    def refs(self):
        names = sorted(path.name for path in self.context.directory.iterdir())
        pairs = (name.rpartition(".") for name in names)
        return [self.ref(job_id, int(attempt)) for job_id, _, attempt in pairs]

    @hookimpl
    def siteward_stage_job(self, ref, source):
        assert source.is_dir()

    @hookimpl
    def siteward_collect_job(self, ref, target):
        return "returned" if target.is_dir() else "lost"

    def log(self, ref):
        """The core's log file; it is beside the job directory of a site and of the kit alike."""
        return Path((self.folder(ref) / "log").read_text())

    def order(self, request):
        order = super().order(request)
        (self.folder(self.ref(request.job_id, request.attempt)) / "log").write_text(order["log"])
        return order

    @hookimpl
    def siteward_read_logs(self, ref, follow, tail):
        path = self.log(ref)
        if tail is not None:
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            yield from lines[max(0, len(lines) - tail) :]
        position = path.stat().st_size if tail is not None and path.exists() else 0
        while tail is None or follow:
            over = not follow or self.look(ref).state.ended
            if path.exists():
                with path.open("rb") as stream:
                    stream.seek(position)
                    while chunk := stream.read(65536):
                        position += len(chunk)
                        yield chunk
            if over:
                return
            time.sleep(0.005)

    @hookimpl
    def siteward_list_jobs(self):
        return self.refs()

    @hookimpl
    def siteward_remove_job(self, ref):
        shutil.rmtree(self.folder(ref), ignore_errors=True)

    @hookimpl
    def siteward_render_job(self, request):
        return {"argv": self.argv(request), "env": request.environment(request.job_dir)}

    @hookimpl
    def siteward_check_backend(self):
        return [Finding(level="ok", subject=self.context.backend, message="there is a Python to keep jobs with")]

    @hookimpl
    def siteward_close_backend(self):
        self.closing.set()
        if self.watcher is not None and self.watcher is not threading.current_thread():
            self.watcher.join()
