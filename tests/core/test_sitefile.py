"""The site file: trusted, and read as strictly as the job's."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siteward.errors import FileError
from siteward.names import safe_name
from siteward.sitefile import Keep, SecretSource, SiteFile

WORKS = {"name": "site-1", "backends": {"process": {}}}
SITE_KEYS = [field.name for field in attrs.fields(SiteFile) if not field.metadata.get("internal")]


def problems_of(**changes: object) -> dict[str, str]:
    """Read a working site with these changes; return its problems by path."""
    data = {key: value for key, value in {**WORKS, **changes}.items() if value is not ...}
    try:
        SiteFile.from_mapping(data)
    except FileError as error:
        return {problem.path: str(problem) for problem in error.problems}
    return {}


MISTAKES = {
    "no name": ({"name": ...}, {"name": "is missing"}),
    "a name with a slash": ({"name": "a/b"}, {"name": "without /"}),
    "no backends": ({"backends": ...}, {"backends": "is missing"}),
    "empty backends": ({"backends": {}}, {"backends": "at least one"}),
    "backends as a list": ({"backends": ["process"]}, {"backends": "expected a mapping, got a list"}),
    "options as text": ({"backends": {"process": "yes"}}, {"backends.process": "expected a mapping"}),
    "a default that is not enabled": (
        {"backends": {"docker": {}, "process": {}}, "default_backend": "dokcer"},
        {"default_backend": "did you mean 'docker'?"},
    ),
    "two resource managers": ({"resources": {"gpu": {}, "list": {}}}, {"resources": "exactly one"}),
    "no resource manager": ({"resources": {}}, {"resources": "exactly one"}),
    "env with a number": ({"env": {"A": 1}}, {"env.A": "expected text, got the number 1"}),
    "env of siteward's": ({"env": {"SITEWARD_A": "1"}}, {"env.SITEWARD_A": "set by siteward"}),
    "a secret without a source": ({"job_secrets": {"t": {}}}, {"job_secrets.t": "exactly one of env and file"}),
    "a secret with two": (
        {"job_secrets": {"t": {"env": "A", "file": "b"}}},
        {"job_secrets.t": "exactly one of env and file"},
    ),
    "a secret in the file itself": ({"job_secrets": {"t": "hunter2"}}, {"job_secrets.t": "expected a mapping"}),
    "a secret's unknown key": (
        {"job_secrets": {"t": {"envv": "A"}}},
        {"job_secrets.t.envv": "did you mean 'env'?"},
    ),
    "a study with a strange name": ({"studies": {"Cancer": {}}}, {"studies.Cancer": "a study's name"}),
    "a study that climbs": ({"studies": {"../x": {}}}, {"studies.../x": "a study's name"}),
    "a study's env": ({"studies": {"c": {"env": {"A": 1}}}}, {"studies.c.env.A": "expected text"}),
    "a study's env of siteward's": (
        {"studies": {"c": {"env": {"SITEWARD_A": "1"}}}},
        {"studies.c.env.SITEWARD_A": "set by siteward"},
    ),
    "a study's options as text": ({"studies": {"c": {"docker": "x"}}}, {"studies.c.docker": "expected a mapping"}),
    "max_jobs 0": ({"max_jobs": 0}, {"max_jobs": "above 0"}),
    "max_jobs true": ({"max_jobs": True}, {"max_jobs": "expected a whole number, got true"}),
    "an empty state_dir": ({"state_dir": ""}, {"state_dir": "expected a path"}),
    "a lease_dir with a NUL": ({"lease_dir": "a\0"}, {"lease_dir": "expected a path"}),
    "a negative grace": ({"grace": -1}, {"grace": "0 or more"}),
    "poll_interval 0": ({"poll_interval": 0}, {"poll_interval": "above 0"}),
    "keep": ({"keep": {"jobs": -1, "day": 3}}, {"keep.jobs": "0 or more", "keep.day": "did you mean 'days'?"}),
    "an unknown key": ({"backend": {}}, {"backend": "did you mean 'backends'?"}),
    "an internal key": ({"base_dir": "/"}, {"base_dir": "unknown key"}),
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
    path = tmp_path / "site.yaml"
    path.write_text(
        "name: a/b\nbackends: {}\ngrace: x\nmax_jobs: 0\nstudies: {C: {docker: 3}}\nresources: {a: {}, b: {}}\nx: 1\n"
    )
    with pytest.raises(FileError) as caught:
        SiteFile.load(path)
    paths = {problem.path for problem in caught.value.problems}
    assert paths == {"name", "backends", "grace", "max_jobs", "studies.C.docker", "resources", "x"}
    assert all(line.startswith(f"{path}: ") for line in str(caught.value).splitlines())


def test_a_working_site_is_read(tmp_path: Path) -> None:
    """The example of the documentation, in full; the order of backends is kept."""
    path = tmp_path / "site.yaml"
    path.write_text(
        "name: site-1\nbackends:\n  k8s: {namespace: fl}\n  process:\ndefault_backend: process\n"
        "resources: {gpu: {num_of_gpus: 2}}\nenv: {FED_SERVER: '10.0.0.5:8002'}\n"
        "job_secrets: {fed-token: {env: FED_TOKEN}, db: {file: secrets/db}}\n"
        "studies:\n  cancer:\n    env: {MODE: prod}\n    docker: {image: c}\n    k8s:\n  empty:\n"
        "max_jobs: 8\nstate_dir: ./state\nlease_dir: leases\ngrace: 5\nkeep: {jobs: 10, days: 1}\n"
    )
    site = SiteFile.load(path)
    assert list(site.backends.items()) == [("k8s", {"namespace": "fl"}), ("process", {})]
    assert site.resources == {"gpu": {"num_of_gpus": 2}}
    assert site.study_env("cancer") == {"MODE": "prod"}
    assert site.study_block("cancer", "docker") == {"image": "c"}
    assert site.study_block("cancer", "k8s") == site.study_block("cancer", "process") == site.study_env("empty") == {}
    assert (site.grace, site.poll_interval, site.max_jobs, site.keep) == (5.0, 1.0, 8, Keep(jobs=10, days=1.0))
    assert site.state_path() == tmp_path / "state"
    assert site.lease_path() == tmp_path / "leases"
    assert (site.file, site.base_dir) == (str(path), tmp_path)


def test_a_study_that_is_not_there_is_a_key_error() -> None:
    """Whoever asks for a study has looked whether it is there."""
    with pytest.raises(KeyError):
        SiteFile.from_mapping(WORKS).study_env("cancer")


def test_the_state_directory_is_the_users_own_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each site has a folder of its own, and no name leaves the user's state directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name in ("site-1", "..", ".", "Site-1", "~root", "a b"):
        path = SiteFile.from_mapping({**WORKS, "name": name}).state_path()
        assert path == tmp_path / "siteward" / safe_name(name)
        assert path.resolve().is_relative_to(tmp_path / "siteward")


def test_a_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """~ is the user's home; that of a user who does not exist is a folder beside the file, not a traceback."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert SiteFile.from_mapping({**WORKS, "state_dir": "~/s"}).state_path() == tmp_path / "home" / "s"
    odd = SiteFile.from_mapping({**WORKS, "state_dir": "~no-such-user/s"}, base_dir=tmp_path)
    assert odd.state_path() == tmp_path / "~no-such-user" / "s"


def test_leases_are_shared_where_users_can_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first shared place that can be written, never through a link; else the user's runtime directory."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o700)
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setattr("siteward.sitefile._SHARED", (first, second))
    site = SiteFile.from_mapping(WORKS)
    assert site.lease_path().is_relative_to(tmp_path / "run")
    second.mkdir()
    assert site.lease_path() == second / "siteward"
    first.mkdir()
    assert site.lease_path() == first / "siteward"
    (first / "siteward").symlink_to(tmp_path / "run")
    assert site.lease_path() == second / "siteward"


def test_secrets_are_read_when_they_are_lent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From a variable or a file; one newline at the end is the editor's, a second one the secret's."""
    monkeypatch.setenv("FED_TOKEN", "hunter2")
    assert SecretSource(env="FED_TOKEN").read(tmp_path) == "hunter2"
    (tmp_path / "db").write_text("s3cret\n\n")
    assert SecretSource(file="db").read(tmp_path) == "s3cret\n"
    assert SecretSource(file=str(tmp_path / "db")).read(Path("/")) == "s3cret\n"


def _nothing(path: Path) -> None:
    pass


BAD_SECRETS = {
    "missing": (_nothing, "cannot be read: No such file"),
    "a folder": (Path.mkdir, "cannot be read: Is a directory"),
    "not text": (lambda path: path.write_bytes(b"\xff"), "is not UTF-8"),
    "too long": (lambda path: path.write_text("x" * 140_000), "is too long"),
    "a NUL": (lambda path: path.write_text("se\0cret"), "has a NUL"),
}


@pytest.mark.parametrize("name", BAD_SECRETS)
def test_a_secret_that_cannot_be_had_is_told_in_words(name: str, tmp_path: Path) -> None:
    """The words name the file, never what is in it."""
    make, words = BAD_SECRETS[name]
    make(tmp_path / "secret")
    with pytest.raises(ValueError, match="secret") as caught:
        SecretSource(file="secret").read(tmp_path)
    assert words in str(caught.value)
    assert "se\0" not in str(caught.value)


def test_an_unset_variable_is_told_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Which variable, and what to do."""
    monkeypatch.delenv("FED_TOKEN", raising=False)
    with pytest.raises(ValueError, match="FED_TOKEN is not set"):
        SecretSource(env="FED_TOKEN").read(tmp_path)


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_likely = st.dictionaries(st.sampled_from(["process", "env", "file", "cancer", "jobs", "docker"]), _plain, max_size=3)


@given(st.dictionaries(st.sampled_from(SITE_KEYS) | st.text(max_size=5), _plain | _likely, max_size=6) | _plain)
def test_no_structure_shows_a_traceback(data: object) -> None:
    """Whatever a program hands over is a site or a FileError."""
    try:
        SiteFile.from_mapping(data)  # type: ignore[arg-type]
    except FileError as error:
        assert error.problems


@given(
    st.dictionaries(st.sampled_from(SITE_KEYS), _plain | _likely | st.dictionaries(st.just("c"), _likely), max_size=4)
)
def test_every_key_of_a_working_site_may_be_anything(changes: dict[str, object]) -> None:
    """One strange value beside good ones is told, not raised."""
    try:
        SiteFile.from_mapping({**WORKS, **changes})
    except FileError as error:
        assert error.problems
