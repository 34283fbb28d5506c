"""Sink ``report_file``: each failure report as one line of JSON in a file of the site's."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import field, frozen

from siteward import Context, JobRef, OptionsRefused, Problem, Result, hookimpl
from siteward_report_sinks.record import key_of, record_of

# A report is told again only after a crash, soon after which no other site can have written much.
_LOOK_BACK = 4 * 2**20


def _check_path(path: str) -> str | None:
    return None if path.strip() and "\0" not in path else "expected a path"


class ReportFile:
    """Appends to a JSON Lines file, which sites may share; each end is in it once, whole, and on the disk."""

    api = 1

    @frozen(kw_only=True)
    class SiteOptions:
        """Where the file is, and what is in it."""

        path: str = field(
            metadata={
                "help": "the file; a relative path starts at the site file's folder, which must be there",
                "check": _check_path,
            }
        )
        unreportable: bool = field(
            default=False, metadata={"help": "write also reports that concern nobody else, such as of exit code 1"}
        )

    def __init__(self, context: Context, options: ReportFile.SiteOptions) -> None:
        self._path = context.base_dir / os.path.expanduser(options.path)
        self._unreportable = options.unreportable
        if not self._path.parent.is_dir():
            raise OptionsRefused([Problem("path", f"there is no folder {self._path.parent}; create it")])

    @hookimpl
    def siteward_job_ended(self, ref: JobRef, result: Result) -> None:
        """Append the report, unless it is there already."""
        record = record_of(ref, result)
        if record is not None and (record["reportable"] or self._unreportable):
            with self._locked() as stream:
                _mend(stream)
                if not _has(stream, record):
                    line = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace")
                    os.write(stream, line + b"\n")
                    os.fsync(stream)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Open the file for this process alone; if it was moved away meanwhile (log rotation), its successor."""
        while True:
            stream = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(stream, fcntl.LOCK_EX)
                if self._is_current(stream):
                    yield stream
                    return
            finally:
                os.close(stream)

    def _is_current(self, stream: int) -> bool:
        try:
            return os.path.samestat(os.fstat(stream), os.stat(self._path))
        except FileNotFoundError:
            return False


def _mend(stream: int) -> None:
    """Take away the beginning of a line whose writer was killed; its driver's successor tells of that end again."""
    size = os.fstat(stream).st_size
    if size and os.pread(stream, 1, size - 1) != b"\n":
        start = max(0, size - _LOOK_BACK)
        end = os.pread(stream, _LOOK_BACK, start).rfind(b"\n")
        os.ftruncate(stream, 0 if end < 0 and start == 0 else start + end + 1)


def _has(stream: int, record: dict[str, Any]) -> bool:
    start = max(0, os.fstat(stream).st_size - _LOOK_BACK)
    job_id = json.dumps(record["job_id"]).encode()
    for line in os.pread(stream, _LOOK_BACK, start).splitlines():
        if job_id in line:
            try:
                other = json.loads(line)
                if (other["site"], key_of(other)) == (record["site"], key_of(record)):
                    return True
            except (ValueError, KeyError, TypeError):  # somebody else's line, or the rest of one
                continue
    return False
