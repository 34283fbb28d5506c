"""Reports that wait for their delivery, on the disk: nothing is lost when a process is killed, nothing told twice.

Folders: ``waiting`` has a file for each report, ``refused`` those that the receiver will not take, ``told`` an empty
one for each that was delivered, so that an end which a site tells of again after a crash is not delivered again.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_KEEP_TOLD = 30 * 86400.0


class Spool:
    """A folder of one site's; several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting, self._refused, self._told = (folder / name for name in ("waiting", "refused", "told"))
        for each in (self._waiting, self._refused, self._told):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, key: str, record: dict[str, Any]) -> bool:
        """Keep a report until it is delivered; False when it is here, or was delivered, already."""
        name = f"{key}.json"
        if any((folder / name).exists() for folder in (self._waiting, self._refused, self._told)):
            return False
        partial = self._folder / f".{name}.{os.getpid()}"
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as stream:
            stream.write(json.dumps({"at": time.time(), "record": record}).encode())
            stream.flush()
            os.fsync(fd)
        partial.rename(self._waiting / name)
        _sync(self._waiting)
        return True

    def waiting(self) -> list[str]:
        """Return the keys of what waits, oldest first."""
        found = []
        for path in self._waiting.glob("*.json"):
            with suppress(FileNotFoundError):
                found.append((path.stat().st_mtime, path.name.removesuffix(".json")))
        return [key for _, key in sorted(found)]

    def read(self, key: str) -> dict[str, Any] | None:
        """Return a report that waits; None when it has been delivered meanwhile, or is no report at all."""
        try:
            record = json.loads((self._waiting / f"{key}.json").read_bytes())["record"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            self.refused(key)
            return None
        return record if isinstance(record, dict) else None

    def delivered(self, key: str) -> None:
        """Note that a report has been delivered; its text goes."""
        path = self._told / f"{key}.json"
        (self._waiting / f"{key}.json").rename(path)
        os.truncate(path, 0)
        os.utime(path)

    def refused(self, key: str) -> None:
        """Put aside a report that will never be taken."""
        (self._waiting / f"{key}.json").rename(self._refused / f"{key}.json")

    @contextmanager
    def delivering(self) -> Iterator[bool]:
        """Hold the right to deliver; False when another process, or another thread, has it."""
        fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(fd)

    def forget(self) -> None:
        """Forget of what was delivered long ago, and what a killed process has half written."""
        oldest = time.time() - _KEEP_TOLD
        for path in (*self._told.iterdir(), *self._folder.glob(".*.json.*")):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
