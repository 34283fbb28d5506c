"""How a driver gets news of its jobs: from backends that watch, and by looking where none comes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from siteward.launcher import Launcher
from siteward.request import JobRef, JobStatus
from siteward.tracked import Tracked

if TYPE_CHECKING:
    from siteward.driver import Driver

# A watch may go silent without knowing (a connection that nobody closed): its jobs are looked at this rarely.
SWEEP_INTERVALS = 300


class _Publisher:
    """What one launcher's watch tells the driver through; it never raises into the backend's thread."""

    def __init__(self, watching: Watching, launcher: Launcher) -> None:
        self._watching = watching
        self._launcher = launcher

    def __call__(self, ref: JobRef, status: JobStatus) -> None:
        driver = self._watching.driver
        try:
            driver.publish(self._launcher, ref, status)
        except Exception:
            driver.log.exception("job %s: its news cannot be taken", getattr(ref, "job_id", ref))

    def failed(self, error: BaseException) -> None:
        self._watching.failed(self._launcher, error)


class Watching:
    """Starts each backend's watch once, polls the jobs of those that have none, and looks rarely at all others."""

    def __init__(self, driver: Driver, interval: float) -> None:
        self.driver = driver
        self._interval = interval
        self._watched: dict[str, bool] = {}
        self._ready: set[str] = set()
        self._starting = threading.RLock()
        self._lock = threading.Lock()
        self._polling = False
        self._sweeping = False

    def ensure(self, launcher: Launcher) -> None:
        """Start the launcher's watch once; whoever comes meanwhile waits until it is there."""
        if launcher.name in self._ready:
            return
        with self._starting:
            if launcher.name in self._watched:
                return
            with self._lock:
                self._watched[launcher.name] = launcher.has("watch_jobs")
            if self._watched[launcher.name]:
                self._start_sweeping()
                try:
                    launcher.watch(_Publisher(self, launcher))
                except Exception as error:
                    self.failed(launcher, error)
            else:
                self._start_polling()
            self._ready.add(launcher.name)

    def failed(self, launcher: Launcher, error: BaseException) -> None:
        """Go over to polling a launcher whose watch cannot see any more."""
        self.driver.log.warning("backend %s: its watch failed (%s); polling its jobs", launcher.name, error)
        with self._lock:
            self._watched[launcher.name] = False
        self._start_polling()

    def _start_polling(self) -> None:
        with self._lock:
            start, self._polling = not self._polling, True
        if start:
            self.driver.loop.call_later(0, self._poll_round)

    def _poll_round(self) -> None:
        try:
            self._look(watched=False)
        finally:
            self.driver.loop.call_later(self._interval, self._poll_round)

    def _start_sweeping(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self.driver.loop.call_later(self._interval * SWEEP_INTERVALS, self._sweep)

    def _sweep(self) -> None:
        try:
            self._look(watched=True)
        finally:
            self.driver.loop.call_later(self._interval * SWEEP_INTERVALS, self._sweep)

    def _look(self, *, watched: bool) -> None:
        for tracked in self.driver.jobs():
            launcher = tracked.launcher
            if launcher is None or self._watched.get(launcher.name, False) is not watched:
                continue
            if tracked.ref is not None and not tracked.polling and not tracked.finishing:
                tracked.polling = True
                self.driver.submit(self.poll, tracked)

    def poll(self, tracked: Tracked) -> None:
        """Look at a job once; a look that fails is ``reachable=False``, never an end."""
        try:
            with tracked.calls:
                if tracked.launcher is None or tracked.ref is None or tracked.finishing:
                    return
                try:
                    status = tracked.launcher.poll(tracked.ref)
                except Exception as error:
                    words = f"cannot be seen just now: {str(error) or type(error).__name__}"
                    status = JobStatus(state=tracked.status.state, reachable=False, message=words)
            self.driver.apply(tracked, status)
        finally:
            tracked.polling = False
