"""What is told of a site's pods: each change once, each end once and truly, whatever the API server does."""

from __future__ import annotations

import threading
import time

import pytest
from attrs import evolve

from siteward import JobState, Reason, Unreachable
from siteward_k8s import layout, record
from siteward_k8s.facts import verdict_note

from ...machine.common import wait_until
from .lives import PATIENT, Followed, event, exited, looked_at, pod, running, status, unschedulable


def names(*job_ids: str) -> set[str]:
    return {pod(job_id)["metadata"]["name"] for job_id in job_ids}


# --- lives --------------------------------------------------------------------------------------------------


def test_a_plain_life_is_told_without_words(api, followed: Followed):
    """Pending, running, ended: one news each, and no message before the end, so that nobody has to store any."""
    followed.follow()
    followed.expect("a")
    api.put("pods", pod("a"))
    api.put("pods", pod("a", status({"waiting": {"reason": "ContainerCreating"}})))
    api.put("pods", pod("a", status(running())))
    api.put("pods", pod("a", status(exited(3))))
    api.put("pods", pod("a", status(exited(3), "Failed")))
    api.remove("pods", pod("a")["metadata"]["name"])
    followed.settle()
    assert followed.told("a") == ["PENDING", "RUNNING", "Error"]
    assert followed.of("a")[-1].result.exit_code == 3
    assert {each.message for each in followed.of("a")} == {""}


def test_a_pod_may_end_without_ever_having_been_seen_to_run(api, followed: Followed):
    """From pending to its end between two looks; also when it is only listed."""
    followed.expect("a")
    followed.expect("b")
    api.put("pods", pod("a", status(exited(0), "Succeeded")))
    followed.follow()
    api.put("pods", pod("b"))
    api.put("pods", pod("b", status(exited(0), "Succeeded")))
    followed.settle()
    assert followed.told("a") == ["Completed"]
    assert followed.told("b") == ["PENDING", "Completed"]


def test_news_twice_or_late_is_no_news(api, followed: Followed):
    """The same event again, and one of how the pod was before, change nothing."""
    followed.follow()
    followed.expect("a")
    waits, runs, ended = pod("a"), pod("a", status(running())), pod("a", status(exited(42)))
    for each in (waits, waits, runs, runs, waits, ended, ended, runs, waits):
        api.put("pods", each)
    api.remove("pods", waits["metadata"]["name"])
    api.tell("pods", "DELETED", api.put("nodes", ended))
    followed.settle()
    assert followed.told("a") == ["PENDING", "RUNNING", "Error"]


def test_a_pod_that_had_the_name_before_is_another_one(api, followed: Followed):
    """Its last news are not the job's, neither while that is launched nor when its pod is known."""
    followed.follow()
    followed.expect("a")
    before = pod("a", status(running()), uid="before", deleted=-1)
    api.put("pods", before)
    api.tell("pods", "DELETED", api.kept["pods"][before["metadata"]["name"]])
    followed.settle()
    assert followed.told("a") == []
    api.put("pods", pod("a", status(running())))
    followed.expect("a", uid="uid-of-a")
    api.tell("pods", "MODIFIED", {**before, "status": status(exited(1))})
    api.tell("pods", "DELETED", before)
    followed.settle()
    assert followed.told("a") == ["RUNNING"]


def test_jobs_of_others_are_told_too(api, followed: Followed):
    """Whoever launched them; they are forgotten with their pods, and never judged."""
    api.put("pods", pod("a", status(running())))
    followed.follow()
    api.put("pods", pod("b", unschedulable(), **{layout.PENDING_TIMEOUT: "0"}))
    api.put("pods", pod("a", status(exited(6))))
    api.remove("pods", pod("a")["metadata"]["name"])
    followed.settle()
    assert followed.told("a") == ["RUNNING", "Error"]
    assert followed.told("b") == ["PENDING"]
    assert {ref.job_id for ref in followed.pods.known()} == {"b"}
    assert not followed.given_up


def test_what_is_forgotten_is_nobodys_news(api, followed: Followed):
    """A job that is done with leaves a pod that goes slowly: it is not told of again."""
    followed.follow()
    followed.expect("a")
    api.put("pods", pod("a", status(exited(0))))
    followed.end_of("a")
    followed.pods.forget(pod("a")["metadata"]["name"])
    api.put("pods", pod("a", status(exited(0)), deleted=0))
    api.remove("pods", pod("a")["metadata"]["name"])
    followed.settle()
    assert followed.told("a") == ["Completed"]


# --- deletions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "deleted", "ours", "reason", "exit_code"),
    [
        pytest.param(running(), 0, False, "Deleted", None, id="running, by somebody else"),
        pytest.param(exited(0), None, False, "Completed", 0, id="ended by itself, seen only now"),
        pytest.param(exited(3, finished=-300), 0, False, "Error", 3, id="ended long before somebody deleted it"),
        pytest.param(exited(143, finished=600), -10, False, "Deleted", 143, id="ended by somebody else's deletion"),
        pytest.param(exited(0, finished=600), -10, False, "Deleted", 0, id="ended well, after somebody had deleted it"),
        pytest.param(exited(143), -10, True, "Signal", 143, id="ended by our deletion"),
        pytest.param(exited(0), -10, True, "Completed", 0, id="ended well after our deletion"),
        pytest.param(running(), 0, True, "Aborted", None, id="removed by us before its exit was seen"),
        pytest.param(None, 0, True, "LaunchFailed", None, id="never started, and removed by us"),
    ],
)
def test_a_deleted_pod_has_the_end_that_it_had(api, followed: Followed, last, deleted, ours, reason, exit_code):
    """Its container's exit, if it came before anybody else's deletion or of our own; else Deleted."""
    followed.follow()
    followed.expect("a")
    api.put("pods", pod("a", status(running()) if last else None))
    if ours:
        followed.stopped |= names("a")
    api.remove("pods", pod("a")["metadata"]["name"], **pod("a", status(last), deleted=deleted))
    result = followed.end_of("a")
    assert (result.reason.value, result.exit_code) == (reason, exit_code)


def test_a_deletion_by_somebody_else_is_said_while_the_job_still_runs(api, followed: Followed):
    """It has not ended before it has; then it is Deleted, though its pod is still there."""
    followed.follow()
    followed.expect("a")
    api.put("pods", pod("a", status(running())))
    api.put("pods", pod("a", status(running()), deleted=0))
    followed.until(lambda: followed.of("a")[-1:] and followed.of("a")[-1].message)
    assert followed.of("a")[-1].state is JobState.RUNNING
    api.put("pods", pod("a", status(exited(143)), deleted=0))
    assert followed.end_of("a").reason.value == "Deleted"


# --- outages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_forgotten", [False, True], ids=["from history", "from a list"])
def test_an_outage_ends_no_job_and_all_ends_are_told_after_it(api, followed: Followed, is_forgotten):
    """What ended, vanished or began meanwhile is told once; what goes on is seen again."""
    followed.follow()
    for job_id in ("goes-on", "ends", "ends-and-goes", "vanishes", "waits"):
        followed.expect(job_id)
        api.put("pods", pod(job_id, None if job_id == "waits" else status(running())))
    followed.settle()
    api.down()
    followed.until(lambda: all(followed.told(each)[-1:] == ["unreachable"] for each in ("goes-on", "waits")))
    api.put("pods", pod("ends", status(exited(4))))
    api.put("pods", pod("waits", status(running())))
    api.remove("pods", *names("ends-and-goes"), **pod("ends-and-goes", status(exited(5))))
    api.remove("pods", *names("vanishes"))
    if is_forgotten:
        api.forget_history()
    followed.until_server(lambda: api.turned_away > 10)
    assert not any(each.result for _job_id, each in followed.news)
    api.is_down = False
    followed.end_of("vanishes")
    followed.settle()
    assert followed.told("goes-on") == ["RUNNING", "unreachable", "RUNNING"]
    assert [each for each in followed.told("ends") if each not in ("RUNNING", "unreachable")] == ["Error"]
    assert followed.end_of("ends").exit_code == 4
    assert followed.told("waits")[:2] == ["PENDING", "unreachable"]
    assert followed.told("waits")[-1] == "RUNNING"
    assert followed.end_of("ends-and-goes").reason.value == ("Deleted" if is_forgotten else "Error")
    assert followed.end_of("vanishes").reason.value == "Deleted"
    for job_id in ("goes-on", "ends", "ends-and-goes", "vanishes", "waits"):
        assert followed.told(job_id).count("unreachable") == 1


def test_an_end_that_was_seen_stays_when_the_pod_vanishes_in_an_outage(api, followed: Followed):
    """Nor is it told again."""
    followed.follow()
    followed.expect("a")
    api.put("pods", pod("a", status(exited(7))))
    followed.end_of("a")
    api.down()
    api.remove("pods", *names("a"))
    api.forget_history()
    followed.until_server(lambda: api.turned_away > 2)
    api.is_down = False
    followed.until_server(lambda: api.watching["pods"])
    followed.settle()
    assert followed.told("a") == ["Error"]
    assert followed.pods.look(followed.expect("a")).result.exit_code == 7


def test_clocks_stand_still_in_an_outage(api, followed: Followed):
    """Time in which nobody could see a pod is not time that it has waited."""
    followed.follow()
    followed.expect("a", evolve(PATIENT, pending_timeout=3.0))
    api.put("pods", pod("a", unschedulable()))
    followed.until(lambda: followed.of("a"))
    api.down()
    followed.until(lambda: followed.told("a")[-1:] == ["unreachable"])
    began = time.monotonic()
    followed.until_server(lambda: time.monotonic() - began > 3.5 and api.turned_away)
    assert not followed.given_up
    assert followed.told("a")[-1] == "unreachable"
    api.put("pods", pod("a", status(running())))
    api.is_down = False
    followed.until(lambda: followed.told("a")[-1:] == ["RUNNING"])
    assert not followed.given_up


# --- looking ------------------------------------------------------------------------------------------------


def test_a_look_is_of_the_pod_as_it_is(api, followed: Followed):
    """Uncached; it tells nobody."""
    ref = followed.expect("a")
    for told, seen in ((None, "PENDING"), (running(), "RUNNING"), (exited(9), "FAILED")):
        api.put("pods", pod("a", status(told)))
        assert followed.pods.look(ref).state.value == seen
    assert api.count("get") == 3
    assert not followed.news


def test_a_look_that_cannot_be_had_is_no_end(api, followed: Followed):
    """It raises Unreachable; afterwards the job is seen as it is."""
    ref = followed.expect("a")
    api.put("pods", pod("a", status(running())))
    api.down()
    with pytest.raises(Unreachable):
        followed.pods.look(ref)
    api.is_down = False
    assert followed.pods.look(ref).state is JobState.RUNNING


@pytest.mark.parametrize("there", ["nothing", "another job's pod", "a later pod of the name", "a stranger"])
def test_a_job_whose_pod_is_no_more_was_deleted(api, followed: Followed, there):
    """Also when another one has its name."""
    ref = followed.expect("a", uid="uid-of-a")
    if there == "another job's pod":
        api.put("pods", {**pod("b", status(running())), "metadata": {**pod("b")["metadata"], **_named("a")}})
    elif there == "a later pod of the name":
        api.put("pods", pod("a", status(running()), uid="later"))
    elif there == "a stranger":
        api.put("pods", {**pod("a"), "metadata": {**pod("a")["metadata"], "labels": {}}})
    assert followed.pods.look(ref).result.reason.value == "Deleted"


def _named(job_id: str):
    return {"name": pod(job_id)["metadata"]["name"]}


def test_a_pod_that_was_created_during_a_look_is_not_missing(api, followed: Followed, monkeypatch):
    """It was not there when it was asked for, and its create is answered before the look's answer is read."""
    ref, look = followed.expect("a"), followed.cluster.get_pod

    def late(name):
        try:
            return look(name)
        finally:
            api.put("pods", pod("a"))
            followed.expect("a", uid=pod("a")["metadata"]["uid"])

    monkeypatch.setattr(followed.cluster, "get_pod", late)
    assert followed.pods.look(ref).state is JobState.PENDING
    monkeypatch.undo()
    assert followed.pods.look(ref).state is JobState.PENDING


def test_a_pod_that_is_being_created_is_not_missing(api, followed: Followed):
    """Neither to a look nor to a list."""
    ref = followed.expect("a")
    followed.follow()
    assert followed.pods.look(ref).state is JobState.PENDING
    api.put("pods", pod("a", status(exited(0))))
    assert followed.end_of("a").reason.value == "Completed"


def test_a_create_that_came_to_nothing_is_a_failed_launch(api, followed: Followed, monkeypatch):
    """When its answer was lost, and its pod does not appear."""
    monkeypatch.setattr(record, "LAUNCH_WITHIN", 0.0)
    result = followed.pods.look(followed.expect("a")).result
    assert (result.reason.value, result.message) == ("LaunchFailed", "its pod was never created")


def test_a_create_has_its_time_from_when_its_answer_was_lost(api, followed: Followed, monkeypatch):
    """What came before it, such as bringing a large job directory to a claim, may have taken longer than that."""
    monkeypatch.setattr(record, "LAUNCH_WITHIN", 1.0)
    ref = followed.expect("a")
    long = time.monotonic() + 1.0
    wait_until(lambda: time.monotonic() > long, lambda: "time stands still")
    followed.expect("a")
    assert followed.pods.look(ref).state is JobState.PENDING


def test_what_cannot_be_looked_at_after_a_list_is_looked_at_later(api, followed: Followed, monkeypatch):
    """One pod that cannot be asked for keeps no other from being seen; it is told when it can."""
    monkeypatch.setattr("siteward_k8s.pods._LOOK_AGAIN", 0.2)
    followed.expect("a", uid="uid-of-a")
    api.refuse = lambda verb, _path: (403, {}) if verb == "get" else None
    api.put("pods", pod("b", status(running())))
    followed.follow()
    followed.until(lambda: followed.told("a") and followed.told("b"))
    assert (followed.told("a"), followed.told("b")) == (["unreachable"], ["RUNNING"])
    api.refuse = lambda _verb, _path: None
    assert followed.end_of("a").reason.value == "Deleted"


# --- those that wait ----------------------------------------------------------------------------------------


def test_why_a_pod_waits_is_said_in_words(api, followed: Followed):
    """Once there is a reason, and once for each."""
    followed.follow()
    followed.expect("a")
    api.put("pods", pod("a"))
    api.put("pods", pod("a", unschedulable()))
    api.put("pods", pod("a", unschedulable()))
    api.put("pods", pod("a", status(running())))
    followed.until(lambda: followed.told("a")[-1:] == ["RUNNING"])
    assert followed.told("a") == ["PENDING", "PENDING", "RUNNING"]
    assert [bool(each.message) for each in followed.of("a")] == [False, True, False]


def test_a_pod_that_waits_too_long_is_given_up(api, followed: Followed):
    """By its clock, with nobody asking: the reason is on the pod before that is deleted, the evidence in the end."""
    followed.follow()
    followed.expect("a", evolve(PATIENT, pending_timeout=0.3))
    api.put("pods", pod("a", unschedulable()))
    result = followed.end_of("a")
    followed.settle()
    assert (result.reason.value, result.state.value) == ("CapacityTimeout", "FAILED")
    assert "cpu" in result.message
    assert "PodScheduled=False" in result.log_tail
    assert [verb for verb, path in api.requests if "/pods/" in path] == ["patch", "delete"]
    assert followed.told("a") == ["PENDING", "CapacityTimeout"]
    ((job_id, reason, message, evidence),) = followed.given_up
    assert (job_id, reason, message, evidence) == ("a", "CapacityTimeout", result.message, result.log_tail)


def test_the_limits_of_an_older_pod_are_its_own(api, followed: Followed):
    """Those that it was created with, whatever this driver's site says; it is judged once somebody asks about it."""
    api.put("pods", pod("a", unschedulable(), **{layout.PENDING_TIMEOUT: "0.2"}))
    followed.follow()
    followed.settle()
    assert followed.told("a") == ["PENDING"]
    followed.pods.look(followed.pods.known()[0])
    assert followed.end_of("a").reason.value == "CapacityTimeout"


def test_a_crash_after_the_verdict_keeps_it(api, followed: Followed):
    """The next driver tells the end that is noted on the pod, though it was not deleted and runs by now."""
    noted = {layout.END: verdict_note(Reason.IMAGE_ERROR, "there is no such image")}
    api.put("pods", pod("a", status(running()), **noted))
    followed.follow()
    result = followed.end_of("a")
    assert (result.reason.value, result.message) == ("ImageError", "there is no such image")
    assert "pod " in result.log_tail
    assert not followed.given_up


def test_a_pod_that_starts_at_the_last_moment_is_not_given_up(api, followed: Followed):
    """The verdict is about the pod as it was: one that has changed since is judged anew."""

    def start(verb: str, _path: str) -> None:
        if verb == "patch":
            api.put("pods", pod("a", status(running())))

    api.refuse = start
    followed.follow()
    followed.expect("a", evolve(PATIENT, pending_timeout=0.3))
    api.put("pods", pod("a", unschedulable()))
    followed.until(lambda: followed.told("a")[-1:] == ["RUNNING"])
    assert api.count("patch") == 1
    assert not followed.given_up
    assert layout.END not in api.kept["pods"][pod("a")["metadata"]["name"]]["metadata"]["annotations"]


def test_a_job_that_was_given_up_is_although_its_pod_changes(api, followed: Followed):
    """A reason that no pod tells (its job directory cannot come) stays, as nobody would come upon it again."""
    changes = 0

    def change(verb: str, _path: str) -> None:
        nonlocal changes
        if verb == "patch" and changes < 2:
            changes += 1
            api.put("pods", pod("a", status({"waiting": {"reason": "PodInitializing"}})))

    api.refuse = change
    followed.follow()
    ref = followed.expect("a")
    api.put("pods", pod("a", status({"waiting": {"reason": "PodInitializing"}})))
    followed.until(lambda: followed.told("a"))
    followed.pods.fail(ref, Reason.LAUNCH_FAILED, "the job directory cannot be brought")
    assert followed.end_of("a").reason is Reason.LAUNCH_FAILED
    assert changes == 2


def test_a_job_is_given_up_of_which_nothing_was_told_yet(api, followed: Followed):
    """It is looked at first, and its end is told."""
    ref = followed.expect("a")
    api.put("pods", pod("a", status({"waiting": {"reason": "PodInitializing"}})))
    followed.pods.fail(ref, Reason.LAUNCH_FAILED, "the job directory cannot be brought")
    assert followed.end_of("a").reason is Reason.LAUNCH_FAILED


def test_a_job_that_began_is_not_given_up(api, followed: Followed):
    """Whatever kept its job directory from coming, it is there."""

    def start(verb: str, _path: str) -> None:
        if verb == "patch":
            api.put("pods", pod("a", status(running())))

    api.refuse = start
    followed.follow()
    ref = followed.expect("a")
    api.put("pods", pod("a", status({"waiting": {"reason": "PodInitializing"}})))
    followed.until(lambda: followed.told("a"))
    followed.pods.fail(ref, Reason.LAUNCH_FAILED, "the job directory cannot be brought")
    followed.until(lambda: followed.told("a")[-1:] == ["RUNNING"])
    api.put("pods", pod("a", status(exited(0))))
    assert followed.end_of("a").reason is Reason.COMPLETED
    assert not followed.given_up


def test_a_verdict_waits_for_the_api_server(api, followed: Followed):
    """No end is told that could not be noted, as long as it may be; one that must not be noted is told."""
    followed.follow()
    followed.expect("a", evolve(PATIENT, pending_timeout=0.3))
    followed.expect("b", evolve(PATIENT, pending_timeout=0.3))
    api.refuse = lambda verb, path: ((403 if "/b-" in path else 503), {}) if verb == "patch" else None
    api.put("pods", pod("a", unschedulable()))
    api.put("pods", pod("b", unschedulable()))
    assert followed.end_of("b").reason.value == "CapacityTimeout"
    followed.until_server(lambda: api.count("patch") > 2)
    assert "CapacityTimeout" not in followed.told("a")
    api.refuse = lambda _verb, _path: None
    assert followed.end_of("a").reason.value == "CapacityTimeout"


def test_an_end_that_comes_before_a_verdict_is_the_end(api, followed: Followed):
    """What somebody else did to a pod that was just to be given up is told, once."""
    followed.follow()
    followed.expect("a", evolve(PATIENT, pending_timeout=0.3))
    api.refuse = lambda verb, _path: (503, {}) if verb == "patch" else None
    api.put("pods", pod("a", unschedulable()))
    followed.until_server(lambda: api.count("patch"))
    api.remove("pods", *names("a"))
    api.refuse = lambda _verb, _path: None
    assert followed.end_of("a").reason.value == "Deleted"
    followed.settle()
    assert followed.told("a") == ["PENDING", "Deleted"]
    assert not followed.given_up


def test_what_is_said_of_a_pod_counts(api, followed: Followed, monkeypatch):
    """Events are followed once a pod is slow, not before; those of an earlier pod of the name do not count."""
    monkeypatch.setattr("siteward_k8s.waiting._SLOW", 0.2)
    followed.follow()
    followed.expect("a")
    creating = status({"waiting": {"reason": "ContainerCreating"}})
    api.put("events", event("a", "FailedMount", "an older pod's trouble", uid="older"))
    api.put("events", event("a", "FailedMount", 'MountVolume.SetUp failed: configmap "x" not found'))
    api.put("pods", pod("a", creating))
    followed.until_server(lambda: api.count("list", "events"))
    followed.until(lambda: followed.of("a")[-1].message)
    assert "older" not in followed.of("a")[-1].message
    assert 'configmap "x" not found' in followed.of("a")[-1].message


def test_a_job_that_is_to_be_ended_is_not_given_up(api, followed: Followed):
    """It waits for nothing any more."""
    followed.follow()
    followed.expect("a", evolve(PATIENT, pending_timeout=0.2))
    followed.stopped |= names("a")
    api.put("pods", pod("a", unschedulable()))
    followed.expect("b", evolve(PATIENT, pending_timeout=0.4))
    api.put("pods", pod("b", unschedulable()))
    followed.end_of("b")
    assert [job_id for job_id, *_more in followed.given_up] == ["b"]


# --- nodes --------------------------------------------------------------------------------------------------

READY, SILENT = (
    {"metadata": {"name": "node-1"}, "status": {"conditions": [each]}}
    for each in (
        {"type": "Ready", "status": "True"},
        {"type": "Ready", "status": "Unknown", "message": "Kubelet stopped posting node status."},
    )
)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        pytest.param(SILENT, "stopped posting", id="silent"),
        pytest.param(None, "gone", id="gone"),
        pytest.param("forbidden", "may be lost", id="must not be asked about"),
    ],
)
def test_a_node_that_never_ends_a_deleted_pod_is_lost(api, followed: Followed, monkeypatch, node, words):
    """And the job with it: nobody waits for a kubelet that does not answer."""
    monkeypatch.setattr("siteward_k8s.verdicts._OVERDUE", 0.1)
    monkeypatch.setattr("siteward_k8s.verdicts._LONG_OVERDUE", 0.2)
    if node == "forbidden":
        api.refuse = lambda _verb, path: (403, {}) if "/nodes/" in path else None
    elif node is not None:
        api.put("nodes", node)
    followed.follow()
    followed.expect("a", uid="uid-of-a")
    api.put("pods", pod("a", status(running()), deleted=-40))
    result = followed.end_of("a")
    assert (result.reason.value, result.state.value) == ("NodeLost", "LOST")
    assert words in result.message


def test_a_node_is_asked_about_again_when_its_pod_changes(api, followed: Followed, monkeypatch):
    """What is changed on the pod while it is written down that its node is lost, does not keep it from being lost."""
    monkeypatch.setattr("siteward_k8s.verdicts._OVERDUE", 0.1)
    changed = []

    def change(verb: str, _path: str) -> None:
        if verb == "patch" and not changed:
            changed.append(verb)
            api.put("pods", pod("a", status(running()), deleted=-40))

    api.refuse = change
    followed.follow()
    followed.expect("a", uid="uid-of-a")
    api.put("pods", pod("a", status(running()), deleted=-40))
    assert followed.end_of("a").reason.value == "NodeLost"
    assert changed


def test_a_node_that_answers_may_take_its_time(api, followed: Followed, monkeypatch):
    """It is asked about again; the job's own end is told when it comes."""
    monkeypatch.setattr("siteward_k8s.verdicts._OVERDUE", 0.1)
    monkeypatch.setattr("siteward_k8s.verdicts._NODE_AGAIN", 0.1)
    api.put("nodes", READY)
    followed.follow()
    followed.expect("a", uid="uid-of-a")
    followed.stopped |= names("a")
    api.put("pods", pod("a", status(running()), deleted=-40))
    followed.until_server(lambda: api.count("get", "node-1") > 2)
    api.put("pods", pod("a", status(exited(143)), deleted=-40))
    assert followed.end_of("a").exit_code == 143


# --- ends of the watch --------------------------------------------------------------------------------------


def test_where_watching_is_forbidden_looks_do(api, followed: Followed):
    """The core is told to poll; those that wait are judged by what is looked at, and by the clock."""
    api.refuse = lambda verb, _path: (403, {}) if verb == "watch" else None
    followed.watch.start()
    followed.until(lambda: followed.failures)
    ref = followed.expect("a", evolve(PATIENT, pending_timeout=0.5))
    api.put("pods", pod("a", unschedulable()))
    assert followed.pods.look(ref).message
    assert followed.end_of("a").reason.value == "CapacityTimeout"
    assert followed.pods.look(ref).result.reason.value == "CapacityTimeout"
    api.refuse = lambda _verb, _path: None
    followed.until_server(lambda: api.watching["pods"])
    api.put("pods", pod("b", status(exited(0))))
    followed.end_of("b")
    assert len(followed.failures) == 1


def test_nothing_is_told_after_closing(api, followed: Followed):
    """Though pods go on, and clocks run out."""
    followed.follow()
    followed.expect("a", evolve(PATIENT, pending_timeout=0.1))
    followed.expect("b")
    api.put("pods", pod("b", status(running())))
    followed.settle()
    api.put("pods", pod("a", unschedulable()))
    followed.close()
    told = len(followed.news)
    api.put("pods", pod("b", status(exited(0))))
    followed.pods.on_pod("MODIFIED", pod("b", status(exited(0))))
    assert len(followed.news) == told
    assert not [each for each in threading.enumerate() if each.name.startswith(("siteward-k8s", "siteward-test-later"))]


def test_many_looks_and_news_at_once_tell_one_end(api, followed: Followed):
    """Any thread may look while the watch tells."""
    followed.follow()
    refs = [followed.expect(f"job-{number}") for number in range(20)]
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for ref in refs:
                looked_at(followed.pods, ref)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for each in threads:
        each.start()
    for number in range(20):
        api.put("pods", pod(f"job-{number}"))
        api.put("pods", pod(f"job-{number}", status(running())))
        api.put("pods", pod(f"job-{number}", status(exited(number))))
        api.remove("pods", *names(f"job-{number}"))
    codes = [followed.end_of(f"job-{number}").exit_code for number in range(20)]
    done.set()
    for each in threads:
        each.join()
    assert codes == list(range(20))


def test_a_thousand_idle_jobs_ask_nothing(api, followed: Followed):
    """One list, page by page or whole, and one watch, however many there are; and little is kept of each."""
    for number in range(1000):
        api.put("pods", pod(f"job-{number}", status(running())))
    followed.follow()
    followed.settle()
    assert len(followed.pods.known()) >= 1000
    assert [verb for verb, _path in api.requests] == ["list", "watch"]
