"""FLARE's workspace for jobs that do not see the site's files: packed before the launch, brought home at the end."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

# What a job process reads of a startup kit; scripts and the like stay at home.
_STARTUP_FILES = ("*.crt", "*.key", "*.pem", "*.json")
# The parent's own: what only it may read, and what is not a job's business.
_NOT_FOR_JOBS = ("*__p_resources.json", "study_data.yaml", "study_runtime.yaml", "siteward*", "*.before-siteward")


def pack(workspace: Path, job_id: str, target: Path) -> None:
    """Copy what a job needs of FLARE's workspace: certificates and configuration, ``local``, its own folder."""
    shutil.copytree(workspace / "startup", target / "startup", ignore=_only(_STARTUP_FILES))
    if (workspace / "local").is_dir():
        shutil.copytree(workspace / "local", target / "local", ignore=shutil.ignore_patterns(*_NOT_FOR_JOBS))
    shutil.copytree(workspace / job_id, target / job_id, symlinks=True)


def _only(patterns: tuple[str, ...]) -> Callable[[str, list[str]], list[str]]:
    def ignore(folder: str, names: list[str]) -> list[str]:
        keep = {name for name in names for pattern in patterns if fnmatch(name, pattern)}
        return [name for name in names if name not in keep]

    return ignore


def bring_home(job_dir: Path, job_id: str, workspace: Path) -> list[str]:
    """Copy what the job left in its folder over FLARE's own copy of it; return what was not copied, and why.

    Only plain files and folders: a link that a job leaves could point anywhere.
    """
    skipped = []
    root = job_dir / job_id
    for folder, entry in _walk(root):
        target = workspace / job_id / os.path.relpath(folder, root) / entry.name
        try:
            _take(entry, target)
        except OSError as error:
            skipped.append(f"{target.relative_to(workspace)}: {error.strerror or error}")
    return skipped


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    pending = [str(root)]
    while pending:
        folder = pending.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            yield folder, entry
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)


def _take(entry: os.DirEntry[str], target: Path) -> None:
    if target.is_symlink():
        raise OSError(f"a link is in the way at {target.name}")
    if entry.is_dir(follow_symlinks=False):
        target.mkdir(exist_ok=True)
        return
    fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as source:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("is not a plain file")
        with target.open("wb") as copy:
            shutil.copyfileobj(source, copy)


def forget_kit(job_dir: Path) -> None:
    """Remove certificates, keys and configuration from a job directory: it is kept for a while after the end."""
    for name in ("startup", "local"):
        shutil.rmtree(job_dir / name, ignore_errors=True)
