"""What a pod and an event say, read from their JSON into small values. Pure, and cheap: each news is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from sys import intern
from typing import Any

from attrs import frozen

from siteward import Reason
from siteward_k8s import layout
from siteward_k8s.states import ContainerFacts, read_containers, seconds

_DISRUPTIONS = ("DisruptionTarget", "TerminationTarget")
_NOT_KEPT = frozenset({layout.SPEC_HASH, layout.JOB_ID, layout.SITE, layout.BACKEND, layout.NAME})


@frozen(kw_only=True)
class Condition:
    """A condition of a pod that says more than that all is well. ``since`` is when it became so."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    since: float | None = None


@frozen(kw_only=True)
class PodFacts:
    """What matters of a pod.

    ``node`` is "" and ``scheduled_at`` None until it is bound to one; ``gates`` are what keeps the scheduler from
    looking at it. ``deleted_at`` is when its deletion was asked for, ``deadline`` when the kubelet will end it (both
    seconds since the epoch, None where there is none). ``conditions`` leaves out those that are as they should be.
    ``containers`` come in the order init, main, sidecar; ``main`` is the job's. ``notes`` are siteward's annotations
    that another driver needs, by their full names.
    """

    name: str
    uid: str
    phase: str
    reason: str = ""
    message: str = ""
    node: str = ""
    created: float | None = None
    scheduled_at: float | None = None
    gates: tuple[str, ...] = ()
    deleted_at: float | None = None
    deadline: float | None = None
    conditions: tuple[Condition, ...] = ()
    containers: tuple[ContainerFacts, ...] = ()
    main: ContainerFacts | None = None
    notes: Mapping[str, str]

    @property
    def scheduled(self) -> bool:
        """Whether it has a node."""
        return self.scheduled_at is not None or bool(self.node)

    @property
    def gated(self) -> bool:
        """Whether the scheduler may not look at it yet."""
        return bool(self.gates) and not self.scheduled

    @property
    def deleting(self) -> bool:
        """Whether somebody has asked for its deletion."""
        return self.deleted_at is not None

    @property
    def started(self) -> bool:
        """Whether the job's container has been started, whatever became of it."""
        return self.main is not None and (self.main.state != "waiting" or self.main.last is not None)

    @property
    def staging(self) -> bool:
        """Whether it waits for its job directory, which siteward brings."""
        return any(each.name == layout.STAGE and each.state == "running" for each in self.containers)

    @property
    def started_at(self) -> float | None:
        """When the job's container was started."""
        return None if self.main is None else self.main.started_at

    @property
    def finished_at(self) -> float | None:
        """When the job's container ended."""
        return None if self.main is None else self.main.finished_at

    def condition(self, type: str) -> Condition | None:
        """Return a condition; None when there is none, or nothing is to be said of it."""
        return next((each for each in self.conditions if each.type == type), None)


@frozen(kw_only=True)
class EventFacts:
    """What an event says of a pod. ``key`` stays when the same event is told again with a higher ``count``.

    ``container`` is the one that it is about, "" for the pod; ``time`` the last time that it happened, None if unsaid.
    """

    key: str
    pod: str
    uid: str
    type: str
    reason: str
    message: str = ""
    time: float | None = None
    count: int = 1
    container: str = ""


def read_pod(pod: Mapping[str, Any]) -> PodFacts:
    """Read a pod as the API server tells of it; what is missing in it is taken for not yet there."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    notes = {
        intern(key): value
        for key, value in (metadata.get("annotations") or {}).items()
        if key.startswith(layout.PREFIX) and key not in _NOT_KEPT
    }
    scheduled_at, conditions = _read_conditions(status.get("conditions") or ())
    containers, main = read_containers(spec, status, notes.get(layout.CONTAINER))
    deleted_at = seconds(metadata.get("deletionTimestamp"))
    if deleted_at is not None:
        deleted_at -= metadata.get("deletionGracePeriodSeconds") or 0
    deadline, started = spec.get("activeDeadlineSeconds"), status.get("startTime")
    gates = spec.get("schedulingGates")
    return PodFacts(
        name=metadata.get("name", ""),
        uid=metadata.get("uid", ""),
        phase=intern(status.get("phase") or "Pending"),
        reason=intern(status.get("reason") or ""),
        message=status.get("message") or "",
        node=intern(spec.get("nodeName") or ""),
        created=seconds(metadata.get("creationTimestamp")),
        scheduled_at=scheduled_at,
        gates=tuple(intern(each.get("name", "")) for each in gates) if gates else (),
        deleted_at=deleted_at,
        deadline=(seconds(started) or 0.0) + deadline if deadline and started else None,
        conditions=conditions,
        containers=containers,
        main=main,
        notes=notes,
    )


def _read_conditions(conditions: Any) -> tuple[float | None, tuple[Condition, ...]]:
    scheduled_at, kept = None, []
    for each in conditions:
        kind, status = each.get("type", ""), each.get("status", "")
        if kind == "PodScheduled" and status == "True":
            scheduled_at = seconds(each.get("lastTransitionTime"))
        elif status != "True" or kind in _DISRUPTIONS:
            condition = Condition(
                type=intern(kind),
                status=intern(status),
                reason=intern(each.get("reason") or ""),
                message=each.get("message") or "",
                since=seconds(each.get("lastTransitionTime")),
            )
            kept.append(condition)
    return scheduled_at, tuple(kept)


def read_event(event: Mapping[str, Any]) -> EventFacts:
    """Read an event of core/v1; one of events.k8s.io reads the same where they agree."""
    metadata, about = event.get("metadata") or {}, event.get("involvedObject") or event.get("regarding") or {}
    series = event.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        event.get("lastTimestamp") or event.get("deprecatedLastTimestamp"),
        event.get("eventTime"),
        event.get("firstTimestamp"),
        metadata.get("creationTimestamp"),
    )
    _, _, container = (about.get("fieldPath") or "").partition("{")
    return EventFacts(
        key=metadata.get("uid") or metadata.get("name") or "",
        pod=about.get("name") or "",
        uid=about.get("uid") or "",
        type=intern(event.get("type") or ""),
        reason=intern(event.get("reason") or ""),
        message=event.get("message") or event.get("note") or "",
        time=next((time for each in times if (time := seconds(each)) is not None), None),
        count=series.get("count") or event.get("count") or event.get("deprecatedCount") or 1,
        container=intern(container.removesuffix("}")),
    )


def verdict_note(reason: Reason, message: str) -> str:
    """Return the annotation ``layout.END`` of a pod that is given up: why, before it is deleted."""
    return json.dumps([reason.value, message])


def read_verdict(facts: PodFacts) -> tuple[Reason, str] | None:
    """Return why a pod was given up; None for one that was not."""
    note = facts.notes.get(layout.END)
    if note is None:
        return None
    try:
        reason, message = json.loads(note)
        return Reason(reason), str(message)
    except (ValueError, TypeError):
        return None
