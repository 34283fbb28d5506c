"""A site's resource manager at work: typed calls to its hooks. A site without one says yes to everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from siteward.config import Problems, build
from siteward.errors import BackendError, PluginError, ResourceError
from siteward.launcher import NoOptions
from siteward.plugins import Plugins
from siteward.request import Context
from siteward.resources import Allocation, Refusal, Reservation


class ResourceManager:
    """The one resource manager of a site."""

    def __init__(self, plugins: Plugins, context: Context, block: Mapping[str, Any]) -> None:
        self.name = context.backend
        kind = plugins.resource_manager(self.name)
        options = build(getattr(kind, "SiteOptions", NoOptions), block)
        try:
            manager = kind(context, options)
        except Problems:
            raise
        except Exception as error:
            raise PluginError(self.name, f"resource manager {self.name!r}: {error}") from error
        self.manager = plugins.make_manager()
        plugins.register_resource_manager(self.manager, manager, self.name)
        self._hook = self.manager.hook
        self.portable = bool(getattr(kind, "portable", False))

    def _call(self, hook: str, **arguments: object) -> Any:
        try:
            return getattr(self._hook, hook)(**arguments)
        except SystemExit as error:
            raise ResourceError(f"resource manager {self.name!r}: {hook} called sys.exit({error.code!r})") from error

    def check(self, requirement: Mapping[str, Any], job_id: str) -> Reservation | Refusal:
        """Reserve what is asked, or say why not; an exception of the manager is a refusal too."""
        try:
            answer = self._call("siteward_check_resources", requirement=requirement, job_id=job_id)
        except Exception as error:
            return Refusal(reason="error", message=f"resource manager {self.name!r}: {error}")
        if not isinstance(answer, (Reservation, Refusal)):
            return Refusal(reason="error", message=f"resource manager {self.name!r} answered neither yes nor no")
        return answer

    def cancel(self, token: str) -> None:
        """Give a reservation back."""
        self._call("siteward_cancel_resources", token=token)

    def allocate(self, token: str, job_id: str) -> Allocation:
        """Turn a reservation into units for this job; ResourceError if it has expired."""
        answer = self._call("siteward_allocate_resources", token=token, job_id=job_id)
        if not isinstance(answer, Allocation):
            raise ResourceError(f"resource manager {self.name!r} allocated nothing for a reservation it had made")
        return answer

    def free(self, token: str) -> None:
        """Give a job's units back; idempotent."""
        self._call("siteward_free_resources", token=token)

    def report(self) -> dict[str, Any]:
        """Return what there is and who holds it, as the manager shows it."""
        answer = self._call("siteward_report_resources")
        if not isinstance(answer, dict):
            raise BackendError(f"resource manager {self.name!r} reported {type(answer).__name__}, not a mapping")
        return answer
