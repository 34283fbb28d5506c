"""What is seen of a site's pods, and who is told: by looking, by the watch, and by the clocks of those that wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from logging import Logger
from typing import Any

from attrs import evolve

from siteward import BackendError, JobRef, JobState, JobStatus, Later, Publish, Reason
from siteward_k8s.errors import Missing
from siteward_k8s.facts import read_event, read_pod
from siteward_k8s.known import Known, Place
from siteward_k8s.pending import Limits
from siteward_k8s.record import Record
from siteward_k8s.verdicts import Api, Verdicts
from siteward_k8s.waiting import Waiting

_LOOK_AGAIN = 5.0
_FAIL_AGAIN = 0.5
_LAST_WORD = 2.0
_LAST_NEWS_WITHIN = 5.0


class Pods:
    """Looks at jobs, and publishes what is seen; an end once. Any thread may call.

    ``is_stopped(name)`` says whether a job is to be ended: a deletion of its pod is ours, then. ``give_up(ref, reason,
    message, evidence)`` has a pod deleted that does not start; its end is told here. ``want_events()`` is called
    once, when events of pods begin to matter. ``changed`` is notified at news of any job.
    """

    def __init__(
        self,
        cluster: Api,
        place: Place,
        later: Later,
        *,
        is_stopped: Callable[[str], bool],
        give_up: Callable[[JobRef, Reason, str, str], object],
        want_events: Callable[[], object],
        log: Logger,
    ) -> None:
        self._cluster = cluster
        self._place = place
        # What asks the API server may take long, and must not keep the clocks of others waiting.
        self._asking = Later("siteward-k8s-asking", log)
        self._is_stopped = is_stopped
        self.changed = threading.Condition()
        self._verdicts = Verdicts(
            cluster,
            self._asking,
            settle=self._settle,
            look_again=self._tell_surely,
            publish=self._publish,
            give_up=give_up,
            log=log,
        )
        self._waiting = Waiting(self.changed, later, self._verdicts, again=self._assess_again, want_events=want_events)
        self._publisher: Publish | None = None
        self._jobs = Known()
        self._follows = False

    def begin(self, publish: Publish) -> None:
        """Publish from now on."""
        self._publisher = publish

    def end(self) -> None:
        """Publish nothing any more."""
        self._publisher = None
        self._verdicts.stop()
        self._sees(False)
        self._asking.close(_LAST_WORD)

    def failed(self, error: Exception) -> None:
        """Say that the watch cannot see any more: jobs are looked at instead, and the clocks go on by that."""
        self._go_on()
        self._sees(False)
        if (publisher := self._publisher) is not None:
            publisher.failed(error)

    def _sees(self, follows: bool) -> None:
        with self.changed:
            self._follows = follows
            self.changed.notify_all()

    # --- looking --------------------------------------------------------------------------------------------

    def look(self, ref: JobRef) -> JobStatus:
        """Look at a job once, uncached; Unreachable when the API server cannot be asked. An end that was seen stays.

        Of a pod that is no more the watch may be just about to tell how it ended: it has some seconds for that.
        """
        with self.changed:
            record = self._jobs.of(ref, mine=True)
        return self._look(record, _LAST_NEWS_WITHIN)

    def _look(self, record: Record, wait: float) -> JobStatus:
        if record.end is not None:
            return record.end
        uid = record.uid
        try:
            pod = self._cluster.get_pod(record.name)
            found = self._place.own(pod, record.ref)
            if self._jobs.is_done_with(found.data["uid"]):
                raise Missing(f"pod {record.name} is on its way out")
        except Missing:
            return self._absent(record, uid, wait)
        except BackendError:
            with self.changed:
                self._waiting.hold(record)
            raise
        self._take(found, pod)
        return record.end or record.seen

    def _absent(self, record: Record, uid: str | None, wait: float) -> JobStatus:
        """Say what it means that a job has no pod, or none any more; ``uid`` is what was known of it before the look.

        A pod that was created just then was not there yet, which says nothing.
        """
        ours = self._is_stopped(record.name)
        with self.changed:
            if record.facts is not None and self._follows:
                self.changed.wait_for(lambda: record.end is not None or not self._follows, wait)
            if uid != record.uid or not record.vanish(time.monotonic(), ours=ours):
                self._look_later(record)
            return record.end or record.seen

    # --- telling --------------------------------------------------------------------------------------------

    def _tell_surely(self, record: Record) -> bool:
        """Tell of a job, later if it cannot be looked at now: it keeps no other from being seen. Whether it was now."""
        if record.is_over:
            return True
        try:
            status = self._look(record, 0.0)
        except BackendError as error:
            self._publish(record, evolve(record.seen, reachable=False, message=str(error)))
            self._look_later(record)
            return False
        self._publish(record, status)
        if status.state.ended and not record.mine:
            self.forget(record.name)
        return True

    def _look_later(self, record: Record) -> None:
        if not record.unseen:
            record.unseen = True
            self._asking.call(_LOOK_AGAIN, lambda: self._look_at_unseen(record))

    def _look_at_unseen(self, record: Record) -> None:
        record.unseen = False
        if record.end is not None:
            return
        if self._waiting.is_out:
            self._look_later(record)
        else:
            self._tell_surely(record)

    def publish(self, ref: JobRef, status: JobStatus) -> None:
        """Tell of a job, whoever launched it; the same news is told once."""
        with self.changed:
            record = self._jobs.of(ref)
        self._publish(record, status)

    def _publish(self, record: Record, status: JobStatus) -> None:
        with self.changed:
            if record.told == status or (record.told is not None and record.told.state.ended):
                return
            if status.state.ended:
                if record.end is None:
                    record.settle(status)
            elif record.end is not None:
                return
            record.told = status
            ref = record.ref
            self.changed.notify_all()
        if (publisher := self._publisher) is not None:
            publisher(ref, status)

    def _settle(self, record: Record, status: JobStatus) -> bool:
        """Note an end that was decided here; False when there is one already."""
        with self.changed:
            if record.end is not None:
                return False
            record.settle(status)
            return True

    # --- what is known --------------------------------------------------------------------------------------

    def expect(self, ref: JobRef, limits: Limits) -> None:
        """Take in a job that is being launched (no uid yet), or whose pod was created: it is to be seen from now on."""
        with self.changed:
            self._jobs.expect(ref, limits)

    def forget(self, name: str) -> None:
        """Forget a job that is done with; what the watch tells of its pod from now on is nobody's news."""
        with self.changed:
            self._jobs.forget(name)

    def known(self) -> list[JobRef]:
        """Return the jobs that have not ended, as far as is known here."""
        with self.changed:
            return [record.ref for record in self._jobs.alive()]

    def names(self) -> set[str]:
        """Return the names of the pods of all jobs that are not done with, ended ones included."""
        with self.changed:
            return {record.name for record in self._jobs.all()}

    def seen(self, ref: JobRef) -> JobState:
        """Return a job's state as far as it is known, without asking."""
        with self.changed:
            record = self._jobs.find(ref.data["name"])
            return JobState.PENDING if record is None else (record.end or record.seen).state

    def _take(self, ref: JobRef, pod: Mapping[str, Any], *, deleted: bool = False) -> Record | None:
        """Take in a pod and judge it if it waits; None when it is no news."""
        ours = self._is_stopped(ref.data["name"])
        facts = read_pod(pod)
        with self.changed:
            record = self._jobs.take(ref, pod, facts, deleted=deleted, ours=ours)
            if record is not None:
                self._waiting.assess(record, stopped=ours)
            return record

    def _assess_again(self, record: Record) -> None:
        """Judge a job that waits because of the time or of what was said of it, and tell."""
        stopped = self._is_stopped(record.name)
        with self.changed:
            if self._waiting.is_out or record.is_over:
                return
            self._waiting.assess(record, stopped=stopped)
        self._publish_seen(record)

    def _publish_seen(self, record: Record) -> None:
        if not record.given_up:
            self._publish(record, record.end or record.seen)

    def fail(self, ref: JobRef, reason: Reason, message: str) -> None:
        """Give up a job that waits, for a reason that its pod does not tell; returns at once.

        A job that has begun or ended by then is not given up; a pod that only changes in between is.
        """
        with self.changed:
            record = self._jobs.of(ref)
        self._asking.call(0, lambda: self._fail(record, reason, message))

    def _fail(self, record: Record, reason: Reason, message: str) -> None:
        def again() -> None:
            self._asking.call(_FAIL_AGAIN, lambda: self._fail(record, reason, message))

        if record.is_over:
            return
        if record.facts is None and record.end is None and not self._tell_surely(record):
            again()
            return
        with self.changed:
            waits = record.end is None and record.seen.state is JobState.PENDING and not record.given_up
            if waits and record.facts is not None:
                self._verdicts.fail(record, reason, message, record.facts, again)

    # --- the watch's calls ----------------------------------------------------------------------------------

    def on_pod(self, kind: str, pod: dict[str, Any]) -> None:
        """Take in a change of a pod."""
        ref = self._place.ref_of(pod)
        if ref is None:
            return
        record = self._take(ref, pod, deleted=kind == "DELETED")
        if record is not None:
            self._publish_seen(record)

    def on_list(self, pods: Iterable[dict[str, Any]]) -> None:
        """Take in all pods there are, and look for those that should be there."""
        self._go_on()
        names = set()
        for pod in pods:
            names.add(pod["metadata"]["name"])
            self.on_pod("LISTED", pod)
        with self.changed:
            missing = [each for each in self._jobs.alive() if each.name not in names]
        can_look = True
        for record in missing:
            if self._publisher is None:
                return
            if can_look:
                can_look = self._tell_surely(record)
            else:
                self._look_later(record)

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take in what Kubernetes says of a pod."""
        about = event.get("involvedObject") or {}
        with self.changed:
            record = self._jobs.find(about.get("name") or "")
            if record is None or not record.mine or not record.hear(read_event(event)):
                return
        self._assess_again(record)

    def on_events_list(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take in what Kubernetes has said of pods."""
        for event in events:
            self.on_event(event)

    def on_outage(self, error: Exception) -> None:
        """Tell that no job can be seen just now; clocks stand still."""
        self._sees(False)
        with self.changed:
            records = self._jobs.alive()
            self._waiting.pause(records)
        for record in records:
            self._publish(record, evolve(record.seen, reachable=False, message=str(error)))

    def on_return(self) -> None:
        """Tell that jobs can be seen again; what has changed meanwhile comes next."""
        self._go_on()
        with self.changed:
            records = [record for record in self._jobs.all() if record.told and not record.told.reachable]
        for record in records:
            self._assess_again(record)

    def _go_on(self) -> None:
        with self.changed:
            self._follows = True
            self._waiting.go_on(self._jobs.all())
