"""Resource manager ``gpu``: whole GPUs, or parts of their memory, that no two jobs of this host share by mistake."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from siteward import Allocation, Context, Refusal, Reservation, ResourceError, check_not_negative, hookimpl
from siteward_gpu_resources.desk import Desk, check_period, empty_allocation
from siteward_gpu_resources.devices import discover
from siteward_gpu_resources.fit import GIB, TOLERANCE, WHOLE, Slot, can_ever, choose, left, wanted
from siteward_gpu_resources.visible import visible_devices

MASK = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"


def _check_key(key: str) -> str | None:
    return None if key.strip() else "expected the name of a key in resource_spec"


class Manager:
    """Hands out the GPUs of this host, or, with ``ignore_host``, as many units that stand for GPUs elsewhere."""

    api = 1

    @frozen(kw_only=True)
    class SiteOptions:
        """What the site sets."""

        num_of_gpus: int | None = field(
            default=None,
            metadata={
                "help": "GPUs that jobs may have: the first so many that the site sees; by default all of them",
                "check": check_not_negative,
            },
        )
        mem_per_gpu_in_GiB: float | None = field(  # noqa: N815
            default=None,
            metadata={
                "help": "memory of each that jobs may share; by default what the card has",
                "check": check_not_negative,
            },
        )
        ignore_host: bool = field(
            default=False,
            metadata={"help": "the GPUs are elsewhere, as a cluster's are: only count them, for this site alone"},
        )
        share: bool = field(
            default=True,
            metadata={"help": "jobs that ask for an amount of memory may share a GPU; false: each GPU is one job's"},
        )
        expiration_period: float = field(
            default=30.0, metadata={"help": "seconds that a reservation lasts", "check": check_period}
        )
        num_gpu_key: str = field(
            default="num_of_gpus",
            metadata={"help": "the key in resource_spec for the number of GPUs", "check": _check_key},
        )
        gpu_mem_key: str = field(
            default="mem_per_gpu_in_GiB",
            metadata={"help": "the key in resource_spec for memory of each GPU, in GiB", "check": _check_key},
        )

    def __init__(self, context: Context, options: Manager.SiteOptions) -> None:
        self._options = options
        if options.ignore_host:
            if options.num_of_gpus is None:
                raise ResourceError("with ignore_host nobody can count the GPUs; say how many in num_of_gpus")
            memory = options.mem_per_gpu_in_GiB or None
            self._slots = [
                Slot(key=str(number), title=f"GPU {number}", memory=memory) for number in range(options.num_of_gpus)
            ]
            self._facts: dict[str, dict[str, str]] = {}
            self._desk = Desk.of_site(context, options.expiration_period)
        else:
            self._slots, self._facts = _host_slots(context, options)
            self._desk = Desk(context, options.expiration_period, context.lease_dir, shared=True)

    @hookimpl
    def siteward_check_resources(self, requirement: Mapping[str, Any], job_id: str) -> Reservation | Refusal:
        """Reserve the first GPUs that are free, or have enough memory left."""
        if not isinstance(requirement, Mapping):
            raise TypeError(f"expected a mapping of what the job asks for, got {type(requirement).__name__}")
        options = self._options
        asked = wanted(requirement, options.num_gpu_key, options.gpu_mem_key)
        if isinstance(asked, Refusal):
            return asked
        count, memory = asked
        if count == 0:
            return self._desk.nothing()
        if refusal := can_ever(count, memory, self._slots, options.gpu_mem_key):
            return refusal
        answer = self._desk.reserve(
            job_id, lambda leases: choose(count, memory, self._slots, leases, share=options.share)
        )
        if isinstance(answer, Refusal):
            return answer
        sizes = {slot.key: slot.memory for slot in self._slots}
        units = {key: sizes[key] or WHOLE if amount is None else amount for key, amount in answer.units.items()}
        return Reservation(token=answer.token, expires_at=answer.expires_at, units=units)

    @hookimpl
    def siteward_cancel_resources(self, token: str) -> None:
        """Give a reservation back."""
        self._desk.cancel(token)

    @hookimpl
    def siteward_allocate_resources(self, token: str, job_id: str) -> Allocation:
        """Hand the GPUs to the job; one that asked for none is kept away from this host's."""
        lease = self._desk.hold(token, job_id)
        if lease is None:
            hidden = {} if self._options.ignore_host else {MASK: ""}
            return empty_allocation(token, env=hidden, device_variables=tuple(hidden))
        devices = tuple(slot.key for slot in self._slots if slot.key in lease.grants)
        env = {ORDER: "PCI_BUS_ID", MASK: ",".join(devices)}
        return Allocation(token=token, env=env, devices=devices, device_variables=tuple(env))

    @hookimpl
    def siteward_free_resources(self, token: str) -> None:
        """Give the job's GPUs back."""
        self._desk.free(token)

    @hookimpl
    def siteward_report_resources(self) -> dict[str, Any]:
        """Return each GPU with its memory, what is left of it, and who has it."""
        report: dict[str, Any] = {}
        amounts: dict[str, list[float | None]] = {}
        holders: dict[str, dict[str, Any]] = {}
        for key, amount, job_id, who in self._desk.holders():
            amounts.setdefault(key, []).append(amount)
            memory = WHOLE if amount is None else f"{amount:g} GiB"
            holders.setdefault(key, {})[job_id] = {**who, "memory": memory}
        for slot in self._slots:
            used = amounts.get(slot.key, [])
            report[slot.title] = {
                **self._facts.get(slot.key, {}),
                "memory": "not known" if slot.memory is None else f"{slot.memory:g} GiB",
                "free": f"{left(slot, used):g} GiB" if slot.memory is not None else "no" if used else "yes",
                "holders": holders.get(slot.key, {}),
            }
        return report


def _host_slots(context: Context, options: Manager.SiteOptions) -> tuple[list[Slot], dict[str, dict[str, str]]]:
    """Return this host's GPUs that the site may hand out; ValueError when it has less than the site file says."""
    if options.num_of_gpus == 0:
        return [], {}
    mask = context.env.get(MASK, os.environ.get(MASK))
    devices = visible_devices(mask, discover())
    if options.num_of_gpus is not None:
        if options.num_of_gpus > len(devices):
            masked = "" if mask is None else f" through {MASK}={mask!r}"
            words = f"num_of_gpus specified ({options.num_of_gpus}) exceeds available GPUs: {len(devices)}{masked}"
            raise ValueError(f"{words}. Lower it, or set ignore_host: true when they are elsewhere")
        devices = devices[: options.num_of_gpus]
    slots, facts = [], {}
    for device in devices:
        memory = None if device.memory is None else round(device.memory / GIB, 2)
        stated = options.mem_per_gpu_in_GiB or None
        if stated is not None and memory is not None and stated * (1 - TOLERANCE) > memory:
            words = f"mem_per_gpu_in_GiB specified ({stated:g}) exceeds the memory of {device.title} ({device.name})"
            raise ValueError(f"{words}: {memory:g} GiB. Lower it, or leave that GPU out with {MASK}")
        slots.append(Slot(key=device.uuid, title=device.title, memory=stated or memory))
        facts[device.uuid] = {"uuid": device.uuid, "name": device.name}
    return slots, facts
