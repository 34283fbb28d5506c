"""The pods that are known, by name, and those that were: whose pod is whose."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from siteward import JobRef
from siteward_k8s.facts import PodFacts
from siteward_k8s.pending import Limits
from siteward_k8s.record import Record

_MOST_GONE = 10_000


class Place(Protocol):
    """Whose pods these are."""

    def ref_of(self, pod: Mapping[str, Any]) -> JobRef | None:
        """Return the ref of the job that a pod is of, None if it is not of this site's."""

    def own(self, pod: Mapping[str, Any], ref: JobRef) -> JobRef:
        """Return a job's ref with its pod's uid; Missing when the pod has no more than the job's name."""


class Known:
    """One record for each pod that is, or is to be. Nothing here takes a lock: whoever calls holds the one there is."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        # The pods that are done with, of which the watch may have last news.
        self._gone: dict[str, None] = {}

    def find(self, name: str) -> Record | None:
        """Return what is known of a pod."""
        return self._records.get(name)

    def is_done_with(self, uid: str) -> bool:
        """Whether a pod was forgotten: what can still be seen of it is nobody's news."""
        return uid in self._gone

    def all(self) -> list[Record]:
        """Return what is known of all pods."""
        return list(self._records.values())

    def alive(self) -> list[Record]:
        """Return those that have not ended, as far as is known."""
        return [record for record in self._records.values() if record.end is None]

    def of(self, ref: JobRef, *, mine: bool = False) -> Record:
        """Return the record of a job, a new one for one of which nothing is known; ``mine`` makes it ours to judge."""
        record = self._records.get(ref.data["name"])
        if record is None:
            record = self._put(Record(ref=ref))
        elif record.uid is None:
            record.ref = ref
        elif mine and ref.data["uid"] not in (None, record.uid):
            record = self._put(Record(ref=ref))
        record.mine = record.mine or mine
        return record

    def _put(self, record: Record) -> Record:
        before = self._records.get(record.name)
        if before is not None:
            before.is_over = True
        self._records[record.name] = record
        return record

    def expect(self, ref: JobRef, limits: Limits) -> None:
        """Note that a job is being launched, or has just been, and how long it may wait."""
        record = self.of(ref, mine=True)
        record.limits = limits
        record.expected_at = time.monotonic()

    def take(self, ref: JobRef, pod: Mapping[str, Any], facts: PodFacts, *, deleted: bool, ours: bool) -> Record | None:
        """Take in how a pod is, and return its record; None when it is done with, or was there before the job's own."""
        if facts.uid in self._gone:
            return None
        record = self._records.get(facts.name)
        if record is not None and not record.is_of(facts, deleted=deleted):
            if record.mine or deleted:
                return None
            record = None  # another one has taken its place, and nobody asked about either
        if record is None:
            record = self._put(Record(ref=ref))
        record.take(ref, pod, facts, deleted=deleted, ours=ours)
        if deleted and not record.mine:
            self.forget(facts.name)
        return record

    def forget(self, name: str) -> None:
        """Forget a pod, also when there is last news of it."""
        record = self._records.pop(name, None)
        if record is None:
            return
        record.is_over = True
        if record.uid is not None:
            self._gone[record.uid] = None
            if len(self._gone) > _MOST_GONE:
                del self._gone[next(iter(self._gone))]
