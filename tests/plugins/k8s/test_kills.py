"""kill -9 of the parent at each step of a job's way: one pod, its true end, and nothing left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from siteward import Site

from ..jobs import DEADLINE, end_of, until
from .helpers import Sites

ROOT = Path(__file__).parents[3]
NEVER_RAN = ("FAILED", "LaunchFailed", 101, None)
RAN = ("FAILED", "Error", 1, 42)
STEPS = {
    "with nothing but the intent": NEVER_RAN,
    "after the Secret": NEVER_RAN,
    "after the pod, before the Secret is the pod's": RAN,
    "after the Secret is the pod's": RAN,
    "while the job directory is sent": RAN,
    "after the job directory was sent": RAN,
    "while the job directory is collected": RAN,
    "after the job directory was collected": RAN,
    "before it is removed": RAN,
    "after it is removed": RAN,
}


def launch_and_die(step: str, file: Path, script: str, **fields: Any) -> None:
    """Launch the job ``killed`` in a parent that dies at a step."""
    job = {"name": "test", "id": "killed", "command": ["sh", "-c", script], **fields}
    command = [sys.executable, "-m", "tests.plugins.k8s.killed", step, str(file)]
    parent = subprocess.run(
        command, input=json.dumps(job), text=True, check=False, cwd=ROOT, capture_output=True, timeout=150
    )
    assert parent.returncode == -signal.SIGKILL, parent.stderr


def started(sites: Sites) -> list[str]:
    """Return the uids of all pods whose job's container was started, by what its kubelet said."""
    events = sites.namespace.api.get(f"{sites.namespace.path}/events", fieldSelector="reason=Started")["items"]
    about = [each["involvedObject"] for each in events]
    return [each["uid"] for each in about if each.get("fieldPath") == "spec.containers{job}"]


def nothing_is_left(sites: Sites) -> bool:
    return not sites.pods() and not sites.namespace.names("secrets")


@pytest.mark.parametrize("step", STEPS)
def test_killed(sites: Sites, step: str):
    """Whatever the step: the next site has the true end and the files; the job ran once, or never and says so."""
    (sites.folder / "app").mkdir()
    (sites.folder / "app/input").write_bytes(b"x" * 3_000_000)
    (sites.folder / "token").write_text("s3cr3t")
    file = sites.file(fields={"job_secrets": {"fed": {"file": "token"}}})
    script = "test $TOKEN = s3cr3t && wc -c < input > size; echo run >> runs; exit 42"
    launch_and_die(step, file, script, workspace="app", secrets={"TOKEN": "fed"})
    handle = sites.open(fields={"job_secrets": {"fed": {"file": "token"}}}).attach("killed")
    result = handle.wait(DEADLINE)
    assert end_of(result) == STEPS[step], result.message
    if STEPS[step] is RAN:
        assert (handle.job_dir / "size").read_text() == "3000000\n"
        assert (handle.job_dir / "runs").read_text() == "run\n"
        until(lambda: started(sites), "its kubelet says that it ran")
    until(lambda: nothing_is_left(sites), "pod and Secret are removed")
    assert len(started(sites)) == (STEPS[step] is RAN)
