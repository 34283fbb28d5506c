"""What a pod means for its job: where it is, and whose doing it is that it is no more."""

# ruff: noqa: E501  (API servers write long lines)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siteward import JobState, Reason
from siteward_k8s import diagnose, layout
from siteward_k8s.facts import read_pod, verdict_note

from .pods import (
    CREATED,
    HELPER,
    UNLOCATED,
    condition,
    container,
    deleted,
    disrupted,
    facts,
    gated,
    pod,
    running,
    terminated,
    unscheduled,
    waiting,
)

LIVE = {
    "just created": (read_pod(pod(phase="Pending", node=None)), "PENDING"),
    "no node": (read_pod(unscheduled()), "PENDING"),
    "gated": (read_pod(gated("kueue.x-k8s.io/admission")), "PENDING"),
    "being created": (facts(waiting(), phase="Pending"), "PENDING"),
    "receives its directory": (
        facts(waiting("PodInitializing"), phase="Pending", inits=[container(layout.STAGE, running())]),
        "PENDING",
    ),
    "its helper is first": (facts(waiting(), others=[HELPER]), "PENDING"),
    "no statuses yet": (facts(phase="Pending"), "PENDING"),
    "a container failed to be pulled": (facts(waiting("ImagePullBackOff"), phase="Pending"), "PENDING"),
    "running": (facts(running(), others=[HELPER]), "RUNNING"),
    "running, phase behind": (facts(running(), phase="Pending"), "RUNNING"),
    "a sidecar has failed": (facts(running(), others=[container("proxy", terminated(1))]), "RUNNING"),
    "a sidecar is out of memory": (
        facts(running(), others=[container("proxy", terminated(137, "OOMKilled"))]),
        "RUNNING",
    ),
    "a sidecar cannot be pulled": (
        facts(running(), others=[container("proxy", waiting("ImagePullBackOff"))]),
        "RUNNING",
    ),
    "not ready": (facts(running(), conditions=[condition("Ready", "False", "ContainersNotReady")]), "RUNNING"),
    "phase Unknown": (facts(running(), phase="Unknown"), "RUNNING"),
    "phase Unknown, not started": (facts(waiting(), phase="Unknown"), "PENDING"),
    "started anew": (
        facts(containerStatuses=[container("job", running(), restartCount=1, lastState=terminated(1))]),
        "RUNNING",
    ),
    "no longer disrupted": (
        facts(running(), conditions=[condition("DisruptionTarget", "False", "EvictionByEvictionAPI")]),
        "RUNNING",
    ),
    "about to be preempted": (
        facts(running(), conditions=[condition("DisruptionTarget", "True", "PreemptionByScheduler")]),
        "RUNNING",
    ),
}


@pytest.mark.parametrize(("seen", "state"), LIVE.values(), ids=LIVE)
def test_what_is_no_end(seen, state):
    """Nothing ends a job but its end; a pod that simply starts or runs has nothing to say."""
    status = diagnose.status_of(seen)
    assert (status.state.value, status.result, status.reachable) == (state, None, True)
    assert bool(status.message) is (seen.phase == "Unknown")


def test_a_deletion_is_told_of_while_the_job_still_runs():
    """It is no end yet, and ours is nothing to tell of."""
    seen = facts(running(), metadata=deleted(20))
    assert diagnose.status_of(seen).state is JobState.RUNNING and "deleting" in diagnose.status_of(seen).message
    assert diagnose.status_of(seen, ours=True).message == ""


def test_a_job_runs_once():
    """Under another restart policy the first end is the job's; a kubelet that lost sight of it has seen none."""
    again = container("job", waiting("CrashLoopBackOff", "back-off 10s"), lastState=terminated(3), restartCount=1)
    assert diagnose.status_of(facts(containerStatuses=[again])).result.exit_code == 3
    lost = container("job", waiting(), lastState=UNLOCATED)
    assert diagnose.status_of(facts(containerStatuses=[lost])).result is None


GONE = {
    "never seen": (None, False, ("LOST", "Deleted")),
    "never seen, ours": (None, True, ("ABORTED", "Aborted")),
    "running": (facts(running()), False, ("LOST", "Deleted")),
    "pending": (read_pod(unscheduled()), False, ("LOST", "Deleted")),
    "running, ours": (facts(running()), True, ("ABORTED", "Aborted")),
    "pending, ours": (read_pod(unscheduled()), True, ("FAILED", "LaunchFailed")),
    "being preempted": (
        facts(running(), conditions=[disrupted("PreemptionByScheduler")]),
        False,
        ("FAILED", "Evicted"),
    ),
    "node gone": (facts(running(), conditions=[disrupted("DeletionByPodGC")]), False, ("LOST", "NodeLost")),
    "queued out": (
        facts(running(), conditions=[condition("TerminationTarget", "True", "WorkloadEvictedDueToPreempted")]),
        False,
        ("FAILED", "Evicted"),
    ),
    "not found by its node, ours": (
        facts(UNLOCATED, phase="Failed", metadata=deleted(20)),
        True,
        ("ABORTED", "Aborted"),
    ),
    "never started, ours": (facts(waiting(), phase="Failed", metadata=deleted(20)), True, ("FAILED", "LaunchFailed")),
    "ended": (facts(terminated(3)), False, ("FAILED", "Error")),
    "ended, ours": (facts(terminated(143), metadata=deleted(20)), True, ("FAILED", "Signal")),
}


@pytest.mark.parametrize(("before", "ours", "end"), GONE.values(), ids=GONE)
def test_a_pod_that_is_no_more(before, ours, end):
    """The end last seen, else who took it away."""
    result = diagnose.gone(before, ours).result
    assert (result.state.value, result.reason.value) == end
    assert result.message


def test_a_verdict_outlives_its_driver():
    """Why a pod was given up is noted on it before it is deleted: the next driver, or the watch, tells the same."""
    note = verdict_note(Reason.CAPACITY_TIMEOUT, "it got no node\nwithin 300 s")
    for state in (None, terminated(137)):
        told = pod(state, phase="Pending", metadata=deleted(20))
        told["metadata"]["annotations"] = {layout.END: note}
        for status in (diagnose.status_of(read_pod(told)), diagnose.gone(read_pod(told), ours=True)):
            assert (status.result.reason, status.result.message) == (
                Reason.CAPACITY_TIMEOUT,
                "it got no node\nwithin 300 s",
            )


@pytest.mark.parametrize("note", ["", "{}", "[]", '["Nonsense", "x"]', "[1, 2, 3]", "5"])
def test_a_note_that_is_not_ours_is_no_verdict(note):
    """Annotations can be written by others."""
    told = pod(running())
    told["metadata"]["annotations"][layout.END] = note
    assert diagnose.status_of(read_pod(told)).state is JobState.RUNNING


REFUSALS = [
    (
        'pods "p" is forbidden: exceeded quota: compute, requested: requests.nvidia.com/gpu=4, used: requests.nvidia.com/gpu=8, limited: requests.nvidia.com/gpu=8',
        "CapacityTimeout",
    ),
    ('pods "p" is forbidden: failed quota: compute: must specify limits.cpu for: job', "ConfigError"),
    ('pods "p" is forbidden: maximum cpu usage per Container is 4, but limit is 8', "ConfigError"),
    (
        'pods "p" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false',
        "ConfigError",
    ),
    (
        'admission webhook "validate.kyverno.svc-fail" denied the request: \n\nresource Pod/flare/p was blocked due to the following policies',
        "ConfigError",
    ),
    (
        'Pod "p" is invalid: spec.containers[0].resources.requests: Invalid value: "8": must be less than or equal to cpu limit of 4',
        "ConfigError",
    ),
    ('pods "p" is forbidden: error looking up service account flare/fl: serviceaccount "fl" not found', "ConfigError"),
    ('pods "p" is forbidden: no PriorityClass with name gold was found', "ConfigError"),
]


@pytest.mark.parametrize(("message", "reason"), REFUSALS)
def test_pods_that_the_cluster_refuses(message, reason):
    """A quota that is used up is a lack of room; all else somebody has to change."""
    found, words = diagnose.refusal(message)
    assert found.value == reason and "\n" not in words


def node(status, since=0, **more):
    return {
        "metadata": {"name": "gpu-1"},
        "status": {
            "conditions": [
                condition("MemoryPressure", "False"),
                condition("Ready", status, "NodeStatusUnknown", "Kubelet stopped posting node status.", since=since),
            ]
        },
        **more,
    }


NODES = {
    "gone": (None, 0, True),
    "silent for long": (node("Unknown"), 300, True),
    "silent for a while": (node("Unknown"), 299, False),
    "silent since nobody knows when": (node("Unknown", since=None), 0, True),
    "well": (node("True"), 1e9, False),
    "not ready by its own word": (node("False"), 1e9, False),
    "new": ({"metadata": {"name": "gpu-1"}}, 1e9, False),
}


@pytest.mark.parametrize(("told", "age", "lost"), NODES.values(), ids=NODES)
def test_nodes_that_are_lost(told, age, lost):
    """A node that does not answer may come back with its jobs: it is waited for."""
    assert bool(diagnose.is_lost(told, CREATED + age)) is lost
    assert bool(diagnose.is_lost(told)) is (lost or age == 299)


@given(
    message=st.text(),
    reason=st.text(),
    phase=st.text(),
    state=st.sampled_from(["waiting", "running", "terminated", "other"]),
)
def test_any_words_give_a_status(message, reason, phase, state):
    """Whatever a runtime or webhook writes, the answer is a status, and its message one printable line."""
    inside = {"reason": reason, "message": message, "exitCode": 5}
    status = diagnose.status_of(facts({state: inside}, phase=phase, reason=reason, message=message))
    if status.result is not None:
        assert status.result.message.isprintable() and len(status.result.message) < 700
