"""Job directories on a claim that both this machine and the pods see, for clusters that allow no exec.

Below the claim's top each pod has one folder, of its name, and sees no other.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from siteward import BackendError, hand_over, pack_directory, remove_tree, unpack_directory


def put(root: Path, name: str, source: Path, user: tuple[int, int] | None = None) -> None:
    """Copy a job directory into the claim, as ``user``'s (uid, gid) if this process may do that. May be repeated."""
    place = _place(root, name)
    if not root.is_dir():
        raise BackendError(f"{root}, where the claim is to be, is no folder: mount it, or set job_directory_path")
    owner = (os.geteuid(), os.getegid())
    unpack_directory(pack_directory(source, name=name, owner=owner), place, max_bytes=sys.maxsize)
    place.chmod(stat.S_IMODE(source.stat().st_mode))
    if user is not None:
        hand_over(place, user)


def get(root: Path, name: str, target: Path, max_bytes: int = sys.maxsize) -> str:
    """Bring back what a job left on the claim: ``returned``, ``partial``, or ``lost`` when it is no longer there.

    ``partial`` when there is more than ``max_bytes``, or what a job has no business to leave; links are taken as
    links, and none is followed.
    """
    place = _place(root, name)
    try:
        if not stat.S_ISDIR(place.lstat().st_mode):
            return "lost"
    except FileNotFoundError:
        return "lost"
    owner = (os.geteuid(), os.getegid())
    whole = unpack_directory(pack_directory(place, name=name, owner=owner), target, max_bytes=max_bytes)
    return "returned" if whole else "partial"


def drop(root: Path, name: str) -> None:
    """Remove a job directory from the claim; BackendError when some of it cannot be removed."""
    place = _place(root, name)
    if place.is_symlink():
        place.unlink()
    remove_tree(place)
    if os.path.lexists(place):
        raise BackendError(f"{place} cannot be removed: it has files that are not this user's. Remove it by hand")


def _place(root: Path, name: str) -> Path:
    if name in ("", ".", "..") or "/" in name:
        raise ValueError(f"{name!r} is no name of a folder")
    return root / name
