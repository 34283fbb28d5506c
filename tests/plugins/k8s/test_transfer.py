"""Job directories in and out of pods, and signals to jobs, on a real cluster; pods are those that are built."""

import os
import tarfile
import threading
import time

import pytest
from attrs import evolve

from siteward import BackendError, Unreachable
from siteward_k8s import layout, transfer
from siteward_k8s.errors import Missing, Refused

from ...machine import images
from ..jobs import until
from .building import a_place, built

SITE = {"default_image": images.BUSYBOX, "image_pull_policy": "IfNotPresent"}
HOLD = "until [ -e /tmp/go ]; do sleep 0.1; done"
GIB = 2**30


@pytest.fixture(scope="module")
def namespace(cluster):
    """One namespace for all of these tests: each has pods of its own."""
    with cluster.namespace() as namespace:
        yield namespace


@pytest.fixture
def launch(client, namespace):
    """Create a job's pod and return its ref when it waits for its job directory."""

    def launch(script="true", site=None, alter=lambda manifest: None):
        place = a_place({**SITE, **(site or {})}, namespace=namespace.name)
        job_id = f"job-{os.urandom(4).hex()}"
        manifest = built(place=place, job_id=job_id, command=["sh", "-c", script]).manifest
        alter(manifest)
        pod = client.create_pod(manifest)
        until(lambda: is_running(client, pod["metadata"]["name"], layout.STAGE), "it waits for its job directory")
        return place.ref(job_id, 1, pod["metadata"]["uid"])

    return launch


def states(client, name):
    """Return the state of each container of a pod."""
    status = client.get_pod(name)["status"]
    every = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    return {each["name"]: each["state"] for each in every}


def is_running(client, name, container):
    return "running" in states(client, name).get(container, {})


def end_of(client, ref):
    """Wait for a job's end and return its container's state then."""
    state = until(lambda: states(client, ref.data["name"]).get(layout.JOB, {}).get("terminated"), "it ends")
    # The helper is a container of its own, and may be started after the job's has ended.
    until(lambda: is_running(client, ref.data["name"], layout.HELPER), "the helper runs")
    return state


def nobody(ref):
    """Return the ref of a job that has no pod."""
    return evolve(ref, data={**ref.data, "name": "nobody"})


class Doing(threading.Thread):
    """Does something meanwhile; ``done`` is what it returned, or the BackendError that it raised."""

    def __init__(self, act):
        super().__init__()
        self.act, self.done = act, None
        self.start()

    def run(self):
        try:
            self.done = self.act()
        except BackendError as error:
            self.done = error

    def result(self):
        self.join(120)
        return self.done


@pytest.fixture
def source(tmp_path):
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / "data").write_bytes(os.urandom(300_000))
    (source / "deep" / "empty").mkdir()
    (source / "café ✓ 'quoted'").write_text("x")
    (source / os.fsdecode(b"\xff raw")).write_text("raw")
    (source / ("n" * 200)).write_text("long")
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o750)
    (source / "private").write_text("r")
    (source / "private").chmod(0o600)
    (source / "link").symlink_to("deep/er/data")
    return source


def tree(folder):
    """Return what is in a folder: names with modes and contents, and where links lead."""
    return {
        os.fsencode(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else (path.stat().st_mode & 0o777, path.read_bytes())
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("image", [images.BUSYBOX, images.PYTHON])
def test_what_goes_comes_back(client, launch, source, tmp_path, image):
    """With the tools of busybox and of Debian; what the job wrote comes with it."""
    ref = launch("echo 42 > result; pwd", site={"default_image": image})
    transfer.send(client, ref, source)
    assert end_of(client, ref)["exitCode"] == 0
    target = tmp_path / "target"
    assert transfer.fetch(client, ref, target, GIB) == "returned"
    (target / "result").unlink()
    assert tree(target) == tree(source)


def test_sending_may_be_repeated(client, launch, source, tmp_path):
    """After a sender that died in the middle, or whose answer was lost; the job sees one whole directory."""
    ref = launch("ls -a /siteward; ls")
    # One that died when half of it was there, and one whose tar is still at work.
    half = ["sh", "-c", transfer._RECEIVE, "siteward", layout.VOLUME, layout.CONTROL, ""]
    stuck = client.exec(ref.data["name"], layout.STAGE, half, stdin=iter([b"x" * 100_000]), timeout=60)
    with pytest.raises(Missing):
        transfer.send(client, nobody(ref), source)
    transfer.send(client, ref, source)
    stuck.close()
    end_of(client, ref)
    with pytest.raises(Missing):
        transfer.send(client, ref, source)
    output = b"".join(client.read_log(ref.data["name"], layout.JOB)).decode("utf-8", "replace")
    assert output.split("\n")[:3] == [".", "..", "job"]
    assert transfer.fetch(client, ref, tmp_path / "target", GIB) == "returned"
    assert tree(tmp_path / "target") == tree(source)


def test_a_job_directory_may_be_fetched_again(client, launch, source, tmp_path):
    """A site that died while it fetched does so anew."""
    ref = launch("echo 1 > result")
    transfer.send(client, ref, source)
    end_of(client, ref)
    target = tmp_path / "target"
    for _ in range(2):
        assert transfer.fetch(client, ref, target, GIB) == "returned"
        assert (target / "result").read_text() == "1\n"


def without(*tools):
    """Return what hides programs from the helper: a search path on which they are not."""
    names = ["sh", "tar", "cat", "mkdir", "mv", "rm", "tee", "head", "sleep", "sha256sum", "mkfifo", "dd", "ln"]
    kept = " ".join(name for name in names if name not in tools)
    folder = f"{layout.CONTROL}/bin"
    make = f'mkdir -p {folder}; for each in {kept}; do ln -s "$(command -v "$each")" {folder}/; done; '

    def alter(manifest):
        spec = manifest["spec"]
        for each in spec["initContainers"] + [each for each in spec["containers"] if each["name"] == layout.HELPER]:
            each["env"] = [{"name": "PATH", "value": f"{folder}:/none"}]
            # Busybox has all its tools in itself, whatever lies on the path.
            each["image"] = images.PYTHON
            script = (make if each in spec["initContainers"] else "") + each["command"][2]
            each["command"] = ["/bin/sh", "-c", f"PATH=/bin:/usr/bin; {script}"]

    return alter


@pytest.mark.parametrize("tools", [("sha256sum",), ("mkfifo",), ("dd",), ("sha256sum", "mkfifo", "tee", "dd", "head")])
def test_few_tools_are_needed(client, launch, source, tmp_path, tools):
    """An image without some still takes and gives a job directory; only nobody compares checksums then."""
    ref = launch("echo 42 > result", alter=without(*tools))
    transfer.send(client, ref, source)
    end_of(client, ref)
    assert transfer.fetch(client, ref, tmp_path / "target", GIB) == "returned"
    assert (tmp_path / "target" / "result").exists()


def test_an_image_that_lacks_tar_is_told(client, launch, source):
    """In words that say what to do, and at once."""
    ref = launch(alter=without("tar"))
    with pytest.raises(Refused, match="tar"):
        transfer.send(client, ref, source)


def test_a_disk_that_is_full_is_told(client, launch, source):
    """What does not fit is not sent by halves."""

    def alter(manifest):
        for volume in manifest["spec"]["volumes"]:
            if volume["name"] == layout.JOB_VOLUME:
                volume["emptyDir"] = {"medium": "Memory", "sizeLimit": "1Mi"}

    (source / "large").write_bytes(bytes(3_000_000))
    ref = launch(alter=alter)
    with pytest.raises(Refused, match=r"unpacked.*[Nn]o space"):
        transfer.send(client, ref, source)


def test_an_older_api_server_takes_a_job_directory(client, launch, source, tmp_path, monkeypatch):
    """One that cannot tell a command that its input has ended (before Kubernetes 1.30)."""
    from siteward_k8s import exec as execs

    monkeypatch.setattr(execs.run, "__defaults__", ((execs.V4,),))
    ref = launch("echo 42 > result")
    transfer.send(client, ref, source)
    end_of(client, ref)
    assert transfer.fetch(client, ref, tmp_path / "target", GIB) == "returned"
    (tmp_path / "target" / "result").unlink()
    assert tree(tmp_path / "target") == tree(source)


# --- what goes wrong on the way -----------------------------------------------------------------------------


def damaged(monkeypatch, wrong=b"0" * 64):
    """Have the pod say another checksum than that of what it got or gave."""
    for name in ("_RECEIVE", "_SEND"):
        script = getattr(transfer, name).replace('echo "sum $sum"', f'echo "sum {wrong.decode()}"')
        monkeypatch.setattr(transfer, name, script)


def test_damage_on_the_way_is_seen(client, launch, source, tmp_path, monkeypatch):
    """Neither does a job start with other files than its own, nor are the site's replaced by them."""
    ref = launch("echo 42 > result")
    target = tmp_path / "target"
    target.mkdir()
    (target / "before").touch()
    with monkeypatch.context() as patch:
        damaged(patch)
        with pytest.raises(Unreachable, match="damaged on its way into"):
            transfer.send(client, ref, source)
        assert is_running(client, ref.data["name"], layout.STAGE)
    transfer.send(client, ref, source)
    end_of(client, ref)
    with monkeypatch.context() as patch:
        damaged(patch)
        with pytest.raises(Unreachable, match="damaged on its way out"):
            transfer.fetch(client, ref, target, GIB)
    assert [path.name for path in target.iterdir()] == ["before"]
    assert transfer.fetch(client, ref, target, GIB) == "returned"


def test_a_connection_that_is_cut_changes_nothing(client, proxied, api_proxy, launch, source, tmp_path):
    """Half of a job directory neither starts a job nor replaces the site's; the next try brings all of it."""
    (source / "large").write_bytes(os.urandom(30_000_000))
    ref = launch("echo 42 > result")
    target = tmp_path / "target"
    target.mkdir()
    (target / "before").touch()

    def cut(act):
        doing = Doing(act)
        until(lambda: api_proxy.cut("/exec"), "it is under way")
        assert isinstance(doing.result(), Unreachable)

    cut(lambda: transfer.send(proxied, ref, source))
    assert is_running(client, ref.data["name"], layout.STAGE)
    transfer.send(proxied, ref, source)
    end_of(client, ref)
    cut(lambda: transfer.fetch(proxied, ref, target, GIB))
    assert [path.name for path in target.iterdir()] == ["before"]
    assert transfer.fetch(proxied, ref, target, GIB) == "returned"
    assert tree(target).items() >= tree(source).items()


def test_an_api_server_that_dies_changes_nothing(cluster, client, launch, source, tmp_path):
    """It is Unreachable while it is away; when it is back, all comes home."""
    if not cluster.own:
        pytest.skip("needs a cluster whose API server tests may stop: unset SITEWARD_TEST_KUBECONFIG")
    ref = launch("head -c 100000000 /dev/urandom > large")
    transfer.send(client, ref, source)
    end_of(client, ref)
    target = tmp_path / "target"
    doing = Doing(lambda: transfer.fetch(client, ref, target, GIB))
    until(lambda: target.with_name("target.incoming").exists(), "it is under way")
    cluster.stop_apiserver()
    try:
        assert isinstance(doing.result(), Unreachable) and not target.exists()
        with pytest.raises(Unreachable):
            transfer.fetch(client, ref, target, GIB)
    finally:
        cluster.start_apiserver()
    assert transfer.fetch(client, ref, target, GIB) == "returned"
    assert (target / "large").stat().st_size == 100_000_000


def test_a_pod_that_goes_in_the_middle_is_lost(client, launch, source, tmp_path):
    """Nothing is made of half an archive."""
    ref = launch("head -c 100000000 /dev/urandom > large")
    transfer.send(client, ref, source)
    end_of(client, ref)
    target = tmp_path / "target"
    doing = Doing(lambda: transfer.fetch(client, ref, target, GIB))
    until(lambda: target.with_name("target.incoming").exists(), "it is under way")
    client.delete_pod(ref.data["name"], grace=0)
    if doing.result() == "returned":  # all of it was faster than the pod's end
        assert (target / "large").stat().st_size == 100_000_000
    else:
        assert doing.done == "lost" or isinstance(doing.done, Unreachable)
        assert not target.exists()
    until(lambda: transfer.fetch(client, ref, target, GIB) == "lost", "it is lost")


# --- what jobs leave ----------------------------------------------------------------------------------------


def test_only_so_much_comes_back(client, launch, source, tmp_path):
    """A job cannot fill the site's disk, nor hold it up."""
    ref = launch("head -c 50000000 /dev/zero > large")
    transfer.send(client, ref, source)
    end_of(client, ref)
    began = time.monotonic()
    assert transfer.fetch(client, ref, tmp_path / "target", 1_000_000) == "partial"
    assert time.monotonic() - began < 60
    assert not (tmp_path / "target" / "large").exists()


def test_hostile_job_directories_stay_inside(client, launch, source, tmp_path):
    """Links that lead away, pipes and files that cannot be read are left out, and that is told."""
    secret = tmp_path / "secret"
    secret.write_text("s3cr3t")
    script = f"ln -s {secret} stolen; ln -s ../../.. up; ln -s / root; mkfifo pipe; echo x > closed; chmod 0 closed"
    ref = launch(script)
    transfer.send(client, ref, source)
    end_of(client, ref)
    target = tmp_path / "target"
    assert transfer.fetch(client, ref, target, GIB) == "partial"
    assert not {"stolen", "up", "root", "pipe"} & {path.name for path in target.iterdir()}
    assert (target / "run.sh").exists()


def test_what_is_no_archive_replaces_nothing(client, launch, source, tmp_path, monkeypatch):
    """Words in place of an archive, or an archive that leads elsewhere, do no harm."""
    evil = tmp_path / "evil.tar"
    with tarfile.open(evil, "w") as archive:
        for name in ("job/../../../outside", "../outside", "job/inside"):
            archive.addfile(tarfile.TarInfo(name))
    (source / "evil.tar").write_bytes(evil.read_bytes())
    ref = launch()
    transfer.send(client, ref, source)
    end_of(client, ref)
    target = tmp_path / "a" / "b" / "target"
    target.mkdir(parents=True)
    monkeypatch.setattr(transfer, "_SEND", 'cat "$1/$2/evil.tar"; echo "tar 0" >&2')
    assert transfer.fetch(client, ref, target, GIB) == "partial"
    assert all(path.is_relative_to(target) for path in (tmp_path / "a").rglob("*") if path.is_file())
    monkeypatch.setattr(transfer, "_SEND", 'yes; echo "tar 0" >&2')
    with pytest.raises(BackendError, match="no tar archive"):
        transfer.fetch(client, ref, target, GIB)
    assert (target / "inside").exists()


# --- signals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_a_job_is_signalled(client, launch, source, signal):
    """Its main process and no other: TERM can be handled, KILL not; what it wrote last comes home."""
    ref = launch("trap 'echo saved > result; exit 9' TERM; touch ready; while :; do sleep 0.1; done")
    transfer.send(client, ref, source)
    name = ref.data["name"]
    until(lambda: is_running(client, name, layout.JOB) and is_running(client, name, layout.HELPER), "it runs")
    look = ["test", "-e", f"{layout.JOB_DIR}/ready"]
    until(lambda: client.exec(name, layout.HELPER, look).output()[0] == 0, "it is ready")
    assert transfer.signal_job(client, ref, signal)
    assert end_of(client, ref)["exitCode"] == (9 if signal == "TERM" else 137)
    assert not transfer.signal_job(client, ref, signal)


def test_a_job_that_hides_its_environment_is_signalled(client, launch, source):
    """By its container, which the pod's status names."""
    ref = launch("exec env -i sh -c 'while :; do sleep 0.1; done'")
    transfer.send(client, ref, source)
    name = ref.data["name"]
    until(lambda: is_running(client, name, layout.JOB) and is_running(client, name, layout.HELPER), "it runs")
    until(lambda: not transfer.signal_job(client, ref, "0"), "it has hidden it")
    (container,) = [
        each["containerID"]
        for each in client.get_pod(name)["status"]["containerStatuses"]
        if each["name"] == layout.JOB
    ]
    assert transfer.signal_job(client, ref, "KILL", container_id=container)
    assert end_of(client, ref)["exitCode"] == 137


def test_what_does_not_run_is_not_signalled(client, launch):
    """Neither a pod without its helper, nor one that is not there: somebody else has to end it."""
    ref = launch()
    assert not transfer.signal_job(client, ref, "TERM")
    assert not transfer.signal_job(client, nobody(ref), "TERM")
