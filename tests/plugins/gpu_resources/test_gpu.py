"""The manager `gpu`: who gets which GPU, what the job is told, and what is refused in which words."""

import os
import time

import pytest

from siteward import Refusal, ResourceError

from .helpers import check, gpus, names_of, refusal, take
from .recorded import Card

# What is asked one after the other of four GPUs of 16 GiB, and what each gets: NVIDIA FLARE's vectors, and ours.
FIRST_FIT = {
    "one": ([(1, 8)], [{"0": 8}]),
    "two": ([(2, 8)], [{"0": 8, "1": 8}]),
    "one after the other": ([(1, 8), (1, 8), (1, 12), (1, 12)], [{"0": 8}, {"0": 8}, {"1": 12}, {"2": 12}]),
    "a smaller one goes back to where there is room": ([(1, 12), (1, 12), (1, 4)], [{"0": 12}, {"1": 12}, {"0": 4}]),
    "none": ([(0, None), (0, 8)], [{}, {}]),
    "whole ones": ([(1, None), (2, None), (1, 0)], [{"0": 16}, {"1": 16, "2": 16}, {"3": 16}]),
    "a whole one is nobody else's": ([(1, None), (1, 1)], [{"0": 16}, {"1": 1}]),
    "one that is shared is not whole": ([(1, 1), (1, None)], [{"0": 1}, {"1": 16}]),
    "all of the memory by its amount": ([(1, 16), (1, 16)], [{"0": 16}, {"1": 16}]),
    "parts of a GiB": ([(1, 0.5), (1, 15.5), (1, 0.5)], [{"0": 0.5}, {"0": 15.5}, {"1": 0.5}]),
    "tenths add up": ([(1, 1.6)] * 10, [{"0": 1.6}] * 10),
}


@pytest.mark.parametrize("name", FIRST_FIT)
def test_first_fit(host, name):
    """Each job gets the first GPUs that have enough left."""
    manager = host.virtual()
    asked, given = FIRST_FIT[name]
    found = [dict(check(manager, gpus(*each), f"job-{number}").units) for number, each in enumerate(asked)]
    assert found == given


def test_a_requirement_without_gpus_is_met_anywhere(host):
    """Nothing asked is a yes that never expires, also on a site with no GPUs."""
    reservation = check(host.virtual(0), {})
    assert dict(reservation.units) == {}
    assert reservation.expires_at is None


def test_without_an_amount_a_gpu_is_exclusive(host):
    """Ten jobs that ask for one GPU get one each, and then no more."""
    manager = host.virtual(1)
    answers = [manager.siteward_check_resources(gpus(1), f"job-{number}") for number in range(10)]
    assert [isinstance(answer, Refusal) for answer in answers] == [False] + [True] * 9


def test_a_site_can_forbid_sharing(host):
    """With `share: false` an amount only says how large the GPU must be."""
    manager = host.virtual(2, share=False)
    assert [dict(check(manager, gpus(1, 4), name).units) for name in "ab"] == [{"0": 16}, {"1": 16}]
    assert refusal(manager, gpus(1, 4)).reason == "busy"
    assert refusal(manager, gpus(1, 24)).permanent


REFUSED = {
    "all are held": (gpus(2), "2 GPUs asked, 1 free; held by job a of site site (GPU 0)", False),
    "not enough memory left": (
        gpus(2, 12),
        "2 GPUs with 12 GiB each asked, 1 free; held by job a of site site (GPU 0)",
        False,
    ),
    "more than there are": (gpus(3), "3 GPUs asked, this site hands out 2: waiting will not help", True),
    "more memory than any has": (
        gpus(1, 24),
        "1 GPU with 24 GiB each asked, the site's mem_per_gpu_in_GiB is 16: waiting will not help",
        True,
    ),
    "memory of no GPU": ({"mem_per_gpu_in_GiB": 8}, "mem_per_gpu_in_GiB is asked without num_of_gpus", True),
    "another manager's key": ({"num_of_gpus": 1, "licence": 2}, "nothing called 'licence'", True),
    "a count that is none": ({"num_of_gpus": "2"}, "expected a whole number of at least 0, got '2'", True),
    "a boolean": ({"num_of_gpus": True}, "expected a whole number of at least 0, got True", True),
    "less than none": ({"num_of_gpus": -1}, "expected a whole number of at least 0, got -1", True),
    "an amount that is none": (gpus(1, "8Gi"), "expected a number of at least 0, got '8Gi'", True),
    "an endless amount": (gpus(1, float("inf")), "expected a number of at least 0, got inf", True),
    "less than no memory": (gpus(1, -1), "expected a number of at least 0, got -1", True),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_why(host, name):
    """In words: what was asked, what is free and who has the rest, or that waiting does not help."""
    manager = host.virtual(2)
    take(manager, gpus(1), "a")
    requirement, words, permanent = REFUSED[name]
    answer = refusal(manager, requirement)
    assert words in answer.message
    assert answer.permanent is permanent
    assert names_of(manager) == {"GPU 0": ["a"], "GPU 1": []}


def test_only_some_gpus_are_large_enough(host, with_cards):
    """A site with cards of several sizes says how many have so much."""
    with_cards([Card(0, "large", 81920), Card(1, "small", 16384)])
    manager = host.manager()
    assert list(check(manager, gpus(1, 40)).units.values()) == [40]
    words = refusal(manager, gpus(2, 40)).message
    assert "mem_per_gpu_in_GiB is 80 at most; 1 of its 2 have so much: waiting will not help" in words


def test_what_is_no_mapping_is_an_error(host):
    """It is the caller's mistake, not a job's."""
    with pytest.raises(TypeError, match="expected a mapping"):
        host.virtual().siteward_check_resources([1], "job")


def test_the_keys_can_have_other_names(host):
    """A site may call them as its jobs do."""
    manager = host.virtual(2, num_gpu_key="gpus", gpu_mem_key="gib")
    assert dict(check(manager, {"gpus": 1, "gib": 8}).units) == {"0": 8}
    assert "nothing called 'num_of_gpus'" in refusal(manager, gpus(1)).message


# --- tokens ---


def test_each_step_can_be_repeated(host):
    """Allocate, free and cancel do the same again, or nothing."""
    manager = host.virtual(2)
    token = check(manager, gpus(1), "a").token
    first = manager.siteward_allocate_resources(token, "a")
    assert manager.siteward_allocate_resources(token, "a") == first
    manager.siteward_free_resources(token)
    other = take(manager, gpus(1), "b")
    manager.siteward_free_resources(token)
    manager.siteward_cancel_resources(token)
    assert names_of(manager) == {"GPU 0": ["b"], "GPU 1": []}
    manager.siteward_free_resources(other.token)
    left = check(manager, gpus(2)).token
    manager.siteward_cancel_resources(left)
    manager.siteward_cancel_resources(left)
    assert len(check(manager, gpus(2)).units) == 2


def test_freeing_twice_gives_no_more_memory(host):
    """A GPU of 16 GiB stays one of 16 GiB."""
    manager = host.virtual(1)
    token = take(manager, gpus(1, 10), "a").token
    for _ in range(2):
        manager.siteward_free_resources(token)
    take(manager, gpus(1, 16), "b")
    assert refusal(manager, gpus(1, 0.1)).reason == "busy"


WRONG_TOKENS = ["", "x", "0" * 40, "none-", "../lock", "lock", None, 3]


@pytest.mark.parametrize("token", WRONG_TOKENS, ids=repr)
@pytest.mark.parametrize("call", ["cancel", "free", "allocate"])
def test_a_wrong_token_is_an_error_that_changes_nothing(host, call, token):
    """What this site never gave out names nothing."""
    manager = host.virtual(1)
    take(manager, gpus(1), "a")
    more = ("a",) if call == "allocate" else ()
    with pytest.raises(ResourceError):
        getattr(manager, f"siteward_{call}_resources")(token, *more)
    assert names_of(manager) == {"GPU 0": ["a"]}


def test_another_site_s_token_is_a_wrong_one(eight):
    """A site cannot free what a job of another holds, though they share the leases."""
    mine, other = eight.manager(site="mine"), eight.manager(site="other")
    token = take(mine, gpus(8), "a").token
    with pytest.raises(ResourceError, match="no token of this site"):
        other.siteward_free_resources(token)
    assert "held by job a of site mine" in refusal(other, gpus(1)).message


def test_a_token_is_one_job_s(host):
    """It cannot be allocated to another."""
    manager = host.virtual(1)
    token = check(manager, gpus(1), "a").token
    with pytest.raises(ResourceError, match="that of job 'a', not of 'b'"):
        manager.siteward_allocate_resources(token, "b")
    manager.siteward_allocate_resources(token, "a")


def test_what_a_job_holds_cannot_be_cancelled(host):
    """Only its end frees it."""
    manager = host.virtual(1)
    token = take(manager, gpus(1), "a").token
    with pytest.raises(ResourceError, match="can only be freed"):
        manager.siteward_cancel_resources(token)
    assert names_of(manager) == {"GPU 0": ["a"]}


def test_tokens_last_longer_than_the_process(host):
    """What one manager of the site reserved, the next one allocates and a third frees."""
    token = check(host.virtual(1), gpus(1), "a").token
    assert host.virtual(1).siteward_allocate_resources(token, "a").env["CUDA_VISIBLE_DEVICES"] == "0"
    host.virtual(1).siteward_free_resources(token)
    assert names_of(host.virtual(1)) == {"GPU 0": []}


def test_a_reservation_expires(host):
    """By the clock, with nobody there to count; then its token is worth nothing, and others may have the GPU."""
    manager = host.virtual(1, expiration_period=0.2)
    begin = time.time()
    reservation = check(manager, gpus(1), "a")
    assert begin < reservation.expires_at <= time.time() + 0.2
    refusal(manager, gpus(1))
    while time.time() <= reservation.expires_at + 0.01:
        time.sleep(0.01)
    take(manager, gpus(1), "b")
    with pytest.raises(ResourceError, match="has expired"):
        manager.siteward_allocate_resources(reservation.token, "a")
    manager.siteward_cancel_resources(reservation.token)
    assert names_of(manager) == {"GPU 0": ["b"]}


def test_what_a_job_holds_never_expires(host):
    """A lease has no time limit."""
    manager = host.virtual(1, expiration_period=0.05)
    take(manager, gpus(1), "a")
    time.sleep(0.1)
    refusal(manager, gpus(1))


# --- what the job is told ---


def test_a_job_is_told_its_gpus_and_siteward_is_not(eight):
    """The variables are in the allocation; siteward's own environment stays as it was."""
    before = dict(os.environ)
    allocation = take(eight.manager(), gpus(2))
    uuids = [card.uuid for card in eight.cards[:2]]
    assert allocation.env == {"CUDA_VISIBLE_DEVICES": ",".join(uuids), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert list(allocation.devices) == uuids
    assert dict(os.environ) == before


def test_a_job_that_asked_for_none_sees_none(eight):
    """It is kept away from GPUs that others have; there is nothing to free."""
    allocation = take(eight.manager(), {})
    assert allocation.env == {"CUDA_VISIBLE_DEVICES": ""}
    assert not allocation.to_free


def test_gpus_elsewhere_are_the_site_s_own(host):
    """Two sites that ignore the host do not take each other's; the units are numbered."""
    one, two = host.virtual(1, site="one"), host.virtual(1, site="two")
    assert take(one, gpus(1)).env["CUDA_VISIBLE_DEVICES"] == "0"
    assert take(two, gpus(1)).env["CUDA_VISIBLE_DEVICES"] == "0"
    assert take(one, {}).env == {}
    assert not host.leases.exists()


@pytest.mark.parametrize(
    ("devices", "env", "ids"), [("env", True, True), ("ids", False, True), ("counts", False, False)]
)
def test_a_backend_that_places_devices_itself_is_not_told_this_host_s(eight, devices, env, ids):
    """A process gets variables, a container device ids, a cluster only the count."""
    placed = take(eight.manager(), gpus(1)).placed(devices)
    assert ("CUDA_VISIBLE_DEVICES" in placed.env, bool(placed.devices)) == (env, ids)


# --- what the site says ---


def test_gpus_are_this_host_s(eight):
    """All of them, or the first so many."""
    assert len(eight.manager().siteward_report_resources()) == 8
    assert list(eight.manager(num_of_gpus=2).siteward_report_resources()) == ["GPU 0", "GPU 1"]
    assert eight.manager(num_of_gpus=0).siteward_report_resources() == {}


def test_more_than_the_host_has_is_an_error(eight):
    """The words say how many there are."""
    with pytest.raises(ValueError, match=r"num_of_gpus specified \(9\) exceeds available GPUs: 8"):
        eight.manager(num_of_gpus=9)


@pytest.mark.parametrize(
    ("name", "mib", "label"),
    [
        ("T4", 15360, 16),
        ("T4 with ECC", 15109, 16),
        ("A10G", 22731, 24),
        ("L4", 23034, 24),
        ("A40", 45634, 48),
        ("A100", 40536, 40),
        ("H100", 81559, 80),
        ("MIG 1g.5gb", 4864, 5),
    ],
)
def test_a_card_has_what_its_label_says(host, with_cards, name, mib, label):
    """A "16 GB" card has a little less than 16 GiB, and counts as one of 16, for sites and for jobs."""
    with_cards([Card(0, name, mib)])
    assert list(check(host.manager(mem_per_gpu_in_GiB=label), gpus(1, label)).units.values()) == [label]
    assert refusal(host.manager(site="measured"), gpus(1, label)).reason == "busy"


def test_less_memory_than_the_site_says_is_an_error(host, with_cards):
    """A card that is really smaller is named."""
    with_cards([Card(0, "Tesla T4", 15360)])
    with pytest.raises(
        ValueError, match=r"mem_per_gpu_in_GiB specified \(24\) exceeds the memory of GPU 0 \(Tesla T4\)"
    ):
        host.manager(mem_per_gpu_in_GiB=24)


def test_a_site_that_says_no_memory_cannot_share_elsewhere(host):
    """What nobody knows cannot be divided; whole units can be had."""
    manager = host.manager(num_of_gpus=1, ignore_host=True)
    assert "mem_per_gpu_in_GiB is not set: waiting will not help" in refusal(manager, gpus(1, 1)).message
    assert dict(check(manager, gpus(1)).units) == {"0": "whole"}


def test_ignoring_the_host_needs_a_number(host):
    """Nobody else can count them."""
    with pytest.raises(ResourceError, match="num_of_gpus"):
        host.manager(ignore_host=True)


def test_the_report_says_who_has_what_since_when(eight):
    """Each GPU with its memory, what is left, its holder and the holder's site."""
    manager = eight.manager(num_of_gpus=2)
    take(manager, gpus(1, 8), "a")
    check(manager, gpus(1), "b")
    report = manager.siteward_report_resources()
    card = report["GPU 0"]
    assert card["uuid"] == eight.cards[0].uuid
    assert card["name"] == "NVIDIA A100-SXM4-40GB"
    assert (card["memory"], card["free"]) == ("40 GiB", "32 GiB")
    holder = card["holders"]["a"]
    assert (holder["site"], holder["memory"], holder["state"]) == ("site", "8 GiB", "held")
    assert holder["since"].startswith(time.strftime("%Y-"))
    assert report["GPU 1"]["holders"]["b"]["state"] == "reserved"
    assert report["GPU 1"]["free"] == "0 GiB"


# --- several sites of one host ---


def test_sites_of_a_host_never_hand_out_one_gpu_twice(eight):
    """Whatever each of them may hand out, the leases are common."""
    managers = [eight.manager(site=f"site-{number}", num_of_gpus=6) for number in range(3)]
    given = [take(manager, gpus(2), f"job-{number}").devices for number, manager in enumerate(managers)]
    assert len({uuid for devices in given for uuid in devices}) == 6
    assert "held by job job-0 of site site-0 (GPU 0, GPU 1)" in refusal(managers[0], gpus(1)).message


def test_mig_instances_are_gpus_of_their_own(mig):
    """Each is one unit, by its own UUID; the card that holds them is none."""
    manager = mig.manager()
    whole, split = mig.cards
    assert list(manager.siteward_report_resources()) == ["GPU 0", "GPU 1 MIG 0", "GPU 1 MIG 1"]
    given = [take(manager, gpus(1), name).env["CUDA_VISIBLE_DEVICES"] for name in "abc"]
    assert given == [whole.uuid, split.part_uuid(0), split.part_uuid(1)]
    assert manager.siteward_report_resources()["GPU 1 MIG 0"]["memory"] == "19.5 GiB"


def test_the_mask_of_the_site_is_kept(eight, monkeypatch):
    """What siteward's own environment hides is not handed out; the site file's says it too, and counts more."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert list(eight.manager().siteward_report_resources()) == ["GPU 5", "GPU 3"]
    assert list(eight.manager(num_of_gpus=1).siteward_report_resources()) == ["GPU 5"]
    with pytest.raises(ValueError, match="available GPUs: 2 through CUDA_VISIBLE_DEVICES='5,3'"):
        eight.manager(num_of_gpus=3)
    assert list(eight.manager(site_env={"CUDA_VISIBLE_DEVICES": "1"}).siteward_report_resources()) == ["GPU 1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert eight.manager().siteward_report_resources() == {}
