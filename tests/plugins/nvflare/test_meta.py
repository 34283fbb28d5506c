"""What a job's meta asks of a site: FLARE's own resolution, in siteward's words."""

import pytest

from siteward_nvflare.meta import offered_backends, own_code, resource_block, study_of, without_repeats

A, B = {"image": "a", "shm_size": "4g"}, {"image": "b"}
# launcher_spec, resource_spec, what is offered at site-1
OFFERS = {
    "nothing": ({}, {}, {}),
    "no launcher_spec at all": (None, None, {}),
    "the site's": ({"site-1": {"docker": A}}, {}, {"docker": A}),
    "another site's": ({"site-2": {"docker": A}}, {}, {}),
    "default and the site's, the site winning": (
        {"default": {"docker": A}, "site-1": {"docker": B}},
        {},
        {"docker": {"image": "b", "shm_size": "4g"}},
    ),
    "several, in the job's order": (
        {"default": {"k8s": B}, "site-1": {"process": {}}},
        {},
        {"k8s": B, "process": {}},
    ),
    "an empty block is an offer": ({"site-1": {"process": {}}}, {}, {"process": {}}),
    "null takes a default back": (
        {"default": {"docker": A}, "site-1": {"docker": {"image": None}}},
        {},
        {"docker": {"shm_size": "4g"}},
    ),
    "null instead of a block": ({"site-1": {"docker": None}}, {}, {"docker": {}}),
    "legacy, in resource_spec": ({}, {"site-1": {"docker": A}}, {"docker": A}),
    "launcher_spec goes before legacy": ({"site-1": {"docker": B}}, {"site-1": {"docker": A}}, {"docker": B}),
    "legacy counts beside other sites": ({"site-2": {"docker": B}}, {"site-1": {"docker": A}}, {"docker": A}),
    "legacy process blocks are resources": ({}, {"site-1": {"process": {"num_of_gpus": 1}}}, {"process": {}}),
    "flat resources are no offer": ({}, {"site-1": {"num_of_gpus": 1}}, {}),
}


@pytest.mark.parametrize("case", OFFERS)
def test_what_a_job_offers_at_a_site(case):
    """As FLARE resolves it; null counts as not given."""
    launcher_spec, resource_spec, offered = OFFERS[case]
    assert offered_backends({"launcher_spec": launcher_spec, "resource_spec": resource_spec}, "site-1") == offered


@pytest.mark.parametrize(
    ("meta", "where"),
    [
        ({"launcher_spec": [1]}, "launcher_spec: expected"),
        ({"launcher_spec": {"site-1": "docker"}}, "launcher_spec.site-1"),
        ({"launcher_spec": {"default": {"docker": "image"}}}, "launcher_spec.default.docker"),
        ({"resource_spec": {"site-1": 3}}, "resource_spec.site-1"),
    ],
)
def test_a_wrong_shape_is_told_with_its_place(meta, where):
    """A job is hostile: what is no mapping is an error in words."""
    with pytest.raises(ValueError, match=where):
        offered_backends(meta, "site-1")


# resource_spec, the one block for site-1
BLOCKS = {
    "nothing": ({}, {}),
    "flat": ({"site-1": {"num_of_gpus": 1, "mem_per_gpu_in_GiB": 8}}, {"num_of_gpus": 1, "mem_per_gpu_in_GiB": 8}),
    "default alone": ({"@default": {"num_of_cpus": 2, "memory": "2Gi"}}, {"num_of_cpus": 2, "memory": "2Gi"}),
    "the site wins": (
        {"@default": {"num_of_gpus": 2, "num_of_cpus": 1}, "site-1": {"num_of_cpus": 4}},
        {"num_of_gpus": 2, "num_of_cpus": 4},
    ),
    "none is said, not left out": ({"site-1": {"num_of_gpus": 0, "mem_per_gpu_in_GiB": 4}}, {"num_of_gpus": 0}),
    "legacy nested": ({"site-1": {"process": {"num_of_gpus": 2}, "docker": {"image": "a"}}}, {"num_of_gpus": 2}),
    "the site's own kinds": ({"site-1": {"licence": 1}}, {"licence": 1}),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_resources_become_one_block(case):
    """What FLARE would tell its launcher and its resource manager, together."""
    resource_spec, block = BLOCKS[case]
    assert resource_block({"resource_spec": resource_spec}, "site-1") == block


def test_wrong_resources_are_an_error():
    """Values are checked again at the site, whoever checked them before."""
    with pytest.raises(ValueError, match="num_of_gpus"):
        resource_block({"resource_spec": {"site-1": {"num_of_gpus": -1}}}, "site-1")


def test_a_gpu_count_that_is_said_twice_is_said_once():
    """Legacy jobs must give the same count to FLARE's resource manager and to its launcher."""
    offered = {"docker": {"image": "a", "num_of_gpus": 1}, "k8s": {"num_of_gpus": 2}}
    assert without_repeats(offered, {"num_of_gpus": 1}) == {"docker": {"image": "a"}, "k8s": {"num_of_gpus": 2}}


@pytest.mark.parametrize(
    ("study", "known", "expected"),
    [("default", {}, None), (None, {}, None), ("default", {"default": {}}, "default"), ("cancer", {}, "cancer")],
)
def test_the_default_study_is_none(study, known, expected):
    """FLARE's server gives every job the study `default`; any other must be one of the site's."""
    assert study_of({"study": study}, known) == expected


@pytest.mark.parametrize("option", ["image", "python_path", "entrypoint"])
def test_a_job_brings_code_only_when_the_site_has_authorised_it(option):
    """In whatever block it stands: FLARE itself checks only those that it knows."""
    assert option in own_code({}, {option: "x", "shm_size": "1g"})
    assert option in own_code({"byoc": "true"}, {option: "x"})
    assert own_code({"byoc": True}, {option: "x"}) is None
    assert own_code({}, {"shm_size": "1g", option: None}) is None
