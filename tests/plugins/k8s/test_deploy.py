"""The manifests that sites get: each can be applied, and gives what it says and no more."""

import contextlib
import itertools
import re

import pytest
import yaml

from ...cluster.api import Api, ApiError
from ...cluster.cluster import kubectl
from ...cluster.deploy import DEPLOY, kustomize, put_together
from ...machine import images
from ...machine.common import Unprovided, wait_until

ALL = tuple(sorted(folder.name for folder in (DEPLOY / "components").iterdir()))
VOLUME = "siteward-test-state"
# What a parent does at its start, with nothing but Python: its site file, its state, its rights.
PARENT = """
import json, os, pathlib, ssl, sys, time, urllib.request
assert sys.argv[1:] == ["--site", "/etc/siteward/site.yaml"]
assert "state_dir: /var/lib/siteward" in pathlib.Path(sys.argv[2]).read_text()
pathlib.Path("/var/lib/siteward/state").write_text("kept")
account = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
namespace = (account / "namespace").read_text()
url = "https://{KUBERNETES_SERVICE_HOST}:{KUBERNETES_SERVICE_PORT}/api/v1/namespaces/".format_map(os.environ)
request = urllib.request.Request(url + namespace + "/pods")
request.add_header("Authorization", "Bearer " + (account / "token").read_text())
trusted = ssl.create_default_context(cafile=account / "ca.crt")
with urllib.request.urlopen(request, context=trusted, timeout=60) as answer:
    print(len(json.load(answer)["items"]), flush=True)
time.sleep(1000)
"""
JOB = {
    "metadata": {"name": "job"},
    "spec": {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "job",
                "image": images.BUSYBOX,
                "command": ["sleep", "1000"],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    },
}


@pytest.fixture(scope="module")
def kubectl_command(cluster):
    """A kubectl; there is one as soon as there is a cluster."""
    try:
        return kubectl(None)
    except Unprovided as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("components", [(), *((name,) for name in ALL), ALL], ids="+".join)
def test_manifests_can_be_put_together(kubectl_command, components):
    """Each component goes with the base alone, and all go together, in any namespace."""
    text = put_together(kubectl_command, components, namespace="elsewhere")
    for each in yaml.safe_load_all(text):
        assert each["metadata"].get("namespace", "elsewhere") == "elsewhere"
        assert all(subject["namespace"] == "elsewhere" for subject in each.get("subjects", ()))


def test_the_example_is_a_kustomization(kubectl_command):
    """A site begins with a copy of it."""
    kinds = [each["kind"] for each in yaml.safe_load_all(kustomize(kubectl_command, DEPLOY / "example"))]
    assert {"Namespace", "Role", "NetworkPolicy"} <= set(kinds)


def test_the_readme_names_each_part():
    """Nothing is left for a reader to find."""
    assert set(re.findall(r"^\| `components/(\w+)`", (DEPLOY / "README.md").read_text(), re.MULTILINE)) == set(ALL)


def test_the_manifests_are_accepted(cluster, kubectl_command):
    """The API server knows every field of every object."""
    text = put_together(kubectl_command, ALL, namespace="default")
    objects = [each for each in yaml.safe_load_all(text) if each["kind"] != "Namespace"]
    cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump_all(objects))


@pytest.mark.parametrize("components", [(), ("transfer",)], ids=["base", "transfer"])
def test_a_site_may_do_what_it_needs_and_no_more(cluster, components):
    """Its account runs pods and reads their logs; it has neither other objects nor other namespaces."""
    with cluster.deployed(*components) as namespace:
        kubeconfig = namespace.account("siteward")
        with contextlib.closing(Api(kubeconfig)) as site:
            site.create(f"{namespace.path}/pods", JOB)
            namespace.wait_for_phase("job", "Running")
            assert site.text(f"{namespace.path}/pods/job/log") == ""
            asked = itertools.product(("list", "delete"), ("configmaps", "roles", "serviceaccounts", "pods/exec"))
            assert not [each for each in [*asked, ("deletecollection", "pods")] if may(site, namespace.name, *each)]
            assert not may(site, "default", "list", "pods")
            assert may(site, namespace.name, "create", "pods/exec") == ("transfer" in components)
            with pytest.raises(ApiError, match="violates PodSecurity"):
                site.create(f"{namespace.path}/pods", {**JOB, "spec": {**JOB["spec"], "securityContext": {}}})


def may(api, namespace, verb, resource):
    """Ask the API server whether a user may do something."""
    name, _, part = resource.partition("/")
    group = "rbac.authorization.k8s.io" if name == "roles" else ""
    attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": name, "subresource": part}
    review = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
    review["spec"] = {"resourceAttributes": attributes}
    return api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)["status"]["allowed"]


def test_a_parent_runs_in_the_cluster(cluster, tmp_path):
    """It has its site file, a volume for its state and the account's token."""
    if not cluster.own:
        pytest.skip("needs a cluster of our own, to give it a volume: unset SITEWARD_TEST_KUBECONFIG")
    tmp_path.chmod(0o777)
    volume = {"capacity": {"storage": "20Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": str(tmp_path)}}
    container = {"name": "parent", "image": images.PYTHON, "command": ["/usr/bin/python3", "-c", PARENT]}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "siteward-parent"}}
    deployment["spec"] = {"template": {"spec": {"containers": [container]}}}
    cluster.api.create("/api/v1/persistentvolumes", {"metadata": {"name": VOLUME}, "spec": volume})
    try:
        with cluster.deployed("parent", patches=[{"patch": yaml.safe_dump(deployment)}]) as namespace:
            wait_until(lambda: namespace.names("pods"), lambda: "no pod")
            (pod,) = namespace.names("pods")
            namespace.wait_for_phase(pod, "Running")
            wait_until(lambda: namespace.log(pod) == "1\n", lambda: namespace.log(pod))
            assert (tmp_path / "state").read_text() == "kept"
    finally:
        cluster.api.delete(f"/api/v1/persistentvolumes/{VOLUME}")
