"""Requests, places and pods as tests need them; options are read as from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from siteward import JobRequest
from siteward.config import build as read
from siteward_k8s.build import Built, build_pod
from siteward_k8s.limits import resolve
from siteward_k8s.options import JobOptions, SiteOptions, StudyOptions
from siteward_k8s.place import ParentPod, Place
from siteward_k8s.template import template_of

GIB = 2**30
BASE = Path("/etc/siteward")
OWNER = "0123456789abcdef"


def a_place(block: dict[str, Any] | None = None, /, *, parent: ParentPod | None = None, **fields: Any) -> Place:
    """Return the place of a site with these options and an image."""
    options = read(SiteOptions, {"default_image": "img:1", **(block or {})})
    known = {"owner": OWNER, "site": "site-1", "backend": "k8s", "namespace": "fl", "base_dir": BASE}
    return Place(**{**known, **fields}, options=options, parent=parent)


def a_request(job: dict[str, Any] | None = None, study: dict[str, Any] | None = None, **fields: Any) -> JobRequest:
    """Return a request whose options are not resolved yet."""
    return JobRequest(
        **{
            "job_id": "train-1",
            "name": "train",
            "site": "site-1",
            "job_dir": Path("/state/jobs/train-1/work"),
            "options": read(JobOptions, job or {}),
            "study": None if study is None else read(StudyOptions, study),
            "study_name": None if study is None else "cancer",
            "backend": "k8s",
            "command": ["python3", "x.py"],
            **fields,
        }
    )


def built(
    job: dict[str, Any] | None = None,
    site: dict[str, Any] | None = None,
    study: dict[str, Any] | None = None,
    place: Place | None = None,
    **fields: Any,
) -> Built:
    """Return what is built of a job, with the template that its study or site has."""
    from attrs import evolve

    place = place or a_place(site)
    request = a_request(job, study, **fields)
    request = evolve(request, options=resolve(request.options, place.options))
    return build_pod(request, place, template_of(place.options, request.study, place.base_dir))


def spec_of(*args: Any, **fields: Any) -> dict[str, Any]:
    """Return the spec of a pod."""
    return built(*args, **fields).manifest["spec"]


def main_of(*args: Any, **fields: Any) -> dict[str, Any]:
    """Return the job's container, found as another driver would: by the annotation."""
    manifest = built(*args, **fields).manifest
    name = manifest["metadata"]["annotations"]["siteward.dev/container"]
    (found,) = (each for each in manifest["spec"]["containers"] if each["name"] == name)
    return found


def env_of(*args: Any, **fields: Any) -> dict[str, Any]:
    """Return the environment of the job's container: variable to text, or to where it comes from."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in main_of(*args, **fields)["env"]}
