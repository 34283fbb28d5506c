"""How a run is shown while it goes on: a live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any, Protocol

from attrs import frozen

from siteward.cli.output import age, coloured, hush, is_live, one_line, visible, width
from siteward.ends import JobState

if TYPE_CHECKING:
    from rich.table import Table

_REFRESH = 0.25
_HEADERS = ("SITE", "BACKEND", "STATE", "ELAPSED")
_NARROWEST = 10
_STATE_WIDTH = max(len(state) for state in JobState)


@frozen(kw_only=True)
class Row:
    """What is known of one site's job. ``elapsed`` is in seconds, since the launch."""

    site: str
    backend: str
    state: JobState
    message: str = ""
    started: bool = False
    elapsed: float = 0.0


class Display(Protocol):
    """What shows a run. Its methods may be called from any thread, and never raise because nobody looks any more."""

    def update(self, rows: Sequence[Row]) -> None:
        """Show where the jobs are."""

    def lines(self, lines: Sequence[tuple[str, bytes]]) -> None:
        """Show lines of output, each with the site of the job that wrote it."""

    def say(self, words: str) -> None:
        """Show a sentence of siteward's own."""

    def close(self) -> None:
        """Leave what is shown as it is."""


def make_display(stream: IO[str], sites: Sequence[str]) -> Display:
    """Return what suits the stream."""
    return LiveDisplay(stream, sites) if is_live(stream) else PlainDisplay(stream, sites)


class PlainDisplay:
    """Lines: ``site-1  RUNNING`` for each change, ``site-1 | …`` for output, as the job wrote it."""

    def __init__(self, stream: IO[str], sites: Sequence[str]) -> None:
        self._stream = stream
        self._width = max(map(len, sites), default=0)
        self._shown: dict[str, tuple[JobState, str]] = {}
        self._muted = False
        self._lock = threading.Lock()

    def update(self, rows: Sequence[Row]) -> None:
        """Write a line for each site whose state or message is another than before."""
        for row in rows:
            before = self._shown.get(row.site)
            now = (row.state, row.message)
            if before == now:
                continue
            self._shown[row.site] = now
            if row.state.ended and row.started and (before is None or before[0] is JobState.PENDING):
                self.say(f"{row.site:<{self._width}}  {JobState.RUNNING}")
            self.say(f"{row.site:<{self._width}}  {row.state:<{_STATE_WIDTH}}  {one_line(row.message)}".rstrip())

    def lines(self, lines: Sequence[tuple[str, bytes]]) -> None:
        """Write each line after its site's name."""
        named = [f"{site:<{self._width}} | ".encode() + line.removesuffix(b"\n") for site, line in lines]
        self._write(b"\n".join(named) + b"\n")

    def say(self, words: str) -> None:
        """Write a line."""
        self._write(words.encode(errors="backslashreplace") + b"\n")

    def close(self) -> None:
        """Nothing is left to write."""

    def _write(self, data: bytes) -> None:
        with self._lock:
            if self._muted:
                return
            try:
                self._stream.buffer.write(data)  # type: ignore[attr-defined]
                self._stream.flush()
            except OSError:  # the reader has left; the jobs and their verdict go on
                self._muted = True
                hush(self._stream)


class LiveDisplay:
    """A table that is drawn anew as it changes; output and sentences scroll by above it."""

    def __init__(self, stream: IO[str], sites: Sequence[str]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._stream = stream
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._colours = dict(zip(sites, _cycle(len(sites)), strict=True))
        self._width = max(map(len, sites), default=0)
        self._rows: Sequence[Row] = ()
        self._drawn = 0.0
        self._muted = False
        self._lock = threading.RLock()

    def update(self, rows: Sequence[Row]) -> None:
        """Draw the table, at once when a job's state has changed, else now and then for the clock's sake."""
        if [row.state for row in rows] == [row.state for row in self._rows] and time.monotonic() < self._drawn:
            return
        self._rows, self._drawn = rows, time.monotonic() + _REFRESH
        self._draw(lambda: self._live.update(_table(rows, self._console.width), refresh=True))

    def lines(self, lines: Sequence[tuple[str, bytes]]) -> None:
        """Write lines above the table, each after its site's name."""
        from rich.text import Text

        named = [
            Text(f"{site:<{self._width}} | ", style=self._colours.get(site, "")).append_text(
                Text.from_ansi(visible(line), style="default")
            )
            for site, line in lines
        ]
        self._draw(lambda: self._console.print(Text("\n").join(named)))

    def say(self, words: str) -> None:
        """Write a sentence above the table."""
        from rich.text import Text

        self._draw(lambda: self._console.print(Text(one_line(words))))

    def close(self) -> None:
        """Leave the last table standing."""
        self._draw(lambda: self._live.update(_table(self._rows, self._console.width), refresh=True))
        self._draw(self._live.stop)

    def _draw(self, draw: Any) -> None:
        with self._lock:
            if self._muted:
                return
            try:
                if not self._live.is_started:
                    self._live.start()
                draw()
            except OSError:  # the terminal has gone; the jobs and their verdict go on
                self._muted = True
                hush(self._stream)


def _cycle(length: int) -> list[str]:
    colours = ("cyan", "magenta", "green", "yellow", "blue", "red")
    return [colours[i % len(colours)] for i in range(length)]


_STYLES = {"RUNNING": "cyan", "SUCCEEDED": "green", "FAILED": "red", "LOST": "red", "ABORTED": "yellow"}


def _table(rows: Sequence[Row], columns: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    facts = [(row.site, row.backend, row.state.value, age(row.elapsed)) for row in rows]
    taken = sum(max(map(width, column)) + 2 for column in zip(_HEADERS, *facts, strict=True))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in _HEADERS:
        table.add_column(header, no_wrap=True, overflow="ellipsis", justify="right" if header == "ELAPSED" else "left")
    # The other columns give way only where even they do not fit.
    has_room = columns - taken >= _NARROWEST
    if has_room:
        table.add_column("MESSAGE", no_wrap=True, overflow="ellipsis", width=columns - taken)
    for row, (site, backend, state, elapsed) in zip(rows, facts, strict=True):
        message = [Text(one_line(row.message))] if has_room else []
        table.add_row(Text(site), Text(backend), Text(state, style=_STYLES.get(state, "")), elapsed, *message)
    return table


def verdict_line(verdict: str, code: int, message: str) -> str:
    """Return a run's last line."""
    return f"{coloured(verdict)} ({code}): {one_line(message)}"


def stream_for(*, as_json: bool) -> IO[str]:
    """Return where a run is shown: stdout, or stderr when stdout is for one JSON document."""
    return sys.stderr if as_json else sys.stdout
