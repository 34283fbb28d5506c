"""Where a site's pods are, and by what they are told from all others. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from siteward import JobRef, JobRequest, safe_name
from siteward_k8s import layout
from siteward_k8s.errors import Missing
from siteward_k8s.options import SiteOptions

_LONGEST, _SITE, _DIGITS = 63, 20, 12
_IDENTITY = {"labels": (layout.OWNER, layout.ATTEMPT), "annotations": (layout.JOB_ID, layout.SPEC_HASH)}


@frozen(kw_only=True)
class ParentPod:
    """The pod that siteward itself runs in: the cluster removes its jobs' pods when it is gone."""

    name: str
    uid: str


@frozen(kw_only=True)
class Place:
    """Where a site's pods are: whose they are, in which namespace, and what the site says of them.

    ``owner`` tells this installation's pods from all others (a label's value); ``base_dir`` is the site file's folder.
    """

    owner: str
    site: str
    backend: str
    options: SiteOptions
    namespace: str
    base_dir: Path = Path()
    parent: ParentPod | None = None

    def pod_name(self, job_id: str, attempt: int) -> str:
        """Return the name of a job's pod: a DNS label, the same for the same job, another for any other."""
        parts = "\0".join((self.owner, self.site, job_id, str(attempt)))
        digest = hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
        tail = f"{safe_name(self.site, _SITE)}-{digest}"
        return f"{safe_name(job_id)[: _LONGEST - len(tail) - 1].rstrip('-')}-{tail}"

    @property
    def selector(self) -> str:
        """The label selector that matches all of this installation's pods and Secrets, and no others."""
        return f"{layout.OWNER}={self.owner}"

    def labels(self, job_id: str, attempt: int) -> dict[str, str]:
        """Return the labels by which a job's objects are found again."""
        return {
            layout.APP: layout.APP_NAME,
            layout.MANAGED_BY: layout.MANAGER,
            layout.OWNER: self.owner,
            layout.SITE: safe_name(self.site),
            layout.JOB_ID: safe_name(job_id),
            layout.ATTEMPT: str(attempt),
        }

    def annotations(self, request: JobRequest, container: str) -> dict[str, str]:
        """Return what another driver has to know of a pod; ``container`` is the name of the job's container."""
        site = self.options
        return {
            layout.SITE: self.site,
            layout.JOB_ID: request.job_id,
            layout.NAME: request.name,
            layout.BACKEND: self.backend,
            layout.CONTAINER: container,
            layout.JOB_DIRECTORY: site.job_directory,
            layout.GRACE: _seconds(request.grace),
            layout.PENDING_TIMEOUT: _seconds(request.options.pending_timeout),
            layout.START_TIMEOUT: _seconds(site.start_timeout),
            layout.GATED_TIMEOUT: _seconds(site.gated_timeout),
        }

    def owners(self) -> list[dict[str, Any]]:
        """Return the owner references of what is created: the parent's own pod, if it is known."""
        if self.parent is None:
            return []
        return [{"apiVersion": "v1", "kind": "Pod", "name": self.parent.name, "uid": self.parent.uid}]

    def ref(self, job_id: str, attempt: int, uid: str | None = None, container: str = layout.JOB) -> JobRef:
        """Return the ref of a job; ``uid`` is its pod's, None while that is not known, ``container`` the job's.

        Its data say also how its job directory comes and goes: the site may do that otherwise later.
        """
        name = self.pod_name(job_id, attempt)
        data = {"name": name, "uid": uid, "namespace": self.namespace, "container": container}
        data["job_directory"] = self.options.job_directory
        return JobRef(site=self.site, backend=self.backend, job_id=job_id, attempt=attempt, data=data)

    def ref_of(self, pod: Mapping[str, Any]) -> JobRef | None:
        """Return the ref of a pod as the API shows it; None if it is not one of ours, or not whole.

        Its name is the one that it has: the site may have been called otherwise when it was created.
        """
        meta = pod.get("metadata") or {}
        labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
        try:
            if labels[layout.OWNER] != self.owner:
                return None
            job_id, attempt = annotations[layout.JOB_ID], int(labels[layout.ATTEMPT])
            data = {"name": meta["name"], "uid": meta["uid"], "namespace": meta.get("namespace", self.namespace)}
            data["container"] = annotations.get(layout.CONTAINER, layout.JOB)
            data["job_directory"] = annotations.get(layout.JOB_DIRECTORY, self.options.job_directory)
        except (KeyError, ValueError):
            return None
        return JobRef(site=self.site, backend=self.backend, job_id=job_id, attempt=attempt, data=data)

    def own(self, pod: Mapping[str, Any], ref: JobRef) -> JobRef:
        """Return a job's ref with its pod's uid; Missing when the pod has no more than the job's name."""
        found = self.ref_of(pod)
        if found is None or (found.job_id, found.attempt) != (ref.job_id, ref.attempt):
            raise Missing(f"pod {ref.data['name']} is of another job")
        if ref.data["uid"] not in (None, found.data["uid"]):
            raise Missing(f"pod {ref.data['name']} is another one than that of the job")
        return found

    @staticmethod
    def is_same(pod: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
        """Whether a pod that is there already is exactly the one that a manifest asks for: same job, same spec."""
        meta = pod.get("metadata") or {}
        return all(
            (meta.get(kind) or {}).get(key) == manifest["metadata"][kind][key]
            for kind, keys in _IDENTITY.items()
            for key in keys
        )


def _seconds(seconds: float | None) -> str:
    """Return seconds as an annotation has them; no end is null, as in the site file."""
    if seconds is None or math.isinf(seconds):
        return "null"
    return str(int(seconds)) if seconds == int(seconds) else repr(float(seconds))
