"""Whose files are whose: the user of jobs, and who owns a job directory when."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from siteward_docker.build import NOBODY

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def user_of(option: str | None) -> tuple[int, int]:
    """Return uid and gid of jobs: as the site says, else this process's, else nobody's when that is root's."""
    if option is not None:
        uid, _, gid = option.partition(":")
        return int(uid), int(gid or uid)
    return (os.geteuid(), os.getegid()) if os.geteuid() != 0 else NOBODY


def hand_over(directory: Path, user: tuple[int, int]) -> None:
    """Make a directory and all in it ``user``'s; nothing to do, and no right to do it, for anyone but root.

    Links are not followed: a job may have left any. One folder is open at a time, however deep they lie.
    """
    if os.geteuid() != 0:
        return
    here = os.open(directory, _FOLDER)
    try:
        way = [(_mark(here), _hand_over_one(here, user))]
        while True:
            if way[-1][1]:
                below = os.open(way[-1][1].pop(), _FOLDER, dir_fd=here)
                os.close(here)
                here = below
                way.append((_mark(here), _hand_over_one(here, user)))
                continue
            way.pop()
            if not way:
                return
            above = os.open("..", _FOLDER, dir_fd=here)
            os.close(here)
            here = above
            if _mark(here) != way[-1][0]:
                raise OSError(f"{directory} is being changed")
    finally:
        os.close(here)


def _hand_over_one(folder: int, user: tuple[int, int]) -> list[str]:
    """Make a folder and what is right in it ``user``'s; return the names of the folders in it."""
    os.chown(folder, *user)
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                os.chown(entry.name, *user, dir_fd=folder, follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
    return folders


def _mark(folder: int) -> tuple[int, int]:
    status = os.fstat(folder)
    return status.st_dev, status.st_ino
