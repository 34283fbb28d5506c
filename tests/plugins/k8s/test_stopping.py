"""How jobs are ended, step by step, where a real kubelet is too quick or too healthy."""

import logging
import threading
from types import SimpleNamespace

import pytest

from siteward import JobRef
from siteward_k8s import layout, stopping
from siteward_k8s.errors import Forbidden, Missing

from ...machine.common import wait_until

LOG = logging.getLogger("siteward.test")


class Jobs:
    """Pods whose jobs can be signalled: ``state`` of each, and what was done to it."""

    def __init__(self):
        self.states = {}
        self.done = []
        self.signal = lambda name, _signal: self.states[name] == "running"

    def ref(self, name, *, late=False):
        if not late:
            self.states.setdefault(name, "running")
        data = {"name": name, "uid": None if late else f"uid-{name}", "namespace": "default"}
        return JobRef(site="s", backend="k8s", job_id=name, attempt=1, data=data)

    def get_pod(self, name):
        if name not in self.states:
            raise Missing("no such pod")
        state = {self.states[name]: {"exitCode": 143} if self.states[name] == "terminated" else {}}
        return {
            "metadata": {
                "name": name,
                "uid": f"uid-{name}",
                "annotations": {layout.JOB_DIRECTORY: "transfer", layout.CONTAINER: "job"},
            },
            "spec": {"nodeName": "n", "containers": [{"name": "job"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "job", "state": state}]},
        }

    def delete_pod(self, name, **_how):
        self.done.append((name, "DELETE"))

    def own(self, _pod, ref):
        return ref

    def signal_job(self, _cluster, ref, signal):
        name = ref.data["name"]
        felt = self.signal(name, signal)
        if felt:
            self.done.append((name, signal))
        return felt


@pytest.fixture
def jobs(monkeypatch):
    jobs = Jobs()
    monkeypatch.setattr(stopping, "signal_job", jobs.signal_job)
    for pause in ("_AGAIN", "_SHOWS_WITHIN", "_SHOWN_WITHIN", "_STARTS_WITHIN", "_TRY_AGAIN"):
        monkeypatch.setattr(stopping, pause, 0.05)
    return jobs


@pytest.fixture
def stops(jobs):
    stops = stopping.Stops(jobs, jobs, lambda _name: True, LOG)
    yield stops
    stops.close()


def test_what_a_job_left_is_not_deleted_while_it_comes_home(jobs, stops):
    """A job that ends at TERM may have much to bring home: when its grace is over, its pod is not deleted."""
    looked = threading.Event()

    def signal(name, which):
        if which == "KILL":
            looked.set()
            return False
        jobs.states[name] = "terminated"
        return True

    jobs.signal = signal
    stops.stop(jobs.ref("a"), 0.1)
    assert looked.wait(60)
    follow = jobs.ref("b")
    jobs.signal = lambda _name, _signal: False
    stops.stop(follow, 0)
    wait_until(lambda: ("b", "DELETE") in jobs.done, lambda: jobs.done)
    stops.close()
    assert ("a", "DELETE") not in jobs.done


def test_a_job_that_ended_before_it_could_be_asked_is_left_alone(jobs, stops):
    """Nothing is there to be signalled, as it has ended in between: that shows, and its pod stays."""
    asked = []

    def signal(name, _which):
        asked.append(name)
        jobs.states[name] = "terminated"
        return False

    jobs.signal = signal
    seen = []
    jobs.get_pod = lambda name, get=jobs.get_pod: seen.append(jobs.states.get(name)) or get(name)
    stops.stop(jobs.ref("a"), 5)
    wait_until(lambda: "terminated" in seen, lambda: (asked, seen))
    stops.close()
    assert jobs.done == []


def test_a_job_that_cannot_be_signalled_is_deleted(jobs, stops):
    """At once when it has no grace; and one that has felt TERM, and cannot be reached any more, after it."""
    jobs.signal = lambda _name, which: which == "TERM"
    stops.stop(jobs.ref("a"), 0)
    assert jobs.done == [("a", "DELETE")]
    stops.stop(jobs.ref("b"), 0.05)
    wait_until(lambda: ("b", "DELETE") in jobs.done, lambda: jobs.done)
    assert jobs.done[1:] == [("b", "TERM"), ("b", "DELETE")]


def test_a_pod_that_comes_after_the_stop_is_ended(jobs, stops):
    """Its create was on the way when it was looked for; one that is done with is not waited for any more."""
    stops.stop(jobs.ref("a", late=True), 5)
    stops.stop(jobs.ref("a", late=True), 0)
    stops.stop(jobs.ref("b", late=True), 0)
    stops.forget("b")
    jobs.states |= {"a": "running"}
    wait_until(lambda: ("a", "KILL") in jobs.done, lambda: jobs.done)
    wait_until(lambda: not stops._awaited, lambda: stops._awaited)
    assert ("b", "KILL") not in jobs.done


def test_a_node_that_does_not_answer_keeps_no_other_job_waiting(jobs, stops, monkeypatch):
    """One KILL hangs; those of other jobs come in time."""
    answered = threading.Event()
    names = [f"job-{number}" for number in range(2 * len(stops._laters))]
    slow = names[0]
    others = [name for name in names if hash(name) % len(stops._laters) != hash(slow) % len(stops._laters)]
    jobs.signal = lambda name, which: which == "TERM" or name != slow or answered.wait(60)
    try:
        for name in names:
            stops.stop(jobs.ref(name), 0.05)
        wait_until(lambda: {(name, "KILL") for name in others} <= set(jobs.done), lambda: jobs.done)
        assert (slow, "KILL") not in jobs.done
    finally:
        answered.set()


def test_what_is_refused_is_not_asked_for_without_end(jobs, stops, caplog, monkeypatch):
    """The pauses between tries grow."""
    pauses = []
    later = SimpleNamespace(call=lambda seconds, step: pauses.append((seconds, step)), close=lambda _wait: None)
    monkeypatch.setattr(stops, "_laters", [later] * 16)

    def refuse(name, **_how):
        raise Forbidden("no")

    jobs.signal = lambda _name, which: which == "TERM"
    jobs.delete_pod = refuse
    monkeypatch.setattr(stopping, "_LONGEST_PAUSE", 1.0)
    stops.stop(jobs.ref("a"), 0.05)
    for _ in range(10):
        pauses[-1][1]()
    waited = [seconds for seconds, _step in pauses[2:]]
    assert waited == sorted(waited)
    assert waited[-1] == 1.0
