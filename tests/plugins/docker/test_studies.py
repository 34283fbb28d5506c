"""What a study brings to its jobs: data, variables, secrets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from siteward import JobState, LaunchRefused, OptionsRefused

from .helpers import DEADLINE, Sites, output, run, sh, until

SECRET = "s3cret-of-the-study"


def study(**docker):
    return {"studies": {"cancer": {"env": {"MODE": "prod"}, "docker": docker}}, "job_secrets": {"db": {"env": "DB"}}}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "rows.csv").write_text("1,2,3\n")
    folder.chmod(0o777)
    return folder


def test_datasets_are_there(sites: Sites, data: Path):
    """At /data/<study>/<name>, read-only unless the site says rw; a path starts at the site file."""
    fields = study(datasets={"in": {"source": "data"}, "out": {"source": str(data), "mode": "rw"}})
    script = "cat /data/cancer/in/rows.csv; touch /data/cancer/in/x || echo ro; touch /data/cancer/out/y; echo $MODE"
    handle, result = run(sites.open(fields=fields), sh(script, study="cancer"))
    assert result.state is JobState.SUCCEEDED, result
    assert [line for line in output(handle).splitlines() if "touch" not in line] == ["1,2,3", "ro", "prod"]
    assert sorted(path.name for path in data.iterdir()) == ["rows.csv", "y"]


def test_a_dataset_that_is_not_there_starts_nothing(sites: Sites):
    """The engine would make an empty folder of it."""
    site = sites.open(fields=study(datasets={"in": {"source": "nowhere"}}))
    with pytest.raises(LaunchRefused, match="nowhere"):
        site.launch(sh("true", study="cancer"))
    assert not (sites.folder / "nowhere").exists()
    assert site.platform_jobs() == []


def test_secrets_as_files_lie_in_memory_only(sites: Sites, monkeypatch: pytest.MonkeyPatch):
    """The job alone can read them, the engine does not know them, and they are gone when the job is."""
    monkeypatch.setenv("DB", SECRET)
    fields = study(secret_mounts={"db": {"source": "db", "mount_path": "/run/secrets/db"}})
    handle = sites.open(fields=fields).launch(sh("cat /run/secrets/db; echo; sleep 100", study="cancer"))
    until(lambda: SECRET in output(handle), "the job reads it")
    found = sites.container(handle)
    assert SECRET not in json.dumps(found)
    (source,) = (Path(each["Source"]) for each in found["Mounts"] if each["Destination"] == "/run/secrets/db")
    assert source.read_text() == SECRET
    assert str(source).startswith("/dev/shm/")
    assert (source.stat().st_mode & 0o777, source.parent.stat().st_mode & 0o777) == (0o400, 0o700)
    handle.terminate(grace=0)
    handle.wait(DEADLINE)
    until(lambda: not source.exists(), "the file is removed")


def test_secrets_as_variables(sites: Sites, monkeypatch: pytest.MonkeyPatch):
    """They are in the job's environment, and nowhere at the site."""
    monkeypatch.setenv("DB", SECRET)
    site = sites.open(fields=study(secret_env={"TOKEN": {"source": "db"}}))
    handle, _ = run(site, sh("test $TOKEN = $WANTED && echo same", study="cancer", env={"WANTED": SECRET}))
    assert output(handle) == "same\n"
    rendered = json.dumps(site.render(sh("true", study="cancer")))
    assert "TOKEN=***" in rendered
    assert SECRET not in rendered


def test_a_secret_that_cannot_be_had_starts_nothing(sites: Sites, monkeypatch: pytest.MonkeyPatch):
    """The refusal says what is missing where."""
    monkeypatch.delenv("DB", raising=False)
    site = sites.open(fields=study(secret_env={"TOKEN": {"source": "db"}}))
    with pytest.raises(LaunchRefused, match="variable DB is not set"):
        site.launch(sh("true", study="cancer"))
    other = sites.open("site-2", "s2", fields=study(secret_env={"TOKEN": {"source": "dbb"}}))
    with pytest.raises(LaunchRefused, match="lends no secret 'dbb'"):
        other.launch(sh("true", study="cancer"))


def test_secret_files_need_the_engines_machine(sites: Sites, monkeypatch: pytest.MonkeyPatch):
    """An engine elsewhere does not share this machine's memory."""
    monkeypatch.setenv("DB", SECRET)
    fields = study(secret_mounts={"db": {"source": "db", "mount_path": "/run/db"}})
    with pytest.raises(LaunchRefused, match="job_directory: bind"):
        sites.open(fields=fields, job_directory="copy").launch(sh("true", study="cancer"))


def test_a_studys_kwargs_override_the_sites(sites: Sites):
    """And the job's own options override both."""
    site = sites.open(
        fields=study(docker_kwargs={"shm_size": "2m", "hostname": "study"}),
        container_kwargs={"shm_size": "1m", "hostname": "site", "pids_limit": 50},
    )
    size = "df -k /dev/shm | tail -n 1 | awk '{print $2}'; hostname"
    handle, _ = run(site, sh(size, study="cancer"))
    assert output(handle).split() == ["2048", "study"]
    handle, _ = run(site, sh(size, study="cancer", launcher_spec={"default": {"docker": {"shm_size": "3m"}}}))
    assert output(handle).split() == ["3072", "study"]
    handle, _ = run(site, sh(size))
    assert output(handle).split() == ["1024", "site"]
    assert os.path.isdir("/dev/shm")


def test_a_refused_job_leaves_no_secret(sites: Sites, monkeypatch: pytest.MonkeyPatch):
    """Whatever it is refused for."""
    monkeypatch.setenv("DB", "secret")
    fields = study(secret_mounts={"db": {"source": "db", "mount_path": "/run/db"}})
    site = sites.open(fields=fields, max_cpus=1)
    with pytest.raises(OptionsRefused, match="asks for 2 CPUs"):
        site.launch(sh("true", study="cancer", resource_spec={"@default": {"num_of_cpus": 2}}))
    owner = (sites.folder / "state/plugins/docker/owner").read_text()
    assert list(Path(f"/dev/shm/siteward-{owner}").iterdir()) == []
