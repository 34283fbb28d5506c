"""What goes wrong on the way to and from a pod, and is not what it seems; on no cluster."""

import threading

import pytest

from siteward import BackendError, JobRef, JobState, Unreachable
from siteward_k8s import transfer
from siteward_k8s.errors import Closed, Missing, Refused
from siteward_k8s.exec import V5, _failure
from siteward_k8s.layout import HELPER
from siteward_k8s.logs import read_logs

REF = JobRef(site="s", backend="k8s", job_id="a", attempt=1, data={"name": "a", "uid": "1", "namespace": "default"})
INTERNAL = "Internal error occurred: "


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("dial tcp 10.0.0.7:10250: connect: connection refused", Unreachable),
        ("error dialing backend: dial tcp 10.0.0.7:10250: i/o timeout", Unreachable),
        ("error reading from error stream: read: connection reset by peer", Unreachable),
        ('unable to upgrade connection: container not found ("siteward-stage")', Missing),
        ('failed to exec: exec: "sh": executable file not found in $PATH', Refused),
        ("error executing command in container: cgroups: cannot allocate memory", Refused),
    ],
)
def test_a_node_that_does_not_answer_is_no_refusal(words, kind):
    """An API server that translates streams itself tells of its node's absence by the same way as of everything."""
    error = _failure({"code": 500, "reason": "InternalError", "message": INTERNAL + words}, "run sh")
    assert type(error) is kind


class Reading:
    """A cluster whose commands read all their input, and whose pods' helpers are in ``state``."""

    def __init__(self, state=None, **metadata):
        self.state = state
        self.metadata = metadata

    def exec(self, _name, container, _argv, *, stdin=None, **_options):
        if container == HELPER:
            raise Missing("container not found")
        for _chunk in stdin:
            pass
        self.protocol = V5
        return self

    def output(self):
        raise AssertionError("all of it could be read")

    def get_pod(self, _name, **_options):
        if self.state is None:
            raise Missing("no such pod")
        statuses = [{"name": HELPER, "state": {self.state: {}}}]
        metadata = {"name": "a", "uid": "1", **self.metadata}
        return {"metadata": metadata, "status": {"phase": "Running", "containerStatuses": statuses}}


def test_a_disk_that_cannot_be_read_is_no_outage(tmp_path):
    """What is sent comes from this machine: its errors are told as what they are, and are not waited out."""
    with pytest.raises(BackendError, match="the job directory cannot be read") as caught:
        transfer.send(Reading(), REF, tmp_path / "nothing")
    assert not isinstance(caught.value, Unreachable)


@pytest.mark.parametrize("state", ["running", "waiting"])
def test_results_wait_for_a_helper_that_cannot_be_found_just_now(tmp_path, state):
    """Its pod says that it is there: a node that was started anew may not know it yet."""
    with pytest.raises(Unreachable):
        transfer.fetch(Reading(state), REF, tmp_path, 1)


@pytest.mark.parametrize(
    "cluster",
    [Reading(), Reading("terminated"), Reading("running", deletionTimestamp="now"), Reading("running", uid="2")],
)
def test_results_are_lost_with_the_helper(tmp_path, cluster):
    """It ended, or its pod is going or gone."""
    assert transfer.fetch(cluster, REF, tmp_path, 1) == "lost"


class Shut:
    """A cluster and news of a site that was closed."""

    changed = threading.Condition()

    def seen(self, _ref):
        return JobState.RUNNING

    def look(self, _ref):
        raise Closed("closed")

    def read_log(self, *_how, **_more):
        raise Closed("closed")


@pytest.mark.parametrize("tail", [None, 5])
def test_who_follows_output_is_told_that_the_site_was_closed(tail):
    """It does not wait for an API server that will not be asked any more."""
    ref = JobRef(site="s", backend="k8s", job_id="a", attempt=1, data={**REF.data, "container": "job"})
    with pytest.raises(Closed):
        list(read_logs(Shut(), Shut(), ref, True, tail))
