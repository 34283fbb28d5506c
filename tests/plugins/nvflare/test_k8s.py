"""A federation with one client whose jobs are pods: FLARE's workspace goes there and comes back."""

import base64
import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from ...machine.common import Unprovided
from ..k8s.rights import rules
from . import flare_image
from .federation import Federation, until

pytestmark = pytest.mark.timeout(900)
POD_DEADLINE = 240.0
CREDENTIALS = ("NVFLARE_JOB_AUTH_TOKEN", "NVFLARE_JOB_TOKEN_SIGNATURE")


@pytest.fixture(scope="module")
def image(cluster):
    """Name an image with NVIDIA FLARE that the cluster's node has."""
    try:
        return cluster.provide(flare_image.name(), flare_image.write)
    except Unprovided as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def pods(cluster):
    """The namespace of site-1's pods; it lets in what is fit for the strictest of Kubernetes' standards."""
    with cluster.namespace(**{"pod-security.kubernetes.io/enforce": "restricted"}) as namespace:
        yield namespace


class Room:
    """A label of the node without which the pods of site-1 find no node."""

    def __init__(self, cluster, namespace):
        self.label = f"{namespace.name}.siteward.dev/room"
        self._cluster = cluster

    def there(self, value="yes"):
        """Label the node."""
        node = f"/api/v1/nodes/{self._cluster.node}"
        self._cluster.api.patch(node, {"metadata": {"labels": {self.label: value}}})

    def gone(self):
        """Take the label away; pods that run go on."""
        self.there(None)


@pytest.fixture(scope="module")
def room(cluster, pods):
    """Room for the pods of site-1."""
    room = Room(cluster, pods)
    room.there()
    yield room
    room.gone()


@pytest.fixture(scope="module")
def federation(cluster, pods, room, image, tmp_path_factory):
    """A federation whose site-1 runs its jobs in pods and whose site-2 runs processes."""
    folder = tmp_path_factory.mktemp("flare") / "federation"
    federation = Federation(folder, host=cluster.gateway, remote=["site-1"])
    k8s = {
        "kubeconfig": str(pods.user("siteward", rules("transfer"))),
        "image_pull_policy": "IfNotPresent",
        "default_image": image,
        "node_selector": {room.label: "yes"},
    }
    try:
        federation.prepare()
        federation.install("server")
        federation.install("site-1", backends={"k8s": k8s}, default_backend="k8s")
        federation.install("site-2")
        federation.run(federation.bin / "siteward-nvflare", "check", federation.kit("site-1"))
        federation.start()
        yield federation
    finally:
        federation.close()


def pod_of(pods, job_id):
    """Wait for a job's pod and return it."""

    def found():
        every = pods.api.get(f"{pods.path}/pods")["items"]
        return [each for each in every if each["metadata"]["annotations"]["siteward.dev/job-id"].startswith(job_id)]

    (pod,) = until(found, POD_DEADLINE, what=f"the pod of {job_id}")
    return pod


def has_trained(federation, job_id):
    """Whether the job's own code is at work in its pod."""
    site = ("--site", federation.folder / "sites" / "site-1" / "site.yaml")
    rows = [row["job_id"] for row in federation.siteward("site-1", "ps", "--all") if row["job_id"].startswith(job_id)]
    return any("round 0" in federation.run(federation.bin / "siteward", "logs", each, *site) for each in rows)


def assert_nothing_is_left(federation, pods):
    """Neither in the cluster nor, of FLARE's keys, in siteward's state."""
    for resource in ("pods", "secrets"):
        until(lambda resource=resource: not pods.names(resource), what=f"the removal of the {resource}")
    assert not list((federation.folder / "sites" / "site-1" / "state").rglob("client.key"))


def test_a_client_in_a_pod_completes(federation, pods, image):
    """The job's code and FLARE's kit are in the pod, its results are in FLARE's workspace, nothing is left."""
    job_id = federation.submit("in-a-pod", rounds=2)
    pod = pod_of(pods, job_id)
    container = next(each for each in pod["spec"]["containers"] if each["name"] == "job")
    assert container["image"] == image
    assert federation.finish(job_id, POD_DEADLINE) == "FINISHED:COMPLETED"
    row = federation.row("site-1", job_id)
    assert (row["backend"], row["state"], row["reason"]) == ("k8s", "SUCCEEDED", "Completed")
    log = (federation.kit("site-1") / job_id / "log.txt").read_text()
    assert "site-1" in log
    assert_nothing_is_left(federation, pods)


def test_credentials_are_in_the_job_s_secret_alone(federation, pods):
    """Not in the pod as the cluster shows it, nor in any file of siteward's or FLARE's at the site."""
    job_id = federation.submit("secrets-of-a-pod", train_args="--fault slow --at site-1")
    pod = pod_of(pods, job_id)
    secret = pods.api.get(f"{pods.path}/secrets/{pod['metadata']['name']}")
    until(lambda: has_trained(federation, job_id), POD_DEADLINE, what="training")
    federation.ask("abort", job_id)
    assert federation.finish(job_id, POD_DEADLINE) == "FINISHED:ABORTED"
    values = [base64.b64decode(secret["data"][name]) for name in CREDENTIALS]
    folders = (federation.folder / "sites", federation.kit("site-1"))
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    for value in values:
        assert value.decode() not in json.dumps(pod)
        assert not [path for path in files if value in path.read_bytes()]
    assert_nothing_is_left(federation, pods)


def test_an_aborted_pod_leaves_what_it_had(federation, pods):
    """FLARE's own Kubernetes launcher deletes it with no grace; here its files come home, and it is removed."""
    job_id = federation.submit("hangs-in-a-pod", train_args="--fault slow --at site-1")
    until(lambda: has_trained(federation, job_id), POD_DEADLINE, what="training")
    federation.ask("abort", job_id)
    assert federation.finish(job_id, POD_DEADLINE) == "FINISHED:ABORTED"
    until((federation.kit("site-1") / job_id / "log.txt").exists, what="its files")
    assert_nothing_is_left(federation, pods)
    assert federation.row("site-1", job_id)["state"] == "ABORTED"


def test_a_pod_that_waits_for_a_node_keeps_the_client(federation, pods, room):
    """Longer than the 20 s that FLARE's server waits for an answer: it runs when there is room, and completes."""
    room.gone()
    try:
        job_id = federation.submit("waits-for-a-node")
        pod = pod_of(pods, job_id)
        created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
        line = rf"Started run: {job_id} for clients: (\S+)"
        started = until(lambda: re.search(line, federation.log("server")), POD_DEADLINE, what="the start")
        until(lambda: datetime.now(UTC) - created > timedelta(seconds=25), what="a long wait")
        assert federation.row("site-1", job_id)["state"] == "PENDING"
    finally:
        room.there()
    assert sorted(started[1].split(",")) == ["site-1", "site-2"]
    assert federation.finish(job_id, POD_DEADLINE) == "FINISHED:COMPLETED"
    assert_nothing_is_left(federation, pods)


def test_a_client_that_is_killed_ends_its_pods_when_it_is_back(federation, pods):
    """FLARE's own launcher leaves them to run for ever; the next job runs in a pod of its own."""
    job_id = federation.submit("orphaned-pod", train_args="--fault slow --at site-1")
    until(lambda: has_trained(federation, job_id), POD_DEADLINE, what="training")
    federation.parents["site-1"].kill()
    federation.parents["site-1"].wait(60)
    assert pods.names("pods")
    federation.start_parent("site-1")
    until(lambda: federation.row("site-1", job_id)["state"] == "ABORTED", POD_DEADLINE, what="the end of what was left")
    assert_nothing_is_left(federation, pods)
    federation.ask("abort", job_id)
    assert federation.finish(job_id, POD_DEADLINE).startswith("FINISHED")
    until(lambda: set(federation.ask("info")) == set(federation.clients), what="the client back at the server")
    assert federation.finish(federation.submit("after-restart"), POD_DEADLINE) == "FINISHED:COMPLETED"


# What the job's process does, siteward's word on it, and the end of the run: FLARE's own launcher says ABORTED to all.
FAILURES = {
    "a crash": ("exit:1", "Error", "FINISHED:EXECUTION_EXCEPTION"),
    "a configuration error": ("exit:103", "Error", "FINISHED:EXECUTION_EXCEPTION"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_in_a_pod_is_no_abort(federation, pods, case):
    """The server hears what it was."""
    fault, reason, status = FAILURES[case]
    job_id = federation.submit("fails-in-a-pod", train_args=f"--fault {fault} --at site-1")
    assert federation.finish(job_id, POD_DEADLINE) == status
    assert federation.row("site-1", job_id)["reason"] == reason
    assert f"run ({job_id}): child worker process finished with RC {fault[5:]}" in federation.log("site-1")
    assert_nothing_is_left(federation, pods)
