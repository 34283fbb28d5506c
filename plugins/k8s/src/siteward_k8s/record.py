"""What is known of one pod, and what is to be said of it. Pure: the time is given in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import Factory, define, evolve

from siteward import JobRef, JobState, JobStatus, Reason, ended
from siteward_k8s.clocks import Clocks
from siteward_k8s.diagnose import evidence, finished, gone, status_of
from siteward_k8s.facts import EventFacts, PodFacts, read_verdict
from siteward_k8s.pending import Fail, Limits, judge

MOST_EVENTS = 20
# So long a create may be on its way; a pod that is not there after that was never created.
LAUNCH_WITHIN = 60.0


@define(kw_only=True)
class Record:
    """One pod. ``end`` is how it ended, ``told`` what was published last; ``mine``: this process was asked about it.

    ``expected_at`` is when its launch began (monotonic seconds), ``due`` when to look at its waiting again.
    ``held``: its clock stands still, ``given_up``: that is being seen to, ``is_over``: nobody asks about it any more.
    """

    ref: JobRef
    mine: bool = False
    limits: Limits | None = None
    expected_at: float | None = None
    facts: PodFacts | None = None
    version: str | None = None
    clocks: Clocks | None = None
    events: dict[str, EventFacts] = Factory(dict)
    seen: JobStatus = JobStatus(state=JobState.PENDING)
    end: JobStatus | None = None
    told: JobStatus | None = None
    due: float | None = None
    timer: float | None = None
    ends_by: float | None = None
    held: bool = False
    unseen: bool = False
    given_up: bool = False
    node_asked: bool = False
    is_over: bool = False

    @property
    def name(self) -> str:
        """The pod's name."""
        return str(self.ref.data["name"])

    @property
    def uid(self) -> str | None:
        """The pod's uid, None until it is known."""
        uid: str | None = self.ref.data["uid"]
        return uid

    def is_launching(self, now: float) -> bool:
        """Whether its pod may be on its way to the API server still."""
        return self.uid is None and self.expected_at is not None and now - self.expected_at < LAUNCH_WITHIN

    def is_of(self, facts: PodFacts, *, deleted: bool) -> bool:
        """Whether a pod of this name is this job's: not one that was there before, and goes."""
        if self.uid is not None:
            return self.uid == facts.uid
        return self.expected_at is None or not (deleted or facts.deleting)

    def take(self, ref: JobRef, pod: Mapping[str, Any], facts: PodFacts, *, deleted: bool, ours: bool) -> None:
        """Take in how the pod is now; ``ours`` says that its deletion was asked for here. Its end stays."""
        self.ref = ref
        if self.end is not None:
            return
        if (verdict := read_verdict(facts)) is not None:
            if self.given_up:
                return  # the note is our own, and what comes of it is on its way
            status = given_up(*verdict, evidence(facts, self.said))
        else:
            status = gone(facts, ours) if deleted else status_of(facts, ours=ours)
        if self.seen.state is JobState.RUNNING and status.state is JobState.PENDING:
            return  # older than what is known
        metadata = pod["metadata"]
        self.facts, self.version, self.seen = facts, metadata.get("resourceVersion"), status
        if facts.deleted_at is not None:
            self.ends_by = facts.deleted_at + (metadata.get("deletionGracePeriodSeconds") or 0)
        if status.state.ended:
            self.settle(status)

    def vanish(self, now: float, *, ours: bool) -> bool:
        """Take in that there is no such pod, which is its end; False when it may be on its way to be created."""
        if self.end is None and self.is_launching(now):
            return False
        if self.end is None and self.facts is None and self.uid is None:
            self.settle(finished(ended(reason=Reason.LAUNCH_FAILED, message="its pod was never created")))
        elif self.end is None:
            self.settle(gone(self.facts, ours))
        return True

    def settle(self, status: JobStatus) -> None:
        """Note how it ended, and let go of all that is not needed any more."""
        self.end = self.seen = status
        self.facts = self.clocks = self.due = None
        self.events = {}

    @property
    def said(self) -> list[EventFacts]:
        """What Kubernetes said of this pod, as far as it matters while it waits."""
        return list(self.events.values())

    def hear(self, event: EventFacts) -> bool:
        """Take in an event; whether it is news."""
        if self.seen.state is not JobState.PENDING or event.uid != self.uid or self.events.get(event.key) == event:
            return False
        self.events.pop(event.key, None)
        self.events[event.key] = event
        if len(self.events) > MOST_EVENTS:
            del self.events[next(iter(self.events))]
        return True

    def assess(self, now: float, wall: float) -> Fail | None:
        """Judge a pod that waits: set ``seen`` and ``due`` by it, or return why it is to be given up."""
        if self.facts is None or self.seen.state is not JobState.PENDING:
            self.clocks = self.due = None
            return None
        if self.clocks is None:
            self.clocks = Clocks(None if self.expected_at is not None else wall)
        if self.limits is None:
            self.limits = Limits.of_pod(self.facts)
        verdict = judge(self.facts, self.said, self.clocks.advance(self.facts, now), self.limits)
        if isinstance(verdict, Fail):
            return verdict
        self.seen = evolve(self.seen, message=verdict.message)
        self.due = None if verdict.look_again_in is None else now + verdict.look_again_in
        return None


def given_up(reason: Reason, message: str, evidence: str) -> JobStatus:
    """Return the end of a job whose pod was given up; the evidence stands where its output would."""
    return finished(evolve(ended(reason=reason, message=message), log_tail=evidence))
