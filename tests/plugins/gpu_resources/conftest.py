"""Hosts for tests: no real GPU is seen, and no variable of the one who runs them."""

import sys

import pytest

from .helpers import Host
from .recorded import eight_gpus, mig_machine, pynvml


@pytest.fixture(autouse=True)
def nobody_s_gpus(monkeypatch):
    """Leave out what this machine has."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", pynvml([], error="Driver Not Loaded"))
    monkeypatch.setattr("siteward_gpu_resources.devices.shutil.which", lambda _name: None)


@pytest.fixture
def host(tmp_path):
    """A host without GPUs."""
    return Host(tmp_path)


@pytest.fixture
def with_cards(monkeypatch):
    """Give the host cards: ``with_cards(cards)``."""

    def install(cards):
        monkeypatch.setitem(sys.modules, "pynvml", pynvml(cards))
        return cards

    return install


@pytest.fixture
def eight(host, with_cards):
    """A host with eight GPUs of 40 GB."""
    host.cards = with_cards(eight_gpus())
    return host


@pytest.fixture
def mig(host, with_cards):
    """A host with a whole GPU and one in MIG mode."""
    host.cards = with_cards(mig_machine())
    return host
