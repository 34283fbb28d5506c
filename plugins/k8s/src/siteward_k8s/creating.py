"""From what is built to what exists: the job's Secret, its directory on a shared claim, its pod; and their removal."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from logging import Logger
from typing import Any

from attrs import evolve

from siteward import BackendError, JobRef, LaunchRefused, Unreachable
from siteward_k8s import layout
from siteward_k8s.build import Built
from siteward_k8s.client import Cluster
from siteward_k8s.errors import Exists, Forbidden, Missing, NotSent, Refused
from siteward_k8s.place import Place

_AT_ONCE = 1


def create(cluster: Cluster, place: Place, built: Built, log: Logger) -> dict[str, Any]:
    """Create a job's Secret and pod, and return the pod; what is there already of the same job is taken.

    LaunchRefused, or NotSent, when nothing exists and nothing will; Unreachable when nobody knows.
    """
    new = False
    try:
        new = built.secret is not None and _create_secret(cluster, built.secret)
        pod = _create_pod(cluster, place, built.manifest)
    except (Refused, NotSent, LaunchRefused) as error:
        _drop_unused(cluster, built, new)
        if isinstance(error, Refused):
            raise LaunchRefused(str(error)) from error
        raise
    if built.secret is not None:
        _hand_secret_to(cluster, built.secret["metadata"]["name"], pod, log)
    return pod


def _create_pod(cluster: Cluster, place: Place, manifest: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return cluster.create_pod(manifest)
    except Exists as error:
        try:
            found = cluster.get_pod(manifest["metadata"]["name"])
        except Missing:
            return cluster.create_pod(manifest)
        if place.is_same(found, manifest):
            if "deletionTimestamp" not in found["metadata"]:
                return found
            gone = f"pod {manifest['metadata']['name']} of an earlier launch of this job is being deleted"
            raise LaunchRefused(f"{gone}. Launch it again when that is gone") from error
        words = f"namespace {place.namespace} has a pod {manifest['metadata']['name']!r} that is not this job's"
        if place.ref_of(found) is not None:
            words += ", but of an earlier one with its id. Remove it with `siteward gc`, or choose another id"
        else:
            words += f". See whose it is: kubectl describe pod {found['metadata']['name']}"
        raise LaunchRefused(words) from error


def _create_secret(cluster: Cluster, secret: Mapping[str, Any]) -> bool:
    """Create a Secret, or write it anew if it is the job's already; whether it was not there before.

    NotSent also when nobody knows whether it was created: of the job itself nothing was.
    """
    name = secret["metadata"]["name"]
    try:
        cluster.create_secret(secret)
    except Exists as error:
        try:
            if not _is_of_one_owner(cluster.get_secret(name), secret):
                raise LaunchRefused(f"there is a Secret {name!r} that is not siteward's") from error
            cluster.replace_secret(name, secret)
        except Missing:
            cluster.create_secret(secret)
        return False
    except Unreachable as error:
        raise NotSent(str(error)) from error
    return True


def _is_of_one_owner(found: Mapping[str, Any], secret: Mapping[str, Any]) -> bool:
    return bool((found["metadata"].get("labels") or {}).get(layout.OWNER) == secret["metadata"]["labels"][layout.OWNER])


def _hand_secret_to(cluster: Cluster, name: str, pod: Mapping[str, Any], log: Logger) -> None:
    """Let the cluster remove a Secret with its pod, should nobody else do it."""
    meta = pod["metadata"]
    owner = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
    try:
        cluster.patch_secret(name, {"metadata": {"ownerReferences": [owner]}})
    except BackendError as error:
        log.warning("the Secret %s is not its pod's yet; siteward removes it at the job's end: %s", name, error)


def _drop_secret(cluster: Cluster, name: str) -> None:
    with suppress(Missing, Forbidden):
        cluster.delete_secret(name)


def _drop_unused(cluster: Cluster, built: Built, new: bool) -> None:
    """Remove the Secret of a launch that was refused: not somebody else's, nor that of a pod that is there.

    ``new`` says that this launch created it. What cannot be removed now is found by :func:`secret_jobs`.
    """
    if built.secret is None:
        return
    name = built.secret["metadata"]["name"]
    with suppress(BackendError):
        found = cluster.get_secret(name)
        if _is_of_one_owner(found, built.secret) and (new or not _has_pod(cluster, name)):
            cluster.delete_secret(name, uid=found["metadata"]["uid"])


def _has_pod(cluster: Cluster, name: str) -> bool:
    try:
        cluster.get_pod(name)
    except Missing:
        return False
    return True


def remove(cluster: Cluster, place: Place, ref: JobRef, *, secret: bool, grace: float = _AT_ONCE) -> None:
    """Remove a job's pod, and its Secret if it has, or may have, one."""
    name = ref.data["name"]
    with suppress(Missing):
        if ref.data["uid"] is None:
            ref = place.own(cluster.get_pod(name), ref)
        cluster.delete_pod(name, uid=ref.data["uid"], grace=max(grace, _AT_ONCE))
    if secret:
        _drop_secret(cluster, name)


def secret_jobs(cluster: Cluster, place: Place, pods: set[str]) -> list[JobRef]:
    """Return the jobs of Secrets that have no pod: their launch was broken off between the two."""
    try:
        secrets = cluster.list_secrets(place.selector)
    except Forbidden:
        return []
    found = (place.ref_of(secret) for secret in secrets if secret["metadata"]["name"] not in pods)
    return [evolve(ref, data={**ref.data, "uid": None}) for ref in found if ref is not None]
