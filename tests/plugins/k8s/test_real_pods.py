"""What a real scheduler, kubelet and runtime say of pods, and what is made of it."""

from __future__ import annotations

import pytest

from siteward_k8s.clocks import Waited
from siteward_k8s.diagnose import status_of
from siteward_k8s.facts import read_event, read_pod
from siteward_k8s.pending import Fail, Limits, judge

from ...machine import images
from ...machine.common import wait_until

LIMITS = Limits(pending_timeout=300, start_timeout=600, gated_timeout=None)


def needs(**resources):
    return {"resources": {"limits": resources}}


def variable(kind, name):
    return {"env": [{"name": "X", "valueFrom": {kind: {"name": name, "key": "timeout"}}}]}


def init(*command):
    return {"initContainers": [{"name": "fetch", "image": images.BUSYBOX, "command": command}]}


def volume(**source):
    return {"volumes": [{"name": "data", **source}]}


FULL = ["sh", "-c", "dd if=/dev/zero of=/data/x bs=1M count=50; sleep 600"]
DATA = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
# The container's part, the pod's part, and what is made of it: an end, a failure, or a wait and what that ends in.
PODS = {
    "success": ({}, {}, "Completed 0"),
    "exit-3": ({"command": ["sh", "-c", "exit 3"]}, {}, "Error 3"),
    "exit-127": ({"command": ["sh", "-c", "exit 127"]}, {}, "Error 127"),
    "exit-143": ({"command": ["sh", "-c", "exit 143"]}, {}, "Signal 143"),
    "no-command": ({"command": ["/nope"]}, {}, "LaunchFailed None"),
    "not-executable": ({"command": ["/etc/passwd"]}, {}, "LaunchFailed None"),
    "no-memory": (
        {"command": ["dd", "if=/dev/zero", "of=/dev/null", "bs=200M"], **needs(memory="32Mi")},
        {},
        "OOMKilled 137",
    ),
    "init-fails": ({}, init("sh", "-c", "exit 7"), "LaunchFailed None"),
    "init-cannot-start": ({}, init("/nope"), "LaunchFailed None"),
    "deadline": ({"command": ["sleep", "600"]}, {"activeDeadlineSeconds": 3}, "DeadlineExceeded 137"),
    "no-room": ({"command": FULL, **DATA}, volume(emptyDir={"sizeLimit": "1Mi"}), "Evicted 137"),
    "image-name": ({"image": "Not/Valid"}, {}, "fails ImageError"),
    "image-never": ({"image": "registry.local/none:1", "imagePullPolicy": "Never"}, {}, "fails ImageError"),
    "no-secret": (variable("secretKeyRef", "none"), {}, "fails ConfigError"),
    "no-key": (variable("secretKeyRef", "some"), {}, "fails ConfigError"),
    "no-configmap": (variable("configMapKeyRef", "none"), {}, "fails ConfigError"),
    "root": ({"securityContext": {"runAsNonRoot": True}}, {}, "fails ConfigError"),
    "no-claim": (DATA, volume(persistentVolumeClaim={"claimName": "none"}), "fails ConfigError"),
    "registry-away": ({"image": "registry.local/none:1"}, {}, "waits ImageError"),
    "no-folder": (DATA, volume(hostPath={"path": "/no/such", "type": "Directory"}), "waits ConfigError"),
    "secret-to-mount": (DATA, volume(secret={"secretName": "none"}), "waits ConfigError"),
    "no-cpu": (needs(cpu="500"), {}, "waits CapacityTimeout"),
    "no-mig": (needs(**{"nvidia.com/mig-1g.5gb": "1"}), {}, "waits CapacityTimeout"),
    "no-storage": (needs(**{"ephemeral-storage": "900Ti"}), {}, "waits CapacityTimeout"),
    "no-node": ({}, {"nodeSelector": {"no": "such"}}, "waits Unschedulable"),
    "gated": ({}, {"schedulingGates": [{"name": "example.com/gate"}]}, "waits Unschedulable"),
}


@pytest.fixture(scope="module")
def namespace(cluster):
    """A namespace in which all these pods have been created together."""
    with cluster.namespace() as namespace:
        namespace.api.create(f"{namespace.path}/secrets", {"metadata": {"name": "some"}, "stringData": {"a": "b"}})
        for name, (container, spec, _) in PODS.items():
            job = {"name": "job", "image": images.BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": ["true"]}
            spec = {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                **spec,
                "containers": [{**job, **container}],
            }
            namespace.api.create(f"{namespace.path}/pods", {"metadata": {"name": name}, "spec": spec})
        yield namespace


def judged(namespace, name):
    """Say what is made of a pod now, and later when it waits; an empty text while it has no trouble."""
    events = [read_event(each) for each in namespace.api.get(f"{namespace.path}/events")["items"]]
    seen = read_pod(namespace.pod(name))
    status = status_of(seen)
    if status.result is not None:
        assert status.result.message.isprintable()
        return f"{status.result.reason.value} {status.result.exit_code}"
    now = judge(seen, events, Waited(), LIMITS)
    if isinstance(now, Fail):
        return f"fails {now.reason.value}"
    later = judge(
        seen,
        events,
        Waited(unscheduled=1e6, scheduled=1e6, gated=1e6),
        Limits(pending_timeout=300, start_timeout=600, gated_timeout=60),
    )
    return f"waits {later.reason.value}" if now.message and isinstance(later, Fail) else ""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "found"), [(name, found) for name, (_, _, found) in PODS.items()], ids=PODS)
def test_real_pods(namespace, name, found):
    """The words that the tables assume are those that a real cluster uses."""
    wait_until(lambda: judged(namespace, name) == found, lambda: judged(namespace, name), deadline=240)
