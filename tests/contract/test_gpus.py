"""The resource managers in a site file, with real jobs: who sees which GPU, and for how long it is theirs.

The GPUs are those that a made-up ``nvidia-smi`` tells of: the jobs only look at their environment.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("siteward_gpu_resources", reason="needs the managers: install siteward-gpu-resources")

from siteward import Job, JobState, LaunchError, ResourcesRefused, Site

DEADLINE = 60.0
UUIDS = [f"GPU-0000000{number}-1111-2222-3333-444444444444" for number in range(2)]
SMI = f"""#!/bin/sh
case "$1" in
-L) {"".join(f'echo "GPU {number}: Made up (UUID: {uuid})"; ' for number, uuid in enumerate(UUIDS))};;
*) {"".join(f'echo "{number}, {uuid}, Made up, 16384"; ' for number, uuid in enumerate(UUIDS))};;
esac
"""
TELL = """
import os, pathlib, time
names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "LICENCE")
text = "".join(f"{name}={os.environ[name]}\\n" for name in names if name in os.environ)
pathlib.Path("seen.part").write_text(text)
pathlib.Path("seen.part").rename("seen")
while not pathlib.Path("go").exists():
    time.sleep(0.01)
"""
GPU = {"gpu": {"num_of_gpus": 2, "mem_per_gpu_in_GiB": 16}}
ELSEWHERE = {"gpu": {"num_of_gpus": 2, "mem_per_gpu_in_GiB": 16, "ignore_host": True}}


def until(condition, what="what the test waits for"):
    give_up = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < give_up, f"{what} did not happen in {DEADLINE} s"
        time.sleep(0.01)
    return found


class Sites:
    """Sites of one host, in a folder; jobs are told to go on with a file."""

    def __init__(self, folder):
        self.folder = folder
        self.opened = []

    def file(self, name, resources, backends=None):
        path = self.folder / f"{name}.yaml"
        data = {
            "name": name,
            "backends": backends or {"process": {}},
            "default_backend": next(iter(backends or ["process"])),
            "state_dir": f"./{name}",
            "lease_dir": "./leases",
            "grace": 1,
            "resources": resources,
        }
        path.write_text(yaml.safe_dump(data))
        return path

    def open(self, name="here", resources=GPU, backends=None):
        site = Site.load(self.file(name, resources, backends))
        self.opened.append(site)
        return site

    def close(self):
        for site in self.opened:
            for row in site.jobs(ended=False):
                site.attach(row.job_id).terminate(0)
                site.attach(row.job_id).wait(DEADLINE)
            site.close()


@pytest.fixture
def sites(tmp_path, monkeypatch):
    """Sites on a host with two GPUs."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text(SMI)
    (tools / "nvidia-smi").chmod(0o755)
    (tools / "pynvml.py").write_text("raise ImportError('left out: the GPUs are made up')\n")
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(tools))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    sites = Sites(tmp_path)
    yield sites
    sites.close()


def a_job(name, site="here", command=None, **spec):
    fields = {"name": name, "id": name, "command": command or [sys.executable, "-c", TELL]}
    return Job.from_mapping({**fields, "resource_spec": {site: spec} if spec else {}})


def seen(site, job_id):
    """Return the variables that a job has told of, as soon as it has."""
    path = Path(site.state_dir, "jobs", job_id, "work", "seen")
    until(path.exists, f"{job_id} says what it sees")
    return dict(line.split("=", 1) for line in path.read_text().split())


def go_on(site, handle):
    Path(site.state_dir, "jobs", handle.job_id, "work", "go").touch()
    return handle.wait(DEADLINE)


# --- processes ---


def test_two_jobs_never_see_one_gpu(sites):
    """Each has its own; a third is refused, in words; when one has ended its GPU is free."""
    site = sites.open()
    handles = [site.launch(a_job(name, num_of_gpus=1)) for name in ("a", "b")]
    views = [seen(site, name) for name in ("a", "b")]
    assert [view["CUDA_VISIBLE_DEVICES"] for view in views] == UUIDS
    assert {view["CUDA_DEVICE_ORDER"] for view in views} == {"PCI_BUS_ID"}
    with pytest.raises(ResourcesRefused, match="1 GPU asked, 0 free; held by job a of site here") as caught:
        site.launch(a_job("c", num_of_gpus=1))
    assert not caught.value.refusal.permanent
    assert go_on(site, handles[0]).state is JobState.SUCCEEDED
    again = site.launch(a_job("d", num_of_gpus=1))
    assert seen(site, "d")["CUDA_VISIBLE_DEVICES"] == UUIDS[0]
    assert go_on(site, again).state is JobState.SUCCEEDED


def test_two_sites_of_one_host_share_its_gpus(sites):
    """What one site's job has, the other's cannot get."""
    one, two = sites.open("one"), sites.open("two")
    one.launch(a_job("a", "one", num_of_gpus=1))
    two.launch(a_job("b", "two", num_of_gpus=1))
    assert [seen(one, "a")["CUDA_VISIBLE_DEVICES"], seen(two, "b")["CUDA_VISIBLE_DEVICES"]] == UUIDS
    with pytest.raises(ResourcesRefused, match="job b of site two"):
        one.launch(a_job("c", "one", num_of_gpus=1))


def test_jobs_that_say_how_much_share_a_gpu(sites):
    """Up to its memory."""
    site = sites.open()
    for name in ("a", "b", "c"):
        site.launch(a_job(name, num_of_gpus=1, mem_per_gpu_in_GiB=8))
    assert [seen(site, name)["CUDA_VISIBLE_DEVICES"] for name in ("a", "b", "c")] == [UUIDS[0], UUIDS[0], UUIDS[1]]


def test_the_variables_are_that_job_s_alone(sites):
    """A later job without GPUs sees none, and siteward's own environment stays as it was."""
    site, before = sites.open(), dict(os.environ)
    go_on(site, site.launch(a_job("a", num_of_gpus=2)))
    site.launch(a_job("b"))
    assert seen(site, "a")["CUDA_VISIBLE_DEVICES"] == ",".join(UUIDS)
    assert seen(site, "b") == {"CUDA_VISIBLE_DEVICES": ""}
    assert dict(os.environ) == before


def test_gpus_elsewhere_are_numbered(sites):
    """With `ignore_host` no GPU of this host is looked at."""
    site = sites.open(resources=ELSEWHERE)
    site.launch(a_job("a", num_of_gpus=1))
    site.launch(a_job("b", num_of_gpus=1))
    site.launch(a_job("c"))
    views = [seen(site, name).get("CUDA_VISIBLE_DEVICES") for name in "abc"]
    assert views == ["0", "1", None]


def test_what_can_never_be_met_says_so(sites):
    """With what the site has; waiting does not help."""
    site = sites.open()
    for spec, words in (
        ({"num_of_gpus": 3}, "this site hands out 2: waiting will not help"),
        ({"num_of_gpus": 1, "mem_per_gpu_in_GiB": 24}, "mem_per_gpu_in_GiB is 16: waiting will not help"),
    ):
        with pytest.raises(ResourcesRefused, match=words) as caught:
            site.launch(a_job("a", **spec))
        assert caught.value.refusal.permanent


def test_a_lease_ends_with_its_job_not_with_its_process(sites):
    """The parent is killed: the job's GPU stays its own for other sites too, and is free when the job has ended."""
    path = sites.file("one", GPU)
    script = (
        "import os, sys; from siteward import Job, Site\n"
        f"site = Site.load({str(path)!r})\n"
        "site.launch(Job.from_mapping(__import__('json').loads(sys.argv[1])))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    job = {
        "name": "a",
        "id": "a",
        "command": [sys.executable, "-c", TELL],
        "resource_spec": {"one": {"num_of_gpus": 2}},
    }
    done = subprocess.run([sys.executable, "-c", script, json.dumps(job)], timeout=DEADLINE, check=False)
    assert done.returncode == -signal.SIGKILL
    two = sites.open("two")
    with pytest.raises(ResourcesRefused, match="0 free; held by job a of site one"):
        two.launch(a_job("b", "two", num_of_gpus=1))
    work = sites.folder / "one" / "jobs" / "a" / "work"
    until((work / "seen").exists)
    (work / "go").touch()

    def launched():
        try:
            return two.launch(a_job("b", "two", num_of_gpus=2))
        except ResourcesRefused:
            return None

    handle = until(launched, "the GPUs of a job that has ended are free, though nobody opened its site")
    assert go_on(two, handle).state is JobState.SUCCEEDED
    one = sites.open("one")
    assert one.attach("a").wait(DEADLINE).exit_code == 0
    assert not any(gpu["holders"] for gpu in one.resources()["gpu"].values())


def test_the_command_line_shows_who_has_what(sites):
    """`siteward resources`, for people and as JSON."""
    site = sites.open()
    site.launch(a_job("a", num_of_gpus=1))
    command = [sys.executable, "-m", "siteward", "resources", "--site", str(sites.folder / "here.yaml")]
    told = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True).stdout
    assert "gpu.GPU 0.holders.a.since" in told
    data = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert data["gpu"]["GPU 0"]["holders"]["a"]["site"] == "here"
    assert data["gpu"]["GPU 1"]["holders"] == {}


def test_a_wrong_block_is_told_with_its_place(sites):
    """More GPUs than there are is a mistake in the site file."""
    from siteward import FileError

    with pytest.raises(FileError, match=r"resources\.gpu: .*num_of_gpus specified \(3\) exceeds available GPUs: 2"):
        sites.open(resources={"gpu": {"num_of_gpus": 3}})
    with pytest.raises(FileError, match=r"resources\.gpu\.num_of_gpu: unknown key.*did you mean 'num_of_gpus'"):
        sites.open(resources={"gpu": {"num_of_gpu": 3}})


def test_licences_reach_the_job(sites):
    """The design's other example: a list of units."""
    site = sites.open(resources={"list": {"units": {"licence": ["a", "b"]}}})
    for name in ("one", "two"):
        site.launch(a_job(name, licence=1))
    assert [seen(site, name)["LICENCE"] for name in ("one", "two")] == ["a", "b"]
    with pytest.raises(ResourcesRefused, match="1 licence asked, 0 free"):
        site.launch(a_job("three", licence=1))


def test_cpus_are_counted(sites):
    """A laptop runs no more than fits."""
    site = sites.open(resources={"cpu_memory": {"num_of_cpus": 2, "memory": "4Gi"}})
    handle = site.launch(a_job("a", num_of_cpus=2, memory="1Gi"))
    with pytest.raises(ResourcesRefused, match="1 CPU asked, 0 CPUs free; held by job a"):
        site.launch(a_job("b", num_of_cpus=1))
    seen(site, "a")
    assert go_on(site, handle).state is JobState.SUCCEEDED
    seen_again = site.launch(a_job("c", num_of_cpus=1))
    assert go_on(site, seen_again).state is JobState.SUCCEEDED


def test_queued_jobs_wait_for_their_gpus(sites):
    """With `max_jobs`, a job whose GPUs are gone when its turn comes waits until they are free again."""
    path = sites.file("here", GPU)
    path.write_text(path.read_text() + "max_jobs: 1\npoll_interval: 0.05\n")
    site, other = Site.load(path), sites.open("other")
    sites.opened.append(site)
    first = site.launch(a_job("a"))
    waiting = site.launch(a_job("b", num_of_gpus=1))
    taken = other.launch(a_job("c", "other", num_of_gpus=2))
    go_on(site, first)
    until(lambda: "held by job c of site other" in waiting.status().message)
    go_on(other, taken)
    assert seen(site, "b")["CUDA_VISIBLE_DEVICES"] == UUIDS[0]
    assert go_on(site, waiting).state is JobState.SUCCEEDED


# --- containers ---


@pytest.fixture
def in_docker(sites, engine, busybox):
    """Open a site whose jobs are containers: ``in_docker(resources)``."""
    pytest.importorskip("siteward_docker", reason="needs the Docker backend: install siteward-docker")
    backends = {"docker": {"docker_host": engine.host, "default_image": busybox}}
    return lambda resources: sites.open(resources=resources, backends=backends)


def test_a_container_gets_its_units(in_docker):
    """Units of a list are variables; nothing else is added to its environment."""
    site = in_docker({"list": {"units": {"licence": ["a", "b"]}}})
    shell = ["sh", "-c", "env > seen"]
    handle = site.launch(a_job("a", command=shell, licence=2))
    assert handle.wait(DEADLINE).state is JobState.SUCCEEDED
    text = Path(site.state_dir, "jobs", "a", "work", "seen").read_text()
    assert "LICENCE=a,b\n" in text
    assert "CUDA_" not in text


def test_an_engine_without_gpus_leaves_no_lease(in_docker):
    """A container asks its engine for the GPUs that the job was handed; when it has none, they are free again."""
    site = in_docker(GPU)
    try:
        result = site.launch(a_job("a", command=["true"], num_of_gpus=1)).wait(DEADLINE)
        assert result.state is JobState.FAILED
        words = result.message
    except LaunchError as error:
        words = str(error)
    assert "GPU" in words or "device" in words
    assert not any(gpu["holders"] for gpu in site.resources()["gpu"].values())
