"""What ``siteward doctor`` is told about this machine."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from siteward import BackendError, Finding
from siteward_process.client import KeeperClient, Lost


def check_machine(directory: Path, python_path: str, keeper: KeeperClient) -> list[Finding]:
    """Look at everything that a job will need."""
    return [
        _check_directory(directory),
        *_check_keeper(keeper),
        _check_python(python_path),
        _check_holes(directory),
    ]


def _check_directory(directory: Path) -> Finding:
    subject = f"directory {directory}"
    try:
        status = directory.stat()
    except OSError as error:
        return Finding(level="fail", subject=subject, message=str(error.strerror), remedy="Create it with mode 0700.")
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        return Finding(
            level="fail", subject=subject, message="others than you may enter it", remedy="chmod 0700, and own it."
        )
    return Finding(level="ok", subject=subject, message="is yours alone")


def _check_keeper(keeper: KeeperClient) -> list[Finding]:
    try:
        answer = keeper.ask({"do": "check"})
    except (BackendError, Lost) as error:
        return [
            Finding(level="fail", subject="keeper", message=str(error), remedy="See the keeper.log in the directory.")
        ]
    findings = [Finding(level="ok", subject="keeper", message=f"answers (process {answer['pid']})")]
    for controller, key in (("cpu", "num_of_cpus"), ("memory", "memory")):
        why = answer["blocked"].get(controller)
        findings.append(
            Finding(
                level="warn",
                subject=f"limit of {key}",
                message=f"cannot be enforced: {why}",
                remedy="Run siteward in a service with Delegate=yes, or as a user who may write there.",
            )
            if why
            else Finding(
                level="ok", subject=f"limit of {key}", message=f"is enforced by cgroup version {answer['cgroup']}"
            )
        )
    return findings


def _check_python(path: str) -> Finding:
    found = shutil.which(path)
    if found:
        return Finding(level="ok", subject="python_path", message=found)
    return Finding(
        level="fail",
        subject="python_path",
        message=f"{path!r} cannot be run",
        remedy="Set python_path in the site file.",
    )


def _check_holes(directory: Path) -> Finding:
    from siteward_process import linux

    name = directory / f"hole-{os.getpid()}"
    subject = "limit of output"
    try:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, bytes(8192))
            linux.punch_hole(fd, 0, 4096)
        finally:
            os.close(fd)
            name.unlink()
    except OSError as error:
        return Finding(
            level="warn",
            subject=subject,
            message=f"long outputs are shortened only when the job ends: {error.strerror}",
            remedy="Keep state_dir on a file system that can punch holes (ext4, xfs, btrfs, tmpfs).",
        )
    return Finding(level="ok", subject=subject, message="holds while jobs run")
