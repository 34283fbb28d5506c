"""A site's pods as the API server tells of them, now; and the site that follows them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import frozen

from siteward import BackendError, JobRef, JobStatus, Later
from siteward_k8s import layout
from siteward_k8s.client import Cluster
from siteward_k8s.options import SiteOptions
from siteward_k8s.pending import Limits
from siteward_k8s.place import Place
from siteward_k8s.pods import Pods
from siteward_k8s.reflector import Patience
from siteward_k8s.watch import Watch

from .fakeapi import NAMESPACE, FakeApi

DEADLINE = 60.0
PLACE = Place(owner="0123456789abcdef", site="site-1", backend="k8s", options=SiteOptions(), namespace=NAMESPACE)
PATIENT = Limits(pending_timeout=600.0, start_timeout=600.0, gated_timeout=None)
QUICK = Patience(first_pause=0.01, longest_pause=0.1, outage_after=0.1, forbidden_after=0.1, forbidden=0.2, lived=0.2)
INSUFFICIENT = "0/3 nodes are available: 3 Insufficient cpu."


@frozen(kw_only=True)
class Where:
    """The options that say where a cluster is."""

    kubeconfig: str
    context: str | None = None
    namespace: str | None = NAMESPACE


def at(seconds: float = 0) -> str:
    """A time, so many seconds from now, as the API server writes it."""
    return datetime.fromtimestamp(time.time() + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def running() -> dict[str, Any]:
    return {"running": {"startedAt": at(-5)}}


def exited(code: int, reason: str = "", *, finished: float = 0) -> dict[str, Any]:
    """A container's state after it has ended, so many seconds from now."""
    reason = reason or ("Error" if code else "Completed")
    return {
        "terminated": {"exitCode": code, "reason": reason, "startedAt": at(finished - 5), "finishedAt": at(finished)}
    }


def status(state: dict[str, Any] | None, phase: str | None = None) -> dict[str, Any]:
    """A pod's status from its main container's state; None: it has no node yet."""
    if state is None:
        return {"phase": "Pending"}
    phase = phase or ("Pending" if "waiting" in state else "Running")
    bound = {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(-10)}
    main = {"name": "job", "image": "train:1", "restartCount": 0, "state": state}
    return {"phase": phase, "conditions": [bound], "containerStatuses": [main]}


def unschedulable(message: str = INSUFFICIENT) -> dict[str, Any]:
    told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [{**told, "lastTransitionTime": at()}]}


def pod(job_id: str, told: dict[str, Any] | None = None, *, uid: str = "", deleted: float | None = None, **notes: str):
    """A job's pod; ``deleted``: when its deletion was asked for, in seconds from now, with a grace of 30 s."""
    told = told or status(None)
    bound = any(each["type"] == "PodScheduled" and each["status"] == "True" for each in told.get("conditions", ()))
    metadata: dict[str, Any] = {
        "name": PLACE.pod_name(job_id, 1),
        "namespace": NAMESPACE,
        "uid": uid or f"uid-of-{job_id}",
        "creationTimestamp": at(),
        "labels": PLACE.labels(job_id, 1),
        "annotations": {layout.JOB_ID: job_id, layout.CONTAINER: "job", **notes},
    }
    if deleted is not None:
        metadata |= {"deletionTimestamp": at(deleted + 30), "deletionGracePeriodSeconds": 30}
    spec = {"containers": [{"name": "job", "image": "train:1"}], **({"nodeName": "node-1"} if bound else {})}
    return {"metadata": metadata, "spec": spec, "status": told}


def event(job_id: str, reason: str, message: str, *, uid: str = "", name: str = "") -> dict[str, Any]:
    """A warning about a job's pod."""
    name = name or f"{job_id}.{reason}"
    about = {"kind": "Pod", "name": PLACE.pod_name(job_id, 1), "uid": uid or f"uid-of-{job_id}"}
    metadata = {"name": name, "uid": name, "creationTimestamp": at()}
    more = {"type": "Warning", "reason": reason, "message": message, "lastTimestamp": at(), "count": 1}
    return {"metadata": metadata, "involvedObject": about, **more}


class Followed:
    """A site's pods on a server, followed: ``news`` are job ids and what was published of them."""

    def __init__(self, api: FakeApi | None, cluster: Cluster, place: Place = PLACE) -> None:
        log = logging.getLogger("siteward.test")
        self._api, self.cluster, self.place = api, cluster, place
        self.news: list[tuple[str, JobStatus]] = []
        self.failures: list[BaseException] = []
        self.given_up: list[tuple[str, str, str, str]] = []
        self.stopped: set[str] = set()
        self.events_wanted = 0
        self.said = threading.Condition()
        self.later = Later("siteward-test-later", log)
        self.pods = Pods(
            cluster,
            place,
            self.later,
            is_stopped=lambda name: name in self.stopped,
            give_up=self._give_up,
            want_events=self._want_events,
            log=log,
        )
        self.watch = Watch(
            cluster,
            place.selector,
            on_pod=self.pods.on_pod,
            on_list=self.pods.on_list,
            on_event=self.pods.on_event,
            on_events_list=self.pods.on_events_list,
            on_outage=self.pods.on_outage,
            on_return=self.pods.on_return,
            failed=self.pods.failed,
            log=log,
            patience=QUICK,
        )
        self.pods.begin(self)

    @property
    def api(self) -> FakeApi:
        """The server, when it is one of this process."""
        assert self._api is not None
        return self._api

    def _give_up(self, ref: JobRef, reason: str, message: str, evidence: str) -> None:
        self.given_up.append((ref.job_id, reason, message, evidence))
        self.cluster.delete_pod(ref.data["name"], uid=ref.data["uid"])

    def _want_events(self) -> None:
        self.events_wanted += 1
        self.watch.start_events()

    def __call__(self, ref: JobRef, status: JobStatus) -> None:
        """Take news, as a driver does."""
        with self.said:
            self.news.append((ref.job_id, status))
            self.said.notify_all()

    def failed(self, error: BaseException) -> None:
        with self.said:
            self.failures.append(error)
            self.said.notify_all()

    def follow(self) -> None:
        """Follow the server's pods, and return when they are followed."""
        self.watch.start()
        self.until_server(lambda: self.api.watching["pods"])

    def until(self, fact: Callable[[], Any]) -> None:
        with self.said:
            assert self.said.wait_for(fact, DEADLINE), self.news

    def until_server(self, fact: Callable[[], Any]) -> None:
        with self.api.changed:
            assert self.api.changed.wait_for(fact, DEADLINE), self.api.requests

    def expect(self, job_id: str, limits: Limits = PATIENT, *, uid: str | None = None) -> JobRef:
        """Say that a job is being launched, or has been."""
        ref = self.place.ref(job_id, 1, uid)
        self.pods.expect(ref, limits)
        return ref

    def of(self, job_id: str) -> list[JobStatus]:
        return [status for each, status in self.news if each == job_id]

    def told(self, job_id: str) -> list[str]:
        """What was told of a job, each a word: its state, reason if it has ended, or that it cannot be reached."""
        return [
            "unreachable" if not each.reachable else each.result.reason.value if each.result else each.state.value
            for each in self.of(job_id)
        ]

    def end_of(self, job_id: str) -> Any:
        """Wait for a job's end, and return its one result."""
        self.until(lambda: any(each.result for each in self.of(job_id)))
        (result,) = [each.result for each in self.of(job_id) if each.result]
        return result

    def settle(self) -> None:
        """Wait until all that has happened on the server has been taken in."""
        name = f"mark-{len(self.news)}-{time.monotonic_ns()}"
        self.api.put("pods", pod(name, status(running())))
        self.until(lambda: self.of(name))
        self.pods.forget(PLACE.pod_name(name, 1))

    def close(self) -> None:
        self.pods.end()
        self.watch.close()
        self.later.close()


def looked_at(pods: Pods, ref: JobRef) -> JobStatus | None:
    """Look at a job; None when the server cannot be asked."""
    with suppress(BackendError):
        return pods.look(ref)
    return None


def kubeconfig(api: FakeApi, folder: Path) -> Path:
    """Write a kubeconfig of a server."""
    path = folder / "kubeconfig"
    path.write_text(api.kubeconfig())
    return path
