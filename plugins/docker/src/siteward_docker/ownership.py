"""Whose files are whose: the user of jobs."""

from __future__ import annotations

import os

from siteward_docker.build import NOBODY


def user_of(option: str | None) -> tuple[int, int]:
    """Return uid and gid of jobs: as the site says, else this process's, else nobody's when that is root's."""
    if option is not None:
        uid, _, gid = option.partition(":")
        return int(uid), int(gid or uid)
    return (os.geteuid(), os.getegid()) if os.geteuid() != 0 else NOBODY
