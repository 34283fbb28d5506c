"""How far a container's output has been read, so that reading goes on there: nothing lost, nothing twice. Pure.

The API server can send output from a time on, but only from a full second, and in front of each line it puts the
time at which the line was begun. Lines of the container's two streams lie in the order in which they were written
down, and their times are not always in that order. So it is asked for from the second before the last one on, and
what lies behind that second's first line is counted, in the order of the file.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import lru_cache

_TIME = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")
_LONGEST_TIME = 40

_Key = tuple[float, bytes]


class Position:
    """Takes output with times, as it comes, and returns what is new of it without times.

    ``reads_from`` is what to ask for when it is read anew (``sinceTime``), None for all; call :meth:`begin` then.
    """

    def __init__(self) -> None:
        self.reads_from: str | None = None
        # Of the last second in which a line was begun and the one before, in the order in which they appeared: their
        # first lines, and how many of their lines are complete.
        self._seconds: dict[float, tuple[_Key, int]] = {}
        # The last line that was begun, should it not be complete, and how much of it was returned.
        self._open: _Key | None = None
        self._cut_off: _Key | None = None
        self._returned = 0
        self._at = 0
        self._last: _Key = (float("-inf"), b"")
        self.begin()

    def begin(self) -> None:
        """Read anew, from ``reads_from`` on."""
        self._head = b""
        self._in_line = False
        self._at_beginning, self._was_known = True, False
        self._looks_for_first = bool(self._seconds)
        self._known = 0
        # Of the line that is being read: how many more bytes are known; None for all.
        self._skip: int | None = 0
        self._counted: float | None = None
        self._cut_off, self._open = self._open or self._cut_off, None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return those of the output that are new."""
        new: list[bytes] = []
        data = self._head + data
        self._head = b""
        at = 0
        while at < len(data):
            if not self._in_line:
                space = data.find(b" ", at, at + _LONGEST_TIME)
                line_end = data.find(b"\n", at, at + _LONGEST_TIME)
                if space < 0 and line_end < 0 and len(data) - at < _LONGEST_TIME:
                    self._head = data[at:]
                    break
                at = self._start(data, at, space)
            end = data.find(b"\n", at)
            piece = data[at : end + 1] if end >= 0 else data[at:]
            at += len(piece)
            if self._skip is not None:
                new.append(piece[self._skip :] if self._skip else piece)
                self._skip = max(0, self._skip - len(piece))
                self._at += len(piece)
                self._returned = max(self._returned, self._at)
            if end >= 0:
                self._end()
        return b"".join(new)

    def _start(self, data: bytes, at: int, space: int) -> int:
        """Begin a line; return where its text begins."""
        self._in_line = True
        match = _TIME.fullmatch(data, at, space) if space >= 0 else None
        first_of_all, self._at_beginning = self._at_beginning, False
        if match is None:
            # At the beginning: the rest of a line that was begun in an earlier second, or the kubelet's own words.
            # Elsewhere: what the kubelet takes for the rest of the line before.
            if first_of_all or self._was_known:
                self._skip = None
            self._counted = None
            return at
        second = _second(match[1], match[3])
        key = (second, (match[2] or b"").ljust(9, b"0"))
        self._skip = self._known_of(key)
        self._was_known = self._skip is None
        if self._skip is not None:
            self._note(key, match)
        return space + 1

    def _known_of(self, key: _Key) -> int | None:
        """Return how many bytes of a line are known; None when it is known as a whole."""
        if self._looks_for_first:
            if key == next(iter(self._seconds.values()))[0]:
                self._known = sum(lines for _first, lines in self._seconds.values())
            elif key <= self._last and key != self._cut_off:
                return None  # older than what was asked for when reading began
            self._looks_for_first = False
        if self._known > 0:
            self._known -= 1
            return None
        cut_off, self._cut_off = self._cut_off, None
        return self._returned if cut_off == key else 0

    def _note(self, key: _Key, match: re.Match[bytes]) -> None:
        """Note that a new line begins."""
        if key[0] > self._last[0]:
            self._seconds = {each: what for each, what in self._seconds.items() if each >= key[0] - 1}
            self.reads_from = _before(match[1], match[3])
        self._last = max(self._last, key)
        self._counted = key[0] if key[0] >= self._last[0] - 1 else None
        if self._counted is not None:
            self._seconds.setdefault(key[0], (key, 0))
        self._open, self._at, self._returned = key, 0, self._skip or 0

    def _end(self) -> None:
        """End a line."""
        if self._skip is not None and self._counted is not None:
            first, lines = self._seconds[self._counted]
            self._seconds[self._counted] = first, lines + 1
        self._in_line, self._open, self._skip = False, None, 0


def _time(time: bytes, zone: bytes) -> datetime:
    return datetime.fromisoformat((time + zone.replace(b"Z", b"+00:00")).decode())


@lru_cache(8)
def _second(time: bytes, zone: bytes) -> float:
    return _time(time, zone).timestamp()


def _before(time: bytes, zone: bytes) -> str:
    """Return the second before a time, as the API wants it."""
    return (_time(time, zone) - timedelta(seconds=1)).isoformat()
