"""siteward: launch, watch and account for one job per site, on whatever each site runs.

>>> from siteward import Job
>>> job = Job.from_mapping({"name": "hello", "command": ["echo", "hello from {site}"]})
>>> job.name
'hello'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siteward.archive import pack_directory, unpack_directory
    from siteward.config import check_argv, check_env, check_not_negative, check_positive, nearest
    from siteward.ends import JobState, Reason, Result, ReturnCode, Usage, ended
    from siteward.errors import (
        BackendError,
        DuplicateJob,
        FileError,
        LaunchError,
        LaunchRefused,
        LaunchUncertain,
        NoBackend,
        OptionsRefused,
        PluginError,
        Problem,
        ResourceError,
        ResourcesRefused,
        SitewardError,
        StoreError,
        UnknownJob,
        Unreachable,
        WorkspaceError,
    )
    from siteward.failures import Disposition, FailureReport, disposition
    from siteward.handle import Handle
    from siteward.hookspecs import API, Publish, hookimpl
    from siteward.installation import installation_id
    from siteward.job import Job
    from siteward.later import Later
    from siteward.launching import Prepared
    from siteward.liveness import Liveness, job_lives
    from siteward.names import safe_name
    from siteward.ownership import hand_over
    from siteward.plugins import Plugins
    from siteward.request import Context, Finding, JobRef, JobRequest, JobStatus, Secrets
    from siteward.resources import Allocation, PortableResources, Refusal, Reservation, check_caps
    from siteward.runs import Run, run
    from siteward.site import Garbage, Site
    from siteward.sitefile import SiteFile
    from siteward.statedir import remove_tree
    from siteward.store import Event, JobRow
    from siteward.verdicts import Judgement, Verdict, judge

__version__ = "0.1.0"
__all__ = [
    "API",
    "Allocation",
    "BackendError",
    "Context",
    "Disposition",
    "DuplicateJob",
    "Event",
    "FailureReport",
    "FileError",
    "Finding",
    "Garbage",
    "Handle",
    "Job",
    "JobRef",
    "JobRequest",
    "JobRow",
    "JobState",
    "JobStatus",
    "Judgement",
    "Later",
    "LaunchError",
    "LaunchRefused",
    "LaunchUncertain",
    "Liveness",
    "NoBackend",
    "OptionsRefused",
    "PluginError",
    "Plugins",
    "PortableResources",
    "Prepared",
    "Problem",
    "Publish",
    "Reason",
    "Refusal",
    "Reservation",
    "ResourceError",
    "ResourcesRefused",
    "Result",
    "ReturnCode",
    "Run",
    "Secrets",
    "Site",
    "SiteFile",
    "SitewardError",
    "StoreError",
    "UnknownJob",
    "Unreachable",
    "Usage",
    "Verdict",
    "WorkspaceError",
    "__version__",
    "check_argv",
    "check_caps",
    "check_env",
    "check_not_negative",
    "check_positive",
    "disposition",
    "ended",
    "hand_over",
    "hookimpl",
    "installation_id",
    "job_lives",
    "judge",
    "nearest",
    "pack_directory",
    "remove_tree",
    "run",
    "safe_name",
    "unpack_directory",
]
# Imported when first used: `siteward plugins` and plugins themselves need a small part of all this.
_HOMES = {
    "archive": "pack_directory unpack_directory",
    "config": "check_argv check_env check_not_negative check_positive nearest",
    "ends": "JobState Reason Result ReturnCode Usage ended",
    "errors": "BackendError DuplicateJob FileError LaunchError LaunchRefused LaunchUncertain NoBackend "
    "OptionsRefused PluginError Problem ResourceError ResourcesRefused SitewardError StoreError UnknownJob "
    "Unreachable WorkspaceError",
    "failures": "Disposition FailureReport disposition",
    "handle": "Handle",
    "hookspecs": "API Publish hookimpl",
    "installation": "installation_id",
    "job": "Job",
    "later": "Later",
    "liveness": "Liveness job_lives",
    "names": "safe_name",
    "ownership": "hand_over",
    "plugins": "Plugins",
    "request": "Context Finding JobRef JobRequest JobStatus Secrets",
    "resources": "Allocation PortableResources Refusal Reservation check_caps",
    "runs": "Run run",
    "launching": "Prepared",
    "site": "Garbage Site",
    "sitefile": "SiteFile",
    "statedir": "remove_tree",
    "store": "Event JobRow",
    "verdicts": "Judgement Verdict judge",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'siteward' has no attribute {name!r}")
    value = getattr(import_module(f"siteward.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
