"""A container's output as chunks of bytes, in one piece even if the API server goes away while it is followed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Condition
from typing import Protocol

from siteward import JobRef, JobState, JobStatus, Unreachable
from siteward_k8s.client import Cluster
from siteward_k8s.errors import Closed, Missing, Refused
from siteward_k8s.position import Position

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_TRIES = 10


class NotStarted(Refused):
    """A container has no output, as it has not been started."""


class News(Protocol):
    """What tells how a job is."""

    @property
    def changed(self) -> Condition:
        """Notified at news of any job."""

    def look(self, ref: JobRef) -> JobStatus:
        """Look at a job, uncached."""

    def seen(self, ref: JobRef) -> JobState:
        """Return a job's state as far as it is known, without asking."""


def read_logs(cluster: Cluster, news: News, ref: JobRef, follow: bool, tail: int | None) -> Iterator[bytes]:
    """Yield a job's output; with ``follow`` until it has ended, over whatever connections break meanwhile.

    ``tail`` is a number of lines to begin with, None for all. A job that has no container, or whose pod is no more,
    has no output. Closed when the site was closed in the middle of it.
    """
    reader = _Reader(cluster, ref)
    if not follow:
        yield from _all(reader, news, ref, tail)
        return
    waiting = _Waiting(news, ref)
    while waiting.state() in (None, JobState.PENDING):
        waiting.wait()
    if tail is not None:
        # What follows begins behind it, also if nothing was written between now and a connection that breaks.
        yield from _surely(reader, waiting, tail)
    while True:
        try:
            for chunk in reader.read(follow=True, tail=None):
                waiting.reset()
                yield chunk
        except (Unreachable, NotStarted):
            pass
        state = waiting.state()
        if state is not None and state.ended:
            break
        waiting.wait()
    # A stream that ends with its container may leave out the last of it.
    yield from _surely(reader, waiting, None)


def _all(reader: _Reader, news: News, ref: JobRef, tail: int | None) -> Iterator[bytes]:
    """Yield what there is; a node that is busy may say for a moment that a job that has run was never started."""
    for left in reversed(range(_TRIES)):
        try:
            yield from reader.read(follow=False, tail=tail)
            return
        except NotStarted:
            status = news.look(ref)
            if status.result is None or status.result.exit_code is None:
                return
            if not left:
                raise
            time.sleep(_FIRST_PAUSE)


def _surely(reader: _Reader, waiting: _Waiting, tail: int | None) -> Iterator[bytes]:
    """Yield what there is by now, when it can be had."""
    while True:
        try:
            yield from _all(reader, waiting.news, waiting.ref, tail)
            return
        except Closed:
            raise
        except Unreachable:
            waiting.wait()


class _Waiting:
    """Waits for news of a job, and looks for itself now and then where nobody brings any."""

    def __init__(self, news: News, ref: JobRef) -> None:
        self.news = news
        self.ref = ref
        self._pause = _FIRST_PAUSE

    def state(self) -> JobState | None:
        """Return the job's state, None when it cannot be seen."""
        try:
            return self.news.look(self.ref).state
        except Closed:
            raise
        except Unreachable:
            return None

    def reset(self) -> None:
        """Be quick again."""
        self._pause = _FIRST_PAUSE

    def wait(self) -> None:
        """Wait until there is news of the job, longer each time if there is none."""
        before, until = self.news.seen(self.ref), time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        while (left := until - time.monotonic()) > 0:
            with self.news.changed:
                self.news.changed.wait(left)
            if self.news.seen(self.ref) != before:
                self.reset()
                return


class _Reader:
    """Reads on from where it stopped."""

    def __init__(self, cluster: Cluster, ref: JobRef) -> None:
        self._cluster = cluster
        self._ref = ref
        self._position = Position()

    def read(self, *, follow: bool, tail: int | None) -> Iterator[bytes]:
        """Yield what is new: the last ``tail`` lines of it at first. Nothing when there is no pod (any more)."""
        self._position.begin()
        begin = self._position.reads_from
        name, namespace = self._ref.data["name"], self._ref.data.get("namespace")
        lines = None if tail is None or begin is not None else max(tail, 1)
        try:
            stream = self._cluster.read_log(
                name,
                self._ref.data["container"],
                follow=follow,
                since_time=begin,
                tail_lines=lines,
                timestamps=True,
                namespace=namespace,
            )
        except (Missing, Refused) as error:
            if isinstance(error, Missing):
                return
            if error.code == 400:
                raise NotStarted(str(error)) from error
            raise
        with stream:
            for chunk in stream:
                # With no lines to begin with, the last one still says where to go on.
                if (new := self._position.feed(chunk)) and tail != 0:
                    yield new
