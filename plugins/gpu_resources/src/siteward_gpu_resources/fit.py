"""Which GPUs a job gets: pure, first-fit in the order of the devices, by memory, or whole ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from siteward import Refusal
from siteward_gpu_resources.leases import Lease

GIB = 2**30
# A card has a little less than its label says: a "16 GB" T4 has 15,360 MiB, an A10G of "24 GB" 22,731.
TOLERANCE = 0.10
WHOLE = "whole"
_NAMED = 5


@frozen(kw_only=True)
class Slot:
    """One GPU to hand out: its key in leases, what people call it, and its memory in GiB (None: not known)."""

    key: str
    title: str
    memory: float | None = None

    def could_give(self, amount: float) -> bool:
        """Whether it has so much when it is idle, as labels count."""
        return self.memory is not None and amount * (1 - TOLERANCE) <= self.memory


def wanted(requirement: Mapping[str, Any], num_key: str, mem_key: str) -> tuple[int, float] | Refusal:
    """Return how many GPUs a job asks for and how much of each in GiB (0: whole ones)."""
    unknown = [key for key in requirement if key not in (num_key, mem_key)]
    if unknown:
        words = f"this site's resource manager hands out {num_key} and {mem_key}, and nothing called {unknown[0]!r}"
        return impossible(f"{words}; take it out of the job's resource_spec for this site")
    count, memory = requirement.get(num_key), requirement.get(mem_key, 0)
    if count is None and mem_key in requirement:
        return impossible(f"{mem_key} is asked without {num_key}; say how many GPUs")
    if type(count) is not int and requirement:
        return impossible(f"{num_key}: expected a whole number of at least 0, got {count!r}")
    if type(memory) not in (int, float) or not 0 <= memory < math.inf:
        return impossible(f"{mem_key}: expected a number of at least 0, got {memory!r}")
    if (count or 0) < 0:
        return impossible(f"{num_key}: expected a whole number of at least 0, got {count!r}")
    return count or 0, float(memory)


def impossible(words: str) -> Refusal:
    """Return the refusal of what this site can never give."""
    return Refusal(reason="impossible", message=words, permanent=True)


def can_ever(count: int, memory: float, slots: Sequence[Slot], mem_key: str) -> Refusal | None:
    """Return why a job can never run here, None if it can when others have ended."""
    if count > len(slots):
        return impossible(f"{_gpus(count)} asked, this site hands out {len(slots)}: waiting will not help")
    if memory:
        fitting = [slot for slot in slots if slot.could_give(memory)]
        if len(fitting) < count:
            sizes = [slot.memory for slot in slots if slot.memory is not None]
            most = f"{mem_key} is {max(sizes):g}" if sizes else f"{mem_key} is not set"
            most += " at most" if len(set(sizes)) > 1 else ""
            some = f"; {len(fitting)} of its {len(slots)} have so much" if fitting else ""
            asked = f"{_gpus(count)} with {memory:g} GiB each asked"
            return impossible(f"{asked}, the site's {most}{some}: waiting will not help")
    return None


def choose(
    count: int, memory: float, slots: Sequence[Slot], leases: Sequence[Lease], *, share: bool = True
) -> dict[str, float | None] | Refusal:
    """Return what a job gets, by key: GiB of a shared GPU or None for a whole one; Refusal if that is not free now."""
    used = _use(leases)
    chosen: dict[str, float | None] = {}
    for slot in slots:
        if len(chosen) == count:
            break
        others = used.get(slot.key, [])
        if memory and share:
            amount = min(memory, slot.memory or 0.0)
            if slot.could_give(memory) and amount <= left(slot, others) + 1e-9:
                chosen[slot.key] = amount
        elif not others and (not memory or slot.could_give(memory)):
            chosen[slot.key] = None
    if len(chosen) == count:
        return chosen
    asked = _gpus(count) + (f" with {memory:g} GiB each" if memory else "")
    message = f"{asked} asked, {len(chosen)} free{_held(slots, leases)}"
    return Refusal(reason="busy", message=message)


def left(slot: Slot, amounts: Sequence[float | None]) -> float:
    """Return the GiB of a GPU that are not handed out."""
    if None in amounts:
        return 0.0
    return max(0.0, (slot.memory or 0.0) - sum(amount for amount in amounts if amount is not None))


def _use(leases: Sequence[Lease]) -> dict[str, list[float | None]]:
    used: dict[str, list[float | None]] = {}
    for lease in leases:
        for key, amount in lease.grants.items():
            used.setdefault(key, []).append(amount if type(amount) in (int, float) else None)
    return used


def _gpus(count: int) -> str:
    return f"{count} GPU" if count == 1 else f"{count} GPUs"


def _held(slots: Sequence[Slot], leases: Sequence[Lease]) -> str:
    titles = {slot.key: slot.title for slot in slots}
    words = []
    for lease in sorted(leases, key=lambda lease: lease.since):
        mine = [
            titles[key] + ("" if amount is None else f": {amount:g} GiB")
            for key, amount in lease.grants.items()
            if key in titles
        ]
        if mine:
            verb = "" if lease.held else ", reserved"
            words.append(f"job {lease.holder.job_id} of site {lease.holder.site} ({', '.join(mine)}{verb})")
    more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return f"; held by {', '.join(words[:_NAMED])}{more}" if words else ""
