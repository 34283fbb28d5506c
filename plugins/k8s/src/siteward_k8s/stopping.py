"""Ending jobs: asked first, killed after their grace; the pod is deleted where nothing in it can be asked."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from logging import Logger

from siteward import BackendError, JobRef, Later
from siteward_k8s import layout
from siteward_k8s.client import Cluster
from siteward_k8s.errors import Missing
from siteward_k8s.facts import PodFacts, read_pod
from siteward_k8s.known import Place
from siteward_k8s.transfer import signal_job, waits_for_directory

_AGAIN, _LONGEST_PAUSE = 1.0, 30.0
# The end of a job that was killed shows within this many seconds, or its pod is deleted.
_SHOWN_WITHIN = 15.0
_STARTS_WITHIN, _SHOWS_WITHIN, _TRY_AGAIN = 10.0, 3.0, 0.25
_AT_ONCE = 1
# Of nodes that do not answer each step takes half a minute; those of other jobs are not to wait for them.
_THREADS = 16


class Stops:
    """The jobs that are to be ended. ``was_sent(name)``: a pod's job directory was brought, so that the job can run."""

    def __init__(self, cluster: Cluster, place: Place, was_sent: Callable[[str], bool], log: Logger) -> None:
        self._cluster = cluster
        self._place = place
        self._laters = [Later(f"siteward-k8s-stop-{number}", log) for number in range(_THREADS)]
        self._was_sent = was_sent
        self._log = log
        self._lock = threading.Lock()
        self._graces: dict[str, float] = {}
        self._asked: set[str] = set()
        self._awaited: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Whether a job is to be ended."""
        return name in self._graces

    def stop(self, ref: JobRef, grace: float) -> None:
        """Have a job ended; a later call can only shorten its grace."""
        name = ref.data["name"]
        with self._lock:
            self._graces[name] = grace = min(grace, self._graces.get(name, grace))
        self._begin_if_there(ref, grace)

    def _begin_if_there(self, ref: JobRef, grace: float) -> None:
        """Begin; a pod that may be on its way to the API server still is waited for until its job is done with."""
        try:
            self._begin(ref, grace)
        except Missing:
            with self._lock:
                name = ref.data["name"]
                if ref.data["uid"] is not None or name in self._awaited or name not in self._graces:
                    return
                self._awaited.add(name)
            self._later(ref, _AGAIN, lambda: self._begin_late(ref))

    def _begin_late(self, ref: JobRef) -> None:
        name = ref.data["name"]
        with self._lock:
            self._awaited.discard(name)
            grace = self._graces.get(name)
        if grace is not None:
            self._begin_if_there(ref, grace)

    def _begin(self, ref: JobRef, grace: float) -> None:
        pod = self._cluster.get_pod(ref.data["name"])
        ref = self._place.own(pod, ref)
        facts = read_pod(pod)
        if _has_ended(facts):
            return
        patience = self._patience(ref, facts)
        if patience is None:
            self._delete(ref, grace)
        elif grace <= 0:
            self._kill(ref)
        else:
            self._ask(ref, grace, time.monotonic() + patience)

    def _patience(self, ref: JobRef, facts: PodFacts) -> float | None:
        """Return for how long a helper may be looked for by which the job can be asked; None: it surely does not run.

        What a node does shows in the API some time later, and a job's helper starts after the job.
        """
        if facts.notes.get(layout.JOB_DIRECTORY) != "transfer" or not facts.scheduled:
            return None
        if facts.started or self._was_sent(ref.data["name"]):
            return _STARTS_WITHIN
        return None if waits_for_directory(self._cluster, ref) else _SHOWS_WITHIN

    def _ask(self, ref: JobRef, grace: float, until: float) -> None:
        """Send TERM; a job that may just be starting has its helper only a moment later."""
        name = ref.data["name"]
        if name not in self._graces:
            return
        if name not in self._asked:
            if not signal_job(self._cluster, ref, "TERM"):
                if time.monotonic() < until:
                    self._later(ref, _TRY_AGAIN, lambda: self._ask(ref, grace, until))
                else:
                    self._delete_what_runs(ref, grace)
                return
            self._asked.add(name)
        self._later(ref, grace, lambda: self._kill(ref))

    def _kill(self, ref: JobRef) -> None:
        """Send KILL. Of a job that felt TERM there may be nothing left to kill, which takes a while to show."""
        name = ref.data["name"]
        if name not in self._graces:
            return
        if signal_job(self._cluster, ref, "KILL"):
            self._later(ref, _SHOWN_WITHIN, lambda: self._delete_what_runs(ref, _AT_ONCE))
        elif name in self._asked:
            self._later(ref, _SHOWS_WITHIN, lambda: self._delete_what_runs(ref, _AT_ONCE))
        else:
            self._delete_what_runs(ref, _AT_ONCE)

    def _delete_what_runs(self, ref: JobRef, grace: float) -> None:
        """Delete a pod; not one whose job has ended, for what that left may be on its way home."""
        name = ref.data["name"]
        if name in self._graces and not _has_ended(read_pod(self._cluster.get_pod(name))):
            self._delete(ref, grace)

    def _delete(self, ref: JobRef, grace: float) -> None:
        # Grace 0 would take the pod out of the API while its containers may still run.
        seconds = max(math.ceil(grace), _AT_ONCE)
        self._cluster.delete_pod(ref.data["name"], uid=ref.data["uid"], grace=seconds)

    def _later(self, ref: JobRef, seconds: float, step: Callable[[], None], pause: float = _AGAIN) -> None:
        """Take a step that whoever asked for it takes for taken: again and again, if need be."""
        later = self._laters[hash(ref.data["name"]) % _THREADS]
        later.call(seconds, lambda: self._surely(ref, step, pause))

    def _surely(self, ref: JobRef, step: Callable[[], None], pause: float) -> None:
        try:
            step()
        except Missing:
            pass
        except BackendError as error:
            self._log.warning("job %s cannot be ended just now: %s", ref.job_id, error)
            self._later(ref, pause, step, min(2 * pause, _LONGEST_PAUSE))

    def forget(self, name: str) -> None:
        """Forget a job that is done with."""
        with self._lock:
            self._graces.pop(name, None)
            self._asked.discard(name)

    def close(self) -> None:
        """Take no more steps; whoever drives the jobs next asks again."""
        for later in self._laters:
            later.close(0.0)


def _has_ended(facts: PodFacts) -> bool:
    return facts.main is not None and facts.main.state == "terminated"
