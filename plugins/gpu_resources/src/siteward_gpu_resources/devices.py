"""The NVIDIA GPUs of this host, as NVML tells of them, or else nvidia-smi."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from attrs import frozen

from siteward import ResourceError

_MIB = 2**20
_SMI_TIMEOUT = 60
_QUERY = ("--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")
_SMI_CARD = re.compile(r"GPU (\d+):.*\(UUID: (GPU-[^)]+)\)")
_SMI_MIG = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[^)]+)\)")
_PROFILE = re.compile(r"\.(\d+)gb")


@frozen(kw_only=True)
class Device:
    """A GPU, or one MIG instance of it: what CUDA shows a program as one device.

    ``index`` is the card's place in the order of the PCI bus, ``card`` its UUID, ``uuid`` the device's own (the
    same, when it is a whole card); ``memory`` is in bytes, None when nobody says. ``old_name`` is a MIG
    instance's name before driver 470.
    """

    index: int
    uuid: str
    card: str
    name: str = ""
    memory: int | None = None
    mig: int | None = None
    old_name: str = ""

    @property
    def is_mig(self) -> bool:
        """Whether it is a MIG instance."""
        return self.mig is not None

    @property
    def title(self) -> str:
        """What people call it: ``GPU 0``, ``GPU 1 MIG 2``."""
        return f"GPU {self.index}" + ("" if self.mig is None else f" MIG {self.mig}")


def discover() -> list[Device]:
    """Return all devices of this host in the order of the PCI bus; ResourceError when nobody can tell."""
    try:
        return list(_from_nvml())
    except _Unavailable as nvml:
        try:
            return list(_from_smi())
        except _Unavailable as smi:
            raise ResourceError(
                f"this host's GPUs cannot be seen: {nvml}; {smi}. Install NVIDIA's driver, or set ignore_host: true "
                "when the GPUs are elsewhere, as those of a cluster are"
            ) from nvml


class _Unavailable(Exception):
    """One way of asking for GPUs that does not work here, and why."""


def _from_nvml() -> Iterator[Device]:
    try:
        nvml: Any = import_module("pynvml")
    except ImportError as error:
        raise _Unavailable(f"nvidia-ml-py is not installed ({error})") from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise _Unavailable(f"NVML: {error}") from error
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            yield from _card(nvml, index)
    except nvml.NVMLError as error:
        raise _Unavailable(f"NVML: {error}") from error
    finally:
        nvml.nvmlShutdown()


def _card(nvml: Any, index: int) -> Iterator[Device]:
    card = nvml.nvmlDeviceGetHandleByIndex(index)
    uuid, name = _text(nvml.nvmlDeviceGetUUID(card)), _text(nvml.nvmlDeviceGetName(card))
    if not _in_mig_mode(nvml, card):
        yield Device(index=index, uuid=uuid, card=uuid, name=name, memory=_memory(nvml, card))
        return
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, number)
        except nvml.NVMLError_NotFound:
            continue
        instance = nvml.nvmlDeviceGetGpuInstanceId(part), nvml.nvmlDeviceGetComputeInstanceId(part)
        yield Device(
            index=index,
            uuid=_text(nvml.nvmlDeviceGetUUID(part)),
            card=uuid,
            name=_text(nvml.nvmlDeviceGetName(part)),
            memory=_memory(nvml, part),
            mig=number,
            old_name="MIG-{}/{}/{}".format(uuid, *instance),
        )


def _in_mig_mode(nvml: Any, card: Any) -> bool:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(card)
    except nvml.NVMLError_NotSupported:
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _memory(nvml: Any, device: Any) -> int | None:
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(device).total)
    except nvml.NVMLError_NotSupported:  # of a GPU that shares the host's memory
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


# --- nvidia-smi ---


def _from_smi() -> Iterator[Device]:
    program = shutil.which("nvidia-smi")
    if program is None:
        raise _Unavailable("there is no nvidia-smi on PATH")
    parts = _mig_devices(_ask(program, "-L"))
    for row in csv.reader(_ask(program, *_QUERY).splitlines(), skipinitialspace=True):
        if len(row) != 4 or not row[0].isdecimal():
            raise _Unavailable(f"nvidia-smi answered what is not understood: {','.join(row)[:200]!r}")
        index, uuid, name, memory = int(row[0]), *row[1:]
        if uuid in parts:
            for number, (profile, part) in enumerate(parts[uuid]):
                size = _PROFILE.search(profile)
                size_bytes = int(size[1]) * 1024 * _MIB if size else None
                yield Device(
                    index=index, uuid=part, card=uuid, name=f"{name} MIG {profile}", memory=size_bytes, mig=number
                )
        else:
            total = int(memory) * _MIB if memory.isdecimal() else None
            yield Device(index=index, uuid=uuid, card=uuid, name=name, memory=total)


def _mig_devices(listing: str) -> dict[str, list[tuple[str, str]]]:
    """Return the MIG instances by card, each as profile and UUID, from ``nvidia-smi -L``."""
    parts: dict[str, list[tuple[str, str]]] = {}
    card = ""
    for line in listing.splitlines():
        if match := _SMI_CARD.match(line):
            card = match[2]
        elif match := _SMI_MIG.match(line):
            parts.setdefault(card, []).append((match[1], match[3]))
    return parts


def _ask(program: str, *arguments: str) -> str:
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=_SMI_TIMEOUT, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise _Unavailable(f"nvidia-smi: {error}") from error
    if done.returncode != 0:
        words = (done.stdout + done.stderr).strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise _Unavailable(f"nvidia-smi: {words[0]}")
    return done.stdout
