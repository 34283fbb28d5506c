"""The job file: untrusted, read strictly, every mistake told at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siteward.errors import FileError
from siteward.job import JOB_KEYS, Job

WORKS = {"name": "demo", "command": ["true"]}


def problems_of(**changes: object) -> dict[str, str]:
    """Read a working job with these changes; return its problems by path."""
    data = {key: value for key, value in {**WORKS, **changes}.items() if value is not ...}
    try:
        Job.from_mapping(data)
    except FileError as error:
        return {problem.path: str(problem) for problem in error.problems}
    return {}


# changes to a working job → the problems' paths with words of each
MISTAKES = {
    "no name": ({"name": ...}, {"name": "is missing"}),
    "a name with capitals": ({"name": "Demo"}, {"name": "expected 1 to 40 of a-z"}),
    "a name that climbs": ({"name": "../x"}, {"name": "expected 1 to 40"}),
    "a name that is too long": ({"name": "a" * 41}, {"name": "expected 1 to 40"}),
    "a name with a hyphen at its end": ({"name": "a-"}, {"name": "no - at either end"}),
    "a name with a newline": ({"name": "a\n"}, {"name": "expected 1 to 40"}),
    "another script's digits": ({"name": "a٣"}, {"name": "expected 1 to 40"}),
    "an id that climbs": ({"id": "../../etc"}, {"id": "expected 1 to 63"}),
    "an id that is too long": ({"id": "a" * 64}, {"id": "expected 1 to 63"}),
    "a shell string": ({"command": "echo hi"}, {"command": "expected a list, got text 'echo hi'"}),
    "an empty command": ({"command": []}, {"command": "at least the program"}),
    "an empty program": ({"command": ["", "x"]}, {"command": "at least the program"}),
    "a number in argv": ({"command": ["sleep", 3]}, {"command[1]": "expected text, got the number 3"}),
    "a NUL in argv": ({"command": ["a", "b\0"]}, {"command[1]": "NUL"}),
    "nothing to run": ({"command": ...}, {"": "expected a command (a list) or a module"}),
    "two things to run": ({"module": "fedavg"}, {"": "either command or module, not both"}),
    "a module that is a path": ({"command": ..., "module": "a/b.py"}, {"module": "dotted name"}),
    "args without a module": ({"args": ["x"]}, {"args": "goes with module"}),
    "a boolean in env": ({"env": {"A": False}}, {"env.A": "expected text, got false (quote it"}),
    "env as a list": ({"env": ["A=x"]}, {"env": "expected a mapping, got a list"}),
    "secrets as a list": (
        {"secrets": ["db"]},
        {"secrets": "got a list (environment variable: name of a secret that the site lends)"},
    ),
    "a variable of siteward's": ({"env": {"SITEWARD_SITE": "x"}}, {"env.SITEWARD_SITE": "set by siteward"}),
    "no name for a variable": ({"env": {"A-B": "x"}}, {"env.A-B": "is not a name"}),
    "a secret of siteward's": ({"secrets": {"SITEWARD_X": "y"}}, {"secrets.SITEWARD_X": "set by siteward"}),
    "a variable twice": ({"env": {"A": "x"}, "secrets": {"A": "y"}}, {"secrets.A": "is in env too"}),
    "no sites": ({"sites": []}, {"sites": "at least one"}),
    "sites as text": ({"sites": "server"}, {"sites": "expected a list"}),
    "a site twice": ({"sites": ["a", "a"]}, {"sites[1]": "is there twice"}),
    "a site with a slash": ({"sites": ["a/b"]}, {"sites[0]": "without /"}),
    "min_sites 0": ({"min_sites": 0}, {"min_sites": "above 0"}),
    "more sites than there are": ({"sites": ["a"], "min_sites": 2}, {"min_sites": "at most 1"}),
    "a lead that does not run": ({"sites": ["server", "a"], "lead": "sever"}, {"lead": "did you mean 'server'?"}),
    "timeout 0": ({"timeout": 0}, {"timeout": "above 0"}),
    "timeout as text": ({"timeout": "1h"}, {"timeout": "expected a number, got text '1h'"}),
    "an unknown key": ({"comand": ["x"]}, {"comand": "did you mean 'command'?"}),
    "an internal key": ({"base_dir": "/"}, {"base_dir": "unknown key"}),
    "a launcher_spec that is too flat": ({"launcher_spec": {"docker": "x"}}, {"launcher_spec.docker": "mapping"}),
    "options that are no mapping": (
        {"launcher_spec": {"default": {"docker": "image"}}},
        {"launcher_spec.default.docker": "expected a mapping, got text 'image'"},
    ),
    "a launcher_spec for a site that is none": (
        {"sites": ["site-1"], "launcher_spec": {"site1": {"process": {}}}},
        {"launcher_spec.site1": "did you mean 'site-1'?"},
    ),
    "nearly default": (
        {"sites": ["site-1"], "launcher_spec": {"defaults": {"process": {}}}},
        {"launcher_spec.defaults": "did you mean 'default'?"},
    ),
    "default among resources": (
        {"sites": ["site-1"], "resource_spec": {"default": {}}},
        {"resource_spec.default": "did you mean '@default'?"},
    ),
    "a site_spec for a site that is none": (
        {"sites": ["site-1"], "site_spec": {"site-2": {"env": {}}}},
        {"site_spec.site-2": "did you mean 'site-1'?"},
    ),
    "an unknown key of a site": ({"site_spec": {"a": {"timeout": 3}}}, {"site_spec.a.timeout": "unknown key"}),
    "two things to run at a site": (
        {"site_spec": {"a": {"command": ["x"], "module": "y"}}},
        {"site_spec.a": "either command or module"},
    ),
    "args of no module at a site": ({"site_spec": {"a": {"args": ["x"]}}}, {"site_spec.a.args": "goes with module"}),
    "resources of the wrong kind": (
        {"resource_spec": {"a": {"num_of_gpus": "1", "memory": "2G"}}},
        {"resource_spec.a.num_of_gpus": "whole number", "resource_spec.a.memory": "like 2Gi"},
    ),
    "more than is portable by default": (
        {"resource_spec": {"@default": {"gpus": 1}}},
        {"resource_spec.@default.gpus": "takes only"},
    ),
    "a workspace that is not there": ({"workspace": "nowhere-at-all"}, {"workspace": "there is no folder"}),
    "a workspace above": ({"workspace": ".."}, {"workspace": "leaves the job file's folder"}),
    "a workspace of the machine": ({"workspace": "/etc"}, {"workspace": "leaves the job file's folder"}),
    "a workspace with a NUL": ({"workspace": "a\0b"}, {"workspace": "NUL"}),
    "a workspace with a very long name": ({"workspace": "x" * 5000}, {"workspace": ""}),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_told_with_its_path(name: str) -> None:
    """One mistake gives one problem, where it is, in words, with the nearest right one."""
    changes, expected = MISTAKES[name]
    told = problems_of(**changes)
    assert set(told) == set(expected)
    for path, words in expected.items():
        assert words in told[path]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """A file with many mistakes is read once, and names itself in each line."""
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: Not Fine\ncommand: echo hi\nenv: {A: no, SITEWARD_X: y}\ntimeout: -1\nimage: 3\nsites: [a, a]\n"
        "launcher_spec: {b: {docker: 3}}\nresource_spec: {a: {num_of_gpus: -1}}\nworkspace: ../..\n"
    )
    with pytest.raises(FileError) as caught:
        Job.load(path)
    assert {problem.path for problem in caught.value.problems} >= {
        "name", "command", "env.A", "timeout", "image", "sites[1]", "launcher_spec.b.docker",
        "resource_spec.a.num_of_gpus", "workspace",
    }  # fmt: skip
    assert all(line.startswith(f"{path}: ") for line in str(caught.value).splitlines())


def test_a_working_job_is_read(tmp_path: Path) -> None:
    """The example of the documentation, in full."""
    (tmp_path / "app").mkdir()
    path = tmp_path / "job.yaml"
    path.write_text(
        'name: fedavg-digits\ncommand: [python, -u, fedavg.py, "{site}"]\nsites: [server, site-1, site-2]\n'
        "min_sites: 2\nlead: server\nsite_spec: {server: {command: [python, server.py], env: {ROLE: server}}}\n"
        'env: {EPOCHS: "3"}\nsecrets: {TOKEN: fed-token}\nworkspace: ./app\nstudy: cancer\ntimeout: 3600\n'
        "launcher_spec:\n  default: {docker: {image: fl}}\n  site-2: {process: {}}\n"
        'resource_spec:\n  "@default": {num_of_cpus: 1, memory: 2Gi}\n'
        "  site-1: {num_of_gpus: 1, mem_per_gpu_in_GiB: 8}\n"
    )
    job = Job.load(path)
    assert job.command == ("python", "-u", "fedavg.py", "{site}")
    assert job.site_spec["server"].env == {"ROLE": "server"}
    assert job.workspace_path() == (tmp_path / "app").resolve()
    assert (job.timeout, job.min_sites, job.lead) == (3600.0, 2, "server")
    assert job.id.startswith("fedavg-digits-")


def test_ids_are_new_unless_given() -> None:
    """Two readings of one file are two jobs; a given id is kept."""
    assert Job.from_mapping(WORKS).id != Job.from_mapping(WORKS).id
    assert Job.from_mapping({**WORKS, "id": "mine-1"}).id == "mine-1"


def test_the_longest_name_still_makes_an_id() -> None:
    """40 characters and 8 random digits fit a label of 63."""
    job = Job.from_mapping({**WORKS, "name": "a" * 40})
    assert problems_of(id=job.id) == {}


def test_every_site_may_have_its_own_command() -> None:
    """A command of the job is not needed when each of its sites has one."""
    spec = {"a": {"command": ["x"]}, "b": {"module": "y", "args": ["z"]}}
    assert problems_of(command=..., sites=["a", "b"], site_spec=spec) == {}
    assert "" in problems_of(command=..., sites=["a", "b"], site_spec={"a": {"command": ["x"]}})
    assert "" in problems_of(command=..., site_spec=spec)


def test_keys_are_not_judged_when_the_job_names_no_sites() -> None:
    """One file may then serve sites that are not known yet."""
    assert problems_of(launcher_spec={"any": {"process": {}}}, resource_spec={"any": {}}, site_spec={"any": {}}) == {}


def test_a_workspace_behind_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    """A link cannot carry the site's files into a job."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "jobs" / "app").symlink_to(tmp_path / "outside")
    (tmp_path / "jobs" / "loop").symlink_to(tmp_path / "jobs" / "loop")
    for workspace in ("app", "loop"):
        with pytest.raises(FileError, match="workspace"):
            Job.from_mapping({**WORKS, "workspace": workspace}, base_dir=tmp_path / "jobs")


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_likely = st.dictionaries(
    st.sampled_from(["default", "@default", "site-1", "process", "docker", "num_of_gpus", "memory", "command", "env"]),
    _plain | st.dictionaries(st.sampled_from(["process", "num_of_gpus", "memory", "A"]), _plain, max_size=3),
    max_size=3,
)


@given(st.dictionaries(st.sampled_from(JOB_KEYS) | st.text(max_size=5), _plain | _likely, max_size=6) | _plain)
def test_no_structure_shows_a_traceback(data: object) -> None:
    """Whatever a program hands over is a job or a FileError."""
    try:
        Job.from_mapping(data)  # type: ignore[arg-type]
    except FileError as error:
        assert error.problems


@given(st.dictionaries(st.sampled_from(JOB_KEYS), _plain | _likely, max_size=4))
def test_every_key_of_a_working_job_may_be_anything(changes: dict[str, object]) -> None:
    """One strange value beside good ones is told, not raised."""
    try:
        Job.from_mapping({**WORKS, "sites": ["site-1"], **changes})
    except FileError as error:
        assert error.problems
