"""Job directories on a claim that both this machine and the pods see, for clusters that allow no exec.

Below the claim's top each pod has one folder, of its name, and sees no other.
"""

from __future__ import annotations

import os
import stat
import sys
import time
import uuid
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

from siteward import BackendError, Unreachable, hand_over, pack_directory, remove_tree, unpack_directory

# What is to be removed has no other name than this: whoever finds it may remove it.
_DEAD = ".siteward-removed."
# Until then a driver may come that has not asked about its jobs yet, and brings home what they left.
_LONG_AGO = 30 * 86400.0


class Claim:
    """A claim that this machine sees at ``root``.

    ``user`` (uid, gid) is who jobs run as: this process's own user, unless that is root, who gives the directories
    away. No more than ``max_bytes`` of each are brought back.
    """

    def __init__(self, root: Path, *, max_bytes: int = sys.maxsize, user: tuple[int, int] | None = None) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._user = user

    def put(self, name: str, source: Path) -> bool:
        """Copy a job directory into the claim; whether it was not there before. May be repeated.

        BackendError when the claim is not there.
        """
        place = self._place(name)
        new = not os.path.lexists(place)
        if not self._root.is_dir():
            raise BackendError(
                f"{self._root}, where the claim should be, is no folder. Mount the claim there, or set"
                " job_directory_path to where it is"
            )
        try:
            unpack_directory(pack_directory(source, name=name, owner=(0, 0)), place, max_bytes=sys.maxsize)
            place.chmod(stat.S_IMODE(source.stat().st_mode))
            if self._user is not None:
                hand_over(place, self._user)
        except OSError as error:
            raise BackendError(f"the job directory cannot be copied to the claim at {self._root}: {error}") from error
        return new

    def get(self, name: str, target: Path) -> str:
        """Bring back what a job left: ``returned``, ``partial``, or ``lost`` when it is no longer there.

        ``partial`` when there is more than ``max_bytes``, or what a job has no business to leave. Links come as
        links, and none is followed. Unreachable while the claim is not there.
        """
        place = self._place(name)
        if not self._root.is_dir():
            raise Unreachable(f"{self._root}, where the claim should be, is no folder just now. Mount the claim there")
        try:
            if not stat.S_ISDIR(place.lstat().st_mode):
                return "lost"
        except FileNotFoundError:
            return "lost"
        left_out: set[int | None] = set()
        packed = pack_directory(place, name=name, owner=(0, 0), unreadable=lambda error: left_out.add(error.errno))
        whole = unpack_directory(packed, target, max_bytes=self._max_bytes)
        return "returned" if whole and not left_out else "partial"

    def drop(self, name: str) -> None:
        """Remove a job directory; what cannot be removed just now goes with a later :meth:`sweep`."""
        dead = self._root / f"{_DEAD}{name}.{uuid.uuid4().hex[:8]}"
        with suppress(FileNotFoundError):
            # A pod that is on its way out goes on writing to it, wherever it is, and to nothing else.
            self._place(name).rename(dead)
            self._remove(dead)

    def sweep(self, pods: Container[str]) -> None:
        """Remove what is left of job directories that were dropped, but for those of ``pods``, which may use them.

        And those that were put there long ago and have no pod: a launch was broken off before it.
        """
        with suppress(OSError):
            for entry in os.scandir(self._root):
                if entry.name.startswith(_DEAD):
                    if entry.name[len(_DEAD) :].rpartition(".")[0] not in pods:
                        self._remove(Path(entry.path))
                elif entry.name not in pods and entry.stat(follow_symlinks=False).st_ctime < time.time() - _LONG_AGO:
                    self.drop(entry.name)

    def _remove(self, dead: Path) -> None:
        if dead.is_symlink() or dead.is_file():
            dead.unlink(missing_ok=True)
        else:
            remove_tree(dead)

    def _place(self, name: str) -> Path:
        if name in ("", ".", "..") or "/" in name or name.startswith(_DEAD):
            raise ValueError(f"{name!r} is no name of a job directory")
        return self._root / name
