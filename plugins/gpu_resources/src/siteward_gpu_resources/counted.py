"""Resource manager ``cpu_memory``: counts the CPUs and the memory that jobs of a site ask for, so that they fit."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from siteward import Allocation, Context, Refusal, Reservation, check_positive, hookimpl
from siteward_gpu_resources.desk import Desk, check_period, empty_allocation
from siteward_gpu_resources.fit import impossible
from siteward_gpu_resources.leases import Lease

_SIZE = re.compile(r"([1-9][0-9]*)(Mi|Gi|Ti)", re.ASCII)
_BYTES = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_KEYS = ("num_of_cpus", "memory")


def _check_memory(text: str) -> str | None:
    return None if _SIZE.fullmatch(text) else f"expected a whole number with Mi, Gi or Ti (like 8Gi), got {text!r}"


class Manager:
    """Hands out CPUs and memory by amount; a job that asks for neither is not counted."""

    api = 1
    portable = True

    @frozen(kw_only=True)
    class SiteOptions:
        """What the site sets."""

        num_of_cpus: int | None = field(
            default=None,
            metadata={"help": "CPUs that all jobs have together; by default this host's", "check": check_positive},
        )
        memory: str | None = field(
            default=None,
            metadata={
                "help": "memory that all jobs have together (like 8Gi); by default this host's",
                "check": _check_memory,
            },
        )
        expiration_period: float = field(
            default=30.0, metadata={"help": "seconds that a reservation lasts", "check": check_period}
        )

    def __init__(self, context: Context, options: Manager.SiteOptions) -> None:
        memory = _amount(options.memory) if options.memory else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self._total = {"num_of_cpus": options.num_of_cpus or len(os.sched_getaffinity(0)), "memory": memory}
        self._desk = Desk.of_site(context, options.expiration_period)

    @hookimpl
    def siteward_check_resources(self, requirement: Mapping[str, Any], job_id: str) -> Reservation | Refusal:
        """Reserve CPUs and memory, if so much is left."""
        if not isinstance(requirement, Mapping):
            raise TypeError(f"expected a mapping of what the job asks for, got {type(requirement).__name__}")
        asked = {key: _amount(requirement[key]) for key in _KEYS if key in requirement}
        if unknown := [key for key in requirement if key not in _KEYS]:
            words = f"this site's resource manager counts CPUs and memory, and hands out nothing called {unknown[0]!r}"
            return impossible(f"{words}; take it out of the job's resource_spec for this site")
        for key, amount in asked.items():
            if type(amount) is not int or amount < 1:
                return impossible(f"{key}: expected a whole number of at least 1, got {amount!r}")
            if amount > self._total[key]:
                words = f"{_words(key, amount)} asked, this site has {_words(key, self._total[key])}"
                return impossible(f"{words}: waiting will not help")
        return self._desk.reserve(job_id, lambda leases: self._choose(asked, leases)) if asked else self._desk.nothing()

    def _choose(self, asked: Mapping[str, int], leases: list[Lease]) -> Mapping[str, int] | Refusal:
        busy = []
        for key, amount in asked.items():
            holders = {lease.holder.job_id: lease.grants[key] for lease in leases if key in lease.grants}
            free = self._total[key] - sum(holders.values())
            if amount > free:
                held = ", ".join(f"job {job_id} ({_words(key, had)})" for job_id, had in holders.items())
                busy.append(f"{_words(key, amount)} asked, {_words(key, max(free, 0))} free; held by {held}")
        return Refusal(reason="busy", message="; ".join(busy)) if busy else asked

    @hookimpl
    def siteward_cancel_resources(self, token: str) -> None:
        """Give a reservation back."""
        self._desk.cancel(token)

    @hookimpl
    def siteward_allocate_resources(self, token: str, job_id: str) -> Allocation:
        """Count them as the job's; its backend enforces the limits."""
        lease = self._desk.hold(token, job_id)
        return empty_allocation(token) if lease is None else Allocation(token=token)

    @hookimpl
    def siteward_free_resources(self, token: str) -> None:
        """Give them back."""
        self._desk.free(token)

    @hookimpl
    def siteward_report_resources(self) -> dict[str, Any]:
        """Return what there is, what is left, and who has how much."""
        report: dict[str, Any] = {}
        for key, total in self._total.items():
            report[key] = {"total": total, "free": total, "holders": {}}
        for key, amount, job_id, who in self._desk.holders():
            report[key]["free"] -= amount
            report[key]["holders"][job_id] = {**who, "amount": amount}
        return report


def _amount(value: Any) -> Any:
    """Return the bytes of a size in words, which a job's older form of `resource_spec` has; anything else as it is."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    return int(match[1]) * _BYTES[match[2]] if match else value


def _words(key: str, amount: int) -> str:
    if key == "memory":
        return f"{amount / 2**30:.4g} GiB of memory"
    return f"{amount} CPU" if amount == 1 else f"{amount} CPUs"
