"""What a pod means for its job: where it is, how it ended, and what to say about it. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from attrs import evolve, frozen

from siteward import JobState, JobStatus, Reason, Result, ended
from siteward_k8s import layout
from siteward_k8s.facts import PodFacts, read_verdict
from siteward_k8s.report import describe, evidence
from siteward_k8s.states import ContainerFacts, seconds
from siteward_k8s.words import cause, one_line

__all__ = ["describe", "evidence", "finished", "gone", "is_lost", "refusal", "status_of"]

_KILLED = 137
# A kubelet cannot find the container any more: whatever it says of its exit is made up.
_LOST = "ContainerStatusUnknown"
_STOPPED = (130, 137, 143)
# A deletion is stamped by the API server's clock, an end by the node's.
_SKEW = 60.0
_PENDING = JobStatus(state=JobState.PENDING)
_RUNNING = JobStatus(state=JobState.RUNNING)
_DELETING = JobStatus(state=JobState.RUNNING, message="somebody is deleting its pod")
_NOT_STARTED = "it was ended before it was started"
_OUT_OF_MEMORY = "the job used more memory than its limit; ask for more in resource_spec"
_NOT_FOUND = re.compile(r"(?i)not found|no such file|permission denied|exec format error|is a directory")


@frozen(kw_only=True)
class _Taken:
    """The platform ended the pod: why, and from when on (seconds since the epoch; None: it is not known)."""

    reason: Reason
    message: str
    since: float | None


def status_of(facts: PodFacts, *, ours: bool = False) -> JobStatus:
    """Return a job's status from its pod. ``ours``: it was siteward that asked for the pod's deletion.

    The end is the main container's, whatever the other containers do, unless the platform had begun to end the pod
    before. A pod that was given up (annotation ``layout.END``) ended for the reason noted there. A plainly starting
    pod has no message.
    """
    if (verdict := read_verdict(facts)) is not None:
        return finished(ended(reason=verdict[0], message=verdict[1]))
    main, taken = facts.main, _taken(facts, ours)
    lost = main is not None and main.reason == _LOST
    if main is not None and main.state == "terminated" and not lost:
        return finished(_own_end(main) if taken is None or _came_before(main, taken) else _taken_end(taken, main))
    if lost or facts.phase in ("Failed", "Succeeded"):
        if taken is not None:
            return finished(_taken_end(taken, main))
        return finished(_on_request(facts) if facts.deleting and facts.phase != "Succeeded" else _unexplained(facts))
    if main is not None and main.state == "waiting" and _has_ended_once(main):
        return finished(_own_end(main.last or main))  # a restart policy that is not ours: a job runs once
    if facts.phase == "Unknown":
        words = f"node {facts.node} does not answer: nothing is known of the pod for now"
        return JobStatus(state=JobState.RUNNING if facts.started else JobState.PENDING, message=words)
    if main is not None and main.state == "running":
        return _DELETING if facts.deleting and not ours else _RUNNING
    return _PENDING


def gone(before: PodFacts | None, ours: bool) -> JobStatus:
    """Return the status of a job whose pod is no more, from what was last seen of it (None: nothing)."""
    if before is not None:
        status = status_of(before, ours=ours)
        if status.result is not None:
            return status
        taken = _taken(before, ours)
        if taken is not None and taken.reason is not Reason.DELETED:
            return finished(_taken_end(taken, before.main))
    if ours:
        return finished(_on_request(before))
    words = "its pod was removed by somebody else, and its result with it"
    started_at = None if before is None else before.started_at
    return finished(ended(reason=Reason.DELETED, message=words, started_at=started_at))


def _on_request(facts: PodFacts | None) -> Result:
    """Return the end of a job whose pod siteward deleted and whose exit is not known."""
    if facts is not None and not facts.started:
        return ended(reason=Reason.LAUNCH_FAILED, message=_NOT_STARTED)
    words = "it was ended on request, and its pod removed before its exit could be read"
    return ended(reason=Reason.ABORTED, message=words, started_at=None if facts is None else facts.started_at)


def _has_ended_once(main: ContainerFacts) -> bool:
    return main.last is not None and main.last.reason != _LOST


def finished(result: Result) -> JobStatus:
    """Return the status of a job with this result."""
    return JobStatus(state=result.state, result=result)


# --- the job's own end --------------------------------------------------------------------------------------


def _own_end(main: ContainerFacts) -> Result:
    code = main.exit_code or 0
    if main.reason in ("StartError", "ContainerCannotRun"):
        words = cause(main.message) or main.reason
        if _NOT_FOUND.search(words):
            message = f"the command cannot be started: {words}. Check that the image has it, and its spelling"
        else:
            message = f"the container cannot be started: {words}"
        return ended(reason=Reason.LAUNCH_FAILED, message=message, ended_at=main.finished_at)
    short_of_memory = main.reason == "OOMKilled"
    killed = short_of_memory and code == _KILLED
    result = ended(
        reason=Reason.OOM_KILLED if killed else None,
        exit_code=code,
        signal=main.signal,
        message=_OUT_OF_MEMORY if killed else "",
        started_at=main.started_at,
        ended_at=main.finished_at,
    )
    if killed:
        return result
    notes = ["some of its processes were killed because it reached its memory limit"] if short_of_memory else []
    notes += [one_line(main.message)] if main.message.strip() and code else []
    return evolve(result, message="; ".join([result.message, *notes])) if notes else result


# --- ends that the platform made ----------------------------------------------------------------------------

# status.reason of a pod that its kubelet ended, or did not take.
_BY_KUBELET: Mapping[str, tuple[Reason, str]] = {
    "Evicted": (Reason.EVICTED, "its node evicted it"),
    "Preempting": (Reason.EVICTED, "its node needed the room for a critical pod"),
    "DeadlineExceeded": (Reason.DEADLINE_EXCEEDED, "its pod was there longer than its activeDeadlineSeconds"),
    "NodeLost": (Reason.NODE_LOST, "its node does not answer any more"),
    "NodeShutdown": (Reason.NODE_LOST, "its node was being shut down"),
    "Shutdown": (Reason.NODE_LOST, "its node was shut down"),
    "Terminated": (Reason.NODE_LOST, "its node was shut down"),
}
# Reasons of the condition DisruptionTarget, and of Kueue's TerminationTarget.
_BY_DISRUPTION: Mapping[str, tuple[Reason, str]] = {
    "PreemptionByScheduler": (Reason.EVICTED, "a pod of higher priority took its place"),
    "PreemptionByKubeScheduler": (Reason.EVICTED, "a pod of higher priority took its place"),
    "DeletionByTaintManager": (Reason.EVICTED, "its node was given a taint that it does not tolerate"),
    "EvictionByEvictionAPI": (Reason.EVICTED, "it was evicted: its node is being emptied, or somebody asked for it"),
    "TerminationByKubelet": (Reason.EVICTED, "its node ended it"),
    "DeletionByPodGC": (Reason.NODE_LOST, "its node is gone"),
    "WorkloadEvictedDueToPreempted": (Reason.EVICTED, "a workload of higher priority took its place in the queue"),
}
# status.reason of a pod that its node did not admit, beside those above and OutOf<resource>.
_NOT_ADMITTED: Mapping[str, Reason] = {
    "UnexpectedAdmissionError": Reason.CAPACITY_TIMEOUT,
    "TopologyAffinityError": Reason.CAPACITY_TIMEOUT,
    "NodeAffinity": Reason.UNSCHEDULABLE,
    "AppArmor": Reason.CONFIG_ERROR,
    "SysctlForbidden": Reason.CONFIG_ERROR,
    "PodOSNotSupported": Reason.CONFIG_ERROR,
    "PodOSSelectorNodeLabelDoesNotMatch": Reason.CONFIG_ERROR,
}


def _taken(facts: PodFacts, ours: bool) -> _Taken | None:
    disruption = facts.condition("DisruptionTarget") or facts.condition("TerminationTarget")
    if disruption is not None and disruption.status != "True":
        disruption = None
    if facts.reason in _BY_KUBELET:
        reason, words = _BY_KUBELET[facts.reason]
        since = facts.deadline if reason is Reason.DEADLINE_EXCEEDED else disruption.since if disruption else None
        if facts.reason == "NodeLost":
            since = math.inf  # whatever its node has told of it was before
        return _Taken(reason=reason, message=_with(words, facts.message), since=since)
    if disruption is not None:
        reason, words = _BY_DISRUPTION.get(disruption.reason, (Reason.EVICTED, f"it was evicted ({disruption.reason})"))
        since = math.inf if reason is Reason.NODE_LOST else disruption.since
        return _Taken(reason=reason, message=_with(words, disruption.message), since=since)
    if facts.deleting and not ours:
        words = "its pod was deleted by somebody else"
        return _Taken(reason=Reason.DELETED, message=words, since=facts.deleted_at)
    return None


def _with(words: str, message: str) -> str:
    return f"{words}: {one_line(message)}" if message else words


def _came_before(main: ContainerFacts, taken: _Taken) -> bool:
    """Whether the job had ended by itself before the platform began to end its pod. Times are whole seconds."""
    if taken.since is None or main.finished_at is None:
        return taken.since == math.inf
    return main.finished_at < taken.since - (_SKEW if main.exit_code in _STOPPED else 0.0)


def _taken_end(taken: _Taken, main: ContainerFacts | None) -> Result:
    known = main is not None and main.state == "terminated" and main.reason != _LOST
    return ended(
        reason=taken.reason,
        exit_code=main.exit_code if main is not None and known else None,
        signal=main.signal if main is not None and known else None,
        message=taken.message,
        started_at=main.started_at if main else None,
        ended_at=main.finished_at if main else None,
    )


def _unexplained(facts: PodFacts) -> Result:
    """Return the end of a pod that is over, from all but its main container's exit, which is not known."""
    main = facts.main
    for each in facts.containers:
        if each.kind == "init" and each.state == "terminated" and each.exit_code and each.reason != _LOST:
            return ended(reason=Reason.LAUNCH_FAILED, message=_init_words(each))
    if main is not None and main.reason == _LOST:
        words = "its node lost the container (was it restarted?), and its exit with it"
        return ended(reason=Reason.NODE_LOST, message=words, started_at=main.started_at)
    if facts.phase == "Succeeded":
        return ended(exit_code=0, started_at=facts.started_at)
    if main is not None and main.state == "running":
        words = _with("its pod failed while the job was last seen running", facts.message)
        return ended(reason=Reason.NODE_LOST, message=words, started_at=main.started_at)
    if facts.reason.startswith("OutOf"):
        reason, words = Reason.CAPACITY_TIMEOUT, f"its node had no {facts.reason.removeprefix('OutOf')} left for it"
    else:
        reason = _NOT_ADMITTED.get(facts.reason, Reason.LAUNCH_FAILED)
        words = (
            f"its node did not take it ({facts.reason})" if facts.reason else "its pod failed before the job started"
        )
    return ended(reason=reason, message=_with(words, facts.message))


def _init_words(init: ContainerFacts) -> str:
    what = (
        "bringing its job directory failed" if init.name == layout.STAGE else f"its init container {init.name!r} failed"
    )
    if init.reason == "OOMKilled":
        return f"{what}: it used more memory than its limit"
    words = f"{what} with exit code {init.exit_code}" + (f": {cause(init.message)}" if init.message.strip() else "")
    if init.name == layout.STAGE and "executable file not found" in init.message:
        words += ". The image that brings it needs sh and tar: the site's helper_image, else the job's"
    return words


# --- what is no pod -----------------------------------------------------------------------------------------

_QUOTA = re.compile(r"exceeded quota|insufficient quota")


def refusal(message: str) -> tuple[Reason, str]:
    """Return what it means that the API server refuses a pod (422, or 403 by admission), from its message.

    A used-up quota is a lack of room, all else a mistake in the job's, the site's or the template's words.
    """
    text = one_line(message)
    if _QUOTA.search(message):
        return Reason.CAPACITY_TIMEOUT, f"the quota of the namespace is used up: {text}"
    return Reason.CONFIG_ERROR, f"the cluster refuses the pod: {text}"


def is_lost(node: Mapping[str, Any] | None, now: float | None = None, patience: float = 300.0) -> str:
    """Return why a node's pods are to be given up, "" if they are not. ``node``: its JSON, None when there is none.

    ``now`` is in seconds since the epoch; with it, a node that does not answer is waited for as long as Kubernetes
    lets pods stay on it by default, since it may come back with its jobs still running.
    """
    if node is None:
        return "its node is gone"
    name = node["metadata"].get("name", "")
    for each in (node.get("status") or {}).get("conditions") or ():
        if each.get("type") == "Ready" and each.get("status") == "Unknown":
            since = seconds(each.get("lastTransitionTime"))
            if now is None or since is None or now - since >= patience:
                words = each.get("message") or each.get("reason") or ""
                return f"node {name} does not answer any more: {one_line(words)}"
    return ""
