"""A container's output as chunks of bytes, in one piece even if the engine goes away while it is followed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

from siteward import BackendError, JobRef, JobState, Unreachable
from siteward_docker.build import container_of
from siteward_docker.client import Engine
from siteward_docker.news import News

_LOOK_AGAIN = 0.2


def read_logs(engine: Engine, news: News, ref: JobRef, follow: bool, tail: int | None) -> Iterator[bytes]:
    """Yield a job's output; with ``follow`` until it has ended."""

    def wait() -> None:
        with news.changed:
            news.changed.wait(_LOOK_AGAIN)

    while follow and _seen(news, ref) is None:
        wait()
    reader = _Reader(engine, container_of(ref))
    while follow:
        with suppress(Unreachable):
            yield from reader.read(follow=True, tail=tail)
            if _seen(news, ref) is not JobState.RUNNING:
                break
        wait()
    # Followers can miss the last of an output (docker 20.10, a line without an end).
    yield from reader.read(follow=False, tail=tail)


def _seen(news: News, ref: JobRef) -> JobState | None:
    """Return a job's state; None while it has not begun, or cannot be seen."""
    try:
        status = news.look(ref)
    except Unreachable:
        return None
    return None if status.state is JobState.PENDING else status.state


class _Reader:
    """Reads on from where it stopped: after the last time it saw, and so many pieces of that very time."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._last, self._count = "", 0

    def read(self, *, follow: bool, tail: int | None) -> Iterator[bytes]:
        begin, skip = self._last, self._count
        try:
            stream = self._engine.logs(self._name, follow=follow, tail=None if begin else tail, since=_since(begin))
        except Unreachable:
            raise
        except BackendError:  # a job that never had a container has no output
            return
        try:
            for time, text in stream:
                if time == begin and skip > 0:
                    skip -= 1
                    continue
                # Standard output and error are written down by two threads: times are not always in order.
                if time >= self._last:
                    self._last, self._count = time, self._count + 1 if time == self._last else 1
                yield text
        finally:
            stream.close()


def _since(time: str) -> str:
    """Return a time as the engine wants it: seconds since the epoch, with nine digits behind the point."""
    if not time:
        return ""
    seconds, _, fraction = time.removesuffix("Z").partition(".")
    return f"{int(datetime.fromisoformat(seconds + '+00:00').timestamp())}.{fraction or 0:0<9}"
