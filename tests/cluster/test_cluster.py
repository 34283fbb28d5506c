"""What tests on Kubernetes rely on: real pods with their true ends and whole logs, and nothing left afterwards."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ..machine import images
from ..machine.common import Unprovided, control_groups, wait_until
from .api import Api, ApiError

ROOT = Path(__file__).parents[2]
OWN = "needs a cluster of our own: unset SITEWARD_TEST_KUBECONFIG"
READER = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}
# Asks the API server that pods are told of, which has to be who it says.
ASKS = """
import os, ssl, urllib.request
trusted = ssl.create_default_context(cafile="/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
url = "https://{KUBERNETES_SERVICE_HOST}:{KUBERNETES_SERVICE_PORT}/readyz".format_map(os.environ)
print(urllib.request.urlopen(url, context=trusted, timeout=60).read().decode(), end="")
"""
# Starts a cluster with a pod that runs on, and dies.
KILLED = """
import os
from tests.cluster.cluster import find_cluster
cluster = find_cluster()
with cluster.namespace() as namespace:
    namespace.run("stays", "sleep", "1000")
    namespace.wait_for_phase("stays", "Running")
    print(cluster.place.run_dir, cluster.place.folder, flush=True)
    os.kill(os.getpid(), 9)
"""


def end(pod):
    """Return how a pod's container ended."""
    return pod["status"]["containerStatuses"][0]["state"]["terminated"]


def waiting(namespace, name, image):
    """Run an image that cannot be had, and return what the kubelet says."""
    namespace.run(name, "true", image=image)

    seen = {}

    def failed():
        for status in namespace.pod(name)["status"].get("containerStatuses", ()):
            seen.update(status["state"].get("waiting", {}))
        return seen.get("reason") in ("ErrImagePull", "ImagePullBackOff")

    wait_until(failed, lambda: f"no error: {seen}")
    return seen["message"]


@pytest.mark.parametrize("code", [0, 3, 143])
def test_a_pod_ends_with_the_code_of_its_program(namespace, code):
    """The kubelet runs the program, and reports its code."""
    namespace.run("ends", "sh", "-c", f"exit {code}")
    pod = namespace.wait_for_phase("ends")
    assert (pod["status"]["phase"], end(pod)["exitCode"]) == ("Failed" if code else "Succeeded", code)


def test_a_log_is_whole(namespace):
    """Nothing of 300 KB that a pod writes in its last moments is lost."""
    namespace.run("writes", "sh", "-c", "seq 100000 150000")
    namespace.wait_for_phase("writes")
    assert namespace.log("writes").split() == [str(number) for number in range(100000, 150001)]


def test_a_pod_that_takes_too_much_memory_is_killed(namespace):
    """The kernel kills it, and the kubelet says why."""
    limits = {"limits": {"memory": "32Mi"}}
    namespace.run("grows", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1", resources=limits)
    assert end(namespace.wait_for_phase("grows"))["reason"] == "OOMKilled"


def test_an_image_has_python_and_numpy(namespace):
    """The image of Python works for a user without rights."""
    code = "import numpy, os; print(os.getuid(), numpy.arange(4).sum())"
    user = {"runAsUser": 12345, "runAsNonRoot": True}
    namespace.run("counts", "/usr/bin/python3", "-c", code, image=images.PYTHON, securityContext=user)
    assert namespace.wait_for_phase("counts")["status"]["phase"] == "Succeeded"
    assert namespace.log("counts") == "12345 6\n"


def test_a_user_may_do_what_the_role_says_and_no_more(cluster, namespace):
    """A service account has its role, in its namespace."""
    user = Api(namespace.user("reader", [READER]))
    assert user.namespace == namespace.name
    assert user.get(f"{namespace.path}/pods")["items"] == []
    for path in (f"{namespace.path}/secrets", "/api/v1/namespaces/default/pods"):
        with pytest.raises(ApiError) as refused:
            user.get(path)
        assert refused.value.status == 403
    user.close()


def test_pods_reach_the_api_server(cluster, namespace):
    """The address that pods are given for the API server leads there."""
    if not cluster.own:
        pytest.skip(OWN)
    namespace.run("asks", "/usr/bin/python3", "-c", ASKS, image=images.PYTHON)
    pod = namespace.wait_for_phase("asks")
    assert (pod["status"]["phase"], namespace.log("asks")) == ("Succeeded", "ok")


def test_an_image_can_be_pulled_from_a_registry_of_the_machine(cluster, namespace, registry):
    """What was pushed is pulled; what was not is an error in words."""
    name = cluster.push(registry, images.BUSYBOX)
    namespace.run("pulls", "true", image=name)
    assert namespace.wait_for_phase("pulls")["status"]["phase"] == "Succeeded"
    assert "not found" in waiting(namespace, "fails", f"{registry.address}/no/such:1")


def test_a_closed_registry_gives_nothing_without_a_login(cluster, namespace, closed_registry):
    """The kubelet says that it is no network's fault."""
    name = cluster.push(closed_registry, images.BUSYBOX)
    assert "no basic auth credentials" in waiting(namespace, "fails", name)


def test_gpus_are_what_a_test_says(cluster, namespace):
    """Pods that ask for GPUs run while there are enough; one more waits."""
    asked = {"limits": {"nvidia.com/gpu": "1"}}
    with cluster.gpus(1):
        namespace.run("first", "sleep", "1000", resources=asked)
        namespace.wait_for_phase("first", "Running")
        namespace.run("second", "sleep", "1000", resources=asked)
        wait_until(lambda: "conditions" in namespace.pod("second")["status"], lambda: "the scheduler says nothing")
        condition = namespace.pod("second")["status"]["conditions"][0]
        assert condition["reason"] == "Unschedulable"
        assert "Insufficient nvidia.com/gpu" in condition["message"]


def test_pods_on_fake_nodes_live_as_a_test_says(cluster, namespace):
    """They are scheduled, and then nothing happens but what the test writes."""
    with cluster.fake_nodes(2) as nodes:
        for name in ("ends", "goes", "waits"):
            namespace.run(name, "true", **nodes.spec())
            wait_until(lambda name=name: namespace.pod(name)["spec"].get("nodeName"), lambda: "not scheduled")
        nodes.set_running(namespace.name, "ends")
        assert namespace.pod("ends")["status"]["phase"] == "Running"
        nodes.set_ended(namespace.name, "ends", 137, reason="OOMKilled")
        assert (end(namespace.pod("ends"))["exitCode"], end(namespace.pod("ends"))["reason"]) == (137, "OOMKilled")
        nodes.set_waiting(namespace.name, "waits", "ImagePullBackOff", "not found")
        assert namespace.pod("waits")["status"]["phase"] == "Pending"
        namespace.api.delete(f"{namespace.path}/pods/goes", grace=30)
        assert nodes.reap(namespace.name) == ["goes"]
        assert namespace.names("pods") == ["ends", "waits"]


def test_requests_are_counted(cluster, namespace):
    """The API server's metrics tell what it was asked."""
    before = cluster.requests()
    namespace.api.create(f"{namespace.path}/secrets", {"metadata": {"name": "counted"}})
    assert (cluster.requests() - before)["POST", "secrets", "", "201"] == 1


def test_the_api_server_can_go_and_come_back(cluster, namespace):
    """Pods run on meanwhile, and what was there is there."""
    if not cluster.own:
        pytest.skip(OWN)
    namespace.run("stays", "sleep", "1000")
    namespace.wait_for_phase("stays", "Running")
    cluster.stop_apiserver()
    with pytest.raises(OSError):
        namespace.pod("stays")
    cluster.start_apiserver()
    assert namespace.pod("stays")["status"]["phase"] == "Running"


def test_a_frozen_kubelet_says_nothing(cluster, namespace):
    """A pod is bound to the node and waits, until the kubelet goes on."""
    if not cluster.own:
        pytest.skip(OWN)
    with cluster.frozen_kubelet():
        namespace.run("waits", "true")
        wait_until(lambda: namespace.pod("waits")["spec"].get("nodeName"), lambda: "not scheduled")
        assert "containerStatuses" not in namespace.pod("waits")["status"]
    namespace.wait_for_phase("waits", "Succeeded")


def traces(run_dir, folder):
    """Name whatever there is of a cluster, apart from its folder."""
    paths = (f"{run_dir}/", f"{folder}/", f"/run/netns/{run_dir.name} ")
    found = [f"mount {each.mountpoint}" for each in psutil.disk_partitions(all=True)]
    found = [each for each in found if any(path in each for path in paths)]
    for process in psutil.process_iter(["pid", "name", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        found += [str(process)] if any(path in line for path in paths) else []
    found += [str(group) for group in control_groups(run_dir.name)]
    links = [each for each in psutil.net_if_addrs() if each.startswith(f"siteward{folder.name.rpartition('-')[2]}")]
    return found + links + [str(path) for path in (run_dir, *folder.iterdir()) if path.exists() and path.name != "lock"]


@pytest.mark.timeout(600)
def test_what_a_killed_session_leaves_is_cleared_by_the_next(cluster):
    """A second cluster beside the first, whose owner dies, runs on; whoever has its folder next ends it."""
    if not cluster.own:
        pytest.skip(OWN)
    environment = {name: value for name, value in os.environ.items() if name != "SITEWARD_TEST_KUBECONFIG"}
    command = [sys.executable, "-c", KILLED]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, timeout=250)
    assert done.returncode == -signal.SIGKILL
    run_dir, folder = map(Path, done.stdout.split())
    assert folder != cluster.place.folder
    assert traces(run_dir, folder) != []
    sys_path = f"from tests.cluster import devkube; from pathlib import Path; devkube.sweep(Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", sys_path], cwd=ROOT, check=True, timeout=250)
    assert traces(run_dir, folder) == []
    assert cluster.api.get(f"/api/v1/nodes/{cluster.node}")["metadata"]["name"] == cluster.node


def test_a_foreign_cluster_keeps_its_parts(tmp_path):
    """Of a cluster that is not ours there is nothing to stop."""
    from .cluster import Cluster

    (tmp_path / "config").write_text(
        "{current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}], "
        "clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: a, user: {}}]}"
    )
    cluster = Cluster(tmp_path / "config")
    assert not cluster.own
    with pytest.raises(Unprovided, match="SITEWARD_TEST_KUBECONFIG"):
        cluster.restart_apiserver()
