"""The volumes of a job's pod, and where its container sees them. Pure."""

from __future__ import annotations

import os.path
from typing import Any

from siteward import safe_name
from siteward_k8s import layout
from siteward_k8s.checks import is_path
from siteward_k8s.options import Dataset, StudyOptions
from siteward_k8s.place import Place

Items = list[dict[str, Any]]


def volumes_of(
    study: StudyOptions, study_name: str | None, place: Place, pod: str, storage: str | None
) -> tuple[Items, Items, list[str]]:
    """Return the volumes of a pod, the mounts of its job's container, and in words what the site does not allow."""
    site = place.options
    volumes, mounts = _job_directory(place, pod, storage)
    problems = []
    for name, dataset in study.datasets.items():
        if is_path(dataset.source) and not site.allow_host_path:
            problems.append(
                f"dataset {name!r} of study {study_name!r} is a path of the nodes, {dataset.source}, which needs"
                " allow_host_path: true in the site file's k8s block; or name a PersistentVolumeClaim"
            )
        volume = safe_name(f"siteward-data-{name}")
        volumes.append({"name": volume, **_source(dataset, place)})
        path = f"{layout.DATA_DIR}/{study_name}/{name}"
        mounts.append({"name": volume, "mountPath": path, "readOnly": dataset.mode == "ro"})
    for name, mount in study.secret_mounts.items():
        volume = safe_name(f"siteward-secret-{name}")
        secret: dict[str, Any] = {"secretName": mount.source}
        if mount.items:
            secret["items"] = [{"key": key, "path": path} for key, path in mount.items.items()]
        volumes.append({"name": volume, "secret": secret})
        mounts.append({"name": volume, "mountPath": mount.mount_path, "readOnly": True})
    return volumes, mounts, problems


def _job_directory(place: Place, pod: str, storage: str | None) -> tuple[Items, Items]:
    site = place.options
    name = layout.JOB_VOLUME
    if site.job_directory == "pvc":
        volume = {"name": name, "persistentVolumeClaim": {"claimName": site.job_directory_claim}}
        return [volume], [{"name": name, "mountPath": layout.JOB_DIR, "subPath": f"{place.owner}/{pod}"}]
    volume = {"name": name, "emptyDir": {} if storage is None else {"sizeLimit": storage}}
    if site.job_directory == "none":
        return [volume], [{"name": name, "mountPath": layout.JOB_DIR}]
    control = {"name": layout.CONTROL_VOLUME, "emptyDir": {}}
    return [volume, control], [{"name": name, "mountPath": layout.VOLUME}]


def _source(dataset: Dataset, place: Place) -> dict[str, Any]:
    if is_path(dataset.source):
        path = os.path.normpath(place.base_dir.absolute() / dataset.source)
        # A runtime makes an empty folder of a path that is not there; with a type the job does not start instead.
        return {"hostPath": {"path": path, "type": "Directory"}}
    return {"persistentVolumeClaim": {"claimName": dataset.source, "readOnly": dataset.mode == "ro"}}
