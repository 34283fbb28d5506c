"""FLARE's protocol for resources, over a site's resource manager."""

import os

import pytest
from attrs import evolve

from .parent import PATIENT, ends, until


def check(parent, job_id, requirement):
    """Ask the resource manager as FLARE's client does."""
    return parent.manager.check_resources(requirement, parent.context(job_id))


def test_what_a_job_is_given_reaches_it_alone(make, with_faults):
    """Not the parent's environment, not the next job (with FLARE's consumer it stays in the parent's for ever)."""
    parent = make(resources={"one_unit": {}})
    gpu = {"num_of_gpus": 1}
    enough, token = check(parent, "job-1", gpu)
    assert enough
    allocated = parent.manager.allocate_resources(gpu, token, parent.context("job-1"))
    assert allocated
    behaviour = "tell('seen', os.environ.get('CUDA_VISIBLE_DEVICES'))\n" + PATIENT
    first = parent.launch("job-1", behaviour, resource_spec={"site-1": gpu})
    assert parent.told("job-1", "seen") == "7"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert check(parent, "job-2", gpu) == (False, "the one GPU is with job-1-site-1")
    second = parent.launch("job-3", behaviour)
    assert parent.told("job-3", "seen") is None
    for handle in (first, second):
        handle.terminate()
        ends(handle)
    until(lambda: parent.manager.report_resources(parent.context())["one_unit"]["holder"] is None)
    for _ in range(3):
        parent.manager.free_resources(allocated, token, parent.context())
    enough, token = check(parent, "job-2", gpu)
    assert enough
    parent.manager.free_resources(allocated, "another token", parent.context())
    assert not check(parent, "job-4", gpu)[0]
    parent.manager.cancel_resources(gpu, token, parent.context())
    parent.manager.cancel_resources(gpu, token, parent.context())
    assert check(parent, "job-4", gpu)[0]


def test_a_reservation_ends_with_a_launch_that_fails(make, with_faults):
    """And with a launch that never comes: FLARE frees what it was told is allocated."""
    parent = make(resources={"one_unit": {}})
    gpu = {"num_of_gpus": 1}
    _, token = check(parent, "job-1", gpu)
    parent.manager.allocate_resources(gpu, token, parent.context("job-1"))
    with pytest.raises(RuntimeError):
        parent.launch("job-1", study="none", resource_spec={"site-1": gpu})
    _, token = check(parent, "job-2", gpu)
    allocated = parent.manager.allocate_resources(gpu, token, parent.context("job-2"))
    parent.manager.free_resources(allocated, token, parent.context())
    assert check(parent, "job-3", gpu)[0]


def test_what_is_not_reserved_is_not_allocated(make, with_faults):
    """An unknown token, or one that was cancelled."""
    parent = make(resources={"one_unit": {}})
    _, token = check(parent, "job-1", {})
    parent.manager.cancel_resources({}, token, parent.context())
    for each in (token, "nonsense"):
        with pytest.raises(Exception, match="nothing is reserved"):
            parent.manager.allocate_resources({}, each, parent.context("job-1"))
    with pytest.raises(TypeError):
        parent.manager.check_resources([], parent.context("job-1"))


def expire(parent):
    """Let the time of all reservations be over."""
    reserved = parent.bridge._reserved
    reserved.update({token: evolve(each, until=0.0) for token, each in reserved.items()})


def test_what_a_server_has_forgotten_is_given_back(make, with_faults):
    """It asked, and neither used nor cancelled it: another job can have it after a while."""
    parent = make(resources={"one_unit": {}})
    gpu = {"num_of_gpus": 1}
    assert check(parent, "job-1", gpu)[0]
    assert not check(parent, "job-2", gpu)[0]
    expire(parent)
    assert check(parent, "job-2", gpu)[0]


def test_what_is_allocated_is_kept_for_its_launch(make, with_faults):
    """However long FLARE takes to deploy the job."""
    parent = make(resources={"one_unit": {}})
    gpu = {"num_of_gpus": 1}
    _, token = check(parent, "job-1", gpu)
    parent.manager.allocate_resources(gpu, token, parent.context("job-1"))
    expire(parent)
    assert not check(parent, "job-2", gpu)[0]
