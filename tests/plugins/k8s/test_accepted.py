"""What is built is what a real API server takes, field by field, and what a real kubelet runs."""

import json

import pytest

from ...machine import images
from ...machine.common import wait_until
from .building import a_place, built, spec_of

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
STRICT = {"dryRun": "All", "fieldValidation": "Strict"}
TEMPLATE = {
    "metadata": {"labels": {"team": "fl"}},
    "spec": {
        "containers": [
            {
                "name": "nvflare_job",
                "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                "volumeMounts": [
                    {"name": "siteward-job", "mountPath": "/work"},
                    {"name": "siteward-job", "mountPath": "/also"},
                ],
                "resources": {"limits": {"cpu": 2}},
            },
            {"name": "side", "image": "side:1"},
        ],
        "initContainers": [{"name": "mesh", "image": "mesh:1", "restartPolicy": "Always"}],
        "imagePullSecrets": [{"name": "a"}],
    },
}
STUDY = {
    "datasets": {"ct": {"source": "ct"}, "out": {"source": "ct", "mode": "rw"}},
    "env": {"MODE": "prod"},
    "secret_env": {"DB": {"source": "db", "key": "password"}},
    "secret_mounts": {"ca": {"source": "ca", "mount_path": "/etc/ca", "items": {"ca.pem": "certs/ca.pem"}}},
}
CLAIM = {"job_directory": "pvc", "job_directory_claim": "work", "job_directory_path": "/mnt"}
PODS = {
    "plain": {},
    "everything a job asks": {
        "job": {"cpu": "1500m", "cpu_request": "1", "memory": "1.5Gi", "ephemeral_storage": "2G", "num_of_gpus": 2},
        "secrets": {"TOKEN": "x"},
        "timeout": 5,
    },
    "caps": {"site": {"max_cpu": "4", "max_memory": "1e9", "ephemeral_storage": "10Gi"}},
    "a study": {"study": STUDY},
    "a claim": {"site": CLAIM},
    "no job directory": {"site": {"job_directory": "none"}},
    "a helper image": {"site": {"helper_image": "busybox:1", "image_pull_policy": "Always"}},
    "options of pods": {
        "site": {
            "image_pull_secrets": ["a", "b"],
            "node_selector": {"pool": "fl"},
            "tolerations": [{"key": "fl", "operator": "Exists", "effect": "NoSchedule"}],
            "labels": {"team": "fl"},
            "annotations": {"note": "any text: ✓"},
            "pod_security_context": {"supplementalGroups": [5], "fsGroupChangePolicy": "OnRootMismatch"},
            "container_security_context": {"readOnlyRootFilesystem": True},
            "gpu_resource": "nvidia.com/mig-1g.5gb",
        },
        "job": {"num_of_gpus": 1},
    },
    "dollars and more": {"command": ["sh", "-c", "echo $(HOME) $$"], "env": {"A_B": "$(A) é\n\t\"'"}},
    "long names": {"job_id": "x" * 63, "name": "x" * 40},
}
UNRESTRICTED = {
    "a template": {"site": {"pod_template": TEMPLATE}},
    "paths of nodes": {"site": {"allow_host_path": True}, "study": {"datasets": {"a": {"source": "/srv/a"}}}},
    "privileged": {"site": {"container_security_context": {"privileged": True}}},
    "the node's processes": {"site": {"pod_template": {"spec": {"hostPID": True}}}},
}


@pytest.fixture
def restricted(cluster):
    with cluster.namespace(**RESTRICTED) as namespace:
        yield namespace


def asked(namespace, fields):
    fields = dict(fields)
    found = built(place=a_place(fields.pop("site", {}), namespace=namespace.name), **fields)
    if found.secret is not None:
        namespace.api.request("POST", f"{namespace.path}/secrets", found.secret, query=STRICT)
    return json.loads(
        namespace.api.request("POST", f"{namespace.path}/pods", found.manifest, query=STRICT)
    ), found.manifest


def test_pods_are_taken_under_the_strictest_standard(restricted):
    """As they are by default, nothing in them is unknown to the API or refused by the standard `restricted`."""
    for words, fields in PODS.items():
        taken, wanted = asked(restricted, fields)
        assert a_place(namespace=restricted.name).is_same(taken, wanted), words


def test_pods_are_taken_with_what_a_site_adds(namespace):
    """Templates, paths of nodes, loosened rights."""
    for words, fields in UNRESTRICTED.items():
        taken, wanted = asked(namespace, fields)
        assert a_place(namespace=namespace.name).is_same(taken, wanted), words


def test_a_job_runs_where_and_as_whom_it_should(restricted):
    """In a job directory that it may write to, as user and group 1000, with its words and variables as they are."""
    script = 'id -u; id -g; pwd; touch made && ls; echo "$TEXT" "$0"; cat /proc/self/status | grep NoNewPrivs'
    site = {"job_directory": "none", "default_image": images.BUSYBOX, "image_pull_policy": "IfNotPresent"}
    place = a_place(site, namespace=restricted.name)
    pod = built(place=place, command=["sh", "-c", script, "$(TEXT)"], env={"TEXT": "$(HOME) $$"}).manifest
    restricted.api.create(f"{restricted.path}/pods", pod)
    name = pod["metadata"]["name"]
    restricted.wait_for_phase(name)
    log = restricted.api.text(f"{restricted.path}/pods/{name}/log", container="job").splitlines()
    assert log == ["1000", "1000", "/siteward/job", "made", "$(HOME) $$ $(TEXT)", "NoNewPrivs:\t1"]


def test_the_job_waits_for_its_directory_and_the_helper_outlives_it(cluster, restricted):
    """The staging container goes when the marker is there; the helper sees what the job made, until it is released."""
    site = {"default_image": images.BUSYBOX, "image_pull_policy": "IfNotPresent"}
    place = a_place(site, namespace=restricted.name)
    pod = built(place=place, command=["sh", "-c", "cat input > output; exit 7"]).manifest
    restricted.api.create(f"{restricted.path}/pods", pod)
    name = pod["metadata"]["name"]

    def state(kind, container):
        found = restricted.pod(name)["status"].get(kind, [])
        return next((each["state"] for each in found if each["name"] == container), {})

    def run(container, script):
        where = ("-n", restricted.name, "exec", name, "-c", container, "--")
        return cluster.kubectl(*where, "sh", "-c", script)

    wait_until(
        lambda: "running" in state("initContainerStatuses", "siteward-stage"), lambda: "not staging", deadline=120
    )
    run("siteward-stage", "cd /siteward/job && echo hello > input && touch /siteward-control/staged")
    wait_until(lambda: "terminated" in state("containerStatuses", "job"), lambda: "the job does not end", deadline=120)
    assert state("containerStatuses", "job")["terminated"]["exitCode"] == 7
    assert run("siteward-helper", "cat /siteward/job/output; ls /siteward-control").split() == ["hello", "staged"]
    run("siteward-helper", "touch /siteward-control/release")
    assert restricted.wait_for_phase(name)["status"]["phase"] == "Failed"


def test_the_helpers_are_small_beside_the_job():
    """What they reserve is next to nothing."""
    helper = spec_of()["containers"][1]["resources"]["requests"]
    assert helper == {"cpu": "10m", "memory": "32Mi"}
