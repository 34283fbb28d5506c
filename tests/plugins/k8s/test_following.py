"""A site's pods on a real cluster, followed through what goes wrong between it and its API server."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from siteward import JobState
from siteward_k8s import layout
from siteward_k8s.client import Cluster
from siteward_k8s.pending import Limits

from ...cluster.proxy import GONE_EVENT, Answer, Drop
from ...machine import images
from ...machine.common import wait_until
from .lives import PATIENT, PLACE, Followed, Where

WATCH = r"/pods\?.*watch="
SEEING = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "delete", "patch"]}
# Waits for its end until that is asked for: nobody else signals it.
WAITS = ("sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done")


@pytest.fixture
def following(namespace, tmp_path: Path):
    """Follow the pods of the test's namespace, as the user of a kubeconfig; they are let go at the end."""
    made: list[Any] = []

    def follow(kubeconfig: Path) -> Followed:
        where = Where(kubeconfig=str(kubeconfig), namespace=namespace.name)
        cluster = Cluster(where, tmp_path, logging.getLogger("siteward.test"))
        followed = Followed(None, cluster, evolve(PLACE, namespace=namespace.name))
        made.extend((followed, cluster))
        followed.watch.start()
        return followed

    yield follow
    for each in made:
        each.close()


def launch(followed: Followed, namespace, job_id: str, *command: str, limits: Limits = PATIENT, **more: Any) -> None:
    """Create a job's pod as a backend does."""
    followed.expect(job_id, limits)
    place = followed.place
    container = {"name": "job", "image": images.BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": list(command)}
    metadata = {
        "name": place.pod_name(job_id, 1),
        "labels": place.labels(job_id, 1),
        "annotations": {layout.JOB_ID: job_id, layout.CONTAINER: "job"},
    }
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [{**container, **more}]}
    pod = namespace.api.create(f"{namespace.path}/pods", {"metadata": metadata, "spec": spec})
    followed.expect(job_id, limits, uid=pod["metadata"]["uid"])


def delete(followed: Followed, namespace, job_id: str) -> None:
    namespace.api.delete(f"{namespace.path}/pods/{followed.place.pod_name(job_id, 1)}")


def test_real_lives_are_told(following, cluster, namespace):
    """Exit codes, somebody else's deletion, our own, and a pod that no node can take: each as it is, and once."""
    followed = following(cluster.kubeconfig)
    launch(followed, namespace, "ends", "sh", "-c", "exit 3")
    launch(followed, namespace, "deleted", *WAITS)
    launch(followed, namespace, "stopped", *WAITS)
    much = {"resources": {"requests": {"cpu": "10k"}}}
    launch(followed, namespace, "too-big", "true", limits=evolve(PATIENT, pending_timeout=3.0), **much)
    launch(followed, namespace, "no-command", "/there/is/no/such/command")
    for job_id in ("deleted", "stopped"):
        followed.until(lambda job_id=job_id: followed.told(job_id)[-1:] == ["RUNNING"])
    followed.stopped.add(followed.place.pod_name("stopped", 1))
    for job_id in ("deleted", "stopped"):
        delete(followed, namespace, job_id)
    ends = {job_id: followed.end_of(job_id) for job_id in ("ends", "deleted", "stopped", "too-big", "no-command")}
    assert {job_id: (end.reason.value, end.exit_code) for job_id, end in ends.items()} == {
        "ends": ("Error", 3),
        "deleted": ("Deleted", 7),
        "stopped": ("Error", 7),
        "too-big": ("CapacityTimeout", None),
        "no-command": ("LaunchFailed", None),
    }
    assert "Insufficient cpu" in ends["too-big"].log_tail
    assert [job_id for job_id, *_more in followed.given_up] == ["too-big"]


def test_faults_on_the_way_lose_nothing(following, api_proxy, namespace):
    """Cut and silent watches, 410 in a stream, refusals and an outage: each job's one true end is told."""
    followed = following(api_proxy.kubeconfig)
    wait_until(lambda: api_proxy.open_requests(WATCH), lambda: "it does not watch")
    faults = {
        "cut": lambda: api_proxy.cut(WATCH),
        "half": lambda: (api_proxy.fault(Drop(passed=100), WATCH, times=2), api_proxy.cut(WATCH)),
        "gone": lambda: (api_proxy.fault(Answer(status=200, body=GONE_EVENT), WATCH), api_proxy.cut(WATCH)),
        "busy": lambda: (
            api_proxy.fault(Answer(status=429, headers={"Retry-After": "1"}), WATCH, times=3),
            api_proxy.cut(),
        ),
        "ill": lambda: (api_proxy.fault(Answer(status=500), "/pods", times=20), api_proxy.cut()),
    }
    for code, (job_id, fault) in enumerate(faults.items(), start=11):
        fault()
        launch(followed, namespace, job_id, "sh", "-c", f"exit {code}")
    ends = [followed.end_of(job_id).exit_code for job_id in faults]
    assert ends == list(range(11, 11 + len(faults)))
    api_proxy.heal()
    launch(followed, namespace, "goes-on", *WAITS)
    launch(followed, namespace, "meanwhile", "sh", "-c", "sleep 3; exit 21")
    for job_id in ("goes-on", "meanwhile"):
        followed.until(lambda job_id=job_id: followed.told(job_id)[-1:] == ["RUNNING"])
    with api_proxy.outage():
        followed.until(lambda: followed.told("goes-on")[-1:] == ["unreachable"])
        namespace.wait_for_phase(followed.place.pod_name("meanwhile", 1))
    assert followed.end_of("meanwhile").exit_code == 21
    followed.until(lambda: followed.told("goes-on") == ["PENDING", "RUNNING", "unreachable", "RUNNING"])


def test_the_api_server_is_stopped_and_started(following, cluster, namespace):
    """Jobs that end while it is away have their true ends when it is back."""
    if not cluster.own:
        pytest.skip("needs a cluster of our own: unset SITEWARD_TEST_KUBECONFIG")
    followed = following(cluster.kubeconfig)
    launch(followed, namespace, "goes-on", *WAITS)
    launch(followed, namespace, "ends", "sh", "-c", "sleep 5; exit 4")
    for job_id in ("goes-on", "ends"):
        followed.until(lambda job_id=job_id: followed.told(job_id)[-1:] == ["RUNNING"])
    cluster.stop_apiserver()
    try:
        followed.until(lambda: followed.told("goes-on")[-1:] == ["unreachable"])
    finally:
        cluster.start_apiserver()
    assert followed.end_of("ends").exit_code == 4
    followed.until(lambda: followed.told("goes-on")[-1:] == ["RUNNING"])
    assert followed.told("goes-on").count("unreachable") == 1


def test_a_role_that_is_mended_is_used(following, namespace):
    """Without the right to watch, the core is told to poll; once it is given, pods are followed."""
    followed = following(namespace.user("sees", [SEEING]))
    followed.until(lambda: followed.failures)
    launch(followed, namespace, "looked-at", "sh", "-c", "exit 5")
    ref = followed.place.ref("looked-at", 1)
    wait_until(lambda: followed.pods.look(ref).state is JobState.FAILED, lambda: str(followed.pods.look(ref)))
    role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace.name}/roles/sees"
    namespace.api.patch(role, {"rules": [{**SEEING, "verbs": [*SEEING["verbs"], "watch"]}]})
    launch(followed, namespace, "watched", "sh", "-c", "exit 6")
    assert followed.end_of("watched").exit_code == 6
    assert len(followed.failures) == 1
