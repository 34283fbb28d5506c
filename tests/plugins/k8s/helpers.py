"""Sites on a cluster, and facts about pods that do not come from the backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from siteward import Handle, Site

from ...cluster.namespace import Namespace
from ...machine import images


class Sites:
    """Sites whose jobs are pods of one namespace, as a user with the rights that sites are told to give."""

    def __init__(self, namespace: Namespace, kubeconfig: Path, folder: Path, **options: Any) -> None:
        self.namespace = namespace
        self.folder = folder
        own = {"kubeconfig": str(kubeconfig), "namespace": namespace.name, "image_pull_policy": "IfNotPresent"}
        self.options = {**own, "default_image": images.BUSYBOX, **options}
        self._open: list[Site] = []

    def beside(self, folder: Path, **options: Any) -> Sites:
        """Return others with these options, in a folder of their own."""
        beside = Sites(self.namespace, Path(), folder)
        beside.options = {**self.options, **options}
        return beside

    def file(
        self, name: str = "site-1", state: str = "state", fields: dict[str, Any] | None = None, **options: Any
    ) -> Path:
        """Write a site file."""
        path = self.folder / f"{name}-{state}.yaml"
        chosen = {key: value for key, value in {**self.options, **options}.items() if value is not None}
        data = {"name": name, "backends": {"k8s": chosen}, "default_backend": "k8s"}
        path.write_text(json.dumps({**data, "state_dir": str(self.folder / state), "grace": 3, **(fields or {})}))
        return path

    def open(self, *args: Any, **options: Any) -> Site:
        """Open a site; it is closed at the end at the latest."""
        self._open.append(Site.load(self.file(*args, **options)))
        return self._open[-1]

    def pods(self, handle: Handle | None = None) -> list[dict[str, Any]]:
        """Return the pods of a job, or of all jobs."""
        found: list[dict[str, Any]] = self.namespace.api.get(f"{self.namespace.path}/pods")["items"]
        wanted = None if handle is None else handle.job_id
        return [each for each in found if wanted in (None, each["metadata"]["annotations"].get("siteward.dev/job-id"))]

    def pod(self, handle: Handle) -> dict[str, Any]:
        """Return a job's only pod."""
        (found,) = self.pods(handle)
        return found

    def close(self) -> None:
        """Close the sites; the namespace goes with all that is in it."""
        for site in self._open:
            site.close()
