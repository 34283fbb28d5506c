"""FLARE's workspace for jobs that do not see the site's files: packed before the launch, brought home at the end."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

# What a job process reads of a startup kit; scripts and the like stay at home.
_STARTUP_FILES = ("*.crt", "*.key", "*.pem", "*.json")
# The parent's own: what only it may read, and what is not a job's business.
_NOT_FOR_JOBS = ("*__p_resources.json", "study_data.yaml", "study_runtime.yaml", "siteward*", "*.before-siteward")


def pack(workspace: Path, job_id: str, target: Path, *, leave_out: Collection[Path] = ()) -> None:
    """Copy what a job needs of FLARE's workspace: certificates and configuration, ``local``, its own folder.

    ``leave_out`` are files and folders, wherever they lie, that are the site's own.
    """
    own = {os.path.realpath(path) for path in leave_out}

    def ignore_in_startup(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if not _matches(name, _STARTUP_FILES) or _is_own(folder, name, own)]

    def ignore_in_local(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if _matches(name, _NOT_FOR_JOBS) or _is_own(folder, name, own)]

    shutil.copytree(workspace / "startup", target / "startup", ignore=ignore_in_startup)
    if (workspace / "local").is_dir():
        shutil.copytree(workspace / "local", target / "local", ignore=ignore_in_local)
    shutil.copytree(workspace / job_id, target / job_id, symlinks=True)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _is_own(folder: str, name: str, own: Collection[str]) -> bool:
    return os.path.realpath(os.path.join(folder, name)) in own


def bring_home(job_dir: Path, job_id: str, workspace: Path) -> list[str]:
    """Copy what the job left in its folder over FLARE's own copy of it; return what was not copied, and why.

    Only plain files and folders: a link that a job leaves could point anywhere.
    """
    skipped = []
    pending = [(str(job_dir / job_id), str(workspace / job_id))]
    while pending:
        source, target = pending.pop()
        try:
            entries = sorted(os.scandir(source), key=lambda entry: entry.name)
            _make_folder(target)
        except OSError as error:
            skipped.append(f"{os.path.relpath(target, workspace)}: {error.strerror or error}")
            continue
        for entry in entries:
            there = os.path.join(target, entry.name)
            if entry.is_dir(follow_symlinks=False):
                pending.append((entry.path, there))
                continue
            try:
                _take(entry.path, there)
            except OSError as error:
                skipped.append(f"{os.path.relpath(there, workspace)}: {error.strerror or error}")
    return skipped


def _make_folder(path: str) -> None:
    if os.path.islink(path):
        raise OSError("a link is in its place")
    os.makedirs(path, exist_ok=True)


def _take(source: str, target: str) -> None:
    with open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError("is no plain file")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(target, flags, 0o666), "wb") as copy:
            shutil.copyfileobj(stream, copy)


def forget_kit(job_dir: Path) -> None:
    """Remove certificates, keys and configuration from a job directory: it is kept for a while after the end."""
    for name in ("startup", "local"):
        shutil.rmtree(job_dir / name, ignore_errors=True)
