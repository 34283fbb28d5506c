"""A job's output: a file that the job writes to itself, kept below a size by dropping its middle.

While the job runs, the middle is handed back to the file system (a hole); at the end the file is written anew
as its head, a line that says how much was dropped, and its tail. Readers here never show a hole's zeros.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 4096
_CHUNK = 2**18


def dropped_line(count: int) -> bytes:
    """Return what stands where the middle of an output was."""
    return b"\n[siteward: %d bytes dropped here]\n" % count


def middle(size: int, limit: int) -> tuple[int, int]:
    """Return where the part to drop begins and ends, in whole blocks, for a file of ``size`` bytes."""
    half = limit // 2
    begin = -(-half // _BLOCK) * _BLOCK
    return begin, max(begin, (size - half) // _BLOCK * _BLOCK)


def is_too_long(size: int, limit: int) -> bool:
    """Whether enough is past the limit to be worth dropping."""
    begin, end = middle(size, limit)
    return size > limit and end > begin


def open_regular(path: str, flags: int = os.O_RDONLY) -> int | None:
    """Open an output; None when no file is there, or what is there (a link, a FIFO) is none of ours.

    The folder is the job's to write to, so that anything may stand in the file's place, and at any moment.
    """
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EISDIR):
            return None
        raise
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def compact(path: str, limit: int) -> None:
    """Rewrite an output that is past its limit as head, a line that says what was dropped, and tail."""
    try:
        if not is_too_long(os.lstat(path).st_size, limit):
            return
    except FileNotFoundError:
        return
    source = open_regular(path)
    if source is None:
        return
    try:
        size = os.fstat(source).st_size
        begin, end = middle(size, limit)
        if not is_too_long(size, limit):
            return
        draft = path + ".new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        target = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _copy(source, target, 0, begin)
            os.write(target, dropped_line(end - begin))
            _copy(source, target, end, size)
            # Those who are reading go on in the old file to its end.
            Path(draft).rename(path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy(source: int, target: int, at: int, end: int) -> None:
    while at < end:
        sent = os.sendfile(target, source, at, min(end - at, 2**24))
        if not sent:
            return
        at += sent


def _hole_at(fd: int, at: int) -> int:
    """Return where the next data begins: ``at`` itself unless it lies in a hole."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            return at
        return max(at, os.fstat(fd).st_size)


def _data_until(fd: int, at: int) -> int:
    try:
        return os.lseek(fd, at, os.SEEK_HOLE)
    except OSError:
        return at


def read_from(fd: int, at: int) -> Iterator[tuple[bytes, int]]:
    """Yield what the file holds from ``at`` on, each piece with where the next begins; ends at its present end."""
    while True:
        size = os.fstat(fd).st_size
        if at >= size:
            return
        data_at = _hole_at(fd, at)
        if data_at > at:
            yield dropped_line(data_at - at), data_at
            at = data_at
            continue
        data = os.pread(fd, _CHUNK, at)
        # The middle may have been dropped just before it was read: what is past the data is zeros.
        data = data[: max(0, _data_until(fd, at) - at)]
        if data:
            at += len(data)
            yield data, at
        elif at < size and _hole_at(fd, at) == at:
            return


def start_of_tail(fd: int, lines: int) -> int:
    """Return where the last ``lines`` lines begin, at the earliest behind a dropped middle."""
    size = at = os.fstat(fd).st_size
    first = _last_data(fd, size)
    # A newline at the very end closes the last line and opens none.
    left = lines + 1 if size and os.pread(fd, 1, size - 1) == b"\n" else lines
    while at > first and left > 0:
        begin = max(first, at - _CHUNK)
        data = os.pread(fd, at - begin, begin)
        position = len(data)
        while (position := data.rfind(b"\n", 0, position)) >= 0:
            left -= 1
            if left == 0:
                return begin + position + 1
        at = begin
    return size if lines <= 0 else first


def _last_data(fd: int, size: int) -> int:
    at = 0
    while True:
        hole = _data_until(fd, at)
        if hole <= at or hole >= size:
            return at
        at = _hole_at(fd, hole)
