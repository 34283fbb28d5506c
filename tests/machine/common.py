"""What the tests' engine and cluster share: a cache, folders that one process has at a time, and how to end things."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import psutil

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "siteward-tests"
# A user's PATH may lack the folders of dockerd, runc and iptables.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
CGROUPS = Path("/sys/fs/cgroup")
DEADLINE = 60.0


class Unprovided(Exception):
    """Something that tests need cannot be had here; the words say what is missing."""


def claim_folder(prefix: str) -> tuple[Path, int, IO[str]]:
    """Return the first folder ``<cache>/<prefix>-<number>`` that no process has now, its number, and the open lock."""
    for number in itertools.count():
        folder = CACHE / f"{prefix}-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return folder, number, lock
    raise AssertionError


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a file's lock, and have it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def wait_until(true: Callable[[], bool], failure: Callable[[], str], *, deadline: float = DEADLINE) -> None:
    """Wait until it is ``true``; Unprovided, with the words of ``failure``, after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while not true():
        if time.monotonic() > end:
            raise Unprovided(failure())
        time.sleep(0.05)


def processes_naming(words: Iterable[str], names: tuple[str, ...]) -> Iterator[psutil.Process]:
    """Find programs, by the beginning of their names, that have one of these words in their command lines."""
    words = tuple(words)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith(names) and any(word in " ".join(process.cmdline()) for word in words):
                yield process


def end_all(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Signal processes and wait until they have ended."""
    processes = set(processes)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    end = time.monotonic() + DEADLINE
    while any(is_alive(process) for process in processes):
        assert time.monotonic() < end, f"these do not end: {processes}"
        time.sleep(0.01)


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def control_groups(name: str) -> list[Path]:
    """Return the top control groups of a name, in whatever hierarchies there are."""
    return [*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")]


def members(groups: Iterable[Path]) -> list[psutil.Process]:
    """Return the processes in control groups and those below them."""
    found = []
    for file in itertools.chain.from_iterable(group.rglob("cgroup.procs") for group in groups):
        with contextlib.suppress(OSError):
            for pid in file.read_text().split():
                with contextlib.suppress(psutil.NoSuchProcess):
                    found.append(psutil.Process(int(pid)))
    return found


def remove_groups(groups: Iterable[Path]) -> None:
    """Remove control groups in which nothing is left."""
    for group in groups:
        for each in (*sorted(group.rglob("*/"), reverse=True), group):
            with contextlib.suppress(OSError):
                each.rmdir()


def unmount_below(*folders: Path) -> None:
    """Undo the mounts below folders, the last one first."""
    below = tuple(f"{folder}/" for folder in folders)
    for mount in reversed([each.mountpoint for each in psutil.disk_partitions(all=True)]):
        if mount.startswith(below):
            subprocess.run(["umount", "--lazy", mount], check=True)
