"""The hooks: the whole of what a backend, a resource manager or an observer can implement.

A backend that implements the first three is complete; every other hook upgrades it, and without it the core
falls back as its docstring says. Launches may be concurrent; poll, terminate, collect and remove are serial
per ref. Every call to a platform needs a timeout of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pluggy

from siteward.ends import Result
from siteward.failures import FailureReport
from siteward.request import Finding, JobRef, JobRequest, JobStatus
from siteward.resources import Allocation, Refusal, Reservation

PROJECT = "siteward"
API = 1
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Publish(Protocol):
    """What a watch tells the core through; callable from any thread, cheap, never raises."""

    def __call__(self, ref: JobRef, status: JobStatus) -> None:
        """Tell of a change; the same news twice does no harm, and an unknown ref is kept until it is known."""

    def failed(self, error: BaseException) -> None:
        """Tell that the watch cannot see any more; the core polls from then on."""


class BackendSpec:
    """Hooks of a backend; exactly one backend acts per launcher."""

    @hookspec(firstresult=True)
    def siteward_launch_job(self, request: JobRequest) -> JobRef:  # type: ignore[empty-body]
        """Hand a job to the platform, and return its ref as soon as the platform has accepted it.

        Called once an attempt, after every check; launches may be concurrent. Never wait for a start or a pull, and
        be idempotent: asked again for the same job id and attempt, return the same ref and start nothing. A command
        that cannot be found is a job that has ended (``LaunchFailed``), not an error here. The site's one backend
        acts; other plugins may only wrap it. None counts as an exception.

        :class:`~siteward.LaunchRefused` says that nothing exists, :class:`~siteward.LaunchUncertain` that
        something may; after any other exception the core asks ``siteward_list_jobs`` whether the job exists.

        >>> @hookimpl
        ... def siteward_launch_job(self, request):
        ...     argv, env = request.argv(sys.executable, request.job_dir), request.environment(request.job_dir)
        ...     number = self.queue.submit(argv, env, request.job_dir, output=request.log_file, key=request.job_id)
        ...     return JobRef(
        ...         site=request.site, backend=request.backend, job_id=request.job_id, data={"number": number}
        ...     )
        """

    @hookspec(firstresult=True)
    def siteward_poll_job(self, ref: JobRef) -> JobStatus:  # type: ignore[empty-body]
        """Look at a job once.

        Called each ``poll_interval`` while the backend does not watch, rarely while it does, and when a job is
        adopted; serial per ref. Do not answer from a cache that may be older than the job. The site's one backend
        acts. None counts as an exception, and an exception means that the job cannot be seen just now: its last
        state stays. A job that is seen to be gone has ended, as ``Reason.DELETED``, ``NODE_LOST`` or
        ``BACKEND_LOST``.

        >>> @hookimpl
        ... def siteward_poll_job(self, ref):
        ...     code = self.queue.exit_code(ref.data["number"])
        ...     if code is None:
        ...         return JobStatus(state=JobState.RUNNING)
        ...     result = ended(exit_code=code)
        ...     return JobStatus(state=result.state, result=result)
        """

    @hookspec(firstresult=True)
    def siteward_terminate_job(self, ref: JobRef, grace: float) -> None:
        """Ask for a job's end: TERM now, KILL after ``grace`` seconds, for all of its processes.

        Called when the job is stopped or reaches its timeout; again with a shorter grace when someone insists, and
        after a crash. Return at once: the end is seen by poll or watch. A job that has ended or is gone is no error.
        The site's one backend acts. Returns None. After an exception it is called again, with growing pauses.

        >>> @hookimpl
        ... def siteward_terminate_job(self, ref, grace):
        ...     self.queue.cancel(ref.data["number"], kill_after=grace)
        """

    @hookspec(firstresult=True)
    def siteward_resolve_options(self, options: Any) -> Any:
        """Return the job's options as they will be used: the site's defaults filled in, its caps applied.

        Called for a launch, and by ``siteward render``, before anything is reserved. Pure: the core may keep the
        answer for options that are the same. ``options`` is the backend's own ``JobOptions``. The site's one backend
        acts; without this hook options stay as read. None is not an answer. Raise
        :class:`~siteward.OptionsRefused` with every problem at once; any exception means that the job is not started.

        >>> @hookimpl
        ... def siteward_resolve_options(self, options):
        ...     if options.priority > self.options.max_priority:
        ...         raise OptionsRefused([Problem("priority", f"expected at most {self.options.max_priority}")])
        ...     return options
        """

    @hookspec(firstresult=True)
    def siteward_watch_jobs(self, publish: Publish) -> None:
        """Begin to tell of every change of the site's jobs through ``publish``, by itself.

        Called once, before the first launch; return at once and own the threads. Tell of jobs that earlier processes
        launched too. Publish nothing after ``siteward_close_backend`` has returned. The site's one backend acts;
        without this hook jobs are polled. Returns None. After an exception, and after ``publish.failed``, the core
        polls.

        >>> @hookimpl
        ... def siteward_watch_jobs(self, publish):
        ...     def tell(number):
        ...         ref = self.queue.ref_of(number)
        ...         publish(ref, self.siteward_poll_job(ref))
        ...     self.queue.on_change(tell)
        """

    @hookspec(firstresult=True)
    def siteward_stage_job(self, ref: JobRef, source: Path) -> None:
        """Bring the job directory, ``source``, to where the platform's jobs see it.

        Called after launch while the job is PENDING, and again after a crash or a failure: idempotent. It may
        overlap other calls for the job. The site's one backend acts; without this hook the platform shares the
        directory. A backend whose options leave it nothing to bring has an attribute ``stages = False``, and is not
        called. Returns None. After five exceptions, or some minutes of :class:`~siteward.Unreachable`, the job is
        ended as ``LaunchFailed``.

        >>> @hookimpl
        ... def siteward_stage_job(self, ref, source):
        ...     self.queue.upload(ref.data["number"], source)
        """

    @hookspec(firstresult=True)
    def siteward_collect_job(self, ref: JobRef, target: Path) -> str:  # type: ignore[empty-body]
        """Bring what the job wrote back into the job directory, ``target``.

        Called at the end, before resources are freed, and again after a crash: idempotent. Return ``returned``,
        ``partial`` or ``lost``; it becomes the result's ``workspace``. The site's one backend acts; without this hook
        the directory counts as returned. None counts as ``partial``. An exception is tried again, for some minutes
        when it is :class:`~siteward.Unreachable`, and then the directory counts as lost.

        >>> @hookimpl
        ... def siteward_collect_job(self, ref, target):
        ...     return "returned" if self.queue.download(ref.data["number"], target) else "partial"
        """

    @hookspec(firstresult=True)
    def siteward_read_logs(self, ref: JobRef, follow: bool, tail: int | None) -> Iterator[bytes]:  # type: ignore[empty-body]
        """Return chunks of the job's output, standard output and error together, as bytes.

        Called for ``siteward logs``, and once at the end to save the whole output, unless the backend wrote
        ``request.log_file`` itself. ``follow`` goes on until the end; ``tail`` is a number of lines to begin with,
        None for all. May be a generator; it is closed when the reader leaves. The site's one backend acts; without
        this hook there is no output before the end. None is not an answer. An exception reaches the reader; saving
        is tried three times.

        >>> @hookimpl
        ... def siteward_read_logs(self, ref, follow, tail):
        ...     yield from self.queue.output(ref.data["number"], follow=follow, tail=tail)
        """

    @hookspec(firstresult=True)
    def siteward_list_jobs(self) -> list[JobRef]:  # type: ignore[empty-body]
        """Return the refs of all jobs of this site that the platform has, running or ended and not yet removed.

        Called after a crash or a lost answer, by ``siteward ps --platform`` and by ``gc``. Only this site's, and
        those of earlier processes too. The site's one backend acts; without this hook only the site's store knows
        its jobs. None means no jobs. An exception means that nobody knows: the core asks again before it decides.

        >>> @hookimpl
        ... def siteward_list_jobs(self):
        ...     return [self.queue.ref_of(number) for number in self.queue.numbers()]
        """

    @hookspec(firstresult=True)
    def siteward_remove_job(self, ref: JobRef) -> None:
        """Let the platform forget a job that has ended.

        Called when its result is stored, and by ``gc`` for jobs that the store does not know; serial per ref and
        idempotent. The site's one backend acts; without this hook nothing is removed. Returns None. An exception is
        logged, and removal is tried again when the site is opened next.

        >>> @hookimpl
        ... def siteward_remove_job(self, ref):
        ...     self.queue.forget(ref.data["number"])
        """

    @hookspec(firstresult=True)
    def siteward_render_job(self, request: JobRequest) -> object:
        """Return what would be submitted for a request, as plain data or text.

        Called by ``siteward render``; the platform is not touched and nothing is reserved. Secrets in ``request`` are
        ``***`` already. The site's one backend acts; without this hook, and for None, there is nothing to show. An
        exception reaches the caller.

        >>> @hookimpl
        ... def siteward_render_job(self, request):
        ...     return {"argv": request.argv(sys.executable, request.job_dir)}
        """

    @hookspec(firstresult=True)
    def siteward_check_backend(self) -> list[Finding]:  # type: ignore[empty-body]
        """Say whether the platform can be used, and what to do if not.

        Called by ``siteward doctor``. The site's one backend acts; without this hook nothing is checked. None means
        no findings. An exception becomes a finding of level ``fail``.

        >>> @hookimpl
        ... def siteward_check_backend(self):
        ...     return [Finding(level="ok", subject="queue", message=f"{len(self.queue.numbers())} jobs")]
        """

    @hookspec(firstresult=True)
    def siteward_close_backend(self) -> None:
        """Let go of the platform: end threads, close connections. Jobs go on.

        Called once, when the site is closed. The site's one backend acts; without this hook nothing is closed.
        Returns None. An exception is logged.

        >>> @hookimpl
        ... def siteward_close_backend(self):
        ...     self.queue.close()
        """


class ResourceSpec:
    """Hooks of a resource manager; exactly one manager acts per site."""

    @hookspec(firstresult=True)
    def siteward_check_resources(self, requirement: Mapping[str, Any], job_id: str) -> Reservation | Refusal:  # type: ignore[empty-body]
        """Reserve what a job asks for, or say why not.

        Called for each job before anything is started, and again when a queued job's turn comes. ``requirement`` is
        the job's merged ``resource_spec`` for this site, without ``num_of_cpus`` and ``memory``: backends enforce
        those. A manager that counts them says ``portable = True`` in its class and gets them too, memory in bytes.
        What a yes does not promise is said in the reservation's ``notes``. The site's one manager acts; other plugins
        may only wrap it. None, or an exception, counts as a refusal. A refusal that is ``permanent`` is not
        waited for, and ``siteward render`` tells it too.

        >>> @hookimpl
        ... def siteward_check_resources(self, requirement, job_id):
        ...     if requirement.get("seats", 0) > len(self.free):
        ...         return Refusal(reason="busy", message=f"{requirement['seats']} seats asked, {len(self.free)} free")
        ...     self.held[job_id] = [self.free.pop() for _ in range(requirement.get("seats", 0))]
        ...     return Reservation(token=job_id)
        """

    @hookspec(firstresult=True)
    def siteward_cancel_resources(self, token: str) -> None:
        """Give a reservation back that was not allocated.

        Called when another site says no, when the launch fails, and when the job is queued. A token that is not
        known any more is no error. The site's one manager acts. Returns None. An exception reaches the caller of the
        launch.

        >>> @hookimpl
        ... def siteward_cancel_resources(self, token):
        ...     self.free += self.held.pop(token, [])
        """

    @hookspec(firstresult=True)
    def siteward_allocate_resources(self, token: str, job_id: str) -> Allocation:  # type: ignore[empty-body]
        """Turn a reservation into units for this job, and say how the job is told of them.

        Called right before the launch. The allocation's ``env`` is added to the job's environment; its ``devices`` are
        for the backend. The site's one manager acts. None, or an exception
        (:class:`~siteward.ResourceError` for a token that is not known or has expired), means that the job is not
        started.

        >>> @hookimpl
        ... def siteward_allocate_resources(self, token, job_id):
        ...     return Allocation(token=token, env={"SEATS": ",".join(self.held[token])})
        """

    @hookspec(firstresult=True)
    def siteward_free_resources(self, token: str) -> None:
        """Give a job's units back.

        Called after its end, when its job directory is back, also by another process than the one that allocated
        them, and again after a crash: idempotent. Not called for an allocation with ``to_free=False``. The site's one
        manager acts. Returns None. An exception is tried
        three times, then logged.

        >>> @hookimpl
        ... def siteward_free_resources(self, token):
        ...     self.free += self.held.pop(token, [])
        """

    @hookspec(firstresult=True)
    def siteward_report_resources(self) -> dict[str, Any]:  # type: ignore[empty-body]
        """Return what there is and who has it, as a mapping that JSON can hold.

        Called by ``siteward resources``. The site's one manager acts. None is not an answer. An exception reaches the
        caller.

        >>> @hookimpl
        ... def siteward_report_resources(self):
        ...     return {"free": len(self.free), "held": self.held}
        """


class PluginSpec:
    """Hooks of every plugin: failure filters and observers, called one at a time in name order, each isolated."""

    @hookspec
    def siteward_filter_failure_report(self, report: FailureReport) -> FailureReport | None:
        """Change what is told about a job that did not succeed: hide text, or decide ``reportable`` otherwise.

        Called once for each end that is not SUCCEEDED, before the report leaves the site. Plugins are called one at a
        time in the order of their names, each seeing what the one before left. None leaves the report alone. An
        exception leaves only code and reason: all free text is withheld, and the report says so. ``site``,
        ``job_id`` and ``backend`` cannot be changed.

        >>> @hookimpl
        ... def siteward_filter_failure_report(report):
        ...     return attrs.evolve(report, log_tail="")
        """

    @hookspec
    def siteward_job_launched(self, ref: JobRef) -> None:
        """Hear that a job has been accepted by its platform.

        Called once for each job, when its ref is stored; not again when the job is adopted. Plugins are called one at
        a time in the order of their names. Returns None. Exceptions go to the log.

        >>> @hookimpl
        ... def siteward_job_launched(ref):
        ...     print(ref.job_id, "is with", ref.backend)
        """

    @hookspec
    def siteward_job_ended(self, ref: JobRef, result: Result) -> None:
        """Hear that a job has ended, with its final result and the failure report that the filters left.

        Called once for each job, when its result is stored, its resources are free and its report is filtered;
        again if the driver is killed just then. Plugins are called one at a time in the order of their names.
        Returns None. Exceptions go to the log.

        >>> @hookimpl
        ... def siteward_job_ended(ref, result):
        ...     print(ref.job_id, result.state, result.reason)
        """


def _names(spec: type) -> tuple[str, ...]:
    return tuple(name for name in vars(spec) if name.startswith("siteward_"))


BACKEND_HOOKS = _names(BackendSpec)
RESOURCE_HOOKS = _names(ResourceSpec)
PLUGIN_HOOKS = _names(PluginSpec)
REQUIRED_BACKEND_HOOKS = BACKEND_HOOKS[:3]
REQUIRED_RESOURCE_HOOKS = RESOURCE_HOOKS
