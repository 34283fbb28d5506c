"""Real federations of NVIDIA FLARE: a server and two clients, started once, with siteward launching their jobs."""

import json
import re
import signal
from pathlib import Path

import psutil
import pytest

from . import faults
from .federation import Federation, until

GPU = {"num_of_gpus": 1}
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """A federation whose site-1 has one GPU to give, and whose launches can be made slow."""
    folder = tmp_path_factory.mktemp("flare")
    federation = Federation(folder / "federation")
    federation.env["PYTHONPATH"] = str(faults.install(folder / "plugins"))
    federation.env["SITEWARD_TEST_FAULTS"] = str(folder)
    try:
        federation.prepare()
        federation.install("server")
        federation.install("site-1", resources={"gpu": {"num_of_gpus": 1, "ignore_host": True}})
        federation.install("site-2")
        for name in federation.names:
            federation.run(federation.bin / "siteward-nvflare", "check", federation.kit(name))
        federation.start()
        yield federation
    finally:
        federation.close()


def job_of(federation, site, job_id):
    """Return what siteward says of a FLARE job at a site."""
    return next(row for row in federation.siteward(site, "ps", "--all") if row["job_id"].startswith(job_id))


def training(federation, site, job_id):
    """Wait until the job's own code is at work at a site, and return siteward's word on it."""
    until(lambda: trains(federation, site, job_id), what=f"{job_id} training at {site}")
    return job_of(federation, site, job_id)


def trains(federation, site, job_id):
    """Whether the job's own code is at work."""
    folder = federation.folder / "sites" / site / "state" / "jobs"
    return list(folder.glob(f"{job_id}*/work/training"))


def has_ended(federation, site, job_id):
    """Whether siteward says so of a FLARE job at a site."""
    return job_of(federation, site, job_id)["state"] not in ("PENDING", "RUNNING")


def process_of(federation, site, job_id):
    """Return the job's process at a site."""
    for each in psutil.process_iter(["cmdline"]):
        words = each.info["cmdline"] or []
        if job_id in words and str(federation.kit(site)) in words:
            return each
    raise AssertionError(f"no process of {job_id} at {site}")


def started_with(process):
    """Return the environment that a process was started with."""
    text = Path(f"/proc/{process.pid}/environ").read_text()
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)


def test_a_job_completes_through_siteward(federation):
    """Federated averaging with the job's own code: server and clients are siteward's jobs, and the model is right."""
    job_id = federation.submit("completes", rounds=2)
    assert federation.finish(job_id) == "FINISHED:COMPLETED"
    for name in federation.names:
        row = job_of(federation, name, job_id)
        assert (row["backend"], row["state"], row["reason"]) == ("process", "SUCCEEDED", "Completed")
    (output,) = (federation.folder / "sites/site-1/state/jobs").glob(f"{job_id}*/output.log")
    assert "round 1 at site-1" in output.read_text()


def test_secrets_are_nowhere(federation):
    """A job's token and signature: in no command line, and in no file of siteward's or FLARE's."""
    job_id = federation.submit("secrets", train_args="--fault slow --at site-1")
    training(federation, "site-1", job_id)
    # FLARE's job process forgets them; the kernel still shows what it was started with.
    started = started_with(process_of(federation, "site-1", job_id))
    secrets = [started[name] for name in ("NVFLARE_JOB_AUTH_TOKEN", "NVFLARE_JOB_TOKEN_SIGNATURE")]
    lines = [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
    federation.ask("abort", job_id)
    assert federation.finish(job_id) == "FINISHED:ABORTED"
    folders = (federation.folder / "sites", federation.kit("site-1"))
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    for secret in secrets:
        assert not [line for line in lines if secret in line]
        assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_an_abort_reaches_a_job_that_hangs(federation):
    """FLARE asks the job itself first; then siteward's TERM, and its grace."""
    job_id = federation.submit("hangs", train_args="--fault slow")
    training(federation, "site-1", job_id)
    training(federation, "site-2", job_id)
    federation.ask("abort", job_id)
    assert federation.finish(job_id) == "FINISHED:ABORTED"
    for name in federation.names:
        until(lambda name=name: has_ended(federation, name, job_id), what=f"the end at {name}")
    with pytest.raises(AssertionError, match="no process"):
        process_of(federation, "site-1", job_id)


def test_a_job_process_that_is_killed_fails_the_run(federation):
    """Whoever killed it: the server hears of it at once, not when it misses the client."""
    job_id = federation.submit("killed", train_args="--fault slow --at site-1")
    training(federation, "site-1", job_id)
    process_of(federation, "site-1", job_id).send_signal(signal.SIGKILL)
    assert federation.finish(job_id) == "FINISHED:EXECUTION_EXCEPTION"
    row = job_of(federation, "site-1", job_id)
    assert (row["state"], row["reason"]) == ("FAILED", "Signal")


def test_a_configuration_error_is_told_as_one(federation):
    """Exit 103 of the job's process arrives at the server as 103; FLARE's process launcher makes 1 of it."""
    job_id = federation.submit("misconfigured", train_args="--fault exit:103 --at site-1")
    assert federation.finish(job_id) == "FINISHED:EXECUTION_EXCEPTION"
    assert f"run ({job_id}): child worker process finished with RC 103" in federation.log("site-1")
    assert "config error" in federation.log("server")


def test_a_launch_that_takes_long_keeps_both_clients(federation):
    """FLARE's server waits 20 s for a client to answer; siteward's launch takes 25 s here."""
    delay = federation.folder.parent / "delay"
    delay.write_text("25")
    try:
        job_id = federation.submit("slow-launch")
        line = rf"Started run: {job_id} for clients: (\S+)"
        started = until(lambda: re.search(line, federation.log("server")), what="the start")
    finally:
        delay.unlink()
    assert sorted(started[1].split(",")) == ["site-1", "site-2"]
    assert federation.finish(job_id, 240) == "FINISHED:COMPLETED"


def test_two_jobs_that_want_one_gpu_take_turns(federation):
    """The second is not started while the first has it, then it is; each sees it, and the parent never does."""
    spec = {"site-1": GPU}
    first = federation.submit("gpu-1", train_args="--fault slow --at site-1", resource_spec=spec)
    training(federation, "site-1", first)
    second = federation.submit("gpu-2", resource_spec=spec)
    until(lambda: "1 GPU asked, 0 free" in json.dumps(federation.ask("meta", second)), what="the refusal")
    assert not trains(federation, "site-1", second)
    assert started_with(process_of(federation, "site-1", first))["CUDA_VISIBLE_DEVICES"] == "0"
    federation.ask("abort", first)
    assert federation.finish(first) == "FINISHED:ABORTED"
    assert federation.finish(second, 240) == "FINISHED:COMPLETED"
    third = federation.submit("no-gpu")
    assert federation.finish(third) == "FINISHED:COMPLETED"
    report = federation.siteward("site-1", "resources")
    assert report


def test_a_job_that_the_site_refuses_is_told_why(federation):
    """A container at a site of processes: the words are in the client's log, and no process is started instead."""
    spec = {"site-1": {"docker": {"image": "x"}}}
    job_id = federation.submit("refused", launcher_spec=spec)
    assert federation.finish(job_id) != "FINISHED:COMPLETED"
    assert "the job offers docker, but site 'site-1' enables process" in federation.log("site-1")
    assert not [row for row in federation.siteward("site-1", "ps", "--all") if row["job_id"].startswith(job_id)]


def test_a_client_that_is_killed_ends_its_jobs_when_it_is_back(federation):
    """FLARE's protocol has no way to take a job process back, so none is left running unseen; the next job runs."""
    job_id = federation.submit("orphaned", train_args="--fault slow --at site-1")
    training(federation, "site-1", job_id)
    process = process_of(federation, "site-1", job_id)
    federation.parents["site-1"].kill()
    federation.parents["site-1"].wait(60)
    assert process.is_running()
    federation.start_parent("site-1")
    until(lambda: job_of(federation, "site-1", job_id)["state"] == "ABORTED", what="the end of what was left")
    assert not process.is_running()
    assert "was left by a parent that is gone" in federation.log("site-1")
    federation.ask("abort", job_id)
    assert federation.finish(job_id).startswith("FINISHED")
    until(lambda: set(federation.ask("info")) == set(federation.clients), what="the client back at the server")
    assert federation.finish(federation.submit("after-restart"), 240) == "FINISHED:COMPLETED"


def test_flare_s_own_launcher_is_back_after_uninstalling(federation):
    """One site is shut down as FLARE does it, and goes back; the others stay, and the federation goes on."""
    federation.ask("shutdown", "client", ["site-2"])
    federation.parents["site-2"].wait(60)
    federation.run(federation.bin / "siteward-nvflare", "uninstall", federation.kit("site-2"))
    before = len(federation.siteward("site-2", "ps", "--all"))
    federation.start_parent("site-2")
    until(lambda: federation.log("site-2").count("Successfully registered") > 1, what="the client back at the server")
    assert federation.finish(federation.submit("mixed"), 240) == "FINISHED:COMPLETED"
    assert len(federation.siteward("site-2", "ps", "--all")) == before
