"""What FLARE gets for a launched job: its code when it has one, and a way to end it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from logging import Logger

from nvflare.apis.job_launcher_spec import JobHandleSpec, JobReturnCode

from siteward import Handle, JobState, Reason, Result, ReturnCode, SitewardError

_UNKNOWN = int(JobReturnCode.UNKNOWN)


def return_code(result: Result, *, stopped_by_heartbeat: bool) -> int:
    """Return FLARE's code for an end: siteward's codes are FLARE's own.

    A job that FLARE ends only because the server does not know it any more is lost, not aborted by anybody.
    """
    if stopped_by_heartbeat and result.state is JobState.ABORTED:
        return int(ReturnCode.INFRASTRUCTURE_ERROR)
    return int(result.return_code)


class SitewardJobHandle(JobHandleSpec):  # type: ignore[misc]
    """One job of FLARE's. Safe from any thread, at any time: before the job is started and after its end.

    ``start`` launches the job and may take long; ``finish`` is called once with its result, before FLARE sees it.
    """

    def __init__(
        self, name: str, start: Callable[[], Handle], finish: Callable[[Handle, Result], None], log: Logger
    ) -> None:
        self._name = name
        self._start = start
        self._finish = finish
        self._log = log
        self._lock = threading.Lock()
        self._launched = threading.Event()
        self._ended = threading.Event()
        self._handle: Handle | None = None
        self._code = _UNKNOWN
        self._abort = False
        self._heartbeat = False
        self.failure: Exception | None = None

    def launch(self, within: float) -> None:
        """Begin, and wait ``within`` seconds for the launch: FLARE loses a client that does not answer in time.

        Raises what kept the job from being started, if that is known by then; later it is the job's end (101).
        """
        threading.Thread(target=self._run, name=f"siteward-{self._name}", daemon=True).start()
        if not self._launched.wait(within):
            self._log.warning("job %s is still being launched after %g s; going on meanwhile", self._name, within)
        elif self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            handle = self._start_unless_stopped()
        except Exception as error:
            self.failure = error
            self._log.error("job %s was not started: %s", self._name, error)
            self._settle(int(ReturnCode.EXCEPTION))
            return
        if handle is None:
            self._settle(int(ReturnCode.ABORTED if self._abort else ReturnCode.INFRASTRUCTURE_ERROR))
            return
        self._watch(handle)

    def _start_unless_stopped(self) -> Handle | None:
        if self._stopped():
            return None
        handle = self._start()
        with self._lock:
            self._handle = handle
            stopped = self._stopped()
        self._launched.set()
        if stopped:
            handle.terminate()
        return handle

    def _stopped(self) -> bool:
        return self._abort or self._heartbeat

    def _watch(self, handle: Handle) -> None:
        code = _UNKNOWN
        try:
            result = handle.wait()
            code = return_code(result, stopped_by_heartbeat=self._heartbeat and not self._abort)
            self._tell(handle, result, code)
            self._finish(handle, result)
        except SitewardError as error:  # the site was closed with the parent
            self._log.warning("job %s is not watched any more: %s", self._name, error)
        except Exception:
            self._log.exception("job %s: its end could not be dealt with", self._name)
        finally:
            self._settle(code)

    def _tell(self, handle: Handle, result: Result, code: int) -> None:
        if result.reason is Reason.COMPLETED:
            self._log.info("job %s ended: %s", handle.job_id, result.message)
            return
        tail = f"\n--- end of its output ---\n{result.log_tail}" if result.log_tail else ""
        self._log.error("job %s ended: %s: %s (code %d)%s", handle.job_id, result.reason, result.message, code, tail)

    def _settle(self, code: int) -> None:
        self._code = code
        self._ended.set()
        self._launched.set()

    def ended_within(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for the end, and say whether it has come."""
        return self._ended.wait(timeout)

    # --- what FLARE calls ---

    def poll(self) -> int:
        """Return the job's code, or 127 while it has none."""
        return self._code if self._ended.is_set() else _UNKNOWN

    def wait(self) -> None:
        """Return when the job has ended and its results are back; never raises."""
        self._ended.wait()

    def terminate(self) -> None:
        """End the job: TERM, and KILL after the site's grace period. Returns at once."""
        self._stop(heartbeat=False)

    def _terminate_for_heartbeat_cleanup(self) -> None:
        """End a job that the server does not know any more: nobody's abort."""
        self._stop(heartbeat=True)

    def _stop(self, *, heartbeat: bool) -> None:
        with self._lock:
            self._heartbeat = self._heartbeat or heartbeat
            self._abort = self._abort or not heartbeat
            handle = self._handle
        if handle is None or self._ended.is_set():
            return
        try:
            handle.terminate()
        except Exception as error:
            self._log.error("job %s cannot be ended: %s", self._name, error)
