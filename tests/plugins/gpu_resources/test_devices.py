"""Which GPUs a host has: by NVML, else by nvidia-smi, else a clear error."""

import sys

import pytest

from siteward import ResourceError
from siteward_gpu_resources.devices import discover

from .recorded import Card, pynvml

# As nvidia-smi's documentation shows its answers.
SMI = """#!/bin/sh
case "$1" in
-L) cat <<'END'
GPU 0: NVIDIA A100-PCIE-40GB (UUID: GPU-0a)
GPU 1: NVIDIA A100-PCIE-40GB (UUID: GPU-0b)
  MIG 3g.20gb     Device  0: (UUID: MIG-1a)
  MIG 1g.5gb      Device  1: (UUID: MIG-1b)
END
;;
*) cat <<'END'
0, GPU-0a, NVIDIA A100-PCIE-40GB, 40960
1, GPU-0b, NVIDIA A100-PCIE-40GB, 40960
END
;;
esac
"""


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Put a program in nvidia-smi's place: ``smi(script)``."""

    def install(script):
        path = tmp_path / "nvidia-smi"
        path.write_text(script)
        path.chmod(0o755)
        monkeypatch.setattr("siteward_gpu_resources.devices.shutil.which", lambda _name: str(path))

    return install


def test_nvml_tells_of_eight_gpus(eight):
    """In the order of the PCI bus, each with its UUID, name and memory; NVML is closed again."""
    found = discover()
    assert [device.title for device in found] == [f"GPU {number}" for number in range(8)]
    assert [device.uuid for device in found] == [card.uuid for card in eight.cards]
    assert {device.memory for device in found} == {40960 * 2**20}
    assert sys.modules["pynvml"].open == 0


def test_nvml_tells_of_mig_instances(mig):
    """A card in MIG mode is its instances, by UUID and by their older name."""
    whole, split = mig.cards
    found = discover()
    assert [device.uuid for device in found] == [whole.uuid, split.part_uuid(0), split.part_uuid(1)]
    assert [device.old_name for device in found] == ["", f"MIG-{split.uuid}/1/0", f"MIG-{split.uuid}/2/0"]
    assert found[1].memory == 19968 * 2**20


def test_a_card_that_knows_no_memory_is_a_gpu(with_cards):
    """One that shares the host's memory can be had whole."""
    with_cards([Card(0, "GB10", None)])
    assert [device.memory for device in discover()] == [None]


def test_nvidia_smi_is_asked_when_nvml_does_not_answer(smi):
    """It tells the same: cards, and MIG instances with the memory of their profile."""
    smi(SMI)
    found = discover()
    assert [(device.title, device.uuid) for device in found] == [
        ("GPU 0", "GPU-0a"),
        ("GPU 1 MIG 0", "MIG-1a"),
        ("GPU 1 MIG 1", "MIG-1b"),
    ]
    assert [device.memory // 2**30 for device in found] == [40, 20, 5]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n", "nvidia-smi: NVIDIA-SMI has failed"),
        ("#!/bin/sh\necho what, ever\n", "nvidia-smi answered what is not understood"),
        ("not a program", "nvidia-smi"),
        (None, "there is no nvidia-smi on PATH"),
    ],
    ids=["it fails", "it says something else", "it cannot be run", "it is not there"],
)
def test_neither_answers(smi, script, words):
    """Then the words say why, and what to do."""
    if script is not None:
        smi(script)
    with pytest.raises(ResourceError, match=r"cannot be seen: NVML: Driver Not Loaded; .*ignore_host: true") as error:
        discover()
    assert words in str(error.value)


def test_nvidia_ml_py_may_be_missing(monkeypatch):
    """Without it only nvidia-smi is asked."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ResourceError, match="nvidia-ml-py is not installed"):
        discover()


def test_an_error_of_nvml_in_between_is_no_empty_host(monkeypatch):
    """Half an answer is none."""
    module = pynvml([Card(0, "T4", 15360)])

    def fail(_card):
        raise module.NVMLError("GPU is lost")

    module.nvmlDeviceGetUUID = fail
    monkeypatch.setitem(sys.modules, "pynvml", module)
    with pytest.raises(ResourceError, match="GPU is lost"):
        discover()
