"""Tell of jobs in the order in which things happen to them, though two threads know of it."""

from __future__ import annotations

import threading

from siteward import JobRef, JobState, JobStatus, Publish

RUNNING = JobStatus(state=JobState.RUNNING)


class News:
    """The launching thread knows first that a job runs, the watching thread that it ended, maybe before that."""

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._lock = threading.Lock()
        self._launching: set[str] = set()

    def expect(self, key: str) -> None:
        """Note that a job is being launched."""
        with self._lock:
            self._launching.add(key)

    def expect_no_more(self, key: str) -> None:
        """Note that its launch is over, however it went."""
        with self._lock:
            self._launching.discard(key)

    def runs(self, key: str, ref: JobRef) -> None:
        """Tell that a launched job runs, unless that was told before its end."""
        with self._lock:
            if key in self._launching:
                self._launching.discard(key)
                self._publish(ref, RUNNING)

    def tell(self, key: str, ref: JobRef, status: JobStatus) -> None:
        """Tell what the keeper says of a job; that it ran comes before its end."""
        with self._lock:
            if key in self._launching and ref.data["pid"] is not None:
                self._launching.discard(key)
                if status is not RUNNING:
                    self._publish(ref, RUNNING)
        self._publish(ref, status)
