"""From a request to a pod: what the cluster is asked to create. Pure: no cluster, no files, no clock."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from siteward import JobRequest, LaunchRefused
from siteward_k8s import containers, layout, merge
from siteward_k8s.limits import resources_of
from siteward_k8s.options import JobOptions, SiteOptions, StudyOptions
from siteward_k8s.place import Place
from siteward_k8s.volumes import volumes_of

_POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "fsGroup": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_NO_STUDY = StudyOptions()
# Beyond its own timeout, which siteward enforces: for pods that nobody looks after any more.
_BACKSTOP = 3600.0
_LONGEST_DEADLINE = 2**31 - 1
# A request to etcd has at most 1.5 MiB, and a Secret 1 MiB.
_LARGEST_POD, _LARGEST_SECRET = 1_400_000, 1_000_000


@frozen(kw_only=True)
class Built:
    """A job's pod and, if it has secrets, the Secret that is created before it; neither is shared with anything.

    ``secret`` holds values, so it is never shown. ``warnings`` say what of a template siteward decides instead.
    """

    manifest: dict[str, Any]
    secret: dict[str, Any] | None = field(default=None, repr=lambda value: "None" if value is None else "***")
    warnings: tuple[str, ...] = ()


def build_pod(request: JobRequest, place: Place, template: Mapping[str, Any] | None = None) -> Built:
    """Return the pod of a job whose options are resolved; LaunchRefused with all that stands against it.

    ``template`` is what :func:`siteward_k8s.template.template_of` gives.
    """
    site, job = place.options, request.options
    study: StudyOptions = request.study or _NO_STUDY
    name, warnings = place.pod_name(request.job_id, request.attempt), list[str]()
    devices = len(request.allocation.devices) if request.allocation is not None else 0
    resources, problems = resources_of(job, request.resources, site, devices)
    image = job.image or study.image or site.default_image
    if image is None:
        problems.append(_no_image(request))
    volumes, mounts, refused = volumes_of(study, request.study_name, place, name, job.ephemeral_storage)
    if problems := problems + refused:
        raise LaunchRefused("; ".join(problems))
    pod: Mapping[str, Any] = template or {}
    spec = dict(pod.get("spec") or {})
    own, place_in_list, beside = containers.split(spec.get("containers"))
    main = containers.job_container(request, site, study, own, str(image), resources, mounts, name, warnings)
    beside.insert(place_in_list, main)
    if site.job_directory == "transfer":
        helper = containers.helper_of(main, site)
        beside.append(helper)
        spec["initContainers"] = [containers.stage_of(helper), *(spec.get("initContainers") or ())]
    spec["containers"] = beside
    _fill(spec, request, place, volumes, warnings)
    metadata = _metadata(request, place, pod.get("metadata") or {}, name, main["name"], warnings)
    text = json.dumps(
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, sort_keys=True, separators=(",", ":")
    )
    if len(text) > _LARGEST_POD:
        words = f"its pod would have {len(text)} bytes, and a cluster takes {_LARGEST_POD}"
        raise LaunchRefused(f"{words}: give a long command or environment as files in the workspace")
    manifest = json.loads(text)
    manifest["metadata"]["annotations"][layout.SPEC_HASH] = hashlib.sha256(text.encode()).hexdigest()
    return Built(manifest=manifest, secret=_secret(request, place, name), warnings=tuple(warnings))


def user_of(site: SiteOptions) -> tuple[int, int] | None:
    """Return uid and gid of a site's jobs; None where images, or templates, decide."""
    security = {**_POD_SECURITY, **site.pod_security_context}
    user, group = security.get("runAsUser"), security.get("runAsGroup")
    return (user, group if isinstance(group, int) else user) if isinstance(user, int) else None


def _no_image(request: JobRequest) -> str:
    where = f" studies.{request.study_name}.k8s.image in the site file," if request.study_name else ""
    return (
        f"no image is named for the job at site {request.site!r}. Name one in the job's launcher_spec (k8s: {{image:"
        f" …}}),{where} or default_image in the site file's k8s block"
    )


def _fill(spec: dict[str, Any], request: JobRequest, place: Place, volumes: list[Any], warnings: list[str]) -> None:
    """Put into a pod's spec what is not its containers'."""
    site, where = place.options, "spec"
    merge.put(spec, {"restartPolicy": "Never"}, where, warnings)
    if not spec.get("hostPID"):
        # As process 1 of its own namespace a job would not feel TERM, and the helper could not send it.
        merge.put(spec, {"shareProcessNamespace": True}, where, warnings)
    spec.setdefault("automountServiceAccountToken", False)
    spec.setdefault("enableServiceLinks", False)
    spec.setdefault("terminationGracePeriodSeconds", max(1, math.ceil(min(request.grace, _BACKSTOP))))
    if (deadline := _deadline(request, place)) is not None:
        spec.setdefault("activeDeadlineSeconds", deadline)
    named = {"serviceAccountName": site.service_account, "priorityClassName": site.priority_class}
    merge.put(spec, {key: value for key, value in named.items() if value is not None}, where, warnings)
    spec["securityContext"] = merge.security(
        _POD_SECURITY, spec.get("securityContext"), site.pod_security_context, "spec.securityContext", warnings
    )
    spec["volumes"] = merge.by_key(spec.get("volumes"), volumes, "name", "spec.volumes", warnings)
    if site.image_pull_secrets:
        secrets = [{"name": each} for each in site.image_pull_secrets]
        spec["imagePullSecrets"] = merge.by_key(spec.get("imagePullSecrets"), secrets, "name", where, warnings)
    if site.tolerations:
        spec["tolerations"] = merge.joined(spec.get("tolerations"), site.tolerations)
    if site.node_selector:
        spec["nodeSelector"] = dict(spec.get("nodeSelector") or {})
        merge.put(spec["nodeSelector"], site.node_selector, "spec.nodeSelector", warnings)


def _deadline(request: JobRequest, place: Place) -> int | None:
    """Return when the cluster itself ends a pod, in seconds from its start on a node; late on purpose."""
    job: JobOptions = request.options
    if request.timeout is None:
        return None
    waits = (job.pending_timeout, place.options.start_timeout, request.grace)
    seconds = request.timeout + sum(each for each in waits if isinstance(each, (int, float))) + _BACKSTOP
    return min(math.ceil(min(seconds, _LONGEST_DEADLINE)), _LONGEST_DEADLINE)


def _metadata(
    request: JobRequest, place: Place, template: Mapping[str, Any], name: str, container: str, warnings: list[str]
) -> dict[str, Any]:
    site = place.options
    if template.get("namespace", place.namespace) != place.namespace:
        warnings.append(
            f"metadata.namespace: the site's, {place.namespace}, takes the place of {template['namespace']}"
        )
    found: dict[str, Any] = {"name": name, "namespace": place.namespace}
    for key, ours, own in (
        ("labels", site.labels, place.labels(request.job_id, request.attempt)),
        ("annotations", site.annotations, place.annotations(request, container)),
    ):
        found[key] = dict(template.get(key) or {})
        merge.put(found[key], {**ours, **own}, f"metadata.{key}", warnings)
    found |= {key: template[key] for key in ("finalizers",) if key in template}
    if owners := [*(template.get("ownerReferences") or ()), *place.owners()]:
        found["ownerReferences"] = owners
    return found


def _secret(request: JobRequest, place: Place, name: str) -> dict[str, Any] | None:
    if not request.secrets:
        return None
    if sum(len(key) + len(value.encode()) for key, value in request.secrets.items()) > _LARGEST_SECRET:
        raise LaunchRefused(
            f"the job's secrets are larger than the {_LARGEST_SECRET} bytes that a cluster keeps in one"
        )
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": place.namespace,
        "labels": {**place.options.labels, **place.labels(request.job_id, request.attempt)},
        "annotations": {layout.SITE: place.site, layout.JOB_ID: request.job_id},
    }
    if owners := place.owners():
        metadata["ownerReferences"] = owners
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque"}
    return {**body, "stringData": dict(request.secrets)}
