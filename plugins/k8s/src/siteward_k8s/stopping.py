"""Ending jobs: asked first, killed after their grace; the pod is deleted where nothing in it can be asked."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from logging import Logger

from siteward import BackendError, JobRef, Later
from siteward_k8s import layout
from siteward_k8s.client import Cluster
from siteward_k8s.errors import Missing
from siteward_k8s.facts import PodFacts, read_pod
from siteward_k8s.known import Place
from siteward_k8s.transfer import signal_job

_AGAIN = 1.0
# The end of a job that was killed shows within this many seconds, or its pod is deleted.
_SHOWN_WITHIN = 15.0
_AT_ONCE = 1


class Stops:
    """The jobs that are to be ended."""

    def __init__(self, cluster: Cluster, place: Place, later: Later, log: Logger) -> None:
        self._cluster = cluster
        self._place = place
        self._later = later
        self._log = log
        self._lock = threading.Lock()
        self._graces: dict[str, float] = {}
        self._asked: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Whether a job is to be ended."""
        return name in self._graces

    def stop(self, ref: JobRef, grace: float) -> None:
        """Have a job ended; a later call can only shorten its grace."""
        name = ref.data["name"]
        with self._lock:
            self._graces[name] = grace = min(grace, self._graces.get(name, grace))
        try:
            pod = self._cluster.get_pod(name)
            ref = self._place.own(pod, ref)
        except Missing:
            if ref.data["uid"] is None:  # it may be on its way
                self._later.call(_AGAIN, lambda: self._surely(lambda: self._stop_if_it_comes(ref)))
            return
        facts = read_pod(pod)
        if _has_ended(facts):
            return
        if not (facts.started and facts.notes.get(layout.JOB_DIRECTORY) == "transfer"):
            self._delete(ref, grace)
        elif grace <= 0:
            self._kill(ref)
        else:
            self._ask(ref, grace)

    def _stop_if_it_comes(self, ref: JobRef) -> None:
        grace = self._graces.get(ref.data["name"])
        if grace is not None:
            self.stop(ref, grace)

    def _ask(self, ref: JobRef, grace: float) -> None:
        name = ref.data["name"]
        if name not in self._asked:
            if not signal_job(self._cluster, ref, "TERM"):
                self._delete(ref, grace)
                return
            self._asked.add(name)
        self._later.call(grace, lambda: self._surely(lambda: self._kill(ref)))

    def _kill(self, ref: JobRef) -> None:
        if ref.data["name"] not in self._graces:
            return
        if signal_job(self._cluster, ref, "KILL"):
            self._later.call(_SHOWN_WITHIN, lambda: self._surely(lambda: self._delete_what_runs(ref)))
        else:
            self._delete(ref, _AT_ONCE)

    def _delete_what_runs(self, ref: JobRef) -> None:
        if ref.data["name"] in self._graces and not _has_ended(read_pod(self._cluster.get_pod(ref.data["name"]))):
            self._delete(ref, _AT_ONCE)

    def _delete(self, ref: JobRef, grace: float) -> None:
        # Grace 0 would take the pod out of the API while its containers may still run.
        seconds = max(math.ceil(grace), _AT_ONCE)
        self._cluster.delete_pod(ref.data["name"], uid=ref.data["uid"], grace=seconds)

    def _surely(self, step: Callable[[], None]) -> None:
        """Take a step that whoever asked for it takes for taken."""
        try:
            step()
        except Missing:
            pass
        except BackendError as error:
            self._log.warning("a job cannot be ended just now: %s", error)
            self._later.call(_AGAIN, lambda: self._surely(step))

    def forget(self, name: str) -> None:
        """Forget a job that is done with."""
        with self._lock:
            self._graces.pop(name, None)
            self._asked.discard(name)


def _has_ended(facts: PodFacts) -> bool:
    return facts.main is not None and facts.main.state == "terminated"
