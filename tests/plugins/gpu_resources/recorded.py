"""A stand-in for nvidia-ml-py (``pynvml``) that tells of made-up machines.

Its answers are written from NVIDIA's documentation (the NVML API reference, the MIG user guide, and the memory sizes
that nvidia-smi shows for these cards), not taken from a machine.
"""

import types

MIB = 2**20


class Card:
    """A GPU, with its MIG instances as (gpu instance, compute instance, MiB), if it is in MIG mode."""

    def __init__(self, number, name, mib, parts=None):
        self.number, self.name, self.mib, self.parts = number, name, mib, parts
        self.uuid = f"GPU-{number:08x}-5a1d-4c3e-9b7f-{number:012x}"

    def part_uuid(self, place):
        return f"MIG-{self.number:04x}{place:04x}-0b1c-5d2e-8f3a-{place:012x}"


def eight_gpus(name="NVIDIA A100-SXM4-40GB", mib=40960):
    """A DGX A100: eight cards, none in MIG mode."""
    return [Card(number, name, mib) for number in range(8)]


def mig_machine():
    """Two A100 40 GB: the first is whole, the second is split in two 3g.20gb; the third place is empty."""
    name = "NVIDIA A100-PCIE-40GB"
    return [Card(0, name, 40960), Card(1, name, 40960, [(1, 0, 19968), (2, 0, 19968)])]


class NVMLError(Exception):
    """What NVML raises."""


class NotSupported(NVMLError):
    """``NVMLError_NotSupported``."""


class NotFound(NVMLError):
    """``NVMLError_NotFound``."""


def pynvml(cards, *, error=None):
    """Return a module that answers as ``pynvml`` does on a machine with these cards; ``error``: no driver answers."""
    module = types.ModuleType("pynvml")
    module.NVMLError, module.NVMLError_NotSupported, module.NVMLError_NotFound = NVMLError, NotSupported, NotFound
    module.NVML_DEVICE_MIG_ENABLE = 1
    module.open = 0

    def init():
        if error:
            raise NVMLError(error)
        module.open += 1

    def shutdown():
        module.open -= 1

    def need_open():
        if not module.open:
            raise NVMLError("Uninitialized")

    def count():
        need_open()
        return len(cards)

    def mig_mode(card):
        if "A100" not in card.name:
            raise NotSupported("Not Supported")
        return [int(card.parts is not None)] * 2

    def part(card, place):
        if place >= len(card.parts):
            raise NotFound("Not Found")
        return card, place

    def uuid(device):
        return device.uuid if isinstance(device, Card) else device[0].part_uuid(device[1])

    def name(device):
        return device.name if isinstance(device, Card) else f"{device[0].name} MIG 3g.20gb"

    def memory(device):
        mib = device.mib if isinstance(device, Card) else device[0].parts[device[1]][2]
        if mib is None:
            raise NotSupported("Not Supported")
        return types.SimpleNamespace(total=mib * MIB)

    module.nvmlInit, module.nvmlShutdown = init, shutdown
    module.nvmlDeviceGetCount = count
    module.nvmlDeviceGetHandleByIndex = lambda index: cards[index]
    module.nvmlDeviceGetUUID, module.nvmlDeviceGetName = uuid, name
    module.nvmlDeviceGetMemoryInfo = memory
    module.nvmlDeviceGetMigMode = mig_mode
    module.nvmlDeviceGetMaxMigDeviceCount = lambda card: 7
    module.nvmlDeviceGetMigDeviceHandleByIndex = part
    module.nvmlDeviceGetGpuInstanceId = lambda part: part[0].parts[part[1]][0]
    module.nvmlDeviceGetComputeInstanceId = lambda part: part[0].parts[part[1]][1]
    return module
