"""The hooks: jobs as pods of a Kubernetes cluster, found again by their labels."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import filterfalse
from pathlib import Path
from typing import Any

from attrs import evolve

from siteward import (
    Context,
    Finding,
    JobRef,
    JobRequest,
    JobStatus,
    Later,
    LaunchRefused,
    LaunchUncertain,
    Publish,
    Reason,
    Unreachable,
    hookimpl,
    installation_id,
)
from siteward_k8s import build, creating, layout, limits, options, transfer
from siteward_k8s.claim import Claim
from siteward_k8s.client import Cluster
from siteward_k8s.diagnose import status_of
from siteward_k8s.errors import NotSent
from siteward_k8s.facts import read_pod
from siteward_k8s.logs import read_logs
from siteward_k8s.pending import Limits
from siteward_k8s.place import ParentPod, Place
from siteward_k8s.pods import Pods
from siteward_k8s.staging import Staging
from siteward_k8s.stopping import Stops
from siteward_k8s.template import template_of
from siteward_k8s.watch import Watch

_LAST_WORD = 2.0


class Backend:
    """Runs each job as one pod. It asks nothing of the cluster until the first job."""

    api = 1
    devices = "counts"
    JobOptions = options.JobOptions
    SiteOptions = options.SiteOptions
    StudyOptions = options.StudyOptions

    def __init__(self, context: Context, options: options.SiteOptions) -> None:
        self._context = context
        self._options = options
        self.stages = options.job_directory == "transfer"
        template_of(options, None, context.base_dir)
        self._cluster = Cluster(options, context.base_dir, context.log)
        self._later = Later("siteward-k8s-later", context.log)
        self._stops = Stops(self._cluster, self, lambda name: self._staging.was_sent(name), context.log)
        self._pods = Pods(
            self._cluster,
            self,
            self._later,
            is_stopped=lambda name: name in self._stops,
            give_up=self._give_up,
            want_events=lambda: self._watch.start_events(),
            log=context.log,
        )
        self._staging = Staging(
            Later("siteward-k8s-staging", context.log),
            send=self._send,
            fail=self._pods.fail,
            look=lambda ref: self._cluster.get_pod(ref.data["name"]),
            log=context.log,
        )
        self._owner = installation_id(context.directory)
        self._watch = Watch(
            self._cluster,
            f"{layout.OWNER}={self._owner}",
            on_pod=self._on_pod,
            on_list=self._on_list,
            on_event=self._pods.on_event,
            on_events_list=self._pods.on_events_list,
            on_outage=self._pods.on_outage,
            on_return=self._pods.on_return,
            failed=self._on_blind,
            log=context.log,
        )
        self._here: Place | None = None
        self._lock = threading.Lock()
        self._without_secret: set[str] = set()

    # --- where jobs are -------------------------------------------------------------------------------------

    @property
    def place(self) -> Place:
        """Where this site's pods are; the namespace is known when the cluster's configuration has been read."""
        with self._lock:
            if self._here is None:
                self._here = Place(
                    owner=self._owner,
                    site=self._context.site,
                    backend=self._context.backend,
                    options=self._options,
                    namespace=self._cluster.namespace,
                    base_dir=self._context.base_dir,
                    parent=_parent(),
                )
            return self._here

    def ref_of(self, pod: Mapping[str, Any]) -> JobRef | None:
        """Return the ref of a job that a pod is of, None if it is not of this site's."""
        return self.place.ref_of(pod)

    def own(self, pod: Mapping[str, Any], ref: JobRef) -> JobRef:
        """Return a job's ref with its pod's uid; Missing when the pod has no more than the job's name."""
        return self.place.own(pod, ref)

    # --- launching ------------------------------------------------------------------------------------------

    @hookimpl
    def siteward_resolve_options(self, options: options.JobOptions) -> options.JobOptions:
        """Fill in defaults, apply the site's caps."""
        return limits.resolve(options, self._options)

    @hookimpl
    def siteward_launch_job(self, request: JobRequest) -> JobRef:
        """Create the pod, and before it what it needs; ``siteward_stage_job`` brings the job directory."""
        try:
            ref, built = self._build(request)
        except Unreachable as error:
            raise LaunchRefused(str(error)) from error
        name = ref.data["name"]
        waits = Limits(
            pending_timeout=request.options.pending_timeout,
            start_timeout=self._options.start_timeout,
            gated_timeout=self._options.gated_timeout,
        )
        self._pods.expect(ref, waits)
        claim, is_new = self._claim(make=True), False
        try:
            is_new = claim is not None and claim.put(name, request.job_dir)
            pod = creating.create(self._cluster, self.place, built, self._context.log)
        except Exception as error:
            if isinstance(error, Unreachable) and not isinstance(error, NotSent):
                self._pods.expect(ref, waits)  # from now on: what came before may have taken long
                raise LaunchUncertain(ref, str(error)) from error
            self._undo(name, claim if is_new else None)
            if isinstance(error, NotSent):
                raise LaunchRefused(str(error)) from error
            raise
        if built.secret is None:
            self._without_secret.add(name)
        ref = evolve(ref, data={**ref.data, "uid": pod["metadata"]["uid"]})
        self._pods.expect(ref, waits)
        return ref

    def _undo(self, name: str, claim: Claim | None) -> None:
        """Leave nothing of a launch of which nothing came."""
        if claim is not None:
            with suppress(OSError):
                claim.drop(name)
        self._forget(name)

    def _build(self, request: JobRequest) -> tuple[JobRef, build.Built]:
        place = self.place
        template = template_of(self._options, request.study, self._context.base_dir)
        built = build.build_pod(request, place, template)
        for warning in built.warnings:
            self._context.log.warning("job %s: %s", request.job_id, warning)
        container = built.manifest["metadata"]["annotations"][layout.CONTAINER]
        return place.ref(request.job_id, request.attempt, container=container), built

    def _claim(self, *, make: bool = False) -> Claim | None:
        """Return this installation's folder of the claim, None where there is none, or none is to be made."""
        site = self._options
        if site.job_directory_path is None or (make and site.job_directory != "pvc"):
            return None
        root = self._context.base_dir / Path(site.job_directory_path).expanduser()
        if make and root.is_dir():
            (root / self._owner).mkdir(mode=0o700, exist_ok=True)
        return Claim(root / self._owner, max_bytes=site.max_collect, user=build.user_of(site))

    @hookimpl
    def siteward_stage_job(self, ref: JobRef, source: Path) -> None:
        """Have the job directory brought as soon as the pod waits for it."""
        self._staging.expect(ref, source)

    def _send(self, ref: JobRef, source: Path) -> None:
        transfer.send(self._cluster, ref, source)

    # --- looking --------------------------------------------------------------------------------------------

    @hookimpl
    def siteward_poll_job(self, ref: JobRef) -> JobStatus:
        """Look at the pod, uncached."""
        return self._pods.look(ref)

    @hookimpl
    def siteward_watch_jobs(self, publish: Publish) -> None:
        """Publish what one stream tells of all this site's pods."""
        self._pods.begin(publish)
        self._staging.is_told = True
        self._watch.start()

    def _on_blind(self, error: Exception) -> None:
        self._staging.look_for_all()
        self._pods.failed(error)

    def _on_pod(self, kind: str, pod: dict[str, Any]) -> None:
        self._staging.on_pod(pod, deleted=kind == "DELETED")
        self._pods.on_pod(kind, pod)

    def _on_list(self, pods: Iterable[dict[str, Any]]) -> None:
        kept = set()

        def noted() -> Iterator[dict[str, Any]]:
            for pod in pods:
                kept.add(pod["metadata"]["name"])
                self._staging.on_pod(pod)
                yield pod

        self._pods.on_list(noted())
        if (claim := self._claim()) is not None:
            claim.sweep(kept | self._pods.names())

    def _give_up(self, ref: JobRef, reason: Reason, message: str, evidence: str) -> None:
        """Take away a pod that does not start; why was told."""
        self._staging.forget(ref.data["name"])
        creating.remove(self._cluster, self.place, ref, secret=self._has_secret(ref))

    # --- ending ---------------------------------------------------------------------------------------------

    @hookimpl
    def siteward_terminate_job(self, ref: JobRef, grace: float) -> None:
        """TERM to the job, KILL after ``grace`` seconds."""
        self._staging.cancel(ref.data["name"])
        self._stops.stop(ref, grace)

    @hookimpl
    def siteward_collect_job(self, ref: JobRef, target: Path) -> str:
        """Bring the job directory back."""
        if ref.data["job_directory"] == "transfer":
            return transfer.fetch(self._cluster, ref, target, self._options.max_collect)
        claim = self._claim() if ref.data["job_directory"] == "pvc" else None
        return "lost" if claim is None else claim.get(ref.data["name"], target)

    @hookimpl
    def siteward_read_logs(self, ref: JobRef, follow: bool, tail: int | None) -> Iterator[bytes]:
        """Read the output of the job's container."""
        yield from read_logs(self._cluster, self._pods, ref, follow, tail)

    # --- the site -------------------------------------------------------------------------------------------

    @hookimpl
    def siteward_list_jobs(self) -> list[JobRef]:
        """Return the jobs of all pods of this installation, and of Secrets whose pods never came to be."""
        pods, _version = self._cluster.list_pods(self.place.selector)
        refs = [ref for ref in map(self.place.ref_of, filterfalse(_is_removed, pods)) if ref is not None]
        return refs + creating.secret_jobs(self._cluster, self.place, {pod["metadata"]["name"] for pod in pods})

    @hookimpl
    def siteward_remove_job(self, ref: JobRef) -> None:
        """Delete the pod and whatever else there is of the job."""
        name = ref.data["name"]
        creating.remove(self._cluster, self.place, ref, secret=self._has_secret(ref))
        if (claim := self._claim()) is not None:
            claim.drop(name)
        self._forget(name)

    def _has_secret(self, ref: JobRef) -> bool:
        """Whether a job has a Secret, or may have one: of jobs that other processes launched that is not known."""
        return ref.data["name"] not in self._without_secret

    def _forget(self, name: str) -> None:
        self._without_secret.discard(name)
        self._staging.forget(name)
        self._stops.forget(name)
        self._pods.forget(name)

    @hookimpl
    def siteward_render_job(self, request: JobRequest) -> object:
        """Return the objects that would be created."""
        _ref, built = self._build(request)
        return built.manifest if built.secret is None else [built.secret, built.manifest]

    @hookimpl
    def siteward_check_backend(self) -> list[Finding]:
        """Look at the cluster and at what jobs will need of it."""
        from siteward_k8s.check import check_cluster

        return check_cluster(self._cluster, self._options)

    @hookimpl
    def siteward_close_backend(self) -> None:
        """Hang up. Pods go on."""
        self._pods.end()
        self._watch.close()
        self._staging.close()
        self._stops.close()
        self._cluster.close()
        self._later.close(_LAST_WORD)


def _is_removed(pod: Mapping[str, Any]) -> bool:
    """Whether a pod is on its way out after its job's end."""
    return "deletionTimestamp" in pod["metadata"] and status_of(read_pod(pod)).state.ended


def _parent() -> ParentPod | None:
    """Return the pod that this process runs in, as the downward API tells it."""
    name, uid = os.environ.get("SITEWARD_POD_NAME"), os.environ.get("SITEWARD_POD_UID")
    return ParentPod(name=name, uid=uid) if name and uid else None
