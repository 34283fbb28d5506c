"""Whose files are whose: this installation's mark, the user of jobs, and who owns a job directory when."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from siteward_docker.build import NOBODY

_MACHINE_ID = Path("/etc/machine-id")


def owner_of(directory: Path) -> str:
    """Return the mark of the installation that has this directory: the same for every process that uses it.

    It is written down, and made from the machine and the path, so that it is the same should the directory be lost.
    """
    file = directory / "owner"
    with suppress(FileNotFoundError):
        return file.read_text().strip()
    machine = ""
    with suppress(OSError):
        machine = _MACHINE_ID.read_text().strip()
    mark = hashlib.sha256(f"{machine}\0{directory}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    draft = directory / f"owner.{os.getpid()}"
    draft.write_text(mark)
    os.replace(draft, file)
    return mark


def user_of(option: str | None) -> tuple[int, int]:
    """Return uid and gid of jobs: as the site says, else this process's, else nobody's when that is root's."""
    if option is not None:
        uid, _, gid = option.partition(":")
        return int(uid), int(gid or uid)
    return (os.geteuid(), os.getegid()) if os.geteuid() != 0 else NOBODY


def hand_over(directory: Path, user: tuple[int, int]) -> None:
    """Make a directory and all in it ``user``'s; nothing to do, and no right to do it, for anyone but root.

    Links are not followed: a job may have left any.
    """
    if os.geteuid() != 0:
        return
    for _top, folders, files, fd in os.fwalk(directory, follow_symlinks=False):
        os.chown(fd, *user)
        for name in (*folders, *files):
            with suppress(FileNotFoundError):
                os.chown(name, *user, dir_fd=fd, follow_symlinks=False)
