"""``run --output``: each site's job directory and full output, brought to one place."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from attrs import define, field

from siteward.errors import SitewardError
from siteward.handle import Handle
from siteward.names import safe_name


def file_name(site: str) -> str:
    """Return the name of a site's folder: the site's own, unless that means something else in a file system."""
    return safe_name(site) if site.startswith(".") or site.endswith(".log") else site


@define
class OutputFolder:
    """``DIR/<site>/`` (what the job left in its job directory) and ``DIR/<site>.log`` (all it printed)."""

    path: Path
    problems: list[str] = field(factory=list, init=False)

    def check(self, sites: Iterable[str]) -> None:
        """Make the folder; SitewardError when it cannot be used, or when something of these sites is there already."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            taken = [path for site in sites for path in self._paths(site) if _is_taken(path)]
        except OSError as error:
            words = f"--output {self.path} cannot be used: {error.strerror or error}. Name a folder that you can write"
            raise SitewardError(words) from error
        if taken:
            words = ", ".join(map(str, taken))
            raise SitewardError(f"--output would write over what is there already: {words}. Name another folder")
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise SitewardError(f"--output {self.path} cannot be written. Name another folder")

    def _paths(self, site: str) -> tuple[Path, Path]:
        name = file_name(site)
        return self.path / name, self.path / f"{name}.log"

    def bring(self, handle: Handle) -> None:
        """Copy what an ended job left; what cannot be copied is noted in ``problems`` and stays at the site."""
        folder, log = self._paths(handle.site)
        problems = _copy_tree(handle.job_dir, folder)
        try:
            with open(log, "xb", opener=_private) as stream:
                stream.writelines(handle.logs())
        except (OSError, SitewardError) as error:
            problems.append(f"{log}: {error}")
        if problems:
            left = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
            words = f"{handle.site}: not everything was copied: {'; '.join(problems[:3])}{left}"
            self.problems.append(f"{words}. It is still in {handle.job_dir}")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _is_taken(path: Path) -> bool:
    try:
        return bool(os.listdir(path)) if path.is_dir() and not path.is_symlink() else path.lstat() is not None
    except FileNotFoundError:
        return False


def _copy_tree(source: Path, target: Path) -> list[str]:
    """Copy a folder, links as links; return what could not be copied, in words."""
    special: list[str] = []

    def ignore(folder: str, names: list[str]) -> list[str]:
        ignored = [name for name in names if not _can_be_copied(Path(folder, name))]
        special.extend(f"{Path(folder, name)}: is neither a file, a folder nor a link" for name in ignored)
        return ignored

    try:
        if not stat.S_ISDIR(source.lstat().st_mode):
            return [f"{source}: the job has put something else in the place of its job directory"]
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=ignore)
    except shutil.Error as error:
        return special + [f"{each[0]}: {each[2]}" for each in error.args[0]]
    except OSError as error:
        return [*special, str(error)]
    return special


def _can_be_copied(path: Path) -> bool:
    mode = path.lstat().st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)
