"""The federated example runs as its README says, by the command line, with real processes and sockets."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

EXAMPLE = Path(__file__).parents[2] / "examples" / "fedavg"
SITES = ["server", "site-1", "site-2"]
COMMAND = Path(sys.executable).with_name("siteward")


@pytest.fixture
def example(tmp_path):
    """A copy of the example with a port of its own, so that tests and `make demo` never meet."""
    pytest.importorskip("numpy", reason="needs numpy: install the dependency group `example`")
    pytest.importorskip("matplotlib", reason="needs matplotlib: install the dependency group `example`")
    copy = tmp_path / "fedavg"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("state", "results", "__pycache__"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for file in (copy / "sites").rglob("*.yaml"):
        edit(file, lambda data: data["env"].update(FED_SERVER=f"127.0.0.1:{port}"))
    return copy


def edit(file, change):
    data = yaml.safe_load(file.read_text())
    change(data)
    file.write_text(yaml.safe_dump(data))


def run(example, *more, job="job.yaml", folder="sites"):
    sites = [f"--site={example}/{folder}/{site}.yaml" for site in SITES]
    done = subprocess.run(
        [COMMAND, "run", example / job, *sites, "--json", *more],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done, json.loads(done.stdout)


def test_three_sites_succeed_and_agree_on_a_good_model(example, tmp_path):
    """Every site ends SUCCEEDED, and accuracy, metrics and a plot are in what comes back."""
    results = tmp_path / "results"
    done, report = run(example, "--output", str(results))
    assert (done.returncode, report["verdict"]) == (0, "SUCCEEDED"), done.stderr
    assert {job["site"]: job["state"] for job in report["jobs"]} == dict.fromkeys(SITES, "SUCCEEDED")

    metrics = json.loads((results / "server" / "metrics.json").read_text())
    assert metrics["accuracy"] >= 0.95
    assert metrics["trained"] == {"site-1": 274, "site-2": 182}
    assert [each["round"] for each in metrics["rounds"]] == list(range(1, 11))
    assert (results / "server" / "accuracy.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    for site in SITES[1:]:
        shared = json.loads((results / site / "metrics.json").read_text())
        assert shared["accuracy"] >= 0.95
        assert len(shared["rounds"]) == 10


def test_one_site_may_run_its_part_in_a_container(example, tmp_path, engine, python_image, monkeypatch):
    """With job-docker.yaml site-1 uses the engine that the docker command would, and the result is the same."""
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    results = tmp_path / "results"
    done, report = run(example, "--output", str(results), job="job-docker.yaml", folder="sites/docker")
    assert (done.returncode, report["verdict"]) == (0, "SUCCEEDED"), done.stdout + done.stderr
    backends = {job["site"]: job["backend"] for job in report["jobs"]}
    assert backends == {"server": "process", "site-1": "docker", "site-2": "process"}
    assert json.loads((results / "server" / "metrics.json").read_text())["accuracy"] >= 0.95
    assert json.loads((results / "site-1" / "metrics.json").read_text())["trained"] == 274


def test_the_clients_may_be_pods_of_a_cluster(example, tmp_path, cluster, namespace, monkeypatch):
    """With job-k8s.yaml the clients use the cluster that kubectl would, and the result is the same."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    for site in SITES[1:]:
        edit(
            example / "sites/k8s" / f"{site}.yaml",
            lambda data: data["backends"]["k8s"].update(namespace=namespace.name),
        )
    results = tmp_path / "results"
    done, report = run(example, "--output", str(results), job="job-k8s.yaml", folder="sites/k8s")
    assert (done.returncode, report["verdict"]) == (0, "SUCCEEDED"), done.stdout + done.stderr
    backends = {job["site"]: job["backend"] for job in report["jobs"]}
    assert backends == {"server": "process", "site-1": "k8s", "site-2": "k8s"}
    assert json.loads((results / "server" / "metrics.json").read_text())["accuracy"] >= 0.95
    assert json.loads((results / "site-2" / "metrics.json").read_text())["trained"] == 182


def test_no_site_receives_the_rows_of_another(example, tmp_path):
    """The workspace, which every site gets, holds code only."""
    assert not list((example / "app").rglob("*.csv"))


@pytest.mark.parametrize("site", ["server", "site-1"])
def test_one_site_that_fails_ends_the_run_with_its_reason(example, site):
    """A site that cannot read its rows says so, and the others are ended rather than left waiting."""
    edit(example / "sites" / f"{site}.yaml", lambda data: data["env"].update(DATA_FILE="nowhere.csv"))
    done, report = run(example)
    assert (done.returncode, report["verdict"]) == (101, "FAILED"), done.stderr
    jobs = {job["site"]: job for job in report["jobs"]}
    assert "nowhere.csv" in jobs[site]["log_tail"]
    assert jobs[site]["exit_code"] == 101
    assert {job["state"] for name, job in jobs.items() if name != site} <= {"ABORTED", "FAILED"}


def test_a_taken_port_is_said_in_words(example):
    """The server names the address and what to change; there is no traceback."""
    address = yaml.safe_load((example / "sites" / "server.yaml").read_text())["env"]["FED_SERVER"]
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        _, report = run(example)
    server = next(job for job in report["jobs"] if job["site"] == "server")
    assert f"cannot listen on {address}" in server["log_tail"]
    assert "Traceback" not in server["log_tail"]
