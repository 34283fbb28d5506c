"""Why a pod waits in a line, and what was seen of it for the failure report. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from siteward_k8s.facts import EventFacts, PodFacts
from siteward_k8s.states import ContainerFacts
from siteward_k8s.trouble import find_trouble, own, progress
from siteward_k8s.words import one_line

_MOST_BYTES = 4000
_LINE = 320
_MOST_CONTAINERS = 12


def describe(facts: PodFacts, events: Iterable[EventFacts]) -> str:
    """Say in one line why a job has not started; "" when it has, or has nothing to wait for."""
    events = list(events)
    trouble = find_trouble(facts, events)
    return trouble.message if trouble is not None else progress(facts, events)


def evidence(facts: PodFacts, events: Iterable[EventFacts]) -> str:
    """Return what is known of a pod: itself, its conditions, containers and own events, a line each, oldest first.

    Less than 4 KB: of many events the newest are kept. No secrets: nothing of its spec but image names.
    """
    lines = [_pod(facts)]
    for each in facts.conditions:
        lines.append(_cut(f"condition {each.type}={each.status}", each.reason, each.message))
    lines += [_container(each) for each in facts.containers[:_MOST_CONTAINERS]]
    left = _MOST_BYTES - sum(len(line.encode()) + 1 for line in lines)
    told = [_event(each) for each in own(facts, events)]
    kept: list[str] = []
    while told and (left := left - len(told[-1].encode()) - 1) > 0:
        kept.append(told.pop())
    text = "\n".join(lines + kept[::-1])
    return text.encode()[:_MOST_BYTES].decode(errors="ignore")


def _pod(facts: PodFacts) -> str:
    words = f"pod {facts.name} ({facts.uid}) {facts.phase}"
    words += f" on node {facts.node}" if facts.node else " without a node"
    words += f", created {_time(facts.created)}"
    words += f", given a node {_time(facts.scheduled_at)}" if facts.scheduled_at is not None else ""
    words += f", deleted {_time(facts.deleted_at)}" if facts.deleted_at is not None else ""
    words += f", gates {', '.join(facts.gates)}" if facts.gates else ""
    return _cut(words, facts.reason, facts.message)


def _container(container: ContainerFacts) -> str:
    words = f"{container.kind} container {container.name}: {container.state}"
    words += f" with exit code {container.exit_code}" if container.state == "terminated" else ""
    words += f", started {container.restarts + 1} times" if container.restarts else ""
    return _cut(words, container.reason, container.message)


def _event(event: EventFacts) -> str:
    times = f" ({event.count} times)" if event.count > 1 else ""
    return _cut(f"event {_time(event.time)} {event.type} {event.reason}{times}", "", event.message)


def _cut(words: str, reason: str, message: str) -> str:
    return one_line(": ".join(filter(None, (f"{words} {reason}".rstrip(), message))), _LINE)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "at an unknown time"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
