"""Sites on an engine, and facts about containers that do not come from the backend."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from siteward import Handle, Site

from ..jobs import DEADLINE, end_of, job, output, run, sh, until

__all__ = ["DEADLINE", "Sites", "end_of", "job", "output", "run", "sh", "until"]


class Sites:
    """Sites whose docker options are the engine's host and whatever a test says besides."""

    def __init__(self, engine: Any, folder: Path, **options: Any) -> None:
        self.engine = engine
        self.folder = folder
        self._options = {"docker_host": engine.host, "network": "none", "pull": "never", **options}
        self._open: list[Site] = []
        self.api = engine.client()

    def file(
        self, name: str = "site-1", state: str = "state", fields: dict[str, Any] | None = None, **options: Any
    ) -> Path:
        """Write a site file."""
        path = self.folder / f"{name}-{state}.yaml"
        data = {"name": name, "backends": {"docker": {**self._options, **options}}, "default_backend": "docker"}
        path.write_text(json.dumps({**data, "state_dir": str(self.folder / state), **(fields or {})}))
        return path

    def open(self, *args: Any, **options: Any) -> Site:
        """Open a site; it is closed at the end at the latest."""
        self._open.append(Site.load(self.file(*args, **options)))
        return self._open[-1]

    def containers(self, handle: Handle) -> list[dict[str, Any]]:
        """Inspect the containers of a job."""
        found = self.api.containers(all=True, filters={"label": [f"siteward.job-id={handle.job_id}"]})
        return list(filter(None, (self._inspect(each["Id"]) for each in found)))

    def _inspect(self, container: str) -> dict[str, Any] | None:
        from docker.errors import NotFound

        with suppress(NotFound):  # removed since it was listed
            return self.api.inspect_container(container)
        return None

    def container(self, handle: Handle) -> dict[str, Any]:
        """Inspect a job's only container."""
        (found,) = self.containers(handle)
        return found

    def close(self) -> None:
        """Close the sites, and remove what their jobs left."""
        for mark in self.folder.rglob("plugins/docker/owner"):
            for each in self.api.containers(all=True, filters={"label": [f"siteward.owner={mark.read_text()}"]}):
                with suppress(Exception):
                    self.api.remove_container(each["Id"], force=True, v=True)
        for site in self._open:
            site.close()
        self.api.close()
