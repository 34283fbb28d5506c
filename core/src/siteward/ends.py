"""How jobs end: states, reasons, wire codes, and the one table that ties them together.

The same end gives the same state, reason and code on every backend. Backends say what they saw (an exit
code, a signal, or a reason of the platform); :func:`ended` is the only place that turns it into a result.
"""

from __future__ import annotations

import signal as signals
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from siteward.failures import FailureReport

if TYPE_CHECKING:
    from collections.abc import Mapping


class JobState(StrEnum):
    """Where a job is. Only forward: PENDING, RUNNING, then one of four ends; PENDING may jump to an end."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    ABORTED = "ABORTED"
    LOST = "LOST"

    @property
    def ended(self) -> bool:
        """Whether this is one of the four ends."""
        return self not in (JobState.PENDING, JobState.RUNNING)

    def may_become(self, other: JobState) -> bool:
        """Whether a job may go from here to ``other``: only forward, and the first end stays."""
        return not self.ended and (other.ended or (self is JobState.PENDING and other is JobState.RUNNING))


class Reason(StrEnum):
    """Why a job ended."""

    COMPLETED = "Completed"
    ERROR = "Error"
    SIGNAL = "Signal"
    ABORTED = "Aborted"
    LAUNCH_FAILED = "LaunchFailed"
    IMAGE_ERROR = "ImageError"
    UNSCHEDULABLE = "Unschedulable"
    CAPACITY_TIMEOUT = "CapacityTimeout"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    CONFIG_ERROR = "ConfigError"
    OOM_KILLED = "OOMKilled"
    EVICTED = "Evicted"
    NODE_LOST = "NodeLost"
    DELETED = "Deleted"
    BACKEND_LOST = "BackendLost"


class ReturnCode(IntEnum):
    """The wire code of an end. Values are NVIDIA FLARE's ``ProcessExitCode``."""

    SUCCESS = 0
    EXECUTION_ERROR = 1
    ABORTED = 9
    EXCEPTION = 101
    UNSAFE_COMPONENT = 102
    CONFIG_ERROR = 103
    INFRASTRUCTURE_ERROR = 104
    UNKNOWN = 127


_ENDS: Mapping[Reason, tuple[JobState, ReturnCode]] = {
    Reason.COMPLETED: (JobState.SUCCEEDED, ReturnCode.SUCCESS),
    Reason.ERROR: (JobState.FAILED, ReturnCode.EXECUTION_ERROR),
    Reason.SIGNAL: (JobState.FAILED, ReturnCode.EXECUTION_ERROR),
    Reason.ABORTED: (JobState.ABORTED, ReturnCode.ABORTED),
    Reason.LAUNCH_FAILED: (JobState.FAILED, ReturnCode.EXCEPTION),
    Reason.IMAGE_ERROR: (JobState.FAILED, ReturnCode.EXCEPTION),
    Reason.UNSCHEDULABLE: (JobState.FAILED, ReturnCode.EXCEPTION),
    Reason.CAPACITY_TIMEOUT: (JobState.FAILED, ReturnCode.EXCEPTION),
    Reason.DEADLINE_EXCEEDED: (JobState.FAILED, ReturnCode.EXCEPTION),
    Reason.CONFIG_ERROR: (JobState.FAILED, ReturnCode.CONFIG_ERROR),
    Reason.OOM_KILLED: (JobState.FAILED, ReturnCode.INFRASTRUCTURE_ERROR),
    Reason.EVICTED: (JobState.FAILED, ReturnCode.INFRASTRUCTURE_ERROR),
    Reason.NODE_LOST: (JobState.LOST, ReturnCode.INFRASTRUCTURE_ERROR),
    Reason.DELETED: (JobState.LOST, ReturnCode.INFRASTRUCTURE_ERROR),
    Reason.BACKEND_LOST: (JobState.LOST, ReturnCode.INFRASTRUCTURE_ERROR),
}
_KEPT_EXIT_CODES = range(101, 105)
_SIGNALS = frozenset(signals.valid_signals())


@frozen(kw_only=True)
class Usage:
    """What a job used: CPU seconds (user and system, children included) and peak resident memory in bytes.

    None where the platform does not say.
    """

    cpu_seconds: float | None = None
    peak_memory: int | None = None


@frozen(kw_only=True)
class Result:
    """How a job ended. Made by :func:`ended`, so that state, reason and code always agree.

    ``return_code`` is the wire code; ``exit_code`` and ``signal`` are the job's own (a job killed by signal
    ``n`` has exit code ``128 + n``, as shells and containers report it), None where there was none.
    ``started_at`` and ``ended_at`` are seconds since the epoch. ``log_tail`` is the end of the job's output.
    ``workspace`` says whether the job directory came back: ``returned``, ``partial`` or ``lost``.
    ``report`` is the filtered failure report, None for a job that succeeded.
    """

    state: JobState
    return_code: int
    exit_code: int | None = None
    signal: int | None = None
    reason: Reason
    message: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    log_tail: str = ""
    workspace: str = "returned"
    usage: Usage | None = None
    report: FailureReport | None = None


def ended(
    *,
    reason: Reason | None = None,
    exit_code: int | None = None,
    signal: int | None = None,
    message: str = "",
    started_at: float | None = None,
    ended_at: float | None = None,
    usage: Usage | None = None,
) -> Result:
    """Turn what a backend saw into a result, by the table of ends (docs: "States and ends").

    Give ``exit_code`` (and ``signal`` if the platform names it) when the job's main process ended by itself,
    or a ``reason`` when the platform ended it or never started it; both when both are known. Without a
    reason an exit code or a signal is needed: ValueError otherwise.
    """
    if signal is None and exit_code is not None and exit_code - 128 in _SIGNALS:
        signal = exit_code - 128
    elif signal is not None and exit_code is None:
        exit_code = 128 + signal
    if reason is None:
        if exit_code is None:
            raise ValueError("an end needs a reason, an exit code or a signal")
        reason = Reason.COMPLETED if exit_code == 0 else Reason.SIGNAL if signal else Reason.ERROR
    state, code = _ENDS[reason]
    if reason is Reason.ERROR and exit_code is not None and exit_code in _KEPT_EXIT_CODES:
        code = ReturnCode(exit_code)
    return Result(
        state=state,
        return_code=code,
        exit_code=exit_code,
        signal=signal,
        reason=reason,
        message=message or _describe(reason, exit_code, signal),
        started_at=started_at,
        ended_at=ended_at,
        usage=usage,
    )


def because(result: Result, reason: Reason, message: str) -> Result:
    """Return the same end with another reason, state and code to match: an abort or a deadline explains it."""
    state, code = _ENDS[reason]
    return evolve(result, state=state, return_code=code, reason=reason, message=message)


def _describe(reason: Reason, exit_code: int | None, signal: int | None) -> str:
    if reason is Reason.COMPLETED:
        return "the job completed"
    if reason is Reason.ERROR:
        return f"the job exited with code {exit_code}"
    if reason is Reason.SIGNAL:
        name = signals.Signals(signal).name if signal in set(signals.Signals) else f"signal {signal}"
        return f"the job was ended by {name}"
    return str(reason.value)
