"""Jobs as pods of a real cluster: how they start, what they may, how they end."""

from __future__ import annotations

import json
import time

import pytest

from siteward import JobState, LaunchRefused

from ...machine import images
from ..jobs import DEADLINE, end_of, job, output, run, sh, until
from .helpers import Sites

SOON = {"pending_timeout": 5, "start_timeout": 20}


# --- what a job may -----------------------------------------------------------------------------------------


def test_a_job_has_few_rights(sites: Sites, site):
    """It is not root, has no capabilities, gets no new privileges, and no way to the API server."""
    words = "id -u; grep -E 'CapEff|NoNewPrivs' /proc/self/status; ls /var/run/secrets 2>/dev/null; true"
    handle, _ = run(site, sh(words))
    assert output(handle).split() == ["1000", "CapEff:", "0" * 16, "NoNewPrivs:", "1"]


def test_files_go_and_come_back(sites: Sites, site, tmp_path):
    """With modes, links within, and names of any kind; also of a job that fails."""
    app = tmp_path / "app"
    app.mkdir()
    (app / "in put").write_text("hi\n")
    (app / "run.sh").write_text(
        "#!/bin/sh\ncat 'in put' > out; ln -s out link; mkdir -p d/e; echo ä > 'd/e/ü'; exit 3\n"
    )
    (app / "run.sh").chmod(0o755)
    handle, result = run(site, job("./run.sh", workspace="app", base_dir=tmp_path))
    assert end_of(result) == ("FAILED", "Error", 1, 3)
    assert result.workspace == "returned"
    assert (handle.job_dir / "out").read_text() == "hi\n"
    assert (handle.job_dir / "link").readlink().name == "out"
    assert (handle.job_dir / "d/e/ü").read_text() == "ä\n"


def test_only_so_much_is_taken_back(sites: Sites):
    """A job cannot fill the site's disk."""
    site = sites.open(max_collect=100_000)
    handle, result = run(site, sh("echo a > a; head -c 5000000 /dev/zero > b"))
    assert (result.state, result.workspace) == (JobState.SUCCEEDED, "partial")
    assert not (handle.job_dir / "b").exists()


def test_secrets_are_where_the_job_reads_them_and_nowhere_else(sites: Sites):
    """Not in the pod, not in the output; the Secret is the pod's, and goes with the job."""
    (sites.folder / "token").write_text("s3cr3t-value")
    site = sites.open(fields={"job_secrets": {"fed": {"file": "token"}}})
    handle = site.launch(sh("test ${#TOKEN} = 12 && sleep 1 && exit 5", secrets={"TOKEN": "fed"}))
    until(lambda: handle.status().state is not JobState.PENDING, "it starts")
    pod = sites.pod(handle)
    assert "s3cr3t-value" not in json.dumps(pod)
    names = sites.namespace.names("secrets")
    assert names == [pod["metadata"]["name"]]
    owners = sites.namespace.api.get(f"{sites.namespace.path}/secrets/{names[0]}")["metadata"]["ownerReferences"]
    assert [each["uid"] for each in owners] == [pod["metadata"]["uid"]]
    assert handle.wait(DEADLINE).exit_code == 5
    until(lambda: not sites.namespace.names("secrets"), "the Secret is removed")
    until(lambda: not sites.pods(handle), "the pod is removed")


# --- ends ---------------------------------------------------------------------------------------------------

ENDS = {
    "exit 0": ("exit 0", ("SUCCEEDED", "Completed", 0, 0)),
    "exit 1": ("exit 1", ("FAILED", "Error", 1, 1)),
    "exit 103": ("exit 103", ("FAILED", "Error", 103, 103)),
    "exit 127": ("exit 127", ("FAILED", "Error", 1, 127)),
    "killed": ("kill -9 $$", ("FAILED", "Signal", 1, 137)),
    "segfault": ("kill -SEGV $$", ("FAILED", "Signal", 1, 139)),
}


def test_each_end_is_told_exactly(site):
    """Regression (8.1, 7): exit 1, 137 and 139 were all ABORTED; here they are as on every backend."""
    handles = {name: site.launch(sh(script)) for name, (script, _end) in ENDS.items()}
    results = {name: handle.wait(DEADLINE) for name, handle in handles.items()}
    assert {name: end_of(result) for name, result in results.items()} == {
        name: end for name, (_script, end) in ENDS.items()
    }, results


def test_a_command_that_is_not_there(site):
    """The launch gives a handle, and the end says which command."""
    _, result = run(site, job("no-such-command", "x"))
    assert end_of(result)[:3] == ("FAILED", "LaunchFailed", 101)
    assert "no-such-command" in result.message


def test_out_of_memory(site):
    """The job's own limit ends it, and is named as the reason."""
    _, result = run(site, job("tail", "/dev/zero", resource_spec={"@default": {"memory": "32Mi"}}))
    assert end_of(result) == ("FAILED", "OOMKilled", 104, 137)
    assert "memory" in result.message


def test_a_sidecar_does_not_decide(sites: Sites):
    """It may fail before the job ends, or outlive it."""
    beside = [
        {"name": "fails", "image": images.BUSYBOX, "command": ["sh", "-c", "exit 9"]},
        {"name": "stays", "image": images.BUSYBOX, "command": ["sleep", "3600"]},
    ]
    template = {"spec": {"containers": [{"name": "job"}, *beside]}}
    handle, result = run(sites.open(pod_template=template), sh("sleep 1; exit 4"))
    assert end_of(result) == ("FAILED", "Error", 1, 4)
    until(lambda: not sites.pods(handle), "the pod goes, whatever runs in it")


def test_a_pod_that_somebody_deletes(sites: Sites, site):
    """It is lost, whatever its exit code: nobody here asked for it."""
    handle = site.launch(sh("trap 'exit 0' TERM; sleep 3600 & wait"))
    handle.wait_until(JobState.RUNNING, DEADLINE)
    sites.namespace.api.delete(f"{sites.namespace.path}/pods/{sites.pod(handle)['metadata']['name']}")
    result = handle.wait(DEADLINE)
    assert (result.state.value, result.reason.value, result.return_code) == ("LOST", "Deleted", 104)


def test_stopping_sends_term_and_keeps_the_end(sites: Sites, site):
    """The job has its grace, its own exit code is kept, and what it wrote comes back."""
    handle = site.launch(sh("trap 'echo bye > bye; exit 7' TERM; touch up; while :; do sleep 0.1; done"))
    handle.wait_until(JobState.RUNNING, DEADLINE)
    until(lambda: handle.status().state is JobState.RUNNING)
    time.sleep(1)  # the shell needs a moment to set its trap, and nothing here could tell
    handle.terminate(grace=30)
    result = handle.wait(DEADLINE)
    assert end_of(result) == ("ABORTED", "Aborted", 9, 7)
    assert result.workspace == "returned"
    assert (handle.job_dir / "bye").read_text() == "bye\n"


def test_a_job_that_will_not_end_is_killed_after_its_grace(site):
    """Without losing what it wrote."""
    handle = site.launch(sh("trap '' TERM; echo here > here; while :; do sleep 0.1; done"))
    handle.wait_until(JobState.RUNNING, DEADLINE)
    until(lambda: handle.status().state is JobState.RUNNING)
    time.sleep(1)
    handle.terminate(grace=1)
    result = handle.wait(DEADLINE)
    assert end_of(result) == ("ABORTED", "Aborted", 9, 137)
    assert (handle.job_dir / "here").exists()


def test_timeout(site):
    """The driver ends the job; its files come home."""
    _, result = run(site, sh("echo x > x; sleep 3600", timeout=2))
    assert end_of(result)[:3] == ("FAILED", "DeadlineExceeded", 101)
    assert result.workspace == "returned"


# --- pods that do not start ---------------------------------------------------------------------------------


def test_an_image_that_is_not_there(sites: Sites):
    """Never pulled, or a name that is no image's: fatal at once, and said with the evidence."""
    site = sites.open(image_pull_policy="Never")
    _, result = run(site, sh("true", launcher_spec={"default": {"k8s": {"image": "nowhere.local/none:1"}}}))
    assert end_of(result)[:3] == ("FAILED", "ImageError", 101)
    assert "nowhere.local/none:1" in result.message
    assert result.report is not None
    assert "ErrImageNeverPull" in result.report.log_tail


def test_a_pod_that_fits_nowhere(sites: Sites):
    """At the site's pending_timeout, not before, and with the scheduler's words."""
    site = sites.open(**SOON)
    big = {"resource_spec": {"@default": {"num_of_cpus": 500}}}
    picky = sites.open("site-2", "two", node_selector={"disk": "none"}, **SOON)
    handles = [site.launch(sh("true", **big)), picky.launch(sh("true"))]
    until(
        lambda: "lack free cpu" in handles[0].status().message,
        "it says why it is pending",
        12,
    )
    results = [handle.wait(DEADLINE) for handle in handles]
    assert end_of(results[0])[:3] == ("FAILED", "CapacityTimeout", 101)
    assert end_of(results[1])[:3] == ("FAILED", "Unschedulable", 101)
    until(lambda: not sites.pods(), "no pod stays")


def test_room_that_comes_in_time(sites: Sites, cluster):
    """A job that waits for a GPU begins when there is one."""
    site = sites.open(pending_timeout=60)
    handle = site.launch(sh("echo ran", resource_spec={"@default": {"num_of_gpus": 1}}))
    until(lambda: "nvidia.com/gpu" in handle.status().message, "it says what is missing")
    with cluster.gpus(1):
        assert handle.wait(DEADLINE).state is JobState.SUCCEEDED


def test_a_secret_that_a_study_names_is_missing(sites: Sites):
    """ConfigError at once: no waiting would help."""
    study = {"k8s": {"secret_env": {"PASSWORD": {"source": "no-such-secret", "key": "p"}}}}
    site = sites.open(fields={"studies": {"cancer": study}})
    _, result = run(site, sh("true", study="cancer"))
    assert end_of(result)[:3] == ("FAILED", "ConfigError", 103)
    assert "no-such-secret" in result.message


def test_a_gated_pod_waits_without_end_and_can_be_stopped(sites: Sites):
    """A queue like Kueue's holds it; it is not a failure, whatever pending_timeout says."""
    template = {"spec": {"schedulingGates": [{"name": "queue.example/wait"}]}}
    site = sites.open(pod_template=template, **SOON)
    handle = site.launch(sh("true"))
    until(lambda: "queue.example/wait" in handle.status().message, "it says who holds it")
    with pytest.raises(TimeoutError):
        handle.wait(7)
    handle.terminate()
    assert handle.wait(DEADLINE).state is JobState.ABORTED
    until(lambda: not sites.pods(), "no pod stays")


def test_a_pod_that_the_cluster_refuses(sites: Sites):
    """Nothing starts, and the words are the API server's."""
    site = sites.open(pod_template={"spec": {"dnsPolicy": "Nonsense"}})
    with pytest.raises(LaunchRefused, match="dnsPolicy"):
        site.launch(sh("true", secrets={}))
    assert not sites.pods()
    assert not sites.namespace.names("secrets")


# --- output -------------------------------------------------------------------------------------------------


def test_output_is_kept_whole(site):
    """Every byte of it, also those that are no text, long lines, and a last line without an end."""
    handle, _ = run(site, sh("printf 'a\\377b\\n'; head -c 40000 /dev/zero | tr '\\0' x; echo; seq 20000; printf end"))
    lines = list(handle.logs())
    found = b"".join(lines)
    wanted = b"a\xffb\n" + b"x" * 40000 + b"\n" + b"".join(b"%d\n" % n for n in range(1, 20001)) + b"end"
    assert found == wanted


def test_output_can_be_followed(site):
    """From a job that waits to its last line."""
    handle = site.launch(sh("for n in 1 2 3; do echo $n; sleep 0.5; done"))
    assert list(handle.logs(follow=True)) == [b"1\n", b"2\n", b"3\n"]
