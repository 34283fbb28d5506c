"""Start one program: look it up as the job would, spawn it, and say in words why that did not work."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Mapping

from siteward_process import proc

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"

_CACHE_SIZE = 1000


class SpawnFailed(Exception):
    """The program did not start. ``exit_code`` is what a shell would say: 127 not found, 126 not runnable."""

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        self.exit_code = exit_code
        super().__init__(message)


def ignored_signals() -> list[signal.Signals]:
    """Return the signals that this process ignores, which a spawned program would otherwise ignore too."""
    return [each for each in signal.Signals if signal.getsignal(each) is signal.SIG_IGN]


class Spawner:
    """Starts programs, each in its own session, with no file descriptor but 0 (which is empty), 1 and 2."""

    def __init__(self, ignored: list[signal.Signals], files: tuple[int, int]) -> None:
        self._ignored = ignored
        self._files = files
        self._own_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._found: dict[tuple[str, str], str] = {}
        self._clock = proc.StartClock()

    def spawn(self, argv: list[str], environment: Mapping[str, str], directory: str, output: int) -> tuple[int, int]:
        """Start a program and return its process id and start (in ticks since boot); SpawnFailed when it cannot be.

        It begins with the default for every signal and none blocked, and may open ``files``. This process's own
        working directory, and that limit, are changed meanwhile: there must be no other thread that minds.
        """
        try:
            os.chdir(directory)
        except OSError as error:
            raise SpawnFailed(
                f"the job directory {directory!r} cannot be entered: {error.strerror}. Create it."
            ) from error
        program = argv[0]
        try:
            program = find_program(program, environment.get("PATH", DEFAULT_PATH), self._found)
            if self._files != self._own_files:
                resource.setrlimit(resource.RLIMIT_NOFILE, self._files)
            earliest = self._clock.now()
            pid = os.posix_spawn(
                program,
                argv,
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, self._null, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=self._ignored,
            )
            return pid, self._clock.start_of(pid, earliest)
        except (OSError, ValueError) as error:
            raise _explain(error, program) from error
        finally:
            if self._files != self._own_files:
                resource.setrlimit(resource.RLIMIT_NOFILE, self._own_files)
            os.chdir("/")


def find_program(name: str, path: str, cache: dict[tuple[str, str], str] | None = None) -> str:
    """Return the file that ``name`` means: itself when it holds a slash, else the first on ``path`` that can run.

    ``cache`` remembers what was found, as shells do; what cannot run any more is looked up again.
    """
    if not name:
        raise SpawnFailed("the command is empty. Give the program to run.", 127)
    if "/" in name:
        return name
    known = cache.get((name, path)) if cache else None
    if known and os.access(known, os.X_OK):
        return known
    blocked = None
    for folder in path.split(":"):
        candidate = f"{folder or '.'}/{name}"
        if os.access(candidate, os.X_OK):
            if os.path.isdir(candidate):
                continue
            if cache is not None and all(each.startswith("/") for each in path.split(":")):
                if len(cache) > _CACHE_SIZE:
                    cache.clear()
                cache[name, path] = candidate
            return candidate
        if blocked is None and os.path.isfile(candidate):
            blocked = candidate
    if blocked:
        raise SpawnFailed(f"{blocked!r} is not executable. Make it so with chmod +x.", 126)
    raise SpawnFailed(
        f"command {name!r} was not found in PATH ({path}). Install it, or give its full path in the job's command.", 127
    )


def _explain(error: OSError | ValueError, name: str) -> SpawnFailed:
    if not isinstance(error, OSError):
        return SpawnFailed(f"the command or its environment cannot be passed to a program: {error}")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if os.path.lexists(name) and os.path.isfile(name):
            return SpawnFailed(
                f"{name!r} is there, but the interpreter it asks for (its #! line, or its loader) is not."
                " Install the interpreter, or correct the line.",
                126,
            )
        return SpawnFailed(f"command {name!r} was not found. Check the path; it is relative to the job directory.", 127)
    if error.errno == errno.ENOEXEC:
        return SpawnFailed(
            f"{name!r} is not a program for this machine, or a script without a #! line. Add the line.", 126
        )
    if error.errno == errno.EACCES:
        return SpawnFailed(
            f"{name!r} cannot be executed: it is a folder, or not executable. chmod +x makes it so.", 126
        )
    if error.errno == errno.E2BIG:
        return SpawnFailed(
            "the command and its environment are longer than the system takes. Put them into a file.", 126
        )
    return SpawnFailed(f"{name!r} could not be started: {error.strerror}.")
