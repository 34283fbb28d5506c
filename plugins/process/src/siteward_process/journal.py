"""The keeper's memory on disk: what each job was started as, and how it ended.

One file, one JSON line per change (``{"k": key, …}`` merged into the job's record, ``"gone"`` ends it), each
written by one write(2) with O_APPEND, so that a kill at any moment loses nothing that anyone was told.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from typing import Any

from siteward_process.wire import encode

Record = dict[str, Any]
_COMPACT_AT = 2**20
_NUMBER = (int, float)


def key_of(job_id: str, attempt: int) -> str:
    """Return the name of one attempt of a job."""
    return f"{attempt}/{job_id}"


def parts_of(key: str) -> tuple[str, int]:
    """Return job id and attempt of a key."""
    attempt, _, job_id = key.partition("/")
    return job_id, int(attempt)


def is_whole(key: str, record: Record) -> bool:
    """Whether a record says all that is relied on: a torn or foreign line may have left less."""
    try:
        job_id, _attempt = parts_of(key)
        if not job_id.encode():
            return False
    except ValueError:
        return False
    end = record.get("end")
    if end is not None:
        return isinstance(end, dict) and _has(end, at=_NUMBER) and _has(record, t0=_NUMBER)
    if "pid" in record and not _has(record, pid=int, start=int):
        return False
    return _has(record, dir=str, log=str, boot=str, cap=int, t0=_NUMBER)


def _has(record: Record, **kinds: type | tuple[type, ...]) -> bool:
    return all(isinstance(record.get(name), kind) for name, kind in kinds.items())


class Journal:
    """Records by key, in memory and in a file. Only the holder of the keeper's lock may have one."""

    def __init__(self, directory_fd: int, name: str) -> None:
        self._directory = directory_fd
        self._name = name
        self.records: dict[str, Record] = {}
        self._fd = self._open(name)
        self._size = 0
        self._limit = _COMPACT_AT
        # Set when a write failed: the file lacks something that only memory has.
        self._behind = False
        self._load()

    def _open(self, name: str, flags: int = 0) -> int:
        flags |= os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(name, flags, 0o600, dir_fd=self._directory)

    def _load(self) -> None:
        size = os.fstat(self._fd).st_size
        for line in os.pread(self._fd, size, 0).splitlines():
            # A machine that lost power may leave a torn line; what it said is lost, the rest is not.
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                self._apply(json.loads(line))
        self._size = size
        if size:
            with contextlib.suppress(OSError):
                self._rewrite()

    def _apply(self, change: Record) -> None:
        key = change.pop("k")
        if not isinstance(key, str):
            raise TypeError
        if change.get("gone"):
            self.records.pop(key, None)
        else:
            self.records.setdefault(key, {}).update(change)

    def put(self, key: str, **changes: Any) -> str:
        """Change a record; return the line that was written: what clients are told is what is on disk.

        A failed write is made good by the next one that succeeds: memory has the change all the same.
        """
        self.records.setdefault(key, {}).update(changes)
        line = encode({"k": key, **changes})
        with contextlib.suppress(OSError):
            self._append(line)
        return line

    def intend(self, key: str, **changes: Any) -> None:
        """Begin a record; OSError when it cannot be written, and then there is none."""
        self.records[key] = changes
        try:
            self._append(encode({"k": key, **changes}))
        except OSError:
            del self.records[key]
            raise

    def forget(self, key: str) -> None:
        """Drop a record; the file shrinks when nothing is left to remember, or when most of it is past."""
        if self.records.pop(key, None) is None:
            return
        with contextlib.suppress(OSError):
            if not self.records:
                os.ftruncate(self._fd, 0)
                self._size, self._behind = 0, False
            elif self._size > self._limit:
                self._rewrite()
            else:
                self._append(encode({"k": key, "gone": True}))

    def _append(self, line: str) -> None:
        if self._behind:
            self._rewrite()
            return
        data = (line + "\n").encode("ascii")
        self._behind = True
        if os.write(self._fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._behind = False
        self._size += len(data)

    def _rewrite(self) -> None:
        self._behind = True
        draft = self._name + ".new"
        lines = [encode({"k": key, **record}) + "\n" for key, record in self.records.items()]
        data = "".join(lines).encode("ascii")
        fd = self._open(draft, os.O_TRUNC)
        try:
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.rename(draft, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except BaseException:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd, self._size, self._behind = fd, len(data), False
        # With much to remember, rewriting at every turn would cost more than it frees.
        self._limit = max(_COMPACT_AT, 2 * len(data))

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)
