"""The manager `best_effort`: always yes, nothing enforced, and what is not promised is said."""

import logging
from pathlib import Path

import pytest

from siteward import Allocation, Context, Job, JobState, Reservation, Site, SiteFile
from siteward_best_effort_resources.manager import Manager

ASKED = [{}, {"num_of_gpus": 1}, {"num_of_gpus": 10_000, "mem_per_gpu_in_GiB": 80}, {"licence": "any"}, {"x": [1]}]


@pytest.fixture
def manager(tmp_path):
    context = Context(site="site", backend="best_effort", directory=tmp_path, log=logging.getLogger("test"))
    return Manager(context, Manager.SiteOptions())


@pytest.mark.parametrize("requirement", ASKED, ids=str)
def test_every_job_may_start(manager, requirement):
    """Whatever it asks for, it is told nothing and holds nothing."""
    reservation = manager.siteward_check_resources(requirement, "job")
    assert isinstance(reservation, Reservation)
    assert reservation.expires_at is None
    allocation = manager.siteward_allocate_resources(reservation.token, "job")
    assert allocation == Allocation(token=reservation.token, to_free=False)
    assert manager.siteward_free_resources(reservation.token) is None
    assert manager.siteward_cancel_resources(reservation.token) is None
    assert manager.siteward_report_resources() == {}


def test_what_is_not_promised_is_said(manager):
    """In words that name it; a job that asks for nothing is told nothing."""
    (note,) = manager.siteward_check_resources({"num_of_gpus": 2, "licence": 1}, "job").notes
    assert note.startswith("num_of_gpus 2, licence 1 asked and not promised")
    assert manager.siteward_check_resources({}, "job").notes == ()


def test_tokens_are_unique(manager):
    """For the same job too."""
    assert len({manager.siteward_check_resources({}, "job").token for _ in range(1000)}) == 1000


@pytest.mark.parametrize("requirement", [None, [], "num_of_gpus", 1], ids=repr)
def test_what_is_no_mapping_is_an_error(manager, requirement):
    """It is the caller's mistake."""
    with pytest.raises(TypeError, match="expected a mapping"):
        manager.siteward_check_resources(requirement, "job")


def test_it_is_the_manager_of_sites_that_name_none(tmp_path):
    """And the result of a job says what it was not promised."""
    pytest.importorskip("siteward_process", reason="needs the process backend: install siteward-process")
    file = SiteFile.from_mapping({"name": "here", "backends": {"process": {}}, "state_dir": str(tmp_path / "state")})
    job = Job.from_mapping(
        {
            "name": "job",
            "command": ["true"],
            "launcher_spec": {"default": {"process": {}}},
            "resource_spec": {"here": {"licence": 2}},
        }
    )
    with Site(file) as site:
        assert site.resources() == {"best_effort": {}}
        result = site.launch(job).wait(60)
        assert result.state is JobState.SUCCEEDED
        assert "licence 2 asked and not promised" in result.message
        assert Path(site.state_dir, "jobs", job.id).is_dir()
