"""How a pod's job ended: by itself, or by the platform."""

# ruff: noqa: E501  (kubelets and runtimes write long lines)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siteward import JobState
from siteward_k8s import diagnose, layout
from siteward_k8s.facts import read_pod

from .pods import (
    CREATED,
    HELPER,
    UNLOCATED,
    condition,
    container,
    deleted,
    disrupted,
    facts,
    pod,
    running,
    terminated,
    waiting,
)

RUNC = "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
NOT_FOUND = RUNC + 'exec: "nope": executable file not found in $PATH: unknown'
NO_RIGHT = RUNC + 'exec: "/data": permission denied: unknown'
CRUN = "OCI runtime create failed: container create failed: executable file `nope` not found in $PATH: No such file or directory"
NO_SHM = "failed to create containerd task: failed to mount rootfs component: no space left on device"


def never(code, message, reason="StartError"):
    state = terminated(code, reason, finished=9, message=message)
    state["terminated"]["startedAt"] = "1970-01-01T00:00:00Z"
    return state


# Main container's state; state, reason, code on the wire, exit code, signal; a word of the message.
OWN = {
    "success": (terminated(0), ("SUCCEEDED", "Completed", 0, 0, None), "completed"),
    "exit 1": (terminated(1), ("FAILED", "Error", 1, 1, None), "code 1"),
    "exit 101": (terminated(101), ("FAILED", "Error", 101, 101, None), "code 101"),
    "exit 103": (terminated(103), ("FAILED", "Error", 103, 103, None), "code 103"),
    "exit 104": (terminated(104), ("FAILED", "Error", 104, 104, None), "code 104"),
    "its own 126": (terminated(126), ("FAILED", "Error", 1, 126, None), "code 126"),
    "its own 127": (terminated(127), ("FAILED", "Error", 1, 127, None), "code 127"),
    "its own 128": (terminated(128), ("FAILED", "Error", 1, 128, None), "code 128"),
    "exit 255": (terminated(255), ("FAILED", "Error", 1, 255, None), "code 255"),
    "killed": (terminated(137), ("FAILED", "Signal", 1, 137, 9), "SIGKILL"),
    "terminated": (terminated(143), ("FAILED", "Signal", 1, 143, 15), "SIGTERM"),
    "crashed": (terminated(139), ("FAILED", "Signal", 1, 139, 11), "SIGSEGV"),
    "a signal by name": (terminated(143, signal=15), ("FAILED", "Signal", 1, 143, 15), "SIGTERM"),
    "last words": (
        terminated(2, message="no such dataset\n"),
        ("FAILED", "Error", 1, 2, None),
        "code 2; no such dataset",
    ),
    "out of memory": (terminated(137, "OOMKilled"), ("FAILED", "OOMKilled", 104, 137, 9), "memory"),
    "a child out of memory": (terminated(0, "OOMKilled"), ("SUCCEEDED", "Completed", 0, 0, None), "memory limit"),
    "and then it failed": (terminated(1, "OOMKilled"), ("FAILED", "Error", 1, 1, None), "memory limit"),
    "command not found": (
        never(128, NOT_FOUND),
        ("FAILED", "LaunchFailed", 101, None, None),
        'started: exec: "nope": executable file not found in $PATH.',
    ),
    "command not found, crun": (
        never(128, CRUN),
        ("FAILED", "LaunchFailed", 101, None, None),
        "Check that the image has it",
    ),
    "not executable": (never(128, NO_RIGHT), ("FAILED", "LaunchFailed", 101, None, None), "permission denied"),
    "node cannot start it": (
        never(128, NO_SHM),
        ("FAILED", "LaunchFailed", 101, None, None),
        "container cannot be started: failed to mount",
    ),
    "command not found, dockershim": (
        never(
            127,
            'OCI runtime create failed: exec: "nope": executable file not found in $PATH: unknown',
            "ContainerCannotRun",
        ),
        ("FAILED", "LaunchFailed", 101, None, None),
        "command",
    ),
}


def end_of(status):
    result = status.result
    assert status.state is result.state
    return result.state.value, result.reason.value, int(result.return_code), result.exit_code, result.signal


@pytest.mark.parametrize("phase", ["Running", "over", "Pending"])
@pytest.mark.parametrize(("state", "end", "words"), OWN.values(), ids=OWN)
def test_the_jobs_own_end(state, end, words, phase):
    """Read from its container: beside a helper that lives on, of a pod that is over, or whose phase is behind."""
    over = "Succeeded" if end[1] == "Completed" else "Failed"
    status = diagnose.status_of(facts(state, phase=over if phase == "over" else phase, others=[HELPER]))
    assert end_of(status) == end
    assert words in status.result.message and "runc" not in status.result.message
    if end[1] != "LaunchFailed":
        assert (status.result.started_at, status.result.ended_at) == (CREATED + 5, CREATED + 30)


@pytest.mark.parametrize("code", [1, 2, 9, 42, 101, 102, 103, 104, 126, 127, 128, 137, 143, 255])
def test_no_exit_is_flattened(code):
    """Regression (8.1, 7): every failure but 101 to 103 came out as ABORTED 9, its exit code lost."""
    result = diagnose.status_of(facts(terminated(code), phase="Failed")).result
    assert (result.exit_code, result.state) == (code, JobState.FAILED)
    assert result.return_code == (code if code in range(101, 105) else 1)


LOW = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 88Mi. Container job was using 2Gi, request is 0."
FULL = 'Usage of EmptyDir volume "siteward-job" exceeds the limit "1Gi". '
SHUTDOWN = "Pod was terminated in response to imminent node shutdown."
BY_KUBELET = [disrupted("TerminationByKubelet", LOW)]
DEADLINE = {
    "phase": "Failed",
    "reason": "DeadlineExceeded",
    "message": "Pod was active on the node longer than the specified deadline",
    "spec": {"activeDeadlineSeconds": 19},
}

TAKEN = {
    "node pressure": (
        pod(terminated(137), phase="Failed", reason="Evicted", message=LOW, conditions=BY_KUBELET),
        "Evicted",
        137,
        "memory",
    ),
    "node pressure, no statuses": (pod(phase="Failed", reason="Evicted", message=LOW), "Evicted", None, "memory"),
    "node pressure, exit lost": (
        pod(UNLOCATED, phase="Failed", reason="Evicted", message=LOW),
        "Evicted",
        None,
        "memory",
    ),
    "its own volume too full": (
        pod(terminated(137), phase="Failed", reason="Evicted", message=FULL),
        "Evicted",
        137,
        "siteward-job",
    ),
    "evicted, and exits 0 on TERM": (
        pod(terminated(0), phase="Failed", reason="Evicted", message=LOW, conditions=BY_KUBELET),
        "Evicted",
        0,
        "memory",
    ),
    "room for a critical pod": (
        pod(terminated(143), phase="Failed", reason="Preempting", message="Preempted in order to admit critical pod"),
        "Evicted",
        143,
        "critical",
    ),
    "preempted": (
        pod(
            terminated(143),
            metadata=deleted(20),
            conditions=[
                disrupted("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod")
            ],
        ),
        "Evicted",
        143,
        "priority",
    ),
    "drained": (
        pod(
            terminated(143),
            metadata=deleted(20),
            conditions=[disrupted("EvictionByEvictionAPI", "Eviction API: evicting")],
        ),
        "Evicted",
        143,
        "evicted",
    ),
    "tainted": (
        pod(
            terminated(143),
            metadata=deleted(20),
            conditions=[disrupted("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")],
        ),
        "Evicted",
        143,
        "taint",
    ),
    "a reason of tomorrow": (
        pod(terminated(143), phase="Failed", conditions=[disrupted("SomethingNew")]),
        "Evicted",
        143,
        "SomethingNew",
    ),
    "node shut down": (
        pod(
            terminated(143),
            phase="Failed",
            reason="Terminated",
            message=SHUTDOWN,
            conditions=[disrupted("TerminationByKubelet", SHUTDOWN)],
        ),
        "NodeLost",
        143,
        "shut down",
    ),
    "node shut down, 1.20": (
        pod(phase="Failed", reason="Shutdown", message="Node is shutting, evicting pods"),
        "NodeLost",
        None,
        "shut down",
    ),
    "node shutting down does not take it": (
        pod(phase="Failed", reason="NodeShutdown", message="Pod was rejected as the node is shutting down."),
        "NodeLost",
        None,
        "shut down",
    ),
    "node silent": (
        pod(running(), phase="Failed", reason="NodeLost", message="Node gpu-1 which was running pod p is unresponsive"),
        "NodeLost",
        None,
        "unresponsive",
    ),
    "node gone": (
        pod(running(), phase="Failed", conditions=[disrupted("DeletionByPodGC", "PodGC: node no longer exists")]),
        "NodeLost",
        None,
        "gone",
    ),
    "node restarted": (pod(UNLOCATED, phase="Failed"), "NodeLost", None, "restarted"),
    "failed while running": (pod(running(), phase="Failed", message="who knows"), "NodeLost", None, "who knows"),
    "deadline": (pod(terminated(137), **DEADLINE), "DeadlineExceeded", 137, "activeDeadlineSeconds"),
    "deadline, no statuses": (pod(**DEADLINE), "DeadlineExceeded", None, "deadline"),
    "deleted": (pod(terminated(143), metadata=deleted(20)), "Deleted", 143, "somebody else"),
    "deleted, whatever the exit": (pod(terminated(0), metadata=deleted(20)), "Deleted", 0, "somebody else"),
    "deleted in the second of its end": (
        pod(terminated(1, finished=20), metadata=deleted(20)),
        "Deleted",
        1,
        "somebody else",
    ),
    "deleted, the node's clock being behind": (
        pod(terminated(137, finished=-10), metadata=deleted(20)),
        "Deleted",
        137,
        "somebody else",
    ),
    "init container failed": (
        pod(
            waiting("PodInitializing"),
            phase="Failed",
            inits=[container("fetch", terminated(7, message="no network\n"))],
        ),
        "LaunchFailed",
        None,
        "'fetch' failed with exit code 7: no network",
    ),
    "init container failed, old kubelet": (
        pod(UNLOCATED, phase="Failed", inits=[container("fetch", terminated(7))]),
        "LaunchFailed",
        None,
        "'fetch' failed with exit code 7",
    ),
    "node lost it while it was fetched": (
        pod(UNLOCATED, phase="Failed", inits=[container("fetch", UNLOCATED)]),
        "NodeLost",
        None,
        "lost the container",
    ),
    "init container out of memory": (
        pod(waiting("PodInitializing"), phase="Failed", inits=[container("fetch", terminated(137, "OOMKilled"))]),
        "LaunchFailed",
        None,
        "memory",
    ),
    "staging failed": (
        pod(waiting("PodInitializing"), phase="Failed", inits=[container(layout.STAGE, terminated(1))]),
        "LaunchFailed",
        None,
        "job directory",
    ),
    "staging cannot start": (
        pod(
            waiting("PodInitializing"),
            phase="Failed",
            inits=[
                container(layout.STAGE, never(128, RUNC + 'exec: "sh": executable file not found in $PATH: unknown'))
            ],
        ),
        "LaunchFailed",
        None,
        '"sh": executable file not found',
    ),
    "no CPU left on the node": (
        pod(
            phase="Failed",
            reason="OutOfcpu",
            message="Pod was rejected: Node didn't have enough resource: cpu, requested: 4000, used: 3000, capacity: 4000",
        ),
        "CapacityTimeout",
        None,
        "cpu",
    ),
    "no GPU left on the node": (
        pod(
            phase="Failed",
            reason="UnexpectedAdmissionError",
            message="Pod was rejected: Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. Requested: 1, Available: 0, which is unexpected",
        ),
        "CapacityTimeout",
        None,
        "nvidia.com/gpu",
    ),
    "labels changed": (
        pod(phase="Failed", reason="NodeAffinity", message="Pod was rejected: Predicate NodeAffinity failed"),
        "Unschedulable",
        None,
        "NodeAffinity",
    ),
    "sysctl": (
        pod(phase="Failed", reason="SysctlForbidden", message='forbidden sysctl: "kernel.msgmax" not allowlisted'),
        "ConfigError",
        None,
        "sysctl",
    ),
    "failed, and nothing else is known": (pod(phase="Failed"), "LaunchFailed", None, "before the job started"),
}


@pytest.mark.parametrize(("seen", "reason", "code", "words"), TAKEN.values(), ids=TAKEN)
def test_ends_that_the_platform_made(seen, reason, code, words):
    """The reason is the platform's; the exit code stays where there is one."""
    result = diagnose.status_of(read_pod(seen)).result
    assert (result.reason.value, result.exit_code) == (reason, code)
    assert words in result.message and "\n" not in result.message
    assert diagnose.gone(read_pod(seen), ours=False).result.reason.value == reason


BEFORE = {
    "an eviction was called off": pod(
        terminated(0), conditions=[condition("DisruptionTarget", "False", "EvictionByEvictionAPI", since=20)]
    ),
    "somebody deleted the pod afterwards": pod(terminated(0), metadata=deleted(200)),
    "it was evicted afterwards": pod(
        terminated(0), phase="Failed", reason="Evicted", conditions=[disrupted("TerminationByKubelet", LOW, since=200)]
    ),
    "it stayed until its deadline": pod(
        terminated(0), phase="Failed", reason="DeadlineExceeded", spec={"activeDeadlineSeconds": 600}
    ),
    "its node was lost afterwards": pod(terminated(0), reason="NodeLost", phase="Unknown"),
    "its node was removed afterwards": pod(
        terminated(0), phase="Failed", conditions=[disrupted("DeletionByPodGC", since=200)]
    ),
    "we deleted the pod": pod(terminated(0), metadata=deleted(20)),
    "phase Succeeded and no statuses": pod(phase="Succeeded"),
    "between two looks": pod(terminated(0), phase="Succeeded"),
}


@pytest.mark.parametrize(("name", "seen"), BEFORE.items(), ids=BEFORE)
def test_an_end_that_came_before_stays(name, seen):
    """A job that completed has completed, whatever became of its pod while nobody was looking."""
    status = diagnose.status_of(read_pod(seen), ours=name.startswith("we"))
    assert (status.state.value, status.result.exit_code) == ("SUCCEEDED", 0)


@given(
    data=st.data(),
    seen=st.sampled_from(
        [each[0] for each in TAKEN.values()]
        + list(BEFORE.values())
        + [pod(state, others=[HELPER]) for state, _, _ in OWN.values()]
    ),
)
def test_the_order_in_which_a_pod_is_told_decides_nothing(data, seen):
    """Statuses, conditions and the containers of a spec come in any order."""
    told = {**seen, "status": {**seen["status"]}, "spec": {**seen["spec"]}}
    for part, key in (("status", "conditions"), ("status", "containerStatuses"), ("spec", "containers")):
        if key in told[part]:
            told[part][key] = data.draw(st.permutations(told[part][key]))
    assert diagnose.status_of(read_pod(told)) == diagnose.status_of(read_pod(seen))
