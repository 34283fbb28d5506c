"""The launcher with real pods, without a federation: what FLARE's own Kubernetes launcher gets wrong."""

import os
import threading
from pathlib import Path

import pytest

from siteward import JobState

from ...machine import images
from ..k8s.rights import rules
from .parent import CODES, DEADLINE, FOREVER, UNKNOWN, ends, until

POD_DEADLINE = 240.0
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def with_pods(make, namespace):
    """Make a parent whose jobs are pods; options of the backend `k8s`."""

    def make_parent(rights="transfer", **options):
        kubeconfig = namespace.user("siteward", rules(rights))
        k8s = {"kubeconfig": str(kubeconfig), "image_pull_policy": "IfNotPresent", "default_image": images.PYTHON}
        return make(backends={"k8s": {**k8s, **options}}, default_backend="k8s")

    return make_parent


@pytest.fixture
def claim(cluster, namespace, tmp_path):
    """A claim that this machine sees too, as options of the backend."""
    if not cluster.own:
        pytest.skip("needs a cluster of our own, to give it a volume: unset SITEWARD_TEST_KUBECONFIG")
    folder = tmp_path / "claim"
    folder.mkdir(mode=0o755)
    spec = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = {**spec, "capacity": {"storage": "1Gi"}, "hostPath": {"path": str(folder)}}
    claim = {**spec, "volumeName": namespace.name, "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": namespace.name}
    namespace.api.create("/api/v1/persistentvolumes", {"metadata": metadata, "spec": volume})
    namespace.api.create(f"{namespace.path}/persistentvolumeclaims", {"metadata": metadata, "spec": claim})
    yield {"job_directory": "pvc", "job_directory_claim": namespace.name, "job_directory_path": str(folder)}
    namespace.api.delete(f"/api/v1/persistentvolumes/{namespace.name}")


def pods(namespace):
    """Return the pods in the namespace."""
    return namespace.api.get(f"{namespace.path}/pods")["items"]


def files(folder):
    """Return the files in a folder, also while some of it is being removed."""
    return [Path(top, name) for top, _, names in os.walk(folder) for name in names]


def running(parent, job_id):
    """Wait until siteward says that a job runs."""
    until(lambda: parent.status(job_id).state is JobState.RUNNING, POD_DEADLINE, what=f"{job_id} running")


# FLARE's own launcher makes 9, an abort, of all but 0 and 101 to 103.
ENDS = {**CODES, "killed by another": ("os.kill(os.getpid(), 9)", 1), "out of memory": ("bytearray(1 << 30)", 104)}


def test_codes_of_pods_reach_flare_as_they_are(with_pods, namespace):
    """All kinds of ends at once; each pod and its secret are gone then."""
    parent = with_pods()
    memory = {"site-1": {"memory": "64Mi"}}
    handles = {}
    for number, (behaviour, _) in enumerate(ENDS.values()):
        handles[number] = parent.launch(f"job-{number}", behaviour, resource_spec=memory)
    found = [ends(handle, POD_DEADLINE) for handle in handles.values()]
    assert found == [code for _, code in ENDS.values()]
    for resource in ("pods", "secrets"):
        until(lambda resource=resource: not namespace.names(resource), what=f"the removal of the {resource}")


@pytest.mark.parametrize("by", ["transfer", "pvc"])
def test_a_workspace_goes_to_a_pod_and_comes_back(with_pods, request, by):
    """Through the API server or by a claim: the job sees FLARE's kit and its folder, and no key stays behind."""
    options = request.getfixturevalue("claim") if by == "pvc" else {}
    parent = with_pods(by, **options)
    folders = "sorted(os.listdir(workspace)), os.listdir(workspace + '/startup')"
    behaviour = f"tell('seen', [workspace, {folders}, os.getuid()])"
    assert ends(parent.launch(behaviour=behaviour), POD_DEADLINE) == 0
    workspace, top, startup, user = parent.told("job-1", "seen")
    assert (workspace, top, startup, user) == ("/siteward/job", ["job-1", "local", "startup"], ["client.key"], 1000)
    kept = [path for path in files(parent.folder) if path.suffix == ".key" and parent.root not in path.parents]
    assert kept == []
    if by == "pvc":
        left = Path(options["job_directory_path"])
        until(lambda: not files(left), what="the claim to be empty")


def test_a_pod_that_somebody_deletes_is_lost(with_pods, namespace):
    """The platform's fault (104): nobody has aborted the job."""
    parent = with_pods()
    handle = parent.launch(behaviour=FOREVER)
    running(parent, "job-1")
    (pod,) = pods(namespace)
    namespace.api.delete(f"{namespace.path}/pods/{pod['metadata']['name']}", grace=0)
    assert ends(handle, POD_DEADLINE) == 104


def test_a_pod_that_no_node_takes_yet_waits(with_pods, cluster, namespace):
    """For a node that an autoscaler may add; FLARE's own launcher deletes it at the first word of the scheduler."""
    label = f"{namespace.name}.siteward.dev/fit"
    parent = with_pods(node_selector={label: "yes"})
    launched = []
    thread = threading.Thread(target=lambda: launched.append(parent.launch(behaviour="tell('ran', 1)")))
    thread.start()
    thread.join(19)
    (handle,) = launched
    until(lambda: "Unschedulable" in str([pod["status"] for pod in pods(namespace)]), what="the scheduler's word")
    assert handle.poll() == UNKNOWN
    node = f"/api/v1/nodes/{cluster.node}"
    cluster.api.patch(node, {"metadata": {"labels": {label: "yes"}}})
    try:
        assert ends(handle, POD_DEADLINE) == 0
    finally:
        cluster.api.patch(node, {"metadata": {"labels": {label: None}}})
    assert parent.told("job-1", "ran") == 1


def test_a_pod_that_waits_too_long_is_no_abort(with_pods, namespace):
    """It ends as an exception (101) when the site's patience does: no wait is endless unless the site says so."""
    parent = with_pods(node_selector={f"{namespace.name}.siteward.dev/never": "yes"}, pending_timeout=1)
    assert ends(parent.launch(), POD_DEADLINE) == 101


def test_a_pod_that_waits_can_be_aborted(with_pods, namespace):
    """It ends as aborted, and is gone."""
    parent = with_pods(node_selector={f"{namespace.name}.siteward.dev/never": "yes"})
    handle = parent.launch()
    until(lambda: pods(namespace), DEADLINE, what="the pod")
    handle.terminate()
    assert ends(handle, POD_DEADLINE) == 9
    until(lambda: not pods(namespace), what="the pod's removal")


def test_what_a_job_asks_of_flare_is_asked_of_the_cluster(with_pods, namespace):
    """Portable resources, and FLARE's own options for Kubernetes: in the pod's requests and limits."""
    parent = with_pods(node_selector={f"{namespace.name}.siteward.dev/never": "yes"})
    portable = {"num_of_gpus": 2, "num_of_cpus": 3, "memory": "2Gi"}
    options = {"cpu": "1500m", "memory": "1Gi", "memory_request": "512Mi", "ephemeral_storage": "3Gi"}
    asked = {
        "job-1": {"resource_spec": {"@default": portable}},
        "job-2": {"launcher_spec": {"default": {"k8s": options}}},
        "job-3": {"resource_spec": {"site-1": {"process": {"num_of_gpus": 1}, "k8s": {"num_of_gpus": 1}}}},
    }
    handles = [parent.launch(job_id, **meta) for job_id, meta in asked.items()]
    until(lambda: len(pods(namespace)) == len(asked), POD_DEADLINE, what="the pods")
    found = {}
    for pod in pods(namespace):
        (container,) = (each for each in pod["spec"]["containers"] if each["name"] == "job")
        found[pod["metadata"]["annotations"]["siteward.dev/job-id"][:5]] = container["resources"]
    every = {"nvidia.com/gpu": "2", "cpu": "3", "memory": "2Gi"}
    assert every.items() <= found["job-1"]["limits"].items()
    assert every.items() <= found["job-1"]["requests"].items()
    limits = {"cpu": "1500m", "memory": "1Gi", "ephemeral-storage": "3Gi"}
    assert limits.items() <= found["job-2"]["limits"].items()
    assert {**limits, "memory": "512Mi"}.items() <= found["job-2"]["requests"].items()
    assert found["job-3"]["limits"]["nvidia.com/gpu"] == "1"
    for handle in handles:
        handle.terminate()
    assert [ends(handle, POD_DEADLINE) for handle in handles] == [9, 9, 9]
