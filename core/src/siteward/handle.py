"""What a launch returns: one job's state, result, logs, and the way to end it."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siteward.ends import JobState, Result
from siteward.errors import StoreError
from siteward.request import JobRef, JobStatus
from siteward.statedir import OwnerLock, open_plain

if TYPE_CHECKING:
    from siteward.parts import SiteParts
    from siteward.tracked import Tracked

_FOREIGN_LOOK = 0.05
_LONGEST_LINE = 2**20


class Handle:
    """One job at one site. Its methods may be called from any thread; ``await handle`` gives its result.

    The job may be driven by another process (a second parent, ``run --detach``): waiting then waits for that
    driver, and takes the job over should it die.
    """

    def __init__(self, parts: SiteParts, tracked: Tracked, adopt: Callable[[Tracked], None]) -> None:
        self._parts = parts
        self._tracked = tracked
        self._adopt = adopt

    def __repr__(self) -> str:
        return f"<Handle {self.job_id} at {self.site!r}: {self.state.value}>"

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self._tracked.job_id

    @property
    def site(self) -> str:
        """The site's name."""
        return self._parts.file.name

    @property
    def backend(self) -> str:
        """The name of the backend that runs it."""
        return self._tracked.backend

    @property
    def ref(self) -> JobRef | None:
        """The job's identity on its platform; None while it is queued."""
        return self._tracked.ref

    @property
    def job_dir(self) -> Path:
        """The job directory at the site; complete once the job has ended."""
        return self._tracked.job_dir

    @property
    def state(self) -> JobState:
        """The last known state."""
        return self.status().state

    def status(self) -> JobStatus:
        """Return the last known status; it asks no platform and never waits."""
        if self._is_foreign():
            row = self._parts.store.get(self.job_id)
            if row is not None:
                return row.status
        return self._tracked.status

    def done(self) -> bool:
        """Whether the job has ended and its result is here."""
        return self._tracked.future.done() or (self._is_foreign() and self.status().state.ended)

    def wait(self, timeout: float | None = None) -> Result:
        """Wait for the job's end; TimeoutError after ``timeout`` seconds, which leaves the job alone."""
        self._follow()
        try:
            return self._tracked.future.result(timeout)
        except FutureTimeout:
            words = f"job {self.job_id} has not ended within {timeout:g} s; it goes on"
            raise TimeoutError(words) from None

    def wait_until(self, state: JobState, timeout: float | None = None) -> bool:
        """Wait until the job enters ``state``: True when it has, False when it ended without; TimeoutError else."""
        state = JobState(state)  # the plain word would equal, but not be, a state
        self._follow()
        give_up = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._tracked.changed:
                now = self.state
                if now is state or self._entered(state):
                    return True
                if self._tracked.future.done():
                    self._tracked.future.result()  # raises when the site was closed
                    return False
                if now.ended:
                    return False
                left = None if give_up is None else give_up - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"job {self.job_id} is {now.value}, not {state.value}, after {timeout:g} s")
                foreign = _FOREIGN_LOOK if self._is_foreign() else None
                self._tracked.changed.wait(min((each for each in (left, foreign) if each is not None), default=None))

    def _entered(self, state: JobState) -> bool:
        """Whether the job has been in ``state``: a quick one may have come and gone between two looks."""
        if state is JobState.PENDING:
            return True
        result = self.status().result
        started = self._tracked.started_at is not None or (result is not None and result.started_at is not None)
        return state is JobState.RUNNING and started

    def terminate(self, grace: float | None = None) -> None:
        """Ask for the job's end: TERM, and KILL after ``grace`` seconds (default: the site's). Returns at once.

        Idempotent; a later call can only shorten the grace. Nothing happens to a job that has ended.
        """
        grace = self._tracked.grace if grace is None else max(grace, 0.0)
        if not self._is_foreign():
            self._parts.driver.stop(self._tracked, "abort", grace)
            return
        if self._take_over_from_dead():
            self._parts.driver.poll(self._tracked)  # its end may have come while nobody looked
            self._parts.driver.stop(self._tracked, "abort", grace)
            return
        self._parts.store.request_stop(self.job_id, "abort", grace)
        self._take_over_from_dead()

    def _take_over_from_dead(self) -> bool:
        """Wake the driver for what the store has for it, or take the job over if it is gone; whether it is ours."""
        row = self._parts.store.get(self.job_id)
        if row is None or row.done or self._parts.driver.wake(row.driver):
            return False
        self._take_over(wait=False)
        return not self._is_foreign()

    def logs(self, follow: bool = False, tail: int | None = None) -> Iterator[bytes]:
        """Return the job's output as lines (stdout and stderr together), each with its newline.

        ``follow`` goes on until the job has ended; ``tail`` begins that many lines before the end.
        """
        return _lines(self._chunks(follow, tail))

    def _chunks(self, follow: bool, tail: int | None) -> Iterator[bytes]:
        tracked = self._tracked
        launcher = tracked.launcher or self._parts.launchers.get(tracked.backend)
        while follow and tracked.ref is None and not self.done():
            with tracked.changed:
                tracked.changed.wait(_FOREIGN_LOOK)
            row = self._parts.store.get(self.job_id)
            if self._is_foreign() and row is not None:
                tracked.ref = row.ref
        live = not self.done() and tracked.ref is not None
        if launcher is not None and live and tracked.ref is not None:
            yield from launcher.read_logs(tracked.ref, follow=follow, tail=tail)
        elif os.path.exists(tracked.log_file):
            yield from _read_file(tracked.log_file, tail)

    def add_done_callback(self, function: Callable[[Handle], object]) -> None:
        """Call ``function(handle)`` when the job has ended (at once if it has), in a thread of its own.

        It may wait for other jobs; exceptions go to the log.
        """

        def call() -> None:
            try:
                function(self)
            except Exception:
                self._parts.log.exception("a done callback of job %s raised", self.job_id)

        name = f"siteward-callback-{self.job_id}"
        self.on_done(lambda: threading.Thread(target=call, name=name).start())

    def on_done(self, function: Callable[[], object]) -> None:
        """Call ``function()`` in the thread that brings the news: it must return at once and must not raise."""
        self._follow()
        self._tracked.future.add_done_callback(lambda _future: function())

    def __await__(self) -> Generator[Any, None, Result]:
        import asyncio  # a tenth of a second that only awaiting programs have spent already

        self._follow()
        return asyncio.wrap_future(_mirror(self._tracked.future)).__await__()

    # --- jobs of other drivers ---

    def _is_foreign(self) -> bool:
        return self._tracked.lock is None and not self._tracked.future.done()

    def _follow(self) -> None:
        """Wait in a thread for the other driver to finish or die; then take its result, or its job."""
        self._parts.driver.check_process()
        driver = self._parts.driver
        if not self._is_foreign() or not driver.follow(self._tracked):
            return
        if driver.closed:
            driver.leave(self._tracked)
            return
        name = f"siteward-follow-{self.job_id}"
        threading.Thread(target=self._take_over, kwargs={"wait": True}, name=name, daemon=True).start()

    def _take_over(self, *, wait: bool) -> None:
        tracked, driver = self._tracked, self._parts.driver
        try:
            self._take_lock(wait)
        except Exception as error:
            if isinstance(error, OSError):
                error = StoreError(f"job {self.job_id}: its folder cannot be used: {error}")
            self._parts.log.warning("job %s cannot be taken over: %s", self.job_id, error)
            if wait:
                with suppress(InvalidStateError):
                    tracked.future.set_exception(error)
        finally:
            if wait:
                driver.unfollow(tracked)

    def _take_lock(self, wait: bool) -> None:
        tracked, driver = self._tracked, self._parts.driver
        lock = OwnerLock(tracked.folder)
        if not lock.acquire(wait=wait):
            lock.release()
        elif driver.closed:
            lock.release()
            driver.leave(tracked)
        elif tracked.lock is not None or tracked.future.done():
            lock.release()
        else:
            tracked.lock = lock
            self._adopt(tracked)


def _mirror(future: Future[Result]) -> Future[Result]:
    """Return a future that follows ``future`` but can be cancelled alone: cancelling a task must not touch the job."""
    mirror: Future[Result] = Future()

    def copy(done: Future[Result]) -> None:
        if mirror.set_running_or_notify_cancel():
            error = done.exception()
            if error is not None:
                mirror.set_exception(error)
            else:
                mirror.set_result(done.result())

    future.add_done_callback(copy)
    return mirror


def _read_file(path: str, tail: int | None) -> Iterator[bytes]:
    with open(path, "rb", opener=open_plain) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            return
        if tail is not None:
            _seek_tail(stream, tail)
        while chunk := stream.read(65536):
            yield chunk


def _seek_tail(stream: Any, lines: int) -> None:
    """Move to the start of the last ``lines`` lines."""
    position = stream.seek(0, 2)
    found, block = b"", 65536
    while position > 0 and found.rstrip(b"\n").count(b"\n") < lines:
        step = min(block, position)
        position -= step
        stream.seek(position)
        found = stream.read(step) + found
    kept = b"".join(found.splitlines(keepends=True)[-lines:]) if lines > 0 else b""
    stream.seek(-len(kept), 2)


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Cut chunks into lines; the last may have no newline, and one above 1 MiB comes in pieces."""
    pieces: list[bytes] = []
    length = 0
    try:
        for chunk in chunks:
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                yield b"".join([*pieces, line, b"\n"])
                pieces, length = [], 0
            pieces.append(rest)
            length += len(rest)
            if length > _LONGEST_LINE:
                yield b"".join(pieces)
                pieces, length = [], 0
        if length:
            yield b"".join(pieces)
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
