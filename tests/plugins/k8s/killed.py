"""A parent that kills itself at a step of a job's way: ``python -m tests.plugins.k8s.killed STEP SITE_FILE < job``.

The job is JSON, a relative ``workspace`` in it starts at the site file's folder.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from siteward import Job, JobState, Site
from siteward_k8s import creating, stopping, transfer, verdicts
from siteward_k8s.claim import Claim


def die(*_: object, **__: object) -> Any:
    """End this process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(place: Any, name: str) -> Callable[[], None]:
    """Die instead of a call."""
    return lambda: setattr(place, name, die)


def after(place: Any, name: str) -> Callable[[], None]:
    """Die when a call has been made."""
    call = getattr(place, name)
    return lambda: setattr(place, name, lambda *args, **fields: die(call(*args, **fields)))


def amid(name: str) -> Callable[[], None]:
    """Die when the first bytes of an archive have passed."""
    pack = getattr(transfer, name)

    def sent(*args: Any, **fields: Any) -> Any:
        yield next(pack(*args, **fields))
        die()

    def taken(packed: Any, *_args: Any, **_fields: Any) -> Any:
        next(packed)
        die()

    return lambda: setattr(transfer, name, sent if name == "pack_directory" else taken)


STEPS: dict[str, Callable[[], None]] = {
    "with nothing but the intent": before(creating, "create"),
    "after the job directory is on the claim": after(Claim, "put"),
    "after the Secret": before(creating, "_create_pod"),
    "after the pod, before the Secret is the pod's": before(creating, "_hand_secret_to"),
    "after the Secret is the pod's": after(creating, "_hand_secret_to"),
    "while the job directory is sent": amid("pack_directory"),
    "after the job directory was sent": after(transfer, "send"),
    "while the job directory is collected": amid("unpack_directory"),
    "after the job directory was collected": after(transfer, "fetch"),
    "after the claim gave back the job directory": after(Claim, "get"),
    "before it is removed": before(creating, "remove"),
    "after it is removed": after(creating, "remove"),
    "while it runs": lambda: None,
    "after the job was asked to end": after(stopping, "signal_job"),
    "after it was noted why it is given up": after(verdicts.Verdicts, "_write"),
}


def main(step: str, file: Path) -> None:
    """Launch a job, and die."""
    STEPS[step]()
    site = Site.load(file)
    handle = site.launch(Job.from_mapping(json.load(sys.stdin), base_dir=file.parent))
    if step in ("while it runs", "after the job was asked to end"):
        handle.wait_until(JobState.RUNNING, 60)
        die() if step == "while it runs" else handle.terminate(grace=2)
    handle.wait(120)
    while True:
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
