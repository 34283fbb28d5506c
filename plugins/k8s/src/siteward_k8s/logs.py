"""A container's output as chunks of bytes, in one piece even if the API server goes away while it is followed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from threading import Condition
from typing import Protocol

from siteward import JobRef, JobState, JobStatus, Unreachable
from siteward_k8s.client import Cluster
from siteward_k8s.errors import Missing, Refused
from siteward_k8s.position import Position

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


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
    has no output.
    """
    reader = _Reader(cluster, ref)
    if not follow:
        yield from reader.read(follow=False, tail=tail)
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
        except Unreachable:
            pass
        state = waiting.state()
        if state is not None and state.ended:
            break
        waiting.wait()
    # A stream that ends with its container may leave out the last of it.
    yield from _surely(reader, waiting, None)


def _surely(reader: _Reader, waiting: _Waiting, tail: int | None) -> Iterator[bytes]:
    """Yield what there is by now, when it can be had."""
    while True:
        try:
            yield from reader.read(follow=False, tail=tail)
            return
        except Unreachable:
            waiting.wait()


class _Waiting:
    """Waits for news of a job, and looks for itself now and then where nobody brings any."""

    def __init__(self, news: News, ref: JobRef) -> None:
        self._news = news
        self._ref = ref
        self._pause = _FIRST_PAUSE

    def state(self) -> JobState | None:
        """Return the job's state, None when it cannot be seen."""
        with suppress(Unreachable):
            return self._news.look(self._ref).state
        return None

    def reset(self) -> None:
        """Be quick again."""
        self._pause = _FIRST_PAUSE

    def wait(self) -> None:
        """Wait until there is news of the job, longer each time if there is none."""
        before, until = self._news.seen(self._ref), time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        while (left := until - time.monotonic()) > 0:
            with self._news.changed:
                self._news.changed.wait(left)
            if self._news.seen(self._ref) != before:
                self.reset()
                return


class _Reader:
    """Reads on from where it stopped."""

    def __init__(self, cluster: Cluster, ref: JobRef) -> None:
        self._cluster = cluster
        self._ref = ref
        self._position = Position()

    def read(self, *, follow: bool, tail: int | None) -> Iterator[bytes]:
        """Yield what is new: the last ``tail`` lines of it at first. Nothing when there is, or can be, no output."""
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
            if isinstance(error, Missing) or error.code == 400:  # no pod; a container that has not been started
                return
            raise
        with stream:
            for chunk in stream:
                # With no lines to begin with, the last one still says where to go on.
                if (new := self._position.feed(chunk)) and tail != 0:
                    yield new
