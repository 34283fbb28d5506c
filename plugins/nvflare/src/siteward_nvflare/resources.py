"""FLARE's resource manager and consumer over a siteward site's resource manager."""

from __future__ import annotations

from typing import Any

from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.resource_manager_spec import ResourceConsumerSpec, ResourceManagerSpec

from siteward import ResourceError, ResourcesRefused
from siteward_nvflare.bridge import PROPERTY, Bridge


class SitewardResourceManager(ResourceManagerSpec, FLComponent):  # type: ignore[misc]
    """Asks the resource manager of the siteward site that this FLARE site's launcher uses."""

    def check_resources(self, resource_requirement: dict[str, Any], fl_ctx: Any) -> tuple[bool, str]:
        """Return (True, token) when reserved, else (False, why): FLARE shows the words in the job's history."""
        if not isinstance(resource_requirement, dict):
            raise TypeError(f"resource_requirement should be a dict, but got {type(resource_requirement).__name__}")
        job_id = fl_ctx.get_prop(FLContextKey.CURRENT_JOB_ID)
        if not job_id:
            return False, "FLARE did not say for which job"
        try:
            return True, _bridge(fl_ctx).reserve(resource_requirement, str(job_id), fl_ctx.get_identity_name())
        except ResourcesRefused as refused:
            return False, refused.refusal.message

    def cancel_resources(self, resource_requirement: dict[str, Any], token: str, fl_ctx: Any) -> None:
        """Give a reservation back; one that is gone is no error."""
        _bridge(fl_ctx).give_back(token)

    def allocate_resources(self, resource_requirement: dict[str, Any], token: str, fl_ctx: Any) -> dict[str, Any]:
        """Keep the reservation for the job that FLARE starts next; what it gets reaches that job alone."""
        _bridge(fl_ctx).allocate(token)
        # Something, so that FLARE frees it should the job not come to be launched.
        return {"siteward": token}

    def free_resources(self, resources: dict[str, Any], token: str, fl_ctx: Any) -> None:
        """Give back what no job took; what a job holds, siteward frees at its end. Idempotent."""
        _bridge(fl_ctx).give_back(token)

    def report_resources(self, fl_ctx: Any) -> dict[str, Any]:
        """Return what the site's resource manager reports."""
        return dict(_bridge(fl_ctx).site.resources())


class SitewardResourceConsumer(ResourceConsumerSpec, FLComponent):  # type: ignore[misc]
    """Does nothing: the parent's own environment stays as it is, allocations go to the job alone."""

    def consume(self, resources: dict[str, Any]) -> None:
        """Leave the parent alone."""


def _bridge(fl_ctx: Any) -> Bridge:
    bridge = fl_ctx.get_prop(PROPERTY)
    if not isinstance(bridge, Bridge):
        raise ResourceError("this site has no siteward launcher; run `siteward-nvflare check` on its kit")
    return bridge
