"""What is read of a pod and of an event."""

import json

import pytest

from siteward_k8s import layout
from siteward_k8s.facts import read_event, read_pod

from .pods import (
    CREATED,
    IMAGE,
    UID,
    at,
    condition,
    container,
    deleted,
    event,
    facts,
    gated,
    pod,
    running,
    terminated,
    unscheduled,
    waiting,
)


def test_a_running_pod():
    """Everything that a driver asks for is there, in seconds since the epoch."""
    found = facts(
        running(7),
        inits=[container(layout.STAGE, terminated(0, started=2, finished=6))],
        others=[container(layout.HELPER, running(8))],
        conditions=[condition("Initialized", "True"), condition("Ready", "True"), condition("ContainersReady", "True")],
    )
    assert (found.uid, found.phase, found.node, found.created) == (UID, "Running", "gpu-1", CREATED)
    assert (found.scheduled, found.scheduled_at, found.gated, found.deleting) == (True, CREATED + 1, False, False)
    assert [(each.name, each.kind, each.state) for each in found.containers] == [
        (layout.STAGE, "init", "terminated"),
        ("job", "main", "running"),
        (layout.HELPER, "sidecar", "running"),
    ]
    assert (found.started, found.started_at, found.finished_at) == (True, CREATED + 7, None)
    assert found.conditions == ()
    assert found.notes[layout.PENDING_TIMEOUT] == "300"


def test_a_new_pod_has_next_to_nothing():
    """A pod just created has no conditions, statuses or node, and its main container is known all the same."""
    told = pod(phase="Pending", node=None)
    del told["status"]["conditions"]
    found = read_pod(told)
    assert (found.phase, found.scheduled, found.started, found.node) == ("Pending", False, False, "")
    assert (found.main.name, found.main.state, found.main.image) == ("job", "waiting", IMAGE)
    del told["status"], told["metadata"]["annotations"]
    assert read_pod(told).main.name == "job"


def test_nulls_are_as_good_as_absent():
    """Servers and clients may send null for what is not there."""
    told = pod(phase="Pending", node=None)
    told["status"].update(
        conditions=None, containerStatuses=None, initContainerStatuses=None, reason=None, message=None
    )
    told["metadata"].update(annotations=None, deletionTimestamp=None, labels=None)
    told["spec"].update(schedulingGates=None, activeDeadlineSeconds=None, nodeName=None, initContainers=None)
    found = read_pod(told)
    assert (found.reason, found.message, found.gates, found.deadline, found.notes) == ("", "", (), None, {})


MAINS = [
    ("the annotation's", {layout.CONTAINER: "trainer"}, ["trainer", "job"], "trainer"),
    ("job", {}, ["proxy", "job"], "job"),
    ("NVFLARE's", {}, ["proxy", "nvflare_job"], "nvflare_job"),
    ("the only one", {}, ["anything"], "anything"),
    ("none of several", {}, ["a", "b"], None),
]


@pytest.mark.parametrize(("notes", "names", "name"), [each[1:] for each in MAINS], ids=[each[0] for each in MAINS])
def test_which_container_is_the_jobs(notes, names, name):
    """The annotation says so; without it, a name or there being no other does."""
    told = pod(spec={"containers": [{"name": each, "image": IMAGE} for each in names]})
    told["metadata"]["annotations"] = notes
    told["status"]["containerStatuses"] = [container(each, running()) for each in names]
    main = read_pod(told).main
    assert (main and main.name) == name


def test_deletion_is_dated_when_it_was_asked_for():
    """The time stamp of a deletion is when its grace is over."""
    assert facts(running(), metadata=deleted(100, grace=30)).deleted_at == CREATED + 100
    assert facts(running(), metadata=deleted(100, grace=0)).deleted_at == CREATED + 100


def test_a_deadline_counts_from_when_the_kubelet_took_the_pod():
    """As the kubelet counts it; there is none before."""
    assert facts(running(), spec={"activeDeadlineSeconds": 600}).deadline == CREATED + 601
    assert facts(phase="Pending", node=None, spec={"activeDeadlineSeconds": 600}).deadline is None


def test_gates_and_verdicts():
    """A gated pod is gated until it has a node; conditions that say something are kept."""
    held = read_pod(gated("kueue.x-k8s.io/admission"))
    assert held.gated and held.gates == ("kueue.x-k8s.io/admission",)
    assert not facts(waiting(), spec={"schedulingGates": [{"name": "x"}]}).gated
    refused = read_pod(unscheduled())
    assert not refused.gated and not refused.scheduled
    assert "Insufficient cpu" in refused.condition("PodScheduled").message


def test_native_sidecars_are_sidecars():
    """An init container that is restarted for ever runs beside the job."""
    spec = {
        "initContainers": [{"name": "proxy", "image": "x", "restartPolicy": "Always"}, {"name": "fetch", "image": "x"}]
    }
    inits = [container("fetch", terminated(0)), container("proxy", running())]
    kinds = {each.name: each.kind for each in facts(running(), inits=inits, spec=spec).containers}
    assert kinds == {"fetch": "init", "proxy": "sidecar", "job": "main"}


def test_a_container_that_never_started_has_no_times():
    """Runtimes give one that could not be started the epoch as its start."""
    state = terminated(128, "StartError")
    state["terminated"]["startedAt"] = "1970-01-01T00:00:00Z"
    assert facts(state).started_at is None


@pytest.mark.parametrize("time", ["", None, "soon", 5, "0000-00-00T00:00:00Z"])
def test_times_that_cannot_be_read_are_none(time):
    """One malformed time costs that time alone."""
    told = pod(running())
    told["metadata"]["creationTimestamp"] = time
    assert read_pod(told).created is None


def test_restarts_keep_the_end_before():
    """What a container ended with before it was started anew is not lost."""
    told = pod()
    last = terminated(3, finished=20)
    told["status"]["containerStatuses"] = [
        container("job", waiting("CrashLoopBackOff"), lastState=last, restartCount=1)
    ]
    main = read_pod(told).main
    assert (main.state, main.restarts, main.last.exit_code, main.last.finished_at) == ("waiting", 1, 3, CREATED + 20)


TIMES = [
    ("of a series", {"series": {"count": 7, "lastObservedTime": "2026-03-01T12:01:00.123456Z"}}, 60.123456, 7),
    ("last", {"count": 4}, 10, 4),
    ("of the event", {"lastTimestamp": None, "eventTime": "2026-03-01T12:00:30.500000Z", "count": None}, 30.5, 1),
    ("first", {"lastTimestamp": None, "count": 0}, 0, 1),
    ("of its record", {"lastTimestamp": None, "firstTimestamp": None}, 10, 1),
]


@pytest.mark.parametrize(("more", "time", "count"), [each[1:] for each in TIMES], ids=[each[0] for each in TIMES])
def test_when_and_how_often(more, time, count):
    """Old and new recorders write the time of an event in different places."""
    found = read_event(event("FailedScheduling", "0/1 nodes are available", **more))
    assert (found.time - CREATED, found.count) == (pytest.approx(time), count)


def test_events_of_both_apis():
    """An event of events.k8s.io says the same."""
    old = read_event(event("Failed", "Error: ErrImagePull", container="job"))
    assert (old.uid, old.type, old.container) == (UID, "Warning", "job")
    about = {"kind": "Pod", "name": "p", "uid": UID, "fieldPath": "spec.initContainers{siteward-stage}"}
    told = {"metadata": {"name": "p.1"}, "regarding": about, "note": "no", "reason": "Failed", "eventTime": at(3)}
    new = read_event({**told, "type": "Warning", "deprecatedCount": 2})
    assert (new.key, new.pod, new.container, new.message, new.count) == ("p.1", "p", layout.STAGE, "no", 2)


def test_an_event_of_nothing():
    """What is no event of a pod reads as one of no pod."""
    found = read_event(json.loads('{"metadata": null, "involvedObject": null}'))
    assert (found.uid, found.reason, found.time) == ("", "", None)
