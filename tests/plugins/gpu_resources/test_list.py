"""The manager `list`: named units of any kind."""

import pytest

from siteward import ResourceError

from .helpers import check, refusal, take

UNITS = {"licence": ("a", "b"), "port": (8000, 8001, 8002)}


def test_units_are_handed_out_in_order(host):
    """The first free ones of each kind; NVIDIA FLARE's vector."""
    manager = host.manager("list", units={"gpu": (1, 2, 3, 4)})
    assert dict(check(manager, {"gpu": 1}).units) == {"gpu": [1]}
    assert dict(check(manager, {"gpu": 2}, "b").units) == {"gpu": [2, 3]}


def test_a_job_is_told_its_units(host):
    """A variable for each kind, called like it, with commas between."""
    manager = host.manager("list", units=UNITS)
    allocation = take(manager, {"licence": 1, "port": 2})
    assert allocation.env == {"LICENCE": "a", "PORT": "8000,8001"}
    assert take(manager, {"licence": 0}).env == {}
    assert take(manager, {}).env == {}


def test_the_site_names_the_variables(host):
    """A licence server wants its own."""
    manager = host.manager("list", units={"licence": ("27000@a",)}, env={"licence": "LM_LICENSE_FILE"})
    assert take(manager, {"licence": 1}).env == {"LM_LICENSE_FILE": "27000@a"}


def test_units_called_gpu_are_gpus(host):
    """They reach the job as CUDA expects them, and containers as device ids."""
    allocation = take(host.manager("list", units={"gpu": (0, 3)}), {"gpu": 2})
    assert allocation.env == {"CUDA_VISIBLE_DEVICES": "0,3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert list(allocation.devices) == ["0", "3"]


def test_no_unit_is_had_twice(host):
    """Not by jobs of another process of the site either; all kinds are had, or none."""
    first, second = host.manager("list", units=UNITS), host.manager("list", units=UNITS)
    token = take(first, {"licence": 2}, "a").token
    words = refusal(second, {"port": 1, "licence": 1}).message
    assert words == "1 licence asked, 0 free; held by job a (a, b)"
    assert len(check(second, {"port": 3}, "b").units["port"]) == 3
    for _ in range(2):
        first.siteward_free_resources(token)
    assert dict(check(second, {"licence": 2}, "c").units) == {"licence": ["a", "b"]}


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        ({"licence": 3}, "3 licence asked, this site has 2: waiting will not help"),
        ({"seat": 1}, "this site hands out no 'seat'; its kinds of units: licence, port"),
        ({"licence": "1"}, "expected a whole number of at least 0, got '1'"),
        ({"licence": -1}, "expected a whole number of at least 0, got -1"),
        ({"licence": True}, "expected a whole number of at least 0, got True"),
    ],
)
def test_what_can_never_be_met(host, requirement, words):
    """Waiting does not help, and the words say so."""
    answer = refusal(host.manager("list", units=UNITS), requirement)
    assert words in answer.message
    assert answer.permanent


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"units": {"path": ("/a",)}}, "'PATH' cannot be its variable"),
        ({"units": {"siteward_site": ("a",)}}, "cannot be its variable"),
        ({"units": {"1": ("a",)}}, "'1' cannot be its variable"),
        ({"units": {"a b": ("x",), "a-b": ("y",)}}, "its variable A_B is another kind's too"),
        ({"units": {"a": ("x",)}, "env": {"b": "B"}}, "there are no units of this kind"),
        ({"units": {"a": ("x",)}, "env": {"a": "SITEWARD_JOB_ID"}}, "cannot be its variable"),
    ],
)
def test_variables_that_cannot_be(host, options, words):
    """A unit replaces nothing that a job needs, and none of siteward's own variables."""
    with pytest.raises(ResourceError, match=words):
        host.manager("list", **options)


def test_the_report_says_who_has_which(host):
    """Unit by unit."""
    manager = host.manager("list", units=UNITS)
    take(manager, {"licence": 1}, "a")
    report = manager.siteward_report_resources()
    assert report["licence"]["a"]["job_id"] == "a"
    assert report["licence"]["b"] == "free"
    assert set(report["port"].values()) == {"free"}


def test_what_is_no_mapping_is_an_error(host):
    """It is the caller's mistake."""
    with pytest.raises(TypeError, match="expected a mapping"):
        host.manager("list", units=UNITS).siteward_check_resources(None, "job")
