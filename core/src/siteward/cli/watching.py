"""Watches a run to its verdict for those who look: states, output lines, and results brought home at each end."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from siteward.cli.progress import Display, Row
from siteward.cli.results import OutputFolder
from siteward.ends import JobState
from siteward.errors import SitewardError
from siteward.handle import Handle
from siteward.runs import Run

_TICK = 0.1
# Jobs that print faster than a terminal takes it wait, rather than fill the memory.
_LINES, _AT_ONCE = 10_000, 500
# How long the last lines of an ended job may take to come.
_LATE = 5.0


class Watcher:
    """One run, watched. ``output`` brings each job's results home once it has ended."""

    def __init__(self, run: Run, display: Display, *, follow: bool, output: OutputFolder | None) -> None:
        self._run = run
        self._display = display
        self._output = output
        self._lines: queue.Queue[tuple[str, bytes]] = queue.Queue(_LINES)
        self._began = time.monotonic()
        self._ended: dict[str, float] = {}
        self._last: dict[str, Row] = {}
        self._followers = {
            name: threading.Thread(target=self._follow, args=(name, handle), name=f"follow-{name}", daemon=True)
            for name, handle in (run.handles.items() if follow else ())
        }

    def watch(self) -> None:
        """Show everything until the run has its verdict and its results are home; SitewardError if it is lost."""
        for follower in self._followers.values():
            follower.start()
        with ThreadPoolExecutor(4, thread_name_prefix="siteward-copy") as pool:
            brought: set[str] = set()
            while True:
                over = self._pause()
                self._display.update(self._rows())
                for name, handle in self._run.handles.items():
                    if name in self._run.results and name not in brought:
                        brought.add(name)
                        if self._output is not None:
                            pool.submit(self._output.bring, handle)
                if over and not any(self._is_late(name) for name in self._followers):
                    break
            while not self._lines.empty():
                self._show_lines()
        self._display.update(self._rows())

    def _pause(self) -> bool:
        """Show lines as they come, or wait a moment; return whether the run is over."""
        if self._followers:
            try:
                first = self._lines.get(timeout=_TICK)
            except queue.Empty:
                pass
            else:
                self._show_lines(first)
        try:
            self._run.wait(0 if self._followers else _TICK)
        except TimeoutError:
            return False
        return True

    def _show_lines(self, *first: tuple[str, bytes]) -> None:
        lines = [*first, *(self._lines.get() for _ in range(min(self._lines.qsize(), _AT_ONCE)))]
        if lines:
            self._display.lines(lines)

    def _follow(self, name: str, handle: Handle) -> None:
        try:
            for line in handle.logs(follow=True):
                self._lines.put((name, line))
        except (SitewardError, OSError) as error:
            self._display.say(f"{name}: its output cannot be followed: {error}")

    def _is_late(self, name: str) -> bool:
        """Whether lines of this job may still come, be it running or just ended."""
        if not self._followers[name].is_alive() and self._lines.empty():
            return False
        return time.monotonic() < self._ended.get(name, float("inf")) + _LATE

    def _rows(self) -> Sequence[Row]:
        rows = []
        for name, handle in self._run.handles.items():
            if name not in self._last or not self._last[name].state.ended:
                row = self._look(name, handle)
                if row.state.ended:
                    self._ended.setdefault(name, time.monotonic())
                if not (row.state.ended and name in self._followers and self._is_late(name)):
                    self._last[name] = row
            rows.append(self._last.get(name) or Row(site=name, backend=handle.backend, state=JobState.PENDING))
        never = [(name, result) for name, result in self._run.results.items() if name not in self._run.handles]
        rows += [Row(site=name, backend="", state=result.state, message=result.message) for name, result in never]
        return rows

    def _look(self, name: str, handle: Handle) -> Row:
        status, result = handle.status(), self._run.results.get(name)
        state = result.state if result else JobState.RUNNING if status.state.ended else status.state
        message = result.message if result else "" if status.state.ended else status.message
        if not status.state.ended and status.progress is not None:
            message = f"{message} ({status.progress:.0%})".strip()
        return Row(
            site=name,
            backend=handle.backend,
            state=state,
            message=message,
            started=result is not None and result.started_at is not None,
            elapsed=time.monotonic() - self._began,
        )
