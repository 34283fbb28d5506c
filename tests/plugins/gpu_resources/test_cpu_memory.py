"""The manager `cpu_memory`: what jobs ask for together fits the site."""

import os

import pytest

from siteward import Reservation

from .helpers import check, refusal, take

GIB = 2**30


def test_jobs_fit_together(host):
    """As many as there are CPUs and memory for; what ends makes room."""
    manager = host.manager("cpu_memory", num_of_cpus=4, memory="8Gi")
    first = take(manager, {"num_of_cpus": 3, "memory": 2 * GIB}, "a")
    assert first.env == {}
    assert refusal(manager, {"num_of_cpus": 2}).message == "2 CPUs asked, 1 CPU free; held by job a (3 CPUs)"
    words = refusal(manager, {"memory": 7 * GIB}).message
    assert words == "7 GiB of memory asked, 6 GiB of memory free; held by job a (2 GiB of memory)"
    take(manager, {"num_of_cpus": 1, "memory": 6 * GIB}, "b")
    manager.siteward_free_resources(first.token)
    take(manager, {"num_of_cpus": 3, "memory": 2 * GIB}, "c")


def test_a_job_that_asks_for_nothing_is_not_counted(host):
    """It may always start, and there is nothing to free."""
    manager = host.manager("cpu_memory", num_of_cpus=1)
    take(manager, {"num_of_cpus": 1}, "a")
    assert not take(manager, {}, "b").to_free


def test_by_default_it_is_what_the_host_has(host):
    """The CPUs that this process may use, and the memory that is built in."""
    report = host.manager("cpu_memory").siteward_report_resources()
    assert report["num_of_cpus"]["total"] == len(os.sched_getaffinity(0))
    assert report["memory"]["total"] > GIB // 4


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        ({"num_of_cpus": 5}, "5 CPUs asked, this site has 4 CPUs: waiting will not help"),
        ({"memory": 9 * GIB}, "9 GiB of memory asked, this site has 8 GiB of memory"),
        ({"num_of_gpus": 1}, "hands out nothing called 'num_of_gpus'"),
        ({"memory": "1G"}, "expected a whole number of at least 1"),
        ({"memory": "9Gi"}, "9 GiB of memory asked"),
    ],
)
def test_what_can_never_be_met(host, requirement, words):
    """Waiting does not help, and the words say so."""
    answer = refusal(host.manager("cpu_memory", num_of_cpus=4, memory="8Gi"), requirement)
    assert words in answer.message
    assert answer.permanent


def test_the_report_says_what_is_left(host):
    """And who has the rest."""
    manager = host.manager("cpu_memory", num_of_cpus=4, memory="8Gi")
    take(manager, {"num_of_cpus": 3}, "a")
    cpus = manager.siteward_report_resources()["num_of_cpus"]
    assert (cpus["total"], cpus["free"], cpus["holders"]["a"]["amount"]) == (4, 1, 3)


def test_it_asks_to_be_told_of_cpus_and_memory(host):
    """Other managers are not: backends enforce them."""
    assert host.manager("cpu_memory").portable
    assert isinstance(check(host.manager("cpu_memory"), {"num_of_cpus": 1}), Reservation)


def test_what_is_no_mapping_is_an_error(host):
    """It is the caller's mistake."""
    with pytest.raises(TypeError, match="expected a mapping"):
        host.manager("cpu_memory").siteward_check_resources("2", "job")
