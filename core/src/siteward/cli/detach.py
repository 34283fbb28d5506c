"""``run --detach``: a driver process that leaves the terminal, and says over a pipe whether it could launch."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import click
from attrs import define, field

from siteward.cli.app import INTERRUPTED, UNEXPECTED, failure
from siteward.cli.output import emit, say

_STDIO = (0, 1, 2)


@define
class Report:
    """The driver's end of the pipe. The launching command may be gone: then nobody hears, and that is no error."""

    _fd: int | None
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def say(self, words: str) -> None:
        """Tell people something."""
        self._send({"say": words})

    def launched(self, document: dict[str, Any]) -> None:
        """Tell that the jobs are launched; the launching command prints them and leaves."""
        self._send({"document": document, "code": 0})
        self._close()

    def failed(self, lines: Sequence[str], code: int, document: dict[str, Any] | None = None) -> None:
        """Tell that nothing was launched, why, and the exit code."""
        for line in lines:
            self.say(line)
        self._send({"document": document, "code": code})
        self._close()

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        with self._lock, suppress(OSError):
            while data and self._fd is not None:
                data = data[os.write(self._fd, data) :]

    def _close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, None
            if fd is not None:
                os.close(fd)


def leave(drive: Callable[[Report], object], *, as_json: bool) -> int:
    """Run ``drive`` in a process that outlives this one; return the exit code once it has launched, or failed to.

    To be called before any thread exists: only the calling thread lives on after a fork.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    ear = _Ear(reader)
    # A handler, not KeyboardInterrupt: that could come between any two lines and leave the driver behind.
    before = signal.signal(signal.SIGINT, ear.hand_on)
    try:
        if (child := os.fork()) == 0:
            os.setsid()
            # A session's leader could get a controlling terminal again; its child cannot.
            if os.fork() == 0:
                _be_driver(writer, drive)
            os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        return ear.hear(as_json)
    finally:
        signal.signal(signal.SIGINT, before)


def _be_driver(writer: int, drive: Callable[[Report], object]) -> None:
    report, status = Report(writer), 0
    try:
        _let_go(writer)
        report._send({"pid": os.getpid()})
        drive(report)
    except BaseException as error:
        lines, status = failure(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        report.failed(lines, status)
    finally:
        os._exit(status)


def _let_go(writer: int) -> None:
    """Let go of everything that belongs to whoever launched us."""
    os.chdir("/")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in _STDIO:
        os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (*_STDIO, writer):
            with suppress(OSError):
                os.close(int(name))


@define
class _Ear:
    """The launching command's end of the pipe; a Ctrl-C is handed on to the driver as soon as its pid is known."""

    _fd: int
    _driver: int = field(default=0, init=False)
    _interrupted: bool = field(default=False, init=False)

    def hand_on(self, *_: object) -> None:
        self._interrupted = True
        if self._driver:
            with suppress(ProcessLookupError):
                os.kill(self._driver, signal.SIGTERM)

    def hear(self, as_json: bool) -> int:
        data = b""
        while chunk := os.read(self._fd, 65536):
            *lines, data = (data + chunk).split(b"\n")
            for message in map(json.loads, lines):
                if "pid" in message:
                    self._driver = message["pid"]
                    if self._interrupted:
                        self.hand_on()
                if "say" in message:
                    say(message["say"])
                if "code" in message:
                    _print(message["document"], as_json)
                    return INTERRUPTED if self._interrupted else int(message["code"])
        say("the driver died before it had launched the job; `siteward ps` shows what is left of it")
        return UNEXPECTED


def _print(document: dict[str, Any] | None, as_json: bool) -> None:
    if document is None:
        return
    if as_json:
        emit(document)
        return
    for job_id in dict.fromkeys(job["job_id"] for job in document["jobs"]):
        click.echo(job_id)
