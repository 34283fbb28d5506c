"""The environment of a job's container, in the order and the form that a pod has it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from siteward import JobRequest
from siteward_k8s.layout import JOB_DIR
from siteward_k8s.options import SiteOptions, StudyOptions

# With NVIDIA's runtime this variable alone, a job's or an image's, gives a container devices.
GPUS_SEEN = "NVIDIA_VISIBLE_DEVICES"
NVIDIA = "nvidia.com/"
_PATH = "PYTHONPATH"


def literal(text: str) -> str:
    """Return a text so that Kubernetes, which replaces ``$(NAME)`` in commands and variables, leaves it as it is."""
    return text.replace("$", "$$") if "$(" in text or "$$" in text else text


def environment(
    request: JobRequest,
    site: SiteOptions,
    study: StudyOptions,
    template: Iterable[Mapping[str, Any]],
    secret: str,
    *,
    has_gpus: bool,
    wants_none: bool,
    warnings: list[str],
) -> list[dict[str, Any]]:
    """Return the variables of the job's container.

    From weakest to strongest: HOME, template, the site's and the study's own, the job's, its secrets, the study's
    secrets. ``secret`` is the name of the job's Secret; no value of it is here. ``wants_none``: it asks for 0 GPUs.
    """
    own = {**site.env, **study.env}
    found: dict[str, Any] = {"HOME": {"name": "HOME", "value": "/tmp"}}  # noqa: S108  # the user has none in the image
    found.update({each["name"]: each for each in template})
    site_says = GPUS_SEEN in {*found, *own, *study.secret_env}
    jobs = _job_variables(request)
    job_says = jobs.pop(GPUS_SEEN, None) is not None
    secrets = jobs.keys() & set(request.secrets)
    for name, value in {**own, **jobs}.items():
        if name in secrets:
            found[name] = _of_secret(name, secret, name)
        else:
            found[name] = {"name": name, "value": literal(value)}
    for name, source in study.secret_env.items():
        found[name] = _of_secret(name, source.source, source.key)
    # Where the site counts GPUs an image must not bring any either, as NVIDIA's own do.
    hides = site.gpu_resource.startswith(NVIDIA) and (wants_none or job_says or site.max_gpus is not None)
    if hides and not (site_says or has_gpus):
        found[GPUS_SEEN] = no_gpus()
    if request.module is not None and _PATH in found:
        found[_PATH] = _with_job_dir(found[_PATH], warnings)
    return list(found.values())


def _job_variables(request: JobRequest) -> dict[str, str]:
    """Return the job's own, less those that name devices of siteward's machine: a node's are others."""
    found = request.environment(JOB_DIR)
    if request.allocation is not None and request.allocation.devices:
        for name in request.allocation.env:
            if name.endswith("_VISIBLE_DEVICES") and name not in request.secrets:
                found.pop(name, None)
    return found


def no_gpus() -> dict[str, Any]:
    """Return the variable that keeps NVIDIA's runtime from giving a container devices."""
    return {"name": GPUS_SEEN, "value": "void"}


def _of_secret(variable: str, name: str, key: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


def _with_job_dir(entry: Mapping[str, Any], warnings: list[str]) -> Mapping[str, Any]:
    """Put the job directory first: a program that the module starts elsewhere finds the job's modules too."""
    if "valueFrom" in entry:
        warnings.append(f"{_PATH} comes from elsewhere in the cluster, so {JOB_DIR} cannot be put before it")
        return entry
    return {"name": _PATH, "value": ":".join(filter(None, (JOB_DIR, entry.get("value"))))}
