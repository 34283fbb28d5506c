"""From a request to the engine's create call: what a job may ask, what the site decides."""

from pathlib import Path

import pytest

from siteward import Allocation, FileError, JobRequest, LaunchRefused, OptionsRefused, PortableResources, SiteFile
from siteward.config import Problems
from siteward.config import build as read
from siteward_docker import build
from siteward_docker.options import JobOptions, SiteOptions, StudyOptions, parse_size

GIB = 2**30


def make(
    job=None, site=None, study=None, host_config=None, secret_env=None, secret_files=None, default_runtime="", **fields
):
    """Return the create call for a job, options read as from files."""
    site_options = read(SiteOptions, {"default_image": "img:1", **(site or {})})
    request = JobRequest(
        job_id=fields.pop("job_id", "train-1"),
        name="train",
        site=fields.pop("site_name", "site-1"),
        job_dir=Path("/state/jobs/train-1/work"),
        options=build.resolve(read(JobOptions, job or {}), site_options),
        study=None if study is None else read(StudyOptions, study),
        study_name=None if study is None else "cancer",
        backend="docker",
        **{"command": ["python3", "x.py"], **fields},
    )
    place = build.Place(
        owner="owner",
        site=request.site,
        backend="docker",
        options=site_options,
        user=(1000, 100),
        base_dir=Path("/etc/siteward"),
        host_config=host_config or {},
    )
    return build.container(
        request,
        place,
        secret_env=secret_env or {},
        secret_files=secret_files or {},
        study_host_config={},
        default_runtime=default_runtime,
    )


def test_what_runs_is_exactly_the_command():
    """The image's own entrypoint has no say; the job's comes before the command."""
    assert (make()["Entrypoint"], make()["Cmd"]) == (["python3"], ["x.py"])
    wrapped = make({"entrypoint": ["tini", "--"]})
    assert (wrapped["Entrypoint"], wrapped["Cmd"]) == (["tini"], ["--", "python3", "x.py"])
    assert make({"entrypoint": "wrap"})["Entrypoint"] == ["wrap"]
    module = {"command": None, "module": "fed.avg", "args": ["a b"]}
    assert make(**module)["Entrypoint"] + make(**module)["Cmd"] == ["python3", "-u", "-m", "fed.avg", "a b"]
    assert make({"python_path": "/opt/py"}, **module)["Entrypoint"] == ["/opt/py"]
    assert make(site={"default_python_path": "/opt/py3"}, **module)["Entrypoint"] == ["/opt/py3"]
    assert make(command=["x", "{job_dir}"])["Cmd"] == [build.JOB_DIR]


def test_rights_are_as_few_as_can_be_by_default():
    """Not root, no capabilities, no new privileges, a read-only root with /tmp, an init, the engine's network."""
    body = make()
    host = body["HostConfig"]
    assert body["User"] == "1000:100"
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"] is True
    assert list(host["Tmpfs"]) == ["/tmp"]
    assert host["Init"] is True
    assert "NetworkMode" not in host
    assert not {"Privileged", "Devices", "PidMode", "IpcMode", "UTSMode", "UsernsMode", "Binds", "CapAdd"} & host.keys()
    assert host["Mounts"] == [
        {"Type": "bind", "Source": "/state/jobs/train-1/work", "Target": build.JOB_DIR, "ReadOnly": False}
    ]


def test_the_site_may_loosen_rights():
    """What the site sets counts."""
    site = {"cap_drop": ["NET_RAW"], "read_only": False, "no_new_privileges": False, "network": "fl"}
    host = make(site=site, host_config={"CapAdd": ["SYS_PTRACE"], "SecurityOpt": ["seccomp=x"]})["HostConfig"]
    assert (host["CapDrop"], host["CapAdd"], host["ReadonlyRootfs"]) == (["NET_RAW"], ["SYS_PTRACE"], False)
    assert (host["SecurityOpt"], host["NetworkMode"]) == (["seccomp=x"], "fl")
    assert "Tmpfs" not in host


def test_what_siteward_decides_stays_whatever_the_kwargs_say():
    """Options of the engine cannot undo the job directory, rights or init."""
    host = make(host_config={"Init": False, "ReadonlyRootfs": False, "Mounts": [1], "CapDrop": []})["HostConfig"]
    assert (host["Init"], host["ReadonlyRootfs"], host["CapDrop"], len(host["Mounts"])) == (True, True, ["ALL"], 1)


@pytest.mark.parametrize(
    ("job", "study", "site", "image"),
    [
        ("a", "b", "c", "a"),
        (None, "b", "c", "b"),
        (None, None, "c", "c"),
    ],
)
def test_the_image_is_the_jobs_then_the_studys_then_the_sites(job, study, site, image):
    """The nearest one counts."""
    study = {} if study is None else {"image": study}
    assert make({"image": job} if job else {}, {"default_image": site}, study)["Image"] == image


def test_no_image_names_all_three_places():
    """Who has none is told where to put one."""
    with pytest.raises(LaunchRefused) as caught:
        make(site={"default_image": None}, study={})
    assert "launcher_spec" in str(caught.value)
    assert "studies.cancer.docker.image" in str(caught.value)
    assert "default_image" in str(caught.value)


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        ("registry.local/fl:1", True),
        ("registry.local/deep/er:1", True),
        ("registry.local.evil.org/fl", False),
        ("evil/registry.local/fl", False),
        ("REGISTRY.local/fl:1", False),
        ("python", True),
        ("python:3", False),
    ],
)
def test_only_allowed_images(image, allowed):
    """A job's image must match one of the site's patterns; the site's own and a study's need not."""
    site = {"allowed_images": ["registry.local/*", "python"], "default_image": "other:1"}
    if allowed:
        assert make({"image": image}, site)["Image"] == image
    else:
        with pytest.raises(OptionsRefused, match="allows only images like registry"):
            make({"image": image}, site)
    assert make({}, site)["Image"] == "other:1"
    with pytest.raises(OptionsRefused):
        make({"image": "x"}, {"allowed_images": []})


def test_limits():
    """Portable CPUs and memory are enforced, with no swap on top; the site's caps are limits for who asks nothing."""
    host = make(resources=PortableResources(num_of_cpus=2, memory=GIB))["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (2 * 10**9, GIB, GIB)
    host = make(site={"max_cpus": 4, "max_memory": 2 * GIB})["HostConfig"]
    assert (host["NanoCpus"], host["Memory"]) == (4 * 10**9, 2 * GIB)
    assert not {"NanoCpus", "Memory"} & make()["HostConfig"].keys()
    for resources, cap in (
        (PortableResources(num_of_cpus=5), {"max_cpus": 4}),
        (PortableResources(memory=GIB + 1), {"max_memory": GIB}),
        (PortableResources(num_of_gpus=2), {"max_gpus": 1}),
    ):
        with pytest.raises(OptionsRefused, match="the site allows"):
            make(site=cap, resources=resources)


def test_everything_above_the_sites_caps_is_told_at_once():
    """One refusal with a problem for each of CPUs, memory and GPUs."""
    asked = PortableResources(num_of_cpus=5, memory=GIB + 1, num_of_gpus=2)
    with pytest.raises(OptionsRefused) as refused:
        make(site={"max_cpus": 4, "max_memory": GIB, "max_gpus": 1}, resources=asked)
    assert [problem.path for problem in refused.value.problems] == ["resource_spec"] * 3


def test_gpus():
    """Devices that were handed out go by id; else a count; an explicit 0 takes away what the site gives."""
    inherited = {"DeviceRequests": [{"Count": -1}]}
    one = [{"Count": 1, "Capabilities": [["gpu"]]}]
    assert make({"num_of_gpus": 1})["HostConfig"]["DeviceRequests"] == one
    assert make(resources=PortableResources(num_of_gpus=1))["HostConfig"]["DeviceRequests"] == one
    assert make(host_config=inherited)["HostConfig"]["DeviceRequests"] == [{"Count": -1}]
    assert make({"num_of_gpus": 0}, host_config=inherited)["HostConfig"]["DeviceRequests"] == []
    allocation = Allocation(token="t", devices=["GPU-1", "GPU-2"])
    requests = make(resources=PortableResources(num_of_gpus=2), allocation=allocation)["HostConfig"]["DeviceRequests"]
    assert requests == [{"DeviceIDs": ["GPU-1", "GPU-2"], "Capabilities": [["gpu"]]}]


def test_no_variable_gives_a_job_gpus():
    """With NVIDIA's runtime it would: there only the site's own docker block may say so. Elsewhere it is left alone."""
    wanted, none = {"NVIDIA_VISIBLE_DEVICES": "all"}, "NVIDIA_VISIBLE_DEVICES=void"
    nvidia = {"default_runtime": "nvidia"}
    assert none in make(env=wanted, **nvidia)["Env"]
    assert none in make(env=wanted, host_config={"Runtime": "nvidia"})["Env"]
    assert none in make({"num_of_gpus": 0}, **nvidia)["Env"]
    env = make({"num_of_gpus": 1}, env=wanted, **nvidia)["Env"]
    assert not [each for each in env if each.startswith("NVIDIA_")]
    site = {"env": {"NVIDIA_VISIBLE_DEVICES": "1"}}
    assert "NVIDIA_VISIBLE_DEVICES=1" in make(site=site, env=wanted, **nvidia)["Env"]
    assert "NVIDIA_VISIBLE_DEVICES=all" in make(env=wanted, default_runtime="runc")["Env"]
    assert not [each for each in make(default_runtime="runc")["Env"] if each.startswith("NVIDIA_")]


def test_a_study_brings_its_data_and_secrets():
    """Datasets appear at /data/<study>/<name>; relative sources start at the site file; secrets are read-only files."""
    study = {
        "datasets": {"ct": {"source": "data/ct"}, "out": {"source": "/srv/out", "mode": "rw"}},
        "env": {"MODE": "prod", "A": "study"},
    }
    body = make(
        study=study,
        site={"env": {"A": "site", "B": "site"}},
        env={"B": "job"},
        secret_env={"DB": "x"},
        secret_files={"/run/key": "/dev/shm/0"},
    )
    assert body["HostConfig"]["Mounts"][1:] == [
        {"Type": "bind", "Source": "/etc/siteward/data/ct", "Target": "/data/cancer/ct", "ReadOnly": True},
        {"Type": "bind", "Source": "/srv/out", "Target": "/data/cancer/out", "ReadOnly": False},
        {"Type": "bind", "Source": "/dev/shm/0", "Target": "/run/key", "ReadOnly": True},
    ]
    assert {"A=study", "B=job", "MODE=prod", "DB=x", f"SITEWARD_JOB_DIR={build.JOB_DIR}"} <= set(body["Env"])


def test_labels_and_names():
    """Labels find a job again; names are valid, deterministic, at most 63 long, and apart for what differs at all."""
    assert make()["Labels"] == {
        "siteward.owner": "owner",
        "siteward.site": "site-1",
        "siteward.job-id": "train-1",
        "siteward.attempt": "1",
        "siteward.name": "train",
    }
    parts = [
        (owner, site, job, attempt)
        for owner in ("a", "b")
        for site in ("site-1", "SITE-1", "site 1", "site.1", "é ✓", "x" * 64, "-", "_")
        for job in ("j", "j-1", "x" * 63, "x" * 62 + "y")
        for attempt in (1, 2)
    ]
    names = {build.container_name(*each) for each in parts}
    assert len(names) == len(parts)
    assert all(len(name) <= 63 and name.isascii() and name[0].isalnum() and name == name.lower() for name in names)
    assert build.container_name("a", "s", "j", 1) == build.container_name("a", "s", "j", 1)


SIZES = {"1024": 1024, "64b": 64, "2k": 2048, "1.5g": 3 * 2**29, "4G": 4 * GIB, "8mB": 8 * 2**20, 7: 7, "0": 0}


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_sizes_as_docker_takes_them(text, size):
    """shm_size is what `docker run` takes."""
    assert make({"shm_size": text})["HostConfig"]["ShmSize"] == size


@pytest.mark.parametrize("text", [".5g", "8.", "8bb", "-1", "1t", "", " 1", "9999999999g", True, None, "\uff11k"])
def test_sizes_that_are_none(text):
    """What `docker run` would refuse is refused here."""
    with pytest.raises(ValueError, match="expected"):
        parse_size(text)


BAD_JOBS = {
    "unknown": ({"imagee": "x"}, "did you mean 'image'"),
    "privileged": ({"privileged": True}, "unknown key"),
    "volumes": ({"volumes": ["/:/host"]}, "unknown key"),
    "network": ({"network": "host"}, "unknown key"),
    "user": ({"user": "0"}, "unknown key"),
    "image": ({"image": 3}, "image: expected text"),
    "blank": ({"image": " "}, "image: expected some text"),
    "gpus": ({"num_of_gpus": -1}, "expected 0 or more"),
    "bool": ({"num_of_gpus": True}, "expected a whole number"),
    "entrypoint": ({"entrypoint": []}, "entrypoint: expected at least the program"),
    "shm": ({"shm_size": "8bb"}, "shm_size: expected bytes"),
}


@pytest.mark.parametrize("name", BAD_JOBS)
def test_what_a_job_may_not_ask(name):
    """A job has five options; nothing else, and nothing of another shape."""
    block, words = BAD_JOBS[name]
    with pytest.raises(Problems) as caught:
        read(JobOptions, block)
    assert words in str(caught.value)


BAD_SITES = {
    "reserved": ({"container_kwargs": {"volumes": ["/:/x"]}}, "container_kwargs.volumes: is decided by siteward"),
    "unknown": ({"container_kwargs": {"pivileged": True}}, "pivileged"),
    "type": ({"container_kwargs": {"shm_size": "lots"}}, "container_kwargs"),
    "user": ({"user": "nobody"}, "uid or uid:gid in numbers"),
    "label": ({"labels": {"siteward.site": "x"}}, "set by siteward itself"),
    "pull": ({"pull": "sometimes"}, "expected one of missing, always, never"),
    "auth": ({"registry_auth": {"r": {"username": "u"}}}, "exactly one of password_env and password_file"),
    "memory": ({"max_memory": 5}, "expected at least"),
    "env": ({"env": {"SITEWARD_X": "1"}}, "set by siteward itself"),
}


@pytest.mark.parametrize("name", BAD_SITES)
def test_what_a_site_cannot_set(name):
    """A site's mistakes are told with their place."""
    block, words = BAD_SITES[name]
    with pytest.raises(Problems) as caught:
        read(SiteOptions, block)
    assert words in str(caught.value)


BAD_STUDIES = {
    "dataset": ({"datasets": {"CT": {"source": "/x"}}}, "a dataset's name is"),
    "mode": ({"datasets": {"ct": {"source": "/x", "mode": "w"}}}, "expected one of ro, rw"),
    "secret path": ({"secret_mounts": {"k": {"source": "s", "mount_path": "../x"}}}, "expected an absolute path"),
    "twice": (
        {"secret_mounts": {n: {"source": "s", "mount_path": "/x"} for n in "ab"}},
        "secret_mounts.b.mount_path: is another one's too",
    ),
    "secret env": ({"secret_env": {"SITEWARD_X": {"source": "s"}}}, "set by siteward itself"),
    "kwargs": ({"docker_kwargs": {"user": "0"}}, "docker_kwargs.user: is decided by siteward"),
}


@pytest.mark.parametrize("name", BAD_STUDIES)
def test_what_a_study_cannot_bring(name):
    """A study's mistakes are told with their place."""
    block, words = BAD_STUDIES[name]
    with pytest.raises(Problems) as caught:
        read(StudyOptions, block)
    assert words in str(caught.value)


def test_conflicts_with_resource_spec_are_told(tmp_path):
    """GPUs asked for in both places are asked for once too often."""
    from siteward import Job, Site

    file = {"name": "s", "backends": {"docker": {"default_image": "i"}}, "state_dir": str(tmp_path / "state")}
    job = Job.from_mapping(
        {
            "name": "j",
            "command": ["x"],
            "launcher_spec": {"default": {"docker": {"num_of_gpus": 1}}},
            "resource_spec": {"@default": {"num_of_gpus": 1}},
        }
    )
    with Site(SiteFile.from_mapping(file, base_dir=tmp_path)) as site, pytest.raises(OptionsRefused, match="conflicts"):
        site.render(job)


def test_a_password_that_is_not_there_is_told_when_the_site_opens(tmp_path):
    """Nobody finds out at the first pull."""
    from siteward import Site

    block = {"registry_auth": {"r.local": {"username": "u", "password_env": "NO_SUCH_VARIABLE_HERE"}}}
    file = SiteFile.from_mapping(
        {"name": "s", "backends": {"docker": block}, "state_dir": str(tmp_path / "state")}, base_dir=tmp_path
    )
    with pytest.raises(FileError, match=r"registry_auth\.r\.local: the variable NO_SUCH_VARIABLE_HERE is not set"):
        Site(file)
