"""Jobs of one site, for the tests of backends on real platforms."""

from __future__ import annotations

import time
from collections.abc import Callable
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


def job(*command: str, base_dir: str | Path = ".", **fields: Any) -> Job:
    """Return a job."""
    return Job.from_mapping({"name": "test", "command": list(command), **fields}, base_dir=base_dir)


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
