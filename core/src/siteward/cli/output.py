"""What the commands print: tables, JSON documents, and words for people on stderr."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

import click

_ESCAPES = re.compile(
    r"(?P<colour>\x1b\[[0-9;:]*m)"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b\[[0-?]*[ -/]*[@-~]|\x1b.?|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_COLOURS = {
    "RUNNING": "cyan",
    "SUCCEEDED": "green",
    "FAILED": "red",
    "LOST": "red",
    "REFUSED": "red",
    "ABORTED": "yellow",
    "STOPPED": "yellow",
    "ok": "green",
    "loaded": "green",
    "warn": "yellow",
    "disabled": "yellow",
    "fail": "red",
    "broken": "red",
}
_SHORTEST = 12


def emit(document: object) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(document, indent=2, default=str))


def say(words: str) -> None:
    """Tell people something, on stderr; nobody there to hear it is no error."""
    with suppress(OSError):
        click.echo(f"siteward: {words}", err=True)


def error_lines(error: Exception) -> list[str]:
    """Return an error's words, every problem on its own line, none twice."""
    return list(dict.fromkeys(line for line in str(error).splitlines() if line)) or [type(error).__name__]


def hush(stream: IO[str]) -> None:
    """Let a stream whose reader has left lead nowhere, so that Python can flush it when it exits."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def open_streams() -> None:
    """Let closed standard streams lead nowhere: the next file to be opened would get their numbers otherwise."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def one_line(text: str) -> str:
    """Return a text fit for a table's cell: one line, nothing that a terminal obeys."""
    return " ".join(_ESCAPES.sub(" ", text).split())


def visible(line: bytes) -> str:
    """Return a line of a job's output fit for a terminal: colours stay, whatever else a terminal obeys goes.

    Of a line that a progress bar wrote over again and again, what was written last stays.
    """
    text = line.decode(errors="replace").rstrip("\r\n")
    text = next((part for part in reversed(text.split("\r")) if part), "")
    text = _ESCAPES.sub(lambda match: match["colour"] or "", text)
    return f"{text}\x1b[0m" if "\x1b[" in text else text


def age(seconds: float) -> str:
    """Say a duration as people do: ``12s``, ``3m``, ``5h``, ``2d``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(int(seconds), 0)}s"


def clock(at: float | None) -> str:
    """Say a time, local, to the second; nothing for None."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def is_live(stream: IO[Any]) -> bool:
    """Whether a stream is a terminal that can be drawn on."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def coloured(text: str, state: str | None = None) -> str:
    """Colour a state (or another text as that state) if stdout is a terminal and NO_COLOR is not set."""
    colour = _COLOURS.get(state or text)
    plain = colour is None or os.environ.get("NO_COLOR") or not is_live(sys.stdout)
    return text if plain else click.style(text, fg=colour)


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns; on a terminal the last one is cut to fit, elsewhere nothing is."""
    cells = [[one_line("" if cell is None else str(cell)) for cell in row] for row in rows]
    widths = [max(width(row[i]) for row in [list(headers), *cells]) for i in range(len(headers))]
    if sys.stdout.isatty():
        left = shutil.get_terminal_size().columns - sum(widths[:-1]) - 2 * (len(widths) - 1)
        cells = [[*row[:-1], _cut(row[-1], max(left, _SHORTEST))] for row in cells]
    for row in [[header.upper() for header in headers], *cells]:
        padded = [coloured(cell) + " " * (widths[i] - width(cell)) for i, cell in enumerate(row)]
        click.echo("  ".join(padded).rstrip())


def _cut(text: str, columns: int) -> str:
    while width(text) > columns:
        text = text[: min(len(text) - 2, columns - 1)] + "…"
    return text
