"""Portable resources and what a manager is asked: NVIDIA FLARE's vectors (#5092) as tables."""

from __future__ import annotations

import pytest

from siteward.resources import (
    PortableResources,
    nested_blocks,
    parse_memory,
    portable_problems,
    portable_resources,
    requirement,
    spec_problems,
)

GIB = 2**30

# resource_spec, what the backend enforces, what the manager is asked (all for site-1)
MERGES = {
    "nothing": ({}, {}, {}),
    "another site": ({"site-2": {"num_of_gpus": 2}}, {}, {}),
    "flat": (
        {"site-1": {"num_of_gpus": 1, "mem_per_gpu_in_GiB": 8}},
        {"num_of_gpus": 1},
        {"num_of_gpus": 1, "mem_per_gpu_in_GiB": 8},
    ),
    "default alone": (
        {"@default": {"num_of_cpus": 2, "memory": "2Gi", "num_of_gpus": 1}},
        {"num_of_cpus": 2, "memory": 2 * GIB, "num_of_gpus": 1},
        {"num_of_gpus": 1},
    ),
    "the site wins, key by key": (
        {"@default": {"num_of_cpus": 1, "memory": "2Gi"}, "site-1": {"num_of_cpus": 4, "num_of_gpus": 1}},
        {"num_of_cpus": 4, "memory": 2 * GIB, "num_of_gpus": 1},
        {"num_of_gpus": 1},
    ),
    "`default` is a site like any other": ({"default": {"num_of_gpus": 4}}, {}, {}),
    "CPUs and memory are the backend's": (
        {"site-1": {"num_of_cpus": 2, "memory": "1Ti", "licence": 3}},
        {"num_of_cpus": 2, "memory": 1024 * GIB},
        {"licence": 3},
    ),
    "no GPUs: no GPU keys at all": (
        {"site-1": {"num_of_gpus": 0, "mem_per_gpu_in_GiB": 8, "x": 1}},
        {"num_of_gpus": 0},
        {"x": 1},
    ),
    "the site can take the default's GPUs back": (
        {"@default": {"num_of_gpus": 2}, "site-1": {"num_of_gpus": 0, "mem_per_gpu_in_GiB": 4}},
        {"num_of_gpus": 0},
        {},
    ),
    "legacy: the process block goes to the manager as it is": (
        {"site-1": {"process": {"num_of_gpus": 2, "memory": "1Gi"}, "docker": {"shm_size": "1g"}}},
        {},
        {"num_of_gpus": 2, "memory": "1Gi"},
    ),
    "legacy: a sibling of a backend's key counts for nothing": (
        {"site-1": {"docker": {"image": "a"}, "num_of_gpus": 2}},
        {},
        {},
    ),
    "legacy with @default: the process block is portable": (
        {"@default": {"num_of_cpus": 1}, "site-1": {"process": {"num_of_gpus": 2, "memory": "1Gi"}}},
        {"num_of_cpus": 1, "num_of_gpus": 2, "memory": GIB},
        {"num_of_gpus": 2},
    ),
    "legacy with @default, and no process block": (
        {"@default": {"num_of_gpus": 1}, "site-1": {"k8s": {"num_of_gpus": 8}}},
        {"num_of_gpus": 1},
        {"num_of_gpus": 1},
    ),
    "a mapping of a manager's own is not legacy": (
        {"site-1": {"num_of_gpus": 1, "licences": {"matlab": 2}}},
        {"num_of_gpus": 1},
        {"num_of_gpus": 1, "licences": {"matlab": 2}},
    ),
}


@pytest.mark.parametrize("name", MERGES)
def test_default_and_site_are_merged(name: str) -> None:
    """The backend gets the portable keys, the manager what is left."""
    spec, portable, asked = MERGES[name]
    assert spec_problems(spec) == []
    assert portable_resources(spec, "site-1") == PortableResources(**portable)
    assert requirement(spec, "site-1") == asked


def test_merging_changes_nothing_that_was_given() -> None:
    """A spec is read, never written."""
    spec = {"@default": {"num_of_gpus": 0, "num_of_cpus": 1}, "site-1": {"mem_per_gpu_in_GiB": 8}}
    requirement(spec, "site-1")
    portable_resources(spec, "site-1")
    assert spec == {"@default": {"num_of_gpus": 0, "num_of_cpus": 1}, "site-1": {"mem_per_gpu_in_GiB": 8}}


NESTED = {
    "none": ({"site-1": {"num_of_gpus": 1}}, {}),
    "one": ({"site-1": {"docker": {"image": "a"}}}, {"docker": {"image": "a"}}),
    "two": ({"site-1": {"process": {}, "k8s": {"cpu": "1"}}}, {"process": {}, "k8s": {"cpu": "1"}}),
    "another site's": ({"site-2": {"docker": {"image": "a"}}}, {}),
    "not a backend": ({"site-1": {"licences": {"matlab": 1}}}, {}),
}


@pytest.mark.parametrize("name", NESTED)
def test_legacy_blocks_are_found(name: str) -> None:
    """Only a mapping under a legacy backend's name is that backend's block."""
    spec, blocks = NESTED[name]
    assert nested_blocks(spec, "site-1") == blocks


MEMORY = {"1Mi": 2**20, "512Mi": 512 * 2**20, "2Gi": 2 * GIB, "10Ti": 10 * 2**40}
BAD_MEMORY = [
    "",
    "0Gi",
    "01Gi",
    "2",
    "2G",
    "2GB",
    "2gi",
    "2 Gi",
    " 2Gi",
    "2Gi ",
    "2Gi\n",
    "-1Gi",
    "1.5Gi",
    "2Ki",
    "٢Gi",
    "Gi",
]


@pytest.mark.parametrize(("text", "size"), MEMORY.items())
def test_memory_is_whole_binary_units(text: str, size: int) -> None:
    """Mi, Gi and Ti are powers of two."""
    assert parse_memory(text) == size
    assert portable_problems({"memory": text}) == []


@pytest.mark.parametrize("text", BAD_MEMORY)
def test_other_ways_to_write_memory_are_refused(text: str) -> None:
    """Nothing is guessed: not a bare number, not a decimal unit, not a zero, not another script's digit."""
    with pytest.raises(ValueError, match="Mi, Gi or Ti"):
        parse_memory(text)
    assert [problem.path for problem in portable_problems({"memory": text})] == ["memory"]


BAD_VALUES = (
    [("num_of_gpus", value) for value in (-1, True, False, 1.0, "1", None, [1], {})]
    + [("num_of_cpus", value) for value in (0, -1, True, 1.5, "1", None)]
    + [("memory", value) for value in (2, None, True, ["2Gi"])]
)


@pytest.mark.parametrize(("key", "value"), BAD_VALUES)
def test_portable_values_are_checked(key: str, value: object) -> None:
    """A GPU count is a whole number from 0, a CPU count from 1, and a boolean is neither."""
    assert [problem.path for problem in portable_problems({key: value})] == [key]


SPEC_PROBLEMS = {
    "each site's": ({"a": {"num_of_gpus": -1}, "b": {"memory": 3}}, ["a.num_of_gpus", "b.memory"]),
    "@default takes portable keys alone": ({"@default": {"num_of_gpus": 1, "licence": 1}}, ["@default.licence"]),
    "@default is never legacy": ({"@default": {"process": {"num_of_gpus": 1}}}, ["@default.process"]),
    "a legacy process block": ({"a": {"process": {"num_of_gpus": -1}}}, ["a.process.num_of_gpus"]),
    "other legacy blocks are their backends'": ({"a": {"k8s": {"memory": "512M"}}}, []),
    "a process block that is none": ({"a": {"docker": {}, "process": 3}}, ["a.process"]),
    "a manager's own keys": ({"a": {"licence": "x", "list": [1]}}, []),
}


@pytest.mark.parametrize("name", SPEC_PROBLEMS)
def test_a_spec_tells_all_its_problems(name: str) -> None:
    """Every wrong key of every site is named with its path."""
    spec, paths = SPEC_PROBLEMS[name]
    assert [problem.path for problem in spec_problems(spec)] == paths
