"""Secrets as files that lie in memory only, one folder a job."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import siteward
from siteward_docker.absent import old_files

_MEMORY = Path("/dev/shm")  # noqa: S108


class SecretFiles:
    """Files below ``/dev/shm`` (a tmpfs on every Linux), for this owner's jobs."""

    def __init__(self, owner: str) -> None:
        self._folder = _MEMORY / f"siteward-{owner}"

    def write(self, name: str, values: Mapping[str, str], user: tuple[int, int]) -> dict[str, str]:
        """Write a job's secrets, readable for ``user`` alone; return path in the container to path here."""
        if not values:
            return {}
        job = self._folder / name
        try:
            self._make_private(self._folder)
            shutil.rmtree(job, ignore_errors=True)
            job.mkdir(mode=0o700)
            return {
                target: self._write(job / str(number), value, user)
                for number, (target, value) in enumerate(values.items())
            }
        except OSError as error:
            raise siteward.LaunchRefused(f"secrets cannot be kept in memory below {self._folder}: {error}") from error

    def _make_private(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if status.st_uid != os.geteuid() or folder.is_symlink() or status.st_mode & 0o077:
            raise PermissionError(f"{folder} is not this user's alone; remove it")

    def _write(self, path: Path, value: str, user: tuple[int, int]) -> str:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        try:
            os.write(fd, value.encode())
            if os.geteuid() == 0:
                os.fchown(fd, *user)
        finally:
            os.close(fd)
        return str(path)

    def older_than(self, seconds: float) -> set[str]:
        """Return the names of jobs whose secrets were written so long ago."""
        return old_files(self._folder, seconds)

    def remove(self, name: str) -> None:
        """Remove a job's secrets."""
        shutil.rmtree(self._folder / name, ignore_errors=True)
