"""The public API as a user's program and a plugin see it. mypy and pyright read this file; nothing runs it."""

from collections.abc import Iterator, Mapping
from typing import assert_type

from attrs import frozen

import siteward
from siteward import (
    Context,
    FailureReport,
    Handle,
    Job,
    JobRef,
    JobRequest,
    JobState,
    JobStatus,
    Result,
    Run,
    Site,
    Verdict,
    hookimpl,
)


def one_job() -> int | None:
    """A launch through a site: the handle, its result and its log."""
    with Site.load("site.yaml") as site:
        assert_type(site, Site)
        handle = site.launch(Job.load("job.yaml"))
        assert_type(handle, Handle)
        assert_type(handle.logs(follow=True), Iterator[bytes])
        assert_type(handle.wait_until(JobState.RUNNING, timeout=30), bool)
        assert_type(handle.status(), JobStatus)
        assert_type(handle.ref, JobRef | None)
        handle.add_done_callback(lambda done: print(done.job_id))
        handle.terminate(grace=5)
        result = handle.wait(timeout=60)
        assert_type(result, Result)
        assert_type(result.report, FailureReport | None)
        assert_type(site.attach(handle.job_id), Handle)
        return result.exit_code


async def awaited(handle: Handle) -> Result:
    """A handle can be awaited."""
    return assert_type(await handle, Result)


def many_sites(job: Job, sites: list[Site]) -> Mapping[str, Result]:
    """A run over several sites has one verdict and a result for each site."""
    run = siteward.run(job, sites)
    assert_type(run, Run)
    assert_type(run.wait(), Verdict)
    assert_type(run.verdict, Verdict | None)
    run.terminate()
    return run.results


@frozen(kw_only=True)
class Options:
    """What a backend reads from a file."""

    queue: str = "default"


class Backend:
    """A complete backend, as a plugin's author writes it: decorated hooks keep their types."""

    api = 1
    JobOptions = SiteOptions = StudyOptions = Options

    def __init__(self, context: Context, options: Options) -> None:
        self.context, self.options = context, options

    @hookimpl
    def siteward_launch_job(self, request: JobRequest) -> JobRef:
        """Give the job's identity on the platform."""
        assert_type(request.argv("python3", request.job_dir), list[str])
        assert_type(request.environment(request.job_dir), dict[str, str])
        return JobRef(site=request.site, backend=self.context.backend, job_id=request.job_id, data={"task": 1})

    @hookimpl
    def siteward_poll_job(self, ref: JobRef) -> JobStatus:
        """Look once."""
        return JobStatus(state=JobState.RUNNING, message=f"task {ref.data['task']}")

    @hookimpl
    def siteward_terminate_job(self, ref: JobRef, grace: float) -> None:
        """Ask the platform to end the job."""


def a_decorated_hook_keeps_its_type(backend: Backend, request: JobRequest) -> None:
    """What a hook returns is still known after the decoration."""
    assert_type(backend.siteward_launch_job(request), JobRef)
