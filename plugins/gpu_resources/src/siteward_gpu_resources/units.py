"""Resource manager ``list``: named units of any kind, as licences, ports or FPGAs, that no two jobs have at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from siteward import Allocation, Context, Problem, Refusal, Reservation, ResourceError, check_env, hookimpl
from siteward_gpu_resources.desk import Desk, check_period, empty_allocation
from siteward_gpu_resources.fit import impossible
from siteward_gpu_resources.gpu import MASK, ORDER
from siteward_gpu_resources.leases import Lease

# What no unit should replace by accident, because its kind happens to be called so.
_TAKEN = re.compile(r"PATH|HOME|LANG|TZ|TMPDIR|USER|SHELL|LD_.*|PYTHON.*|SITEWARD_.*")
_NO_LETTER = re.compile(r"[^A-Z0-9]+", re.ASCII)


def _check_units(units: Mapping[str, tuple[Any, ...]]) -> list[Problem] | None:
    problems = []
    for kind, names in units.items():
        texts = [str(name) for name in names]
        if len(set(texts)) < len(texts):
            problems.append(Problem(kind, "a unit is named twice"))
        if any("," in text or "\0" in text or not text.strip() for text in texts):
            problems.append(Problem(kind, "a unit's name is some text without a comma"))
    return problems or None


class Manager:
    """Hands out the units that the site lists; they are the site's own, and jobs get them as environment."""

    api = 1

    @frozen(kw_only=True)
    class SiteOptions:
        """What the site sets."""

        units: Mapping[str, tuple[str | int, ...]] = field(
            factory=dict,
            metadata={"help": "the units of each kind, by name: what jobs ask for by number", "check": _check_units},
        )
        env: Mapping[str, str] = field(
            factory=dict,
            metadata={
                "help": "kind: the variable that tells a job its units; by default the kind in capitals, and for "
                f"gpu {MASK}",
            },
        )
        expiration_period: float = field(
            default=30.0, metadata={"help": "seconds that a reservation lasts", "check": check_period}
        )

    def __init__(self, context: Context, options: Manager.SiteOptions) -> None:
        self._units = {kind: list(names) for kind, names in options.units.items()}
        self._variables = _variables(self._units, options.env)
        self._desk = Desk.of_site(context, options.expiration_period)

    @hookimpl
    def siteward_check_resources(self, requirement: Mapping[str, Any], job_id: str) -> Reservation | Refusal:
        """Reserve the first free units of each kind."""
        if not isinstance(requirement, Mapping):
            raise TypeError(f"expected a mapping of what the job asks for, got {type(requirement).__name__}")
        for kind, count in requirement.items():
            if kind not in self._units:
                known = ", ".join(self._units) or "none"
                return impossible(f"this site hands out no {kind!r}; its kinds of units: {known}")
            if type(count) is not int or count < 0:
                return impossible(f"{kind}: expected a whole number of at least 0, got {count!r}")
            if count > (total := len(self._units[kind])):
                return impossible(f"{count} {kind} asked, this site has {total}: waiting will not help")
        if not any(requirement.values()):
            return self._desk.nothing()
        return self._desk.reserve(job_id, lambda leases: self._choose(requirement, leases))

    def _choose(self, requirement: Mapping[str, int], leases: list[Lease]) -> dict[str, list[str | int]] | Refusal:
        chosen, busy = {}, []
        for kind, count in requirement.items():
            holders = {lease.holder.job_id: lease.grants[kind] for lease in leases if kind in lease.grants}
            taken = {unit for units in holders.values() for unit in units}
            free = [unit for unit in self._units[kind] if unit not in taken]
            if count > len(free):
                held = ", ".join(f"job {job_id} ({', '.join(map(str, units))})" for job_id, units in holders.items())
                busy.append(f"{count} {kind} asked, {len(free)} free; held by {held}")
            elif count:
                chosen[kind] = free[:count]
        return Refusal(reason="busy", message="; ".join(busy)) if busy else chosen

    @hookimpl
    def siteward_cancel_resources(self, token: str) -> None:
        """Give a reservation back."""
        self._desk.cancel(token)

    @hookimpl
    def siteward_allocate_resources(self, token: str, job_id: str) -> Allocation:
        """Hand the units to the job, each kind in its variable, separated by commas."""
        lease = self._desk.hold(token, job_id)
        if lease is None:
            return empty_allocation(token)
        env = {self._variables[kind]: ",".join(map(str, units)) for kind, units in lease.grants.items()}
        if MASK not in env:
            return Allocation(token=token, env=env)
        env[ORDER] = "PCI_BUS_ID"
        return Allocation(token=token, env=env, devices=env[MASK].split(","), device_variables=(MASK, ORDER))

    @hookimpl
    def siteward_free_resources(self, token: str) -> None:
        """Give the job's units back."""
        self._desk.free(token)

    @hookimpl
    def siteward_report_resources(self) -> dict[str, Any]:
        """Return each kind's units, and who has which."""
        held: dict[str, dict[str | int, Any]] = {}
        for kind, units, job_id, who in self._desk.holders():
            for unit in units:
                held.setdefault(kind, {})[unit] = {"job_id": job_id, **who}
        return {
            kind: {str(unit): held.get(kind, {}).get(unit, "free") for unit in units}
            for kind, units in self._units.items()
        }


def _variables(units: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """Return the variable of each kind; ResourceError when one cannot be used."""
    for kind in given:
        if kind not in units:
            raise ResourceError(f"env.{kind}: there are no units of this kind; units: {', '.join(units) or 'none'}")
    variables: dict[str, str] = {}
    for kind in units:
        plain = MASK if kind == "gpu" else _NO_LETTER.sub("_", kind.upper()).strip("_")
        name = given.get(kind, plain)
        if check_env({name: ""}) or (kind not in given and _TAKEN.fullmatch(name)):
            raise ResourceError(f"units.{kind}: {name!r} cannot be its variable; name another with env: {{{kind}: …}}")
        if name in variables.values():
            raise ResourceError(f"units.{kind}: its variable {name} is another kind's too; name another in env")
        variables[kind] = name
    return variables
