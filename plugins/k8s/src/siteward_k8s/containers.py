"""The containers of a job's pod: the job's own, and the two that bring its directory there and back. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from siteward import JobRequest
from siteward_k8s import layout, merge
from siteward_k8s.environment import NVIDIA, environment, literal, no_gpus
from siteward_k8s.limits import Resources
from siteward_k8s.options import SiteOptions, StudyOptions
from siteward_k8s.template import FLARE_JOB, main_container

Container = Mapping[str, Any]
_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
# What the helper has in common with the job, so that it may read its files and signal it.
_IDENTITY = ("runAsUser", "runAsGroup", "runAsNonRoot", "seLinuxOptions", "seccompProfile", "readOnlyRootFilesystem")
_HELPER_RESOURCES = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}}
_NAP = "sleep 0.2 2>/dev/null || sleep 1"
_STAGE = f"mkdir -p {layout.JOB_DIR} && until [ -e {layout.STAGED} ]; do {_NAP}; done"
_HELP = f"trap '' TERM; until [ -e {layout.RELEASE} ]; do sleep 1; done"


def job_container(
    request: JobRequest,
    site: SiteOptions,
    study: StudyOptions,
    template: Container,
    image: str,
    resources: Resources,
    mounts: list[dict[str, Any]],
    secret: str,
    warnings: list[str],
) -> dict[str, Any]:
    """Return the job's container, made of the template's; ``secret`` is the name of the job's Secret."""
    name = template.get("name") or layout.JOB
    found = {**template, "name": layout.JOB if name == FLARE_JOB else name, "image": image}
    where = f"container {found['name']}"
    # An argument of the template's own command would become one of the job's.
    found.pop("args", None)
    found["command"] = [literal(each) for each in request.argv(request.options.python_path or "", layout.JOB_DIR)]
    merge.put(found, {"workingDir": layout.JOB_DIR}, where, warnings)
    if request.options.image_pull_policy is not None:
        found["imagePullPolicy"] = request.options.image_pull_policy
    asked = merge.resources(found.pop("resources", None), resources.requests, resources.limits, resources.caps)
    if asked := _without(site.gpu_resource, asked) if resources.no_gpus else asked:
        found["resources"] = asked
    gpus = any(key.startswith(NVIDIA) for key in found.get("resources", {}).get("limits", ()))
    found["env"] = environment(
        request,
        site,
        study,
        template.get("env") or (),
        secret,
        has_gpus=gpus,
        wants_none=resources.no_gpus,
        warnings=warnings,
    )
    found["volumeMounts"] = merge.by_key(template.get("volumeMounts"), mounts, "mountPath", where, warnings)
    found["securityContext"] = merge.security(
        _SECURITY, template.get("securityContext"), site.container_security_context, where, warnings
    )
    return found


def _without(resource: str, resources: Mapping[str, Any]) -> dict[str, Any]:
    """Take away what a template gives to a job that asks for 0 GPUs."""
    left = dict(resources)
    for kind in ("requests", "limits"):
        left[kind] = {key: value for key, value in left.get(kind, {}).items() if key != resource}
    return {kind: block for kind, block in left.items() if block}


def helper_of(main: Container, site: SiteOptions) -> dict[str, Any]:
    """Return the container that stays beside the job until what it left has come home."""
    image = site.helper_image or main["image"]
    policy = main.get("imagePullPolicy") if image == main["image"] else site.image_pull_policy
    identity = {key: main["securityContext"][key] for key in _IDENTITY if key in main["securityContext"]}
    return {
        "name": layout.HELPER,
        "image": image,
        **({} if policy is None else {"imagePullPolicy": policy}),
        "command": ["sh", "-c", _HELP],
        **({"env": [no_gpus()]} if site.gpu_resource.startswith(NVIDIA) else {}),
        "resources": _HELPER_RESOURCES,
        "securityContext": {**_SECURITY, **identity},
        "volumeMounts": [
            {"name": layout.JOB_VOLUME, "mountPath": layout.VOLUME},
            {"name": layout.CONTROL_VOLUME, "mountPath": layout.CONTROL},
        ],
    }


def stage_of(helper: Container) -> dict[str, Any]:
    """Return the init container that waits for the job directory: the helper under another name."""
    return {**helper, "name": layout.STAGE, "command": ["sh", "-c", _STAGE]}


def split(template: Sequence[Container] | None) -> tuple[Container, int, list[Container]]:
    """Return the job's container of a template, its place, and all the others."""
    found = list(template or ())
    place = (main_container(found) or 0) if found else 0
    return (found.pop(place) if found else {}), place, found
