"""Keep the outputs of running jobs below their limits, woken by writes alone and a few times a second at most."""

from __future__ import annotations

import contextlib
import os

from siteward_process import linux, output

INTERVAL = 0.2


class OutputCap:
    """Watches outputs by inotify. ``fd`` is to be waited on (None where inotify is not to be had)."""

    def __init__(self) -> None:
        self._files: dict[int, tuple[str, int, list[int]]] = {}
        try:
            self._inotify: linux.Inotify | None = linux.Inotify()
        except OSError:
            self._inotify = None

    @property
    def fd(self) -> int | None:
        """What becomes readable when a job wrote something."""
        return self._inotify.fd if self._inotify else None

    def add(self, path: str, limit: int) -> int | None:
        """Watch an output; return what :meth:`remove` takes, None when it can be shortened at the end only."""
        if self._inotify is None:
            return None
        try:
            watch = self._inotify.add(path)
        except OSError:
            return None
        self._files[watch] = (path, limit, [0])
        with contextlib.suppress(OSError):
            drop_middle(path, limit, self._files[watch][2])
        return watch

    def remove(self, watch: int | None) -> None:
        """Watch it no longer."""
        if watch is not None and self._inotify and self._files.pop(watch, None):
            self._inotify.remove(watch)

    def check(self) -> None:
        """Drop the middle of what has grown past its limit since the last check."""
        if self._inotify is None:
            return
        written, lost = self._inotify.read()
        for watch in list(self._files) if lost else written & self._files.keys():
            path, limit, dropped = self._files[watch]
            with contextlib.suppress(OSError):
                drop_middle(path, limit, dropped)


def drop_middle(path: str, limit: int, dropped: list[int]) -> None:
    """Hand the middle of a growing output back to the file system. ``dropped[0]`` is where that ended last time."""
    if not output.is_too_long(os.lstat(path).st_size, limit):
        return
    fd = output.open_regular(path, os.O_WRONLY)
    if fd is None:
        return
    try:
        begin, end = output.middle(os.fstat(fd).st_size, limit)
        begin = max(begin, dropped[0])
        if end > begin:
            linux.punch_hole(fd, begin, end - begin)
            dropped[0] = end
    finally:
        os.close(fd)
