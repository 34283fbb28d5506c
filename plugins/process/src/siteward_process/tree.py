"""Which processes belong to which job, also those that left its session.

The keeper is a subreaper, so a descendant of a job never leaves the keeper's own descendants: what loses its
parent becomes the keeper's child. Orphans are told apart by session, process group, and the job's marker in
their environment. The index is kept up from what the kernel says was started since the last look: looking
costs as much as there is news, not as there are processes.
"""

from __future__ import annotations

import os
import signal
from collections import OrderedDict
from time import monotonic

from siteward_process import proc

_STRANGER = ""
_UNKNOWN = "?"
_LONGEST_GLIMPSE = 4096
_FORGET_MARKERS_AFTER = 4096


class Tree:
    """An index of the jobs' processes. Keys are the jobs'; a job's main process is not among its members."""

    def __init__(self) -> None:
        self._self = os.getpid()
        self._mains: dict[int, str] = {}
        self._starts: dict[str, int] = {}
        self._markers: dict[proc.Marker, str] = {}
        self._past: OrderedDict[proc.Marker, None] = OrderedDict()
        self._survivors: set[str] = set()
        self._members: dict[str, dict[int, int]] = {}
        self._placed: dict[int, str] = {}
        self._unknown: dict[int, int] = {}
        # What runs already is nobody's: only what starts from now on can be a job's.
        self._last, self._newest = proc.last_pid(), 0
        self._forks = proc.forks()
        self._looked = monotonic()
        self._pid_max = proc.pid_max()

    def add(self, key: str, pid: int, start: int, marker: proc.Marker, *, survivor: bool = False) -> None:
        """Know a job by its main process. A survivor's was started by an earlier keeper: it is no descendant."""
        self._mains[pid] = key
        self._starts[key] = start
        self._markers[marker] = key
        self._past.pop(marker, None)
        if survivor:
            self._survivors.add(key)
            self._last = 0
        else:
            self._newest = pid

    def drop(self, key: str, pid: int, marker: proc.Marker) -> None:
        """Forget a job. Orphans that turn up with its marker later belong to nobody and may be ended."""
        if self._mains.get(pid) == key:
            del self._mains[pid]
        self._starts.pop(key, None)
        self._markers.pop(marker, None)
        self._survivors.discard(key)
        for member in self._members.pop(key, ()):
            self._placed.pop(member, None)
        self._past[marker] = None
        if len(self._past) > _FORGET_MARKERS_AFTER:
            self._past.popitem(last=False)

    def members(self, key: str) -> dict[int, int]:
        """Return the living processes of a job as of the last look, main process excluded, with their starts.

        Orphans that wiped their environment and left every group count to any job that may have started them
        once no other could have: those still running started after them, or none runs.
        """
        found = {pid: start for pid, start in self._members.get(key, {}).items() if _may_run(pid, start)}
        if self._unknown:
            oldest = min((start for other, start in self._starts.items() if other != key), default=None)
            for pid, start in list(self._unknown.items()):
                if not _may_run(pid, start):
                    del self._unknown[pid]
                elif start >= self._starts.get(key, 0) and (oldest is None or start < oldest):
                    found[pid] = start
        return found

    def look(self) -> None:
        """Bring the index up to date; OSError when that cannot be done now, and then the next look is at everything."""
        candidates = self._news()
        found: dict[int, str] = {}
        try:
            for pid in candidates:
                if pid not in self._mains and pid not in found and pid != self._self:
                    self._place(pid, candidates, found)
        except OSError:
            self._last = 0
            raise

    def _news(self) -> set[int]:
        """Return every process that may have started since the last look; at times, every process there is."""
        last, now = proc.last_pid(), monotonic()
        glimpse = self._last and self._last <= last <= self._last + _LONGEST_GLIMPSE
        # Containers may be shown numbers that are not theirs: then our own newest process is not among them.
        glimpse = glimpse and (not self._newest or self._last < self._newest <= last)
        # Numbers wrap: the last one may be small again after all of them were used.
        if glimpse and now - self._looked > 0.25:
            glimpse = proc.forks() - self._forks < self._pid_max // 2
        if glimpse:
            news = set(range(self._last + 1, last + 1))
        else:
            self._forks = proc.forks()
            news = set(proc.pids())
            self._members, self._placed, self._unknown = {}, {}, {}
        self._last, self._newest, self._looked = last, 0, now
        return news

    def _place(self, pid: int, candidates: set[int], found: dict[int, str]) -> None:
        """Find the job of a process by walking up from it; all on the way are of that job."""
        chain: list[proc.Stat] = []
        owner = _STRANGER
        at, tries = pid, 0
        while True:
            stat = _seen(at)
            if stat is None:
                if not chain or tries > 8:
                    break
                # A parent that ended meanwhile: its child has another one by now.
                tries += 1
                at = chain.pop().pid
                continue
            chain.append(stat)
            parent = stat.ppid
            known = self._mains.get(parent) or self._placed.get(parent) or found.get(parent)
            if known is not None:
                owner = known
            elif parent == self._self:
                owner = self._owner_of_orphan(stat)
            elif parent in candidates and parent > 1 and parent != at:
                at = parent
                continue
            break
        for stat in reversed(chain):
            if owner == _STRANGER and self._survivors:
                owner = self._owner_among_survivors(stat)
            elif owner == _UNKNOWN and stat is not chain[-1]:
                owner = self._owner_of_orphan(stat)
            self._note(stat, owner, found)

    def _note(self, stat: proc.Stat, owner: str, found: dict[int, str]) -> None:
        found[stat.pid] = owner
        if owner == _UNKNOWN:
            self._unknown[stat.pid] = stat.start
        elif owner:
            self._placed[stat.pid] = owner
            self._members.setdefault(owner, {})[stat.pid] = stat.start

    def _owner_of_orphan(self, stat: proc.Stat) -> str:
        owner = self._mains.get(stat.sid) or self._mains.get(stat.pgid)
        if owner:
            return owner
        marker = proc.marker(stat.pid)
        if marker in self._past:
            proc.send(stat.pid, stat.start, signal.SIGKILL)
            return _STRANGER
        return self._markers.get(marker, _UNKNOWN) if marker else _UNKNOWN

    def _owner_among_survivors(self, stat: proc.Stat) -> str:
        for number in (stat.sid, stat.pgid):
            owner = self._mains.get(number)
            if owner in self._survivors:
                return owner
        marker = proc.marker(stat.pid)
        owner = self._markers.get(marker) if marker else None
        return owner if owner in self._survivors else _STRANGER


def _may_run(pid: int, start: int) -> bool:
    try:
        return proc.is_alive(pid, start)
    except OSError:
        return True


def _seen(pid: int) -> proc.Stat | None:
    """Look at a process; who is hidden from us is as if he were not there."""
    try:
        return proc.stat(pid)
    except PermissionError:
        return None
