"""Resource manager ``best_effort``: every job may start, and what it asked for is not promised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from attrs import frozen

from siteward import Allocation, Context, Reservation, hookimpl


class Manager:
    """Says yes to whatever is asked. It keeps nothing, so nothing is to be given back."""

    api = 1

    @frozen(kw_only=True)
    class SiteOptions:
        """What the site sets: nothing."""

    def __init__(self, context: Context, options: Manager.SiteOptions) -> None:
        """Keep nothing."""

    @hookimpl
    def siteward_check_resources(self, requirement: Mapping[str, Any], job_id: str) -> Reservation:
        """Say yes, with a token that is new each time; TypeError for what is no mapping."""
        if not isinstance(requirement, Mapping):
            raise TypeError(f"expected a mapping of what the job asks for, got {type(requirement).__name__}")
        if not requirement:
            return Reservation(token=str(uuid4()))
        asked = ", ".join(f"{key} {value}" for key, value in requirement.items())
        note = f"{asked} asked and not promised: the site's resource manager is best_effort"
        return Reservation(token=str(uuid4()), notes=(note,))

    @hookimpl
    def siteward_cancel_resources(self, token: str) -> None:
        """Do nothing: nothing is held."""

    @hookimpl
    def siteward_allocate_resources(self, token: str, job_id: str) -> Allocation:
        """Hand out nothing, of which nothing is to be freed."""
        return Allocation(token=token, to_free=False)

    @hookimpl
    def siteward_free_resources(self, token: str) -> None:
        """Do nothing: nothing is held."""

    @hookimpl
    def siteward_report_resources(self) -> dict[str, Any]:
        """Return nothing: nothing is counted."""
        return {}
