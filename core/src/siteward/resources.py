"""What a job asks of a site's hardware, and what a resource manager answers.

A job's ``resource_spec`` has three portable keys (``num_of_gpus``, ``num_of_cpus``, ``memory``) that every
backend enforces as far as it can, and further keys that only the site's resource manager reads.
Merge and legacy rules are NVIDIA FLARE 2.9's (#5092).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from siteward.errors import OptionsRefused, Problem

PORTABLE_KEYS = ("num_of_gpus", "num_of_cpus", "memory")
DEFAULT_KEY = "@default"
LEGACY_BACKENDS = ("process", "docker", "k8s", "slurm")
_MEMORY = re.compile(r"[1-9][0-9]*(Mi|Gi|Ti)", re.ASCII)
_UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@frozen(kw_only=True)
class PortableResources:
    """What a job asks for on any backend: GPUs and CPUs as counts, memory in bytes; None where it does not say."""

    num_of_gpus: int | None = None
    num_of_cpus: int | None = None
    memory: int | None = None


_NOTHING = PortableResources()


@frozen(kw_only=True)
class Reservation:
    """A yes: units held for this job until ``expires_at`` (seconds since the epoch; None: never).

    ``notes`` say in words what was asked and is not promised; they end up in the result's message.
    """

    token: str
    expires_at: float | None = None
    units: Mapping[str, Any] = {}
    notes: Sequence[str] = ()


@frozen(kw_only=True)
class Refusal:
    """A no: a short ``reason`` for programs and a ``message`` in words ("2 GPUs asked, 1 free").

    ``permanent`` says that this can never be met at the site as it is, so that waiting does not help.
    """

    reason: str
    message: str
    permanent: bool = False


@frozen(kw_only=True)
class Allocation:
    """Units handed to a job: environment for it alone, and device ids for backends that take them.

    ``device_variables`` are those names in ``env`` that name devices as this host does: they are left out where a
    backend places the devices itself (its ``devices``). With ``to_free=False`` nothing is held, and nothing will be
    freed.
    """

    token: str
    env: Mapping[str, str] = {}
    devices: Sequence[str] = ()
    device_variables: Sequence[str] = ()
    to_free: bool = True

    def placed(self, devices: str) -> Allocation:
        """Return what a backend is given whose jobs come to devices by ``env``, ``ids`` or ``counts``."""
        if devices == "env" or not (self.devices or self.device_variables):
            return self
        env = {name: value for name, value in self.env.items() if name not in self.device_variables}
        return evolve(self, env=env, devices=self.devices if devices == "ids" else ())


def check_caps(site: str, asked: Mapping[str, tuple[int | None, int | None]]) -> None:
    """Raise OptionsRefused with everything of which a job asks for more than a site allows.

    ``asked`` is what ("CPUs", "bytes of memory") to the amount asked for and the site's cap; None: no amount, no cap.
    For backends, whose caps on ``resource_spec`` can be held against a whole request only.
    """
    problems = [
        Problem(
            "resource_spec", f"at site {site!r}: the job asks for {amount} {what}, the site allows {cap}. Ask for less"
        )
        for what, (amount, cap) in asked.items()
        if amount is not None and cap is not None and amount > cap
    ]
    if problems:
        raise OptionsRefused(problems)


def parse_memory(text: str) -> int:
    """Return the bytes of ``512Mi``, ``2Gi`` or ``1Ti``; ValueError for anything else."""
    if not _MEMORY.fullmatch(text):
        raise ValueError(f"expected a whole number with Mi, Gi or Ti (like 2Gi), got {text!r}")
    return int(text[:-2]) * _UNITS[text[-2:]]


def portable_problems(block: Mapping[str, Any], *, only_portable: bool = False) -> list[Problem]:
    """Return what is wrong with the portable keys of one ``resource_spec`` block (paths relative to it).

    With ``only_portable`` (the ``@default`` block) any other key is a mistake too.
    """
    problems = []
    for key, least in (("num_of_gpus", 0), ("num_of_cpus", 1)):
        value = block.get(key, least)
        if type(value) is not int or value < least:
            problems.append(Problem(key, f"expected a whole number of at least {least}, got {value!r}"))
    if "memory" in block:
        memory = block["memory"]
        if not isinstance(memory, str) or not _MEMORY.fullmatch(memory):
            problems.append(Problem("memory", f"expected a whole number with Mi, Gi or Ti (like 2Gi), got {memory!r}"))
    if only_portable:
        problems += [
            Problem(key, f"unknown key; {DEFAULT_KEY} takes only {', '.join(PORTABLE_KEYS)}")
            for key in block
            if key not in PORTABLE_KEYS
        ]
    return problems


def spec_problems(resource_spec: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    """Return what is wrong with the portable keys of a whole ``resource_spec``.

    Of a legacy nested block only its ``process`` block can be portable; the others are their backends' own.
    """
    problems = []
    for site, block in resource_spec.items():
        if site != DEFAULT_KEY and _is_nested(block):
            own = block.get("process", {})
            if not isinstance(own, Mapping):
                problems.append(Problem(f"{site}.process", "expected a mapping"))
            else:
                problems += [p.under(f"{site}.process") for p in portable_problems(own)]
        else:
            problems += [p.under(site) for p in portable_problems(block, only_portable=site == DEFAULT_KEY)]
    return problems


def _is_nested(block: Mapping[str, Any]) -> bool:
    """Whether a site's block is the legacy shape, one mapping per backend; keys beside those count for nothing."""
    return any(isinstance(block.get(name), Mapping) for name in LEGACY_BACKENDS)


def nested_blocks(resource_spec: Mapping[str, Any], site: str) -> dict[str, Mapping[str, Any]]:
    """Return the legacy per-backend blocks of a site (``{"site-1": {"docker": {...}}}``), empty if it has none."""
    own = resource_spec.get(site, {})
    return {name: own[name] for name in LEGACY_BACKENDS if isinstance(own.get(name), Mapping)}


def portable_resources(resource_spec: Mapping[str, Any], site: str) -> PortableResources:
    """Merge ``@default`` with a site's block, key by key, the site winning, and read the portable keys.

    Without ``@default`` a legacy nested block asks for nothing portable; with it, its ``process`` block counts.
    """
    if not resource_spec:
        return _NOTHING
    own = resource_spec.get(site, {})
    if _is_nested(own):
        own = own.get("process", {}) if DEFAULT_KEY in resource_spec else {}
    merged = {**resource_spec.get(DEFAULT_KEY, {}), **own}
    memory = merged.get("memory")
    return PortableResources(
        num_of_gpus=merged.get("num_of_gpus"),
        num_of_cpus=merged.get("num_of_cpus"),
        memory=None if memory is None else parse_memory(memory),
    )


def requirement(resource_spec: Mapping[str, Any], site: str) -> dict[str, Any]:
    """Return what the site's resource manager is asked for.

    The merged block without ``num_of_cpus`` and ``memory`` (the backend's); no GPUs means no GPU keys at all.
    """
    own = resource_spec.get(site, {})
    if _is_nested(own):
        own = own.get("process", {})
        if DEFAULT_KEY not in resource_spec:
            return dict(own)
    merged = {**resource_spec.get(DEFAULT_KEY, {}), **own}
    merged.pop("num_of_cpus", None)
    merged.pop("memory", None)
    if merged.get("num_of_gpus") == 0:
        del merged["num_of_gpus"]
        merged.pop("mem_per_gpu_in_GiB", None)
    return merged
