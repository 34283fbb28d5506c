"""CUDA_VISIBLE_DEVICES, read as CUDA reads it (CUDA C++ Programming Guide, "CUDA Environment Variables")."""

from __future__ import annotations

import re
from collections.abc import Sequence

from siteward_gpu_resources.devices import Device

_NUMBER = re.compile(r"\s*\+?([0-9]+)", re.ASCII)


def visible_devices(mask: str | None, devices: Sequence[Device]) -> list[Device]:
    """Return what a mask leaves of the host's devices, in the mask's order; None is no mask, blank leaves nothing.

    Items are numbers (a card's place in the order of the PCI bus), ``GPU-`` or ``MIG-`` UUIDs or unambiguous
    beginnings of them, or the older ``MIG-GPU-<uuid>/<gi>/<ci>``; the first item says which kind. The first item
    that is none of this host's ends the list; one that was there already is left out. A number, or a ``GPU-`` UUID,
    of a card in MIG mode stands for all its instances.
    """
    if mask is None:
        return list(devices)
    chosen: list[Device] = []
    kind = None
    for item in mask.split(","):
        this = _kind(item)
        kind = kind or this
        found = _find(item.strip(), this, devices) if this == kind else []
        if not found:
            break
        chosen += [device for device in found if device not in chosen]
    return chosen


def _kind(item: str) -> str:
    text = item.strip()
    return text[:4] if text.startswith(("GPU-", "MIG-")) else "number"


def _find(item: str, kind: str, devices: Sequence[Device]) -> list[Device]:
    if kind == "number":
        match = _NUMBER.match(item)
        return [device for device in devices if match and device.index == int(match[1])]
    if kind == "GPU-":
        cards = {device.card for device in devices if device.card.startswith(item)}
        return [device for device in devices if device.card in cards] if len(cards) == 1 else []
    found = [device for device in devices if device.is_mig and item in (device.uuid, device.old_name)]
    found = found or [device for device in devices if device.is_mig and device.uuid.startswith(item)]
    return found if len(found) == 1 and item != "MIG-" else []
