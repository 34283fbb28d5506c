"""What the engine says of a container, and what that means for the job. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import evolve

from siteward import JobState, JobStatus, Reason, Result, ended

# The program that is process 1 of each container (`init`) writes one of these when it cannot start the command,
# and exits with the code that a shell would: 127 not found, 126 not executable.
_INIT_WORDS = (b"[FATAL tini (", b"ERROR (catatonit:")
COMMAND_CODES = (126, 127)
KILLED = 137
_FOR_GOOD = (
    "not found",
    "no such",
    "manifest unknown",
    "denied",
    "unauthorized",
    "authentication",
    "basic auth",
    "invalid ref",
)
_PENDING = JobStatus(state=JobState.PENDING, message="created, not started yet")
RUNNING = JobStatus(state=JobState.RUNNING)
PAUSED = JobStatus(state=JobState.RUNNING, message="somebody paused its container")


NEVER_STARTED = JobStatus(
    state=JobState.FAILED, result=ended(reason=Reason.LAUNCH_FAILED, message="it was ended before it was started")
)


def status_of(state: Mapping[str, Any], last_output: bytes = b"") -> JobStatus:
    """Return a job's status from ``State`` of its container, as inspected.

    ``last_output`` is the end of the output of a container that exited with one of ``COMMAND_CODES``.
    """
    match state.get("Status"):
        case "created" if state.get("ExitCode") or state.get("Error"):
            return finished(ended(reason=Reason.LAUNCH_FAILED, message=_words(state.get("Error", ""))))
        case "created":
            return _PENDING
        case "running" | "restarting":
            return RUNNING
        case "paused":
            return PAUSED
        case "removing":
            return removed()
        case _:
            return finished(_result(state, last_output))


def finished(result: Result) -> JobStatus:
    """Return the status of a job with this result."""
    return JobStatus(state=result.state, result=result)


def is_whole_story(code: str) -> bool:
    """Whether an exit code, as an event tells it, says all of an end: of some only the container knows the reason."""
    return code.isdecimal() and int(code) not in (*COMMAND_CODES, KILLED)


def exited(code: int, started_at: float, ended_at: float) -> JobStatus:
    """Return the status of a job of which all is known from events; times are in seconds since the epoch."""
    return finished(ended(exit_code=code, started_at=started_at, ended_at=ended_at))


def removed() -> JobStatus:
    """Return the status of a job whose container is gone."""
    words = "its container was removed by somebody else, and its result with it"
    return finished(ended(reason=Reason.DELETED, message=words))


def _result(state: Mapping[str, Any], last_output: bytes) -> Result:
    code, oom = int(state.get("ExitCode", 0)), bool(state.get("OOMKilled"))
    if code in COMMAND_CODES and any(words in last_output for words in _INIT_WORDS):
        words = last_output.decode(errors="replace").strip().splitlines()[-1]
        message = f"the command cannot be started: {words}. Check that the image has it, and its spelling"
        return ended(reason=Reason.LAUNCH_FAILED, message=message)
    started_at, ended_at = _seconds(state.get("StartedAt")), _seconds(state.get("FinishedAt"))
    result = ended(exit_code=code, started_at=started_at, ended_at=ended_at)
    if oom and code == KILLED:
        message = "the job used more memory than its limit; ask for more in resource_spec"
        return ended(
            reason=Reason.OOM_KILLED, exit_code=code, message=message, started_at=started_at, ended_at=ended_at
        )
    notes = ["some of its processes were killed because it reached its memory limit"] if oom else []
    notes += [_words(state["Error"])] if state.get("Error") else []
    return evolve(result, message="; ".join([result.message, *notes])) if notes else result


def _seconds(text: str | None) -> float | None:
    """Read a time of the engine's; year 1 means never."""
    return None if not text or text.startswith("0001-") else datetime.fromisoformat(text).timestamp()


def _words(error: str) -> str:
    """Return what went wrong without the chain of programs through which it was passed on."""
    return error.rpartition("runc create failed: ")[2].removesuffix(": unknown").strip() or "it could not be started"


def is_for_good(pull_error: str) -> bool:
    """Whether a pull that failed with these words would fail again: the image is not there, or not for us."""
    text = pull_error.lower()
    return any(words in text for words in _FOR_GOOD) and "toomanyrequests" not in text
