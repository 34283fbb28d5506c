"""kill -9 of the parent at each step of a job's way: one pod, its true end, and nothing left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from siteward import JobState, Result, Site
from siteward_k8s import claim

from ...cluster.cluster import Cluster
from ..jobs import DEADLINE, end_of, run, sh, until
from .helpers import Sites
from .rights import rules

ROOT = Path(__file__).parents[3]
SECRET = {"job_secrets": {"fed": {"file": "token"}}}
SCRIPT = "test $TOKEN = s3cr3t && wc -c < input > size; echo run >> runs; exit 42"
NEVER_RAN = ("FAILED", "LaunchFailed", 101, None)
RAN = ("FAILED", "Error", 1, 42)
STEPS = {
    "with nothing but the intent": NEVER_RAN,
    "after the Secret": NEVER_RAN,
    "after the pod, before the Secret is the pod's": RAN,
    "after the Secret is the pod's": RAN,
    "while the job directory is sent": RAN,
    "after the job directory was sent": RAN,
    "while the job directory is collected": RAN,
    "after the job directory was collected": RAN,
    "before it is removed": RAN,
    "after it is removed": RAN,
}
CLAIM_STEPS = {
    "after the job directory is on the claim": NEVER_RAN,
    "after the Secret is the pod's": RAN,
    "after the claim gave back the job directory": RAN,
    "before it is removed": RAN,
}


def launch_and_die(step: str, file: Path, script: str, **fields: Any) -> None:
    """Launch a job in a parent that dies at a step."""
    job = {"name": "test", "command": ["sh", "-c", script], **fields}
    command = [sys.executable, "-m", "tests.plugins.k8s.killed", step, str(file)]
    parent = subprocess.run(
        command, input=json.dumps(job), text=True, check=False, cwd=ROOT, capture_output=True, timeout=150
    )
    assert parent.returncode == -signal.SIGKILL, parent.stderr


@frozen
class Survived:
    """A job whose parent was killed, as the next site has it."""

    sites: Sites
    site: Site
    job_id: str
    result: Result

    @property
    def job_dir(self) -> Path:
        return self.site.attach(self.job_id).job_dir

    def started(self) -> set[str]:
        """Return the uids of all pods whose job's container was started, by what the kubelet said."""
        events = self.sites.namespace.api.get(f"{self.sites.namespace.path}/events", fieldSelector="reason=Started")
        about = [each["involvedObject"] for each in events["items"]]
        mine = [each for each in about if each["name"].startswith(self.job_id + "-")]
        return {each["uid"] for each in mine if each.get("fieldPath") == "spec.containers{job}"}

    def is_clean(self) -> bool:
        """Whether neither pod nor Secret is left."""
        namespace = self.sites.namespace
        names = namespace.names("pods") + namespace.names("secrets")
        return not [name for name in names if name.startswith(self.job_id + "-")]


def kill_at(sites: Sites, step: str, number: int, **options: Any) -> Survived:
    """Run a job whose parent is killed at a step, and a site after it."""
    job_id = f"killed-{number}"
    (sites.folder / "app").mkdir(parents=True)
    (sites.folder / "app/input").write_bytes(b"x" * 3_000_000)
    (sites.folder / "token").write_text("s3cr3t")
    file = sites.file(fields=SECRET, **options)
    launch_and_die(step, file, SCRIPT, id=job_id, workspace="app", secrets={"TOKEN": "fed"})
    site = sites.open(fields=SECRET, **options)
    return Survived(sites, site, job_id, site.attach(job_id).wait(2 * DEADLINE))


def kill_at_each(steps: Any, make: Any, **options: Any) -> dict[str, Survived]:
    """Do so for each step, three at a time: the time goes in waiting for pods."""
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(kill_at, make(number), step, number, **options) for number, step in enumerate(steps)]
        return {step: each.result() for step, each in zip(steps, found, strict=True)}


@pytest.fixture(scope="module")
def survived(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory):
    """What became of the jobs of each step."""
    made: list[Sites] = []
    with cluster.namespace() as namespace:
        kubeconfig = namespace.user("siteward", rules("transfer"))

        def make(number: int) -> Sites:
            made.append(Sites(namespace, kubeconfig, tmp_path_factory.mktemp(f"killed-{number}")))
            return made[-1]

        yield kill_at_each(STEPS, make)
        for each in made:
            each.close()


def check(job: Survived, expected: Any) -> None:
    """Compare a job with what it must have come to."""
    assert end_of(job.result) == expected, job.result.message
    if expected is RAN:
        assert (job.job_dir / "size").read_text() == "3000000\n"
        assert (job.job_dir / "runs").read_text() == "run\n"
        assert job.result.workspace == "returned"
        until(job.started, "the kubelet says that it ran")
    until(job.is_clean, "pod and Secret are removed")
    assert len(job.started()) == (expected is RAN)


@pytest.mark.parametrize("step", STEPS)
def test_killed(survived: dict[str, Survived], step: str):
    """Whatever the step: the next site has the true end and the files; the job ran once, or never and says so."""
    check(survived[step], STEPS[step])


def test_killed_with_a_claim(claimed_sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same where job directories are on a claim; nothing of them is left there, a day after a broken launch."""
    made: list[Sites] = []

    def make(number: int) -> Sites:
        made.append(claimed_sites.beside(tmp_path / f"killed-{number}"))
        return made[-1]

    survived = kill_at_each(CLAIM_STEPS, make)
    try:
        for step, job in survived.items():
            check(job, CLAIM_STEPS[step])
        monkeypatch.setattr(claim, "_LONG_AGO", 0.0)
        run(survived["after the job directory is on the claim"].site, sh("true"))
        folder = Path(claimed_sites.options["job_directory_path"])
        until(lambda: not [*folder.glob("*/*")], "no job directory is left")
    finally:
        for each in made:
            each.close()


def test_killed_while_it_ends_a_job(sites: Sites):
    """A job that was asked to end and does not is killed by the next site; its files come home."""
    launch_and_die("after the job was asked to end", sites.file(), "trap '' TERM; touch up; sleep 3600", id="stubborn")
    handle = sites.open().attach("stubborn")
    assert end_of(handle.wait(DEADLINE)) == ("ABORTED", "Aborted", 9, 137)
    assert (handle.job_dir / "up").exists()


def test_killed_while_it_gives_up_a_pod(sites: Sites):
    """Why a pod was given up is known to the next site, which takes it away."""
    file = sites.file(image_pull_policy="Never", default_image="nowhere.local/none:1")
    launch_and_die("after it was noted why it is given up", file, "true", id="imageless")
    result = sites.open().attach("imageless").wait(DEADLINE)
    assert end_of(result) == ("FAILED", "ImageError", 101, None)
    assert "nowhere.local/none:1" in result.message
    until(lambda: not sites.pods(), "the pod goes")


def test_two_parents_on_one_state_directory(sites: Sites):
    """Each drives its own jobs; when one is killed, the other has the true ends of all."""
    site = sites.open()
    mine = site.launch(sh("sleep 6; exit 10"))
    launch_and_die("while it runs", sites.file(), "sleep 3; echo run >> runs; exit 33", id="theirs")
    theirs = site.attach("theirs")
    assert theirs.wait(DEADLINE).exit_code == 33
    assert (theirs.job_dir / "runs").read_text() == "run\n"
    assert mine.wait(DEADLINE).exit_code == 10
    until(lambda: not sites.pods(), "both pods are removed")


def test_two_state_directories(sites: Sites):
    """Two installations of one site, with jobs of one id: neither sees, ends or clears away the other's."""
    one, two = sites.open(state="one"), sites.open(state="two")
    first = one.launch(sh("sleep 2; exit 11", id="same"))
    second = two.launch(sh("trap 'exit 12' TERM; touch up; while :; do sleep 0.1; done", id="same"))
    for handle in (first, second):
        handle.wait_until(JobState.RUNNING, DEADLINE)
    assert (one.gc(), two.gc()) == ([], [])
    assert first.wait(DEADLINE).exit_code == 11
    until(lambda: len(sites.pods()) == 1, "the first is removed")
    one.close()
    assert not second.done()
    second.terminate(grace=30)
    assert second.wait(DEADLINE).state is JobState.ABORTED
    until(lambda: not sites.pods(), "so is the second")
