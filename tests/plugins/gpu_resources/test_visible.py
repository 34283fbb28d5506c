"""CUDA_VISIBLE_DEVICES as CUDA reads it, as a table."""

import pytest

from siteward_gpu_resources.devices import Device
from siteward_gpu_resources.visible import visible_devices


def card(index, uuid):
    return Device(index=index, uuid=uuid, card=uuid)


def part(index, card, uuid, number, old):
    return Device(index=index, uuid=uuid, card=card, mig=number, old_name=f"MIG-{card}/{old}")


CARDS = [card(0, "GPU-aa11"), card(1, "GPU-aa22"), card(2, "GPU-bb33")]
MIG = [
    card(0, "GPU-aa11"),
    part(1, "GPU-cc44", "MIG-1111", 0, "1/0"),
    part(1, "GPU-cc44", "MIG-1122", 1, "2/0"),
]
A, B, C = "GPU-aa11", "GPU-aa22", "GPU-bb33"

MASKS = {
    None: [A, B, C],
    "": [],
    " ": [],
    "0": [A],
    "2,0": [C, A],
    "0,9,1": [A],
    "-1": [],
    "0,-1,1": [A],
    "1,,0": [B],
    ",0": [],
    "0,": [A],
    "0,0,1": [A, B],
    " 1 , 2 ": [B, C],
    "+1": [B],
    "1gpu2,2ampere": [B, C],
    "none": [],
    "NoDevFiles": [],
    "0x1": [A],
    "٢": [],
    "99999999999999999999999": [],
    "GPU-aa11": [A],
    "GPU-bb": [C],
    "GPU-aa": [],
    "GPU-": [],
    "GPU-zz": [],
    "GPU-AA11": [],
    "GPU-bb33,GPU-aa22": [C, B],
    "GPU-bb,GPU-aa,GPU-aa11": [C],
    "GPU-bb33,GPU-bb": [C],
    "GPU-aa11,1": [A],
    "0,GPU-bb33": [A],
    "MIG-1111": [],
}
MIG_MASKS = {
    None: [A, "MIG-1111", "MIG-1122"],
    "0": [A],
    "1": ["MIG-1111", "MIG-1122"],
    "2": [],
    "GPU-cc": ["MIG-1111", "MIG-1122"],
    "MIG-1122": ["MIG-1122"],
    "MIG-112": ["MIG-1122"],
    "MIG-11": [],
    "MIG-": [],
    "MIG-1122,MIG-1111": ["MIG-1122", "MIG-1111"],
    "MIG-GPU-cc44/2/0": ["MIG-1122"],
    "MIG-GPU-cc44/1/0,MIG-1122": ["MIG-1111", "MIG-1122"],
    "MIG-GPU-cc44/7/0": [],
    "MIG-GPU-cc44": [],
}


@pytest.mark.parametrize("mask", MASKS, ids=repr)
def test_a_mask_leaves_what_cuda_would(mask):
    """In the mask's order, up to the first item that is no device of this host."""
    assert [device.uuid for device in visible_devices(mask, CARDS)] == MASKS[mask]


@pytest.mark.parametrize("mask", MIG_MASKS, ids=repr)
def test_mig_instances_have_names_too(mask):
    """By UUID or by the older name; a card in MIG mode stands for its instances."""
    assert [device.uuid for device in visible_devices(mask, MIG)] == MIG_MASKS[mask]
