"""What is seen of a site's containers, and who is told: by looking, and by the engine's events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from siteward import BackendError, JobRef, JobState, JobStatus, Later, Publish
from siteward_docker import diagnose
from siteward_docker.absent import Absences
from siteward_docker.build import Place, container_of, is_same_job
from siteward_docker.client import Engine
from siteward_docker.errors import Conflict, Missing

_LAST_LINES = 5
# An engine may tell of a lack of memory after the end that came of it, and forget it in what it keeps.
_LAST_NEWS_WITHIN = 0.2
_LOOK_AGAIN = 5.0


class News:
    """Looks at jobs, and publishes what is seen; an end once. Any thread may call.

    ``waiting(name)`` returns the status of a job that has no container yet, None for any other; ``is_stopped(name)``
    says whether a job is to be ended and is not just being started. ``changed`` is notified at news of any job.
    """

    def __init__(
        self,
        engine: Engine,
        place: Place,
        absences: Absences,
        later: Later,
        *,
        waiting: Callable[[str], JobStatus | None],
        is_stopped: Callable[[str], bool],
    ) -> None:
        self._engine = engine
        self._place = place
        self._absences = absences
        self._later = later
        self._waiting = waiting
        self._is_stopped = is_stopped
        self.changed = threading.Condition()
        self._publisher: Publish | None = None
        self._known: dict[str, JobRef] = {}
        self._ended: set[str] = set()
        self._started: dict[str, float | None] = {}
        self._short_of_memory: set[str] = set()
        self._unseen: set[str] = set()

    def begin(self, publish: Publish) -> None:
        """Publish from now on."""
        self._publisher = publish

    def end(self) -> None:
        """Publish nothing any more."""
        self._publisher = None
        with self.changed:
            self.changed.notify_all()

    # --- looking --------------------------------------------------------------------------------------------

    def look(self, ref: JobRef) -> JobStatus:
        """Look at a job once, uncached; Unreachable when the engine cannot be asked."""
        name = ref.data["name"]
        waiting = self._waiting(name)
        if waiting is not None:
            return waiting
        try:
            found = self._engine.inspect(container_of(ref))
            if not is_same_job(found["Config"].get("Labels"), self._place.labels(ref.job_id, ref.attempt)):
                raise Missing(f"container {name} is of another job")
        except Missing:
            return self._without_container(name)
        state = found["State"]
        if state["Status"] == "created" and self._is_stopped(name):
            return diagnose.NEVER_STARTED
        if found["Id"] in self._short_of_memory:
            state = {**state, "OOMKilled": True}
        output = self._last_output(ref) if state.get("ExitCode") in diagnose.COMMAND_CODES else b""
        return diagnose.status_of(state, output)

    def _without_container(self, name: str) -> JobStatus:
        result = self._absences.end_of(name)
        return diagnose.removed() if result is None else diagnose.finished(result)

    def _last_output(self, ref: JobRef) -> bytes:
        with suppress(Missing, Conflict):
            pieces = self._engine.logs(container_of(ref), follow=False, tail=_LAST_LINES)
            return b"".join(text for _time, text in pieces)
        return b""

    # --- telling --------------------------------------------------------------------------------------------

    def tell(self, ref: JobRef) -> None:
        """Look at a job and publish what is seen."""
        self.publish(ref, self.look(ref))

    def _tell_surely(self, ref: JobRef) -> bool:
        """Tell of a job, later if it cannot be looked at now: it keeps no other from being seen. Whether it was now."""
        try:
            self.tell(ref)
        except BackendError as error:
            self.publish(ref, JobStatus(state=JobState.PENDING, reachable=False, message=str(error)))
            if ref.data["name"] not in self._unseen:
                self._unseen.add(ref.data["name"])
                self._later.call(_LOOK_AGAIN, lambda: self._tell_again(ref))
            return False
        return True

    def _tell_again(self, ref: JobRef) -> None:
        self._unseen.discard(ref.data["name"])
        self._tell_surely(ref)

    def publish(self, ref: JobRef, status: JobStatus) -> None:
        """Tell of a job, whoever launched it."""
        name = ref.data["name"]
        with self.changed:
            known = self._known.get(name, ref)
            if None not in (ids := {known.data["id"], ref.data["id"]}) and len(ids) > 1:
                return  # a copy of the job's container that somebody made, labels and all
            if status.state.ended:
                self._known.pop(name, None)
                if name in self._ended:  # the list and the event told of the same end
                    return
                self._ended.add(name)
            elif name not in self._ended:  # also what another process launched: it may be this one's by now
                self._known[name] = ref if ref.data["id"] is not None else known
            self.changed.notify_all()
        publisher = self._publisher
        if publisher is not None:
            publisher(ref, status)

    def expect(self, ref: JobRef) -> None:
        """Take in a job that is being launched: it is to be seen from now on."""
        with self.changed:
            self._known[ref.data["name"]] = ref

    def forget(self, name: str) -> None:
        """Forget a job that is done with."""
        with self.changed:
            self._known.pop(name, None)
            self._ended.discard(name)

    def known(self) -> list[JobRef]:
        """Return the jobs that have not ended, as far as is known here."""
        with self.changed:
            return list(self._known.values())

    # --- the watch's calls ----------------------------------------------------------------------------------

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take in an event of the engine's."""
        actor, labels = event["Actor"], event["Actor"]["Attributes"]
        ref = self._place.ref_of(labels, actor["ID"])
        if ref is None:
            return
        match event["Action"]:
            case "start":
                # A label of that name takes the code's place in the news of the end.
                self._started[actor["ID"]] = None if "exitCode" in labels else _seconds(event)
                self.publish(ref, diagnose.RUNNING)
            case "unpause":
                self.publish(ref, diagnose.RUNNING)
            case "pause":
                self.publish(ref, diagnose.PAUSED)
            case "oom":
                self._short_of_memory.add(actor["ID"])
            case "die":
                self._on_end(ref, actor["ID"], labels.get("exitCode", ""), _seconds(event))
            case "destroy":
                name = ref.data["name"]
                self.publish(ref, self._waiting(name) or self._without_container(name))
                self._ended.discard(name)
                self._started.pop(actor["ID"], None)
                self._short_of_memory.discard(actor["ID"])

    def _on_end(self, ref: JobRef, container: str, code: str, ended_at: float) -> None:
        """Tell of an end; what the event alone cannot tell, the container is asked for."""
        is_hidden = self._started.get(container, ended_at) is None
        started_at = self._started.pop(container, None)
        if code == str(diagnose.KILLED) or is_hidden:
            self._later.call(_LAST_NEWS_WITHIN, lambda: self._tell_surely(ref))
        elif started_at is None or container in self._short_of_memory or not diagnose.is_whole_story(code):
            self._tell_surely(ref)
        else:
            self.publish(ref, self._waiting(ref.data["name"]) or diagnose.exited(int(code), started_at, ended_at))

    def on_list(self, listed: Iterable[JobRef]) -> None:
        """After each connecting, look at every container there is, and for those that should be there."""
        listed = list(listed)
        names = {ref.data["name"] for ref in listed}
        for ref in (*listed, *(ref for ref in self.known() if ref.data["name"] not in names)):
            if self._publisher is not None and not self._tell_surely(ref):
                self._engine.version()  # or it is the engine that is away

    def on_outage(self, error: Exception) -> None:
        """Tell that no job can be seen just now; what is known of starts may be no longer true."""
        self._started.clear()
        for ref in self.known():
            self.publish(ref, JobStatus(state=JobState.PENDING, reachable=False, message=str(error)))


def _seconds(event: Mapping[str, Any]) -> float:
    """Return an event's time, in seconds since the epoch."""
    return int(event["timeNano"]) / 1e9
