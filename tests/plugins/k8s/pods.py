"""Pods and events as API servers tell of them."""

from datetime import UTC, datetime

from siteward_k8s import layout
from siteward_k8s.facts import read_event, read_pod

CREATED = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()
UID = "0b6f1c1e-2f5b-4e0c-9a38-0d7a5f3a1c11"
NAME = "j550e8400-e29b-41d4-a716-446655440000-site-1-f505dccd"
IMAGE = "ghcr.io/hospital/fedavg:2.1"


def at(seconds):
    """A time, so many seconds after the pod was created, as the API server writes it; None for none."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(CREATED + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def waiting(reason="ContainerCreating", message=None):
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def running(started=5):
    return {"running": {"startedAt": at(started)}}


def terminated(code, reason=None, *, started=5, finished=30, **more):
    reason = reason or ("Error" if code else "Completed")
    times = {"startedAt": at(started), "finishedAt": at(finished)}
    return {"terminated": {"exitCode": code, "reason": reason, "containerID": "containerd://2b", **times, **more}}


def container(name, state, *, image=IMAGE, **more):
    return {
        "name": name,
        "state": state,
        "lastState": {},
        "image": image,
        "imageID": "",
        "ready": "running" in state,
        "restartCount": 0,
        "started": "running" in state,
        **more,
    }


def condition(type, status, reason=None, message=None, since=1):
    told = {"type": type, "status": status, "lastProbeTime": None, "lastTransitionTime": at(since)}
    return {**told, **({"reason": reason} if reason else {}), **({"message": message} if message else {})}


UNSCHEDULABLE = (
    "0/3 nodes are available: 3 Insufficient cpu. no new claims to deallocate, "
    "preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."
)


def unscheduled(message=UNSCHEDULABLE, **more):
    """A pod of which the scheduler has said why it has no node."""
    conditions = [condition("PodScheduled", "False", "Unschedulable", message)]
    return pod(phase="Pending", node=None, conditions=conditions, **more)


def gated(*names, **more):
    """A pod that the scheduler may not look at."""
    message = "Scheduling is blocked due to non-empty scheduling gates"
    conditions = [condition("PodScheduled", "False", "SchedulingGated", message)]
    gates = [{"name": each} for each in names]
    return pod(phase="Pending", node=None, conditions=conditions, spec={"schedulingGates": gates}, **more)


def pod(
    main=None, *, phase="Running", node="gpu-1", conditions=(), inits=(), others=(), spec=None, metadata=None, **status
):
    """A pod as the API server tells of it. ``main``: the state of the job's container; None leaves all statuses out."""
    is_bound = node is not None
    statuses = {"initContainerStatuses": list(inits)} if inits else {}
    if main is not None:
        statuses["containerStatuses"] = [container("job", main), *others]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": NAME,
            "namespace": "flare",
            "uid": UID,
            "resourceVersion": "81234",
            "creationTimestamp": at(0),
            "labels": {
                "app.kubernetes.io/name": "siteward-job",
                layout.OWNER: "8c7f0e5a9b1d2c34",
                layout.SITE: "site-1",
            },
            "annotations": {
                layout.CONTAINER: "job",
                layout.JOB_ID: "550e8400-e29b-41d4-a716-446655440000",
                layout.SPEC_HASH: "0" * 64,
                layout.JOB_DIRECTORY: "transfer",
                layout.GRACE: "30",
                layout.PENDING_TIMEOUT: "300",
            },
            "managedFields": [{"manager": "siteward", "operation": "Update", "fieldsV1": {"f:metadata": {}}}],
            **(metadata or {}),
        },
        "spec": {
            "containers": [
                {"name": "job", "image": IMAGE, "command": ["python", "-m", "fedavg"]},
                {"name": layout.HELPER, "image": IMAGE, "command": ["sh"]},
            ],
            "initContainers": [{"name": layout.STAGE, "image": IMAGE}],
            "restartPolicy": "Never",
            **({"nodeName": node} if is_bound else {}),
            **(spec or {}),
        },
        "status": {
            "phase": phase,
            "qosClass": "Burstable",
            "conditions": [*([condition("PodScheduled", "True")] if is_bound else []), *conditions],
            **({"startTime": at(1)} if is_bound else {}),
            **statuses,
            **status,
        },
    }


def event(reason, message, *, type="Warning", when=10, container="", uid=UID, count=1, key=None, **more):
    """An event about the pod, as a kubelet or scheduler writes it."""
    path = {"fieldPath": f"spec.containers{{{container}}}"} if container else {}
    return {
        "metadata": {
            "name": f"{NAME}.{key or reason}",
            "uid": key or f"{reason}-{message[:40]}-{when}",
            "creationTimestamp": at(when),
        },
        "involvedObject": {"kind": "Pod", "namespace": "flare", "name": NAME, "uid": uid, **path},
        "type": type,
        "reason": reason,
        "message": message,
        "firstTimestamp": at(0),
        "lastTimestamp": at(when),
        "count": count,
        "source": {"component": "kubelet", "host": "gpu-1"},
        **more,
    }


def deleted(when, grace=30):
    """The metadata of a pod whose deletion was asked for."""
    return {"deletionTimestamp": at(when + grace), "deletionGracePeriodSeconds": grace}


def disrupted(reason, message="", since=20):
    return condition("DisruptionTarget", "True", reason, message, since=since)


def facts(*args, **more):
    return read_pod(pod(*args, **more))


def events(*told):
    return [read_event(each) for each in told]


HELPER = container(layout.HELPER, running())
# What a kubelet says of a container that it cannot find any more.
UNLOCATED = terminated(
    137, "ContainerStatusUnknown", message="The container could not be located when the pod was terminated"
)
UNLOCATED["terminated"].update(startedAt=None, finishedAt=None)
