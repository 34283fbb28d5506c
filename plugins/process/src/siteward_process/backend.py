"""The hooks: jobs as processes of this machine, started and kept by the site's keeper."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from siteward import (
    BackendError,
    Context,
    Finding,
    JobRef,
    JobRequest,
    JobState,
    JobStatus,
    LaunchRefused,
    LaunchUncertain,
    Publish,
    Reason,
    Result,
    Unreachable,
    Usage,
    check_caps,
    ended,
    hookimpl,
)
from siteward_process import wire
from siteward_process.client import Address, KeeperClient, Lost, Subscription
from siteward_process.journal import key_of, parts_of
from siteward_process.news import RUNNING, News
from siteward_process.reading import read_output
from siteward_process.spawn import DEFAULT_PATH

_BASE_ENV = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "USER")
_SMALLEST_LOG = 64 * 1024
# With less, a program can hardly be loaded.
_LEAST_MEMORY = 16 * 2**20

_REF_DATA = ("pid", "start", "boot", "log")


def _check_log_size(size: int) -> str | None:
    return None if size >= _SMALLEST_LOG else f"expected at least {_SMALLEST_LOG} bytes, got {size}"


def _check_count(value: int) -> str | None:
    return None if value >= 1 else f"expected at least 1, got {value}"


def _check_memory(value: int) -> str | None:
    return None if value >= _LEAST_MEMORY else f"expected at least {_LEAST_MEMORY}, got {value}"


def _check_names(names: tuple[str, ...]) -> str | None:
    wrong = [name for name in names if not name or "=" in name or name.startswith("SITEWARD_")]
    return f"expected names of environment variables, got {wrong[0]!r}" if wrong else None


class Backend:
    """Runs each job as one process in its own session. It starts nothing until the first job."""

    api = 1

    @frozen(kw_only=True)
    class JobOptions:
        """What a job may ask of this backend: nothing beyond its command and resources."""

    @frozen(kw_only=True)
    class SiteOptions:
        """What the site sets."""

        python_path: str = field(
            default=sys.executable or "python3",
            metadata={
                "help": "Python of jobs that name a module; by default the one that runs siteward",
            },
        )
        inherit_env: tuple[str, ...] = field(
            default=(),
            metadata={
                "help": "variables that jobs get from siteward's own environment, besides " + ", ".join(_BASE_ENV),
                "check": _check_names,
            },
        )
        max_log_size: int = field(
            default=64 * 2**20,
            metadata={"help": "bytes of output kept of a job; past it the middle is dropped", "check": _check_log_size},
        )
        max_cpus: int | None = field(
            default=None,
            metadata={
                "help": "most CPUs a job may ask for, and the limit of jobs that ask for none",
                "check": _check_count,
            },
        )
        max_memory: int | None = field(
            default=None,
            metadata={
                "help": "most bytes of memory a job may ask for, and the limit of jobs that ask for none",
                "check": _check_memory,
            },
        )

    @frozen(kw_only=True)
    class StudyOptions:
        """What a study of the site adds: nothing."""

    def __init__(self, context: Context, options: Backend.SiteOptions) -> None:
        self._context = context
        self._options = options
        self._directory = Path(context.directory).absolute()
        self._address = Address(self._directory)
        self._keeper = KeeperClient(self._address)
        self._python = _resolve(options.python_path, context.base_dir)
        names = (*_BASE_ENV, *options.inherit_env)
        self._base_env = {"PATH": DEFAULT_PATH} | {name: os.environ[name] for name in names if name in os.environ}
        self._news: News | None = None
        self._subscription: Subscription | None = None

    # --- the job --------------------------------------------------------------------------------------------

    @hookimpl
    def siteward_launch_job(self, request: JobRequest) -> JobRef:
        """Have the keeper start the job's command; a command that cannot be started has an end at once."""
        cpus, memory = self._limits(request)
        key = key_of(request.job_id, request.attempt)
        message = {
            "do": "launch",
            "k": key,
            "argv": request.argv(self._python, request.job_dir),
            "env": self._environment(request),
            "dir": str(request.job_dir),
            "log": str(request.log_file),
            "cap": self._options.max_log_size,
            "cpus": cpus,
            "memory": memory,
        }
        if request.resources.num_of_gpus and request.allocation is None:
            message["notes"] = ["num_of_gpus was not enforced: the site has no resource manager that hands out GPUs"]
        news = self._news
        if news is None:
            return self._ref(self._ask_to_launch(message))
        news.expect(key)
        try:
            answer = self._ask_to_launch(message)
            ref = self._ref(answer)
            if "end" not in answer:
                news.runs(key, ref)
            return ref
        finally:
            news.expect_no_more(key)

    def _ask_to_launch(self, message: wire.Message) -> wire.Message:
        try:
            answer = self._keeper.ask(message, urgent=True)
        except Lost as error:
            raise LaunchUncertain(self._ref(message), f"the keeper was lost as it started the job: {error}") from error
        except (BackendError, ValueError) as error:
            raise LaunchRefused(str(error)) from error
        if "k" not in answer:
            raise LaunchRefused(str(answer.get("refused") or answer.get("error")))
        return answer

    @hookimpl
    def siteward_poll_job(self, ref: JobRef) -> JobStatus:
        """Ask the keeper; a job that neither it nor the process table knows is lost."""
        try:
            answer = self._keeper.ask({**self._name(ref), "do": "poll"})
        except (BackendError, Lost) as error:
            return JobStatus(state=JobState.RUNNING, reachable=False, message=str(error))
        if "k" not in answer:
            result = ended(
                reason=Reason.BACKEND_LOST, message="no process of this job is left, and nobody saw how it ended"
            )
            return JobStatus(state=result.state, result=result)
        return _status(answer)

    @hookimpl
    def siteward_terminate_job(self, ref: JobRef, grace: float) -> None:
        """TERM to the job and all it started; KILL after ``grace`` seconds, sent by the keeper."""
        try:
            self._keeper.ask({**self._name(ref), "do": "terminate", "grace": grace})
        except Lost as error:
            raise Unreachable(str(error)) from error

    @hookimpl
    def siteward_watch_jobs(self, publish: Publish) -> None:
        """Publish each end as the keeper tells of it."""
        news = self._news = News(publish)

        def tell(record: wire.Message) -> None:
            news.tell(record["k"], self._ref(record), _status(record))

        self._subscription = Subscription(self._address, tell, publish.failed)

    @hookimpl
    def siteward_read_logs(self, ref: JobRef, follow: bool, tail: int | None) -> Iterator[bytes]:
        """Read the file that the job writes to."""
        return read_output(
            str(ref.data["log"]),
            follow=follow,
            tail=tail,
            has_ended=lambda: self._has_ended(ref),
            listen=lambda: self._listen(ref),
        )

    def _has_ended(self, ref: JobRef) -> bool:
        return self.siteward_poll_job(ref).state.ended

    def _listen(self, ref: JobRef) -> socket.socket:
        sock = self._address.connect()
        sock.sendall(wire.pack({"do": "watch", "k": key_of(ref.job_id, ref.attempt)}))
        return sock

    # --- the site -------------------------------------------------------------------------------------------

    @hookimpl
    def siteward_list_jobs(self) -> list[JobRef]:
        """Return what the keeper keeps: jobs that run, and those that ended and were not removed."""
        try:
            records = self._keeper.ask({"do": "list"})["jobs"]
        except Lost as error:
            raise Unreachable(str(error)) from error
        return [self._ref(record) for record in records]

    @hookimpl
    def siteward_remove_job(self, ref: JobRef) -> None:
        """Let the keeper forget the job's end: it is told with the next request, or at the latest on close."""
        message = {**self._name(ref), "do": "forget"}
        if self._keeper.tell(message) or not self._anything_on_record():
            return
        try:
            self._keeper.ask({"do": "check"})
        except Lost as error:
            raise Unreachable(str(error)) from error
        self._keeper.tell(message)

    def _anything_on_record(self) -> bool:
        try:
            return (self._directory / wire.JOURNAL).stat().st_size > 0
        except OSError:
            return False

    @hookimpl
    def siteward_render_job(self, request: JobRequest) -> object:
        """Return what would be run."""
        cpus, memory = self._limits(request)
        return {
            "argv": request.argv(self._python, request.job_dir),
            "cwd": str(request.job_dir),
            "env": self._environment(request),
            "log": str(request.log_file),
            "limits": {"num_of_cpus": cpus, "memory": memory, "max_log_size": self._options.max_log_size},
        }

    @hookimpl
    def siteward_check_backend(self) -> list[Finding]:
        """Look at the keeper, the directory, Python and what can be enforced."""
        from siteward_process.check import check_machine

        return check_machine(self._directory, self._python, self._keeper)

    @hookimpl
    def siteward_close_backend(self) -> None:
        """Hang up. Jobs and keeper go on."""
        if self._subscription is not None:
            self._subscription.close()
        self._news = None
        self._keeper.close()

    # --- in between -----------------------------------------------------------------------------------------

    def _limits(self, request: JobRequest) -> tuple[int | None, int | None]:
        asked = request.resources
        caps = self._options
        check_caps(
            request.site,
            {
                "CPUs": (asked.num_of_cpus, caps.max_cpus),
                "bytes of memory": (asked.memory, caps.max_memory),
            },
        )
        if asked.memory is not None and asked.memory < _LEAST_MEMORY:
            raise LaunchRefused(
                f"the job asks for {asked.memory} bytes of memory, the least that works is {_LEAST_MEMORY} (16Mi)."
                " Ask for more in resource_spec."
            )
        return asked.num_of_cpus or caps.max_cpus, asked.memory or caps.max_memory

    def _environment(self, request: JobRequest) -> dict[str, str]:
        return {**self._base_env, **request.environment(request.job_dir)}

    def _ref(self, record: Mapping[str, Any]) -> JobRef:
        job_id, attempt = parts_of(record["k"])
        return JobRef(
            site=self._context.site,
            backend=self._context.backend,
            job_id=job_id,
            attempt=attempt,
            data={name: record.get(name) for name in _REF_DATA},
        )

    def _name(self, ref: JobRef) -> dict[str, Any]:
        return {**ref.data, "k": key_of(ref.job_id, ref.attempt)}


def _resolve(program: str, base_dir: Path) -> str:
    """Return a program of the site file: a name is looked up on PATH, a path is relative to the site file."""
    return str(base_dir / Path(program).expanduser()) if "/" in program else program


def _status(record: Mapping[str, Any]) -> JobStatus:
    end = record.get("end")
    if end is None:
        return RUNNING
    result = _result(record, end)
    return JobStatus(state=result.state, result=result)


def _result(record: Mapping[str, Any], end: Mapping[str, Any]) -> Result:
    result = ended(
        reason=Reason(end["reason"]) if "reason" in end else None,
        exit_code=end.get("exit"),
        signal=end.get("signal"),
        message=end.get("message", ""),
        started_at=record["t0"],
        ended_at=end["at"],
        usage=Usage(cpu_seconds=end["cpu"], peak_memory=end["memory"]) if "cpu" in end else None,
    )
    return evolve(result, message="; ".join([result.message, *end["notes"]])) if "notes" in end else result
