"""The resource manager `gpu` of siteward-gpu-resources behind FLARE's protocol, on a machine with made-up GPUs."""

import os
import sys
import threading
import time

import pytest

from siteward import Plugins, SiteFile
from siteward_nvflare.sites import RESERVED_FOR, with_flare_s_period

from ..gpu_resources.recorded import Card, eight_gpus, pynvml
from .parent import DEADLINE, PATIENT, ends

GPU = {"num_of_gpus": 1}
SEEN = "tell('seen', os.environ.get('CUDA_VISIBLE_DEVICES'))\n"


@pytest.fixture
def cards(monkeypatch):
    """The machine has eight GPUs, and the one who runs this hides none of them."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cards = eight_gpus()
    monkeypatch.setitem(sys.modules, "pynvml", pynvml(cards))
    return cards


@pytest.fixture
def with_gpus(make, tmp_path, cards):
    """Make the parent of a FLARE site that hands out so many GPUs."""

    def make_parent(count, **options):
        return make(resources={"gpu": {"num_of_gpus": count, **options}}, lease_dir=str(tmp_path / "leases"))

    return make_parent


def check(parent, job_id, requirement=GPU):
    """Ask as FLARE's client does."""
    return parent.manager.check_resources(requirement, parent.context(job_id))


def start(parent, job_id, behaviour, requirement=GPU):
    """Reserve, allocate and launch, as FLARE does."""
    enough, token = check(parent, job_id, requirement)
    assert enough, token
    allocated = parent.manager.allocate_resources(requirement, token, parent.context(job_id))
    return token, allocated, parent.launch(job_id, behaviour, resource_spec={"site-1": requirement})


def test_one_gpu_is_one_job_s(with_gpus):
    """Ten jobs that ask for one of one, with no amount of memory: FLARE's own manager says yes to all ten."""
    parent = with_gpus(1)
    answers = [check(parent, f"job-{number}") for number in range(10)]
    assert [enough for enough, _ in answers] == [True] + [False] * 9
    assert "1 GPU asked, 0 free; held by job job-0-site-1 of site clinic (GPU 0, reserved)" in answers[1][1]


def test_a_gpu_stays_one_job_s_while_it_runs(with_gpus):
    """And is the next one's afterwards, however often FLARE frees it (its own manager hands out more each time)."""
    parent = with_gpus(1, mem_per_gpu_in_GiB=16)
    token, allocated, handle = start(parent, "job-0", PATIENT)
    parent.told("job-0", "up")
    assert [check(parent, f"job-{number}")[0] for number in range(1, 10)] == [False] * 9
    handle.terminate()
    assert ends(handle) == 9
    for _ in range(3):
        parent.manager.free_resources(allocated, token, parent.context())
    assert [check(parent, f"job-{number}")[0] for number in range(1, 10)] == [True] + [False] * 8
    parent.manager.free_resources(allocated, token, parent.context())
    assert not check(parent, "job-10", {"num_of_gpus": 1, "mem_per_gpu_in_GiB": 1})[0]


def test_jobs_that_start_at_once_see_their_own_gpus(with_gpus, cards):
    """Two launches in any order, and one that asked for none: FLARE's consumer sets one variable for all."""
    parent = with_gpus(2)
    wanted = {"job-1": GPU, "job-2": GPU, "job-3": {"num_of_gpus": 0}}
    for job_id, requirement in wanted.items():
        enough, token = check(parent, job_id, requirement)
        assert enough
        assert parent.manager.allocate_resources(requirement, token, parent.context(job_id))
    handles = {}

    def launch(job_id):
        handles[job_id] = parent.launch(job_id, SEEN + PATIENT, resource_spec={"site-1": wanted[job_id]})

    threads = [threading.Thread(target=launch, args=(job_id,)) for job_id in reversed(wanted)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    seen = [parent.told(job_id, "seen") for job_id in wanted]
    assert seen == [cards[0].uuid, cards[1].uuid, ""]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    for job_id, handle in handles.items():
        parent.told(job_id, "up")
        handle.terminate()
        ends(handle)


def test_a_later_job_without_gpus_sees_none(with_gpus):
    """After one that had one: nothing of it stays in the parent."""
    parent = with_gpus(1)
    assert ends(start(parent, "job-1", SEEN)[2]) == 0
    assert ends(parent.launch("job-2", SEEN)) == 0
    assert parent.told("job-2", "seen") == ""


@pytest.mark.parametrize("hides", ["2,5", "{2},{5}"])
def test_a_mask_of_the_parent_is_kept(with_gpus, cards, monkeypatch, hides):
    """Numbers or UUIDs; FLARE's own manager hands out all GPUs when it sees a UUID."""
    uuids = [card.uuid for card in cards]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hides.format(*uuids))
    parent = with_gpus(2)
    assert ends(start(parent, "job-1", SEEN)[2]) == 0
    assert parent.told("job-1", "seen") == uuids[2]
    assert not check(parent, "job-2", {"num_of_gpus": 3})[0]


def test_a_mig_instance_is_a_gpu(with_gpus, monkeypatch):
    """By its own UUID."""
    card = Card(0, "NVIDIA A100-PCIE-40GB", 40960, [(1, 0, 19968), (2, 0, 19968)])
    monkeypatch.setitem(sys.modules, "pynvml", pynvml([card]))
    parent = with_gpus(2)
    assert ends(start(parent, "job-1", SEEN)[2]) == 0
    assert parent.told("job-1", "seen") == card.part_uuid(0)


# What the site file says of the manager `gpu`, and how long a reservation lasts.
PERIODS = {"nothing": ({}, RESERVED_FOR), "less": ({"expiration_period": 45}, 45.0)}


@pytest.mark.parametrize("case", PERIODS)
def test_a_reservation_lasts_as_long_as_flare_s(with_gpus, case):
    """300 s, as in FLARE's kits, rather than the manager's own 30: FLARE deploys a job before it starts it."""
    said, period = PERIODS[case]
    parent = with_gpus(1, **said)
    before = time.time()
    enough, token = check(parent, "job-1")
    assert enough
    reserved = parent.bridge._reserved[token]
    assert before + period <= reserved.reservation.expires_at <= time.time() + period
    assert reserved.until <= time.monotonic() + period


def test_a_reservation_that_expired_is_another_job_s(with_gpus):
    """Its token is worth nothing then, and FLARE's start of the job fails in words."""
    parent = with_gpus(1, expiration_period=0.2)
    _, token = check(parent, "job-1")
    give_up = time.monotonic() + DEADLINE
    while not check(parent, "job-2")[0]:
        assert time.monotonic() < give_up
        time.sleep(0.02)
    with pytest.raises(Exception, match="FLARE must check the resources again"):
        parent.manager.allocate_resources(GPU, token, parent.context("job-1"))


# `resources` of a site file, and with which options the manager is made.
OPTIONS = {
    "another manager with the option": ({"list": {"units": {}}}, {"list": {"units": {}, "expiration_period": 300.0}}),
    "a manager without options": ({"one_unit": {}}, {"one_unit": {}}),
    "a manager that is not there": ({"no_such_manager": {}}, {"no_such_manager": {}}),
    "no manager": (None, None),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_the_period_is_set_where_a_manager_has_one(with_faults, case):
    """And all else is left as it is."""
    said, expected = OPTIONS[case]
    file = SiteFile(name="clinic", backends={"process": {}}, resources=said)
    assert with_flare_s_period(file, Plugins()).resources == expected
