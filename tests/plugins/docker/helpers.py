"""Sites on an engine, and facts about containers that do not come from the backend."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from siteward import Handle, Job, Result, Site

DEADLINE = 60.0


def until(fact: Callable[[], Any], what: str = "", seconds: float = DEADLINE) -> Any:
    """Wait for a fact, with a deadline, and return it."""
    end = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < end, f"never happened: {what or fact}"
        time.sleep(0.02)
    return found


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


def job(*command: str, **fields: Any) -> Job:
    """Return a job."""
    return Job.from_mapping({"name": "test", "command": list(command), **fields})


def sh(script: str, **fields: Any) -> Job:
    """Return a job that runs a shell script."""
    return job("sh", "-c", script, **fields)


def run(site: Site, job: Job) -> tuple[Handle, Result]:
    """Run a job to its end."""
    handle = site.launch(job)
    return handle, handle.wait(DEADLINE)


def end_of(result: Result) -> tuple[str, str, int, int | None]:
    """Return what tests compare of an end."""
    return result.state.value, result.reason.value, int(result.return_code), result.exit_code


def output(handle: Handle) -> str:
    """Return all of a job's output."""
    return b"".join(handle.logs()).decode()
