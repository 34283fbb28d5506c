"""Another road to the platform: how the kit sees and touches what the backend under test has made."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import ClassVar

import psutil


class Platform:
    """A platform of which the kit sees nothing past the backend; subclass it with what can be seen.

    ``sees_processes`` and ``sees_files`` say which methods work; promises that need the others are reported
    as not applicable. ``job_dir`` is the job directory at the site, ``job_id`` the job's id.
    """

    sees_processes: ClassVar[bool] = False
    sees_files: ClassVar[bool] = False

    def processes(self, job_id: str) -> list[str]:
        """Return the command lines of the job's live processes, zombies not counted."""
        raise NotImplementedError

    def command_lines(self) -> list[str]:
        """Return the command lines of all processes that another user of the platform could see."""
        raise NotImplementedError

    def has_file(self, job_dir: Path, job_id: str, name: str) -> bool:
        """Whether the running job has this file in its directory."""
        raise NotImplementedError

    def write_file(self, job_dir: Path, job_id: str, name: str) -> None:
        """Create an empty file in the running job's directory."""
        raise NotImplementedError

    def sweep(self, job_ids: Collection[str]) -> None:
        """End what a faulty backend left of these jobs; called after each test."""


class LocalPlatform(Platform):
    """The machine itself: jobs share its process table and see the job directory itself."""

    sees_processes = True
    sees_files = True

    def processes(self, job_id: str) -> list[str]:
        """Look for the job's id in the environment and the command line of every process."""
        return [_words(process) for process in _processes(job_id)]

    def command_lines(self) -> list[str]:
        """Read the whole process table."""
        return [_words(process) for process in psutil.process_iter()]

    def has_file(self, job_dir: Path, job_id: str, name: str) -> bool:
        """Look into the job directory."""
        return (job_dir / name).exists()

    def write_file(self, job_dir: Path, job_id: str, name: str) -> None:
        """Write into the job directory."""
        (job_dir / name).touch()

    def sweep(self, job_ids: Collection[str]) -> None:
        """Kill the jobs' processes."""
        for process in _processes(*job_ids):
            try:
                process.kill()
            except psutil.Error:
                continue


def _processes(*job_ids: str) -> Iterator[psutil.Process]:
    wanted = set(job_ids)
    for process in psutil.process_iter():
        try:
            if process.environ().get("SITEWARD_JOB_ID") in wanted or _names(process.cmdline(), wanted):
                yield process
        except psutil.Error:
            continue


def _names(words: list[str], job_ids: Collection[str]) -> bool:
    return any(job_id in word for word in words for job_id in job_ids)


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
