"""When job directories are sent to their pods, and when not any more."""

import logging
import threading

import pytest

from siteward import JobRef, Later, Reason, Unreachable
from siteward_k8s import layout, staging
from siteward_k8s.errors import Missing, Refused

from ...machine.common import wait_until

LOG = logging.getLogger("siteward.test")


def ref(name="a", uid="1"):
    return JobRef(site="s", backend="k8s", job_id=name, attempt=1, data={"name": name, "uid": uid})


def pod(name="a", uid="1", state="running", **metadata):
    status = {"initContainerStatuses": [{"name": layout.STAGE, "state": {state: {}}}]}
    return {"metadata": {"name": name, "uid": uid, **metadata}, "status": status}


class Bringing:
    """A staging room whose ``send`` raises ``errors``, one after the other, before it works."""

    def __init__(self):
        self.errors = []
        self.sent, self.failed = [], []
        self.pod = pod()
        self.tries = threading.Semaphore(0)
        self.room = staging.Staging(
            Later("test", LOG),
            send=self.send,
            fail=lambda ref, reason, _words: self.failed.append((ref.job_id, reason)),
            look=self.look,
            log=LOG,
        )
        self.room.is_told = True

    def look(self, _ref):
        if self.pod is None:
            raise Missing("no such pod")
        return self.pod

    def send(self, ref, _source):
        self.tries.release()
        if self.errors:
            raise self.errors.pop(0)
        self.sent.append(ref.job_id)


@pytest.fixture
def bringing(monkeypatch):
    monkeypatch.setattr(staging, "_FIRST_PAUSE", 0.01)
    bringing = Bringing()
    yield bringing
    bringing.room.close()


def test_a_container_that_its_node_does_not_know_yet_is_sent_to_again(bringing, tmp_path):
    """Its pod says that it waits, so it is tried until it is known, however often."""
    bringing.errors = [Missing("container not found")] * 3
    bringing.room.expect(ref(), tmp_path)
    bringing.room.on_pod(pod())
    wait_until(lambda: bringing.sent == ["a"], lambda: (bringing.errors, bringing.failed))
    assert bringing.failed == []


@pytest.mark.parametrize("found", [None, pod(state="terminated"), pod(deletionTimestamp="now")])
def test_what_waits_no_more_is_sent_nothing(bringing, tmp_path, found):
    """A pod that is no more, has begun, or is on its way out."""
    bringing.errors = [Missing("container not found")] * 100
    bringing.room.expect(ref(), tmp_path)
    bringing.pod = found
    bringing.room.on_pod(pod())
    assert bringing.tries.acquire(timeout=60)
    wait_until(lambda: "a" not in bringing.room, lambda: "it is still to be brought")
    assert bringing.sent == bringing.failed == []


def test_errors_end_the_job_and_outages_do_not(bringing, tmp_path):
    """After a few refusals it is given up."""
    bringing.errors = [Unreachable("out")] * 4 + [Refused("no")] * staging._TRIES
    bringing.room.expect(ref(), tmp_path)
    bringing.room.on_pod(pod())
    wait_until(lambda: bringing.failed == [("a", Reason.LAUNCH_FAILED)], lambda: bringing.errors)
    assert bringing.sent == []


def test_another_pod_of_the_same_name_is_not_meant(bringing, tmp_path):
    """One that was there before, and goes, keeps the job's own from nothing."""
    bringing.room.expect(ref(uid="2"), tmp_path)
    bringing.room.on_pod(pod(uid="1"))
    bringing.room.on_pod(pod(uid="1"), deleted=True)
    bringing.room.on_pod(pod(uid="2"))
    wait_until(lambda: bringing.sent == ["a"], lambda: "nothing is sent")


def test_nothing_is_kept_of_pods_that_are_no_more(bringing):
    """Not of other drivers' either, whatever they did last."""
    for number in range(100):
        bringing.room.on_pod(pod(f"p{number}"))
        bringing.room.on_pod(pod(f"p{number}", deletionTimestamp="now"))
        bringing.room.on_pod(pod(f"p{number}", deletionTimestamp="now"), deleted=True)
    assert not bringing.room._ready
