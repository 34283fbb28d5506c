"""CPU and memory limits by cgroup, version 1 or 2, where the keeper may write there (cgroups(7)).

The keeper has one thread: it steps into a job's group, spawns, and steps back, so that the job is born there.
The memory limit is set only when it is out again: until the new program runs, it uses the keeper's memory, and
whoever is in a full group may be killed.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

_PERIOD = 100_000
CONTROLLERS = ("cpu", "memory")


def _controller_paths(text: str) -> dict[str, str]:
    """Return the path of each controller from ``/proc/self/cgroup``; version 2 is under the empty name."""
    paths = {}
    for line in text.splitlines():
        _number, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path
    return paths


def _mounts(text: str) -> Iterator[tuple[str, str, str, set[str]]]:
    """Yield type, mount point, root and options of each cgroup mount in ``/proc/self/mountinfo``."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            fields = before.split(" ")
            yield kind, fields[4], fields[3], set(options.split(","))


def _inside(mount: str, root: str, path: str) -> Path:
    """Return where a cgroup is seen, if the mount shows only what is below ``root``."""
    below = path.removeprefix(root) if root != "/" and path.startswith(root) else path
    found = Path(mount) / below.lstrip("/")
    return found if found.is_dir() else Path(mount)


class Group:
    """One job's cgroups, one for each controller that could be set up.

    ``is_too_small`` says that the job held more memory than its limit before that was set.
    """

    def __init__(
        self, homes: dict[str, Path], paths: dict[str, Path], notes: list[str], memory: int | None = None
    ) -> None:
        self._homes = homes
        self._paths = paths
        self._memory = memory
        self.notes = notes
        self.is_too_small = False

    def enter(self) -> None:
        """Move this process into the groups, so that what it spawns is born there."""
        for path in set(self._paths.values()):
            _write(path / "cgroup.procs", "0")

    def leave(self) -> None:
        """Move this process back to where it was."""
        for controller in self._paths:
            try:
                _write(self._homes[controller] / "cgroup.procs", "0")
            except OSError as error:
                if controller == "memory":
                    self._give_up_memory(error)

    def limit_memory(self) -> None:
        """Set the memory limit, behind :meth:`leave`."""
        if self._memory is None or "memory" not in self._paths:
            return
        try:
            _set_limit(self._paths["memory"], "memory", self._memory)
        except OSError as error:
            # Version 1 sets no limit below what is used already; version 2 ends who uses too much.
            if error.errno == errno.EBUSY:
                self.is_too_small = True
            else:
                self._give_up_memory(error)

    def _give_up_memory(self, error: OSError) -> None:
        self._memory = None
        self.notes.append(f"memory was not enforced: {error}")

    def oom_kills(self) -> int:
        """Return how many processes of the job the kernel killed for want of memory."""
        path = self._paths.get("memory")
        if path is None:
            return 0
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError, ValueError):
                words = (path / name).read_text().split()
                return int(words[words.index("oom_kill") + 1])
        return 0

    def remove(self) -> bool:
        """Delete the groups; False while the kernel still counts a process in one of them."""
        for controller, path in list(self._paths.items()):
            try:
                path.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                if path.is_dir():
                    continue
            self._paths.pop(controller)
        return not self._paths


class Cgroups:
    """What this process may do with cgroups. ``blocked`` says for each controller why it may not."""

    def __init__(self, name: str, cgroup: str = "/proc/self/cgroup", mountinfo: str = "/proc/self/mountinfo") -> None:
        self._name = name
        self._homes: dict[str, Path] = {}
        self._bases: dict[str, Path] = {}
        self.blocked: dict[str, str] = {}
        self.version = 0
        self._find(_controller_paths(Path(cgroup).read_text()), list(_mounts(Path(mountinfo).read_text())))

    def _find(self, paths: dict[str, str], mounts: list[tuple[str, str, str, set[str]]]) -> None:
        for controller in CONTROLLERS:
            home = base = None
            for kind, mount, root, options in mounts:
                if kind == "cgroup" and controller in options and controller in paths:
                    self.version = 1
                    home = base = _inside(mount, root, paths[controller])
                elif kind == "cgroup2" and base is None and controller in _words(Path(mount) / "cgroup.controllers"):
                    self.version = 2
                    home = _inside(mount, root, paths.get("", "/"))
                    base = _delegated(home, Path(mount), controller)
            if home is None:
                self.blocked[controller] = f"this machine has no {controller} cgroup"
            elif base is None:
                self.blocked[controller] = f"no cgroup above {home} hands the {controller} controller down"
            elif not os.access(base, os.W_OK) or not os.access(home / "cgroup.procs", os.W_OK):
                self.blocked[controller] = f"{base} is not writable"
            else:
                self._homes[controller], self._bases[controller] = home, base

    def group(self, job: str, cpus: int | None, memory: int | None) -> Group:
        """Make the groups of one job with its limits; ``notes`` says what cannot be enforced, and why."""
        paths: dict[str, Path] = {}
        notes = []
        for controller, wanted in (("cpu", cpus), ("memory", memory)):
            if wanted is None:
                continue
            try:
                if controller in self.blocked:
                    raise OSError(self.blocked[controller])
                path = self._bases[controller] / self._folder(job)
                try:
                    path.mkdir()
                except FileExistsError:
                    # Left by an earlier job of this name; its limit must not meet us inside.
                    _lift_memory(path)
                if controller != "memory":
                    _set_limit(path, controller, wanted)
                paths[controller] = path
            except OSError as error:
                notes.append(f"{controller} was not enforced: {error}")
        return Group(self._homes, paths, notes, memory)

    def found(self, job: str) -> Group:
        """Return the groups of a job that an earlier keeper of this name made."""
        made = {controller: base / self._folder(job) for controller, base in self._bases.items()}
        return Group(self._homes, {controller: path for controller, path in made.items() if path.is_dir()}, [])

    def _folder(self, job: str) -> str:
        return f"{self._name}-{job.replace('/', '-')}"

    def remove_stale(self) -> None:
        """Delete empty groups that an earlier keeper of this name left."""
        for base in set(self._bases.values()):
            for path in base.glob(f"{self._name}-*"):
                with contextlib.suppress(OSError):
                    path.rmdir()


def _set_limit(path: Path, controller: str, wanted: int) -> None:
    if controller == "cpu":
        if (path / "cpu.max").exists():
            _write(path / "cpu.max", f"{wanted * _PERIOD} {_PERIOD}")
        else:
            _write(path / "cpu.cfs_period_us", str(_PERIOD))
            _write(path / "cpu.cfs_quota_us", str(wanted * _PERIOD))
    elif (path / "memory.max").exists():
        _write(path / "memory.max", str(wanted))
        with contextlib.suppress(OSError):
            _write(path / "memory.swap.max", "0")
    else:
        _write(path / "memory.limit_in_bytes", str(wanted))
        with contextlib.suppress(OSError):
            _write(path / "memory.memsw.limit_in_bytes", str(wanted))


def _lift_memory(path: Path) -> None:
    for name, text in (
        ("memory.max", "max"),
        ("memory.memsw.limit_in_bytes", "-1"),
        ("memory.limit_in_bytes", "-1"),
    ):
        if (path / name).exists():
            _write(path / name, text)


def _delegated(home: Path, mount: Path, controller: str) -> Path | None:
    """Return the nearest cgroup at or above ``home`` whose children have the controller (version 2).

    A group with processes of its own cannot hand controllers down ("no internal processes"), so the job's
    group is as a rule a sibling of ours.
    """
    at = home
    while True:
        if controller in _words(at / "cgroup.subtree_control"):
            return at
        if at == mount or mount not in at.parents:
            return None
        at = at.parent


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
