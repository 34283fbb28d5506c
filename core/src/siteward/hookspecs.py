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
        ...

    @hookspec(firstresult=True)
    def siteward_poll_job(self, ref: JobRef) -> JobStatus:  # type: ignore[empty-body]
        ...

    @hookspec(firstresult=True)
    def siteward_terminate_job(self, ref: JobRef, grace: float) -> None: ...

    @hookspec(firstresult=True)
    def siteward_resolve_options(self, options: Any) -> Any: ...

    @hookspec(firstresult=True)
    def siteward_watch_jobs(self, publish: Publish) -> None: ...

    @hookspec(firstresult=True)
    def siteward_stage_job(self, ref: JobRef, source: Path) -> None: ...

    @hookspec(firstresult=True)
    def siteward_collect_job(self, ref: JobRef, target: Path) -> str:  # type: ignore[empty-body]
        ...

    @hookspec(firstresult=True)
    def siteward_read_logs(self, ref: JobRef, follow: bool, tail: int | None) -> Iterator[bytes]:  # type: ignore[empty-body]
        ...

    @hookspec(firstresult=True)
    def siteward_list_jobs(self) -> list[JobRef]:  # type: ignore[empty-body]
        ...

    @hookspec(firstresult=True)
    def siteward_remove_job(self, ref: JobRef) -> None: ...

    @hookspec(firstresult=True)
    def siteward_render_job(self, request: JobRequest) -> object: ...

    @hookspec(firstresult=True)
    def siteward_check_backend(self) -> list[Finding]:  # type: ignore[empty-body]
        ...

    @hookspec(firstresult=True)
    def siteward_close_backend(self) -> None: ...


class ResourceSpec:
    """Hooks of a resource manager; exactly one manager acts per site."""

    @hookspec(firstresult=True)
    def siteward_check_resources(self, requirement: Mapping[str, Any], job_id: str) -> Reservation | Refusal:  # type: ignore[empty-body]
        ...

    @hookspec(firstresult=True)
    def siteward_cancel_resources(self, token: str) -> None: ...

    @hookspec(firstresult=True)
    def siteward_allocate_resources(self, token: str, job_id: str) -> Allocation:  # type: ignore[empty-body]
        ...

    @hookspec(firstresult=True)
    def siteward_free_resources(self, token: str) -> None: ...

    @hookspec(firstresult=True)
    def siteward_report_resources(self) -> dict[str, Any]:  # type: ignore[empty-body]
        ...


class PluginSpec:
    """Hooks of every plugin: failure filters and observers, called one at a time in name order, each isolated."""

    @hookspec
    def siteward_filter_failure_report(self, report: FailureReport) -> FailureReport | None: ...

    @hookspec
    def siteward_job_launched(self, ref: JobRef) -> None: ...

    @hookspec
    def siteward_job_ended(self, ref: JobRef, result: Result) -> None: ...


def _names(spec: type) -> tuple[str, ...]:
    return tuple(name for name in vars(spec) if name.startswith("siteward_"))


BACKEND_HOOKS = _names(BackendSpec)
RESOURCE_HOOKS = _names(ResourceSpec)
PLUGIN_HOOKS = _names(PluginSpec)
REQUIRED_BACKEND_HOOKS = BACKEND_HOOKS[:3]
REQUIRED_RESOURCE_HOOKS = RESOURCE_HOOKS
