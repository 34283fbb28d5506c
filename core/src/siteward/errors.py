"""Everything siteward raises.

::

    SitewardError
    ├── FileError               a job or site file is wrong; every mistake in it, at once
    ├── PluginError             a plugin is missing, broken, or claimed twice
    ├── StoreError              the site's state directory cannot be used
    ├── UnknownJob              the site has no job of this id
    ├── LaunchError             a job did not start, and nothing of it exists
    │   ├── NoBackend           no backend that the job offers is enabled at the site
    │   ├── DuplicateJob        the site already has a job of this id
    │   ├── OptionsRefused      the site's backend refuses what the job asks; all of it, at once
    │   ├── ResourcesRefused    the site's resource manager said no
    │   ├── WorkspaceError      the job's workspace cannot be copied
    │   └── LaunchRefused       the platform said no            (raised by backends)
    ├── LaunchUncertain         something may have been started (raised by backends)
    ├── BackendError            a backend or its platform failed
    │   └── Unreachable         the platform cannot be reached just now
    └── ResourceError           a resource manager was given a token it does not know

Messages end with what to do. Fields carry the same facts for programs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from siteward.request import JobRef
    from siteward.resources import Refusal


def sentences(*parts: str) -> str:
    """Join parts of a message as sentences: a full stop goes behind each that is not the last and has no end."""
    said = [part for part in parts if part]
    return " ".join([*(part if part.endswith((".", "?", "!")) else f"{part}." for part in said[:-1]), *said[-1:]])


@frozen
class Problem:
    """One mistake in a file or a block of options.

    ``path`` is dotted (``backends.k8s.max_gpus``, ``command[1]``), empty for the file as a whole;
    ``message`` says what was found and expected; ``suggestion`` is the nearest right word, or None.
    """

    path: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        """Read as ``path: message; did you mean 'suggestion'?``."""
        hint = f"; did you mean {self.suggestion!r}?" if self.suggestion else ""
        return f"{self.path + ': ' if self.path else ''}{self.message}{hint}"

    def under(self, prefix: str) -> Problem:
        """Return the same problem, seen from the file that holds this block at ``prefix``."""
        joined = prefix if not self.path else f"{prefix}{self.path if self.path[0] == '[' else '.' + self.path}"
        return Problem(joined, self.message, self.suggestion)


class SitewardError(Exception):
    """Base of everything siteward raises on purpose."""


class FileError(SitewardError):
    """A job or site file is wrong. ``file`` names it, ``problems`` has every mistake found."""

    def __init__(self, file: str, problems: Iterable[Problem]) -> None:
        self.file = file
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{file}: {problem}" for problem in self.problems))


class PluginError(SitewardError):
    """A plugin is missing, broken, or its name is claimed twice. ``name`` is the entry point's name."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(message)


class StoreError(SitewardError):
    """The site's state directory or store cannot be used; the message says why and what to do."""


class UnknownJob(SitewardError):
    """The site has no job of this id. ``job_id`` is what was asked for."""

    def __init__(self, job_id: str, site: str, suggestion: str | None = None) -> None:
        self.job_id = job_id
        self.suggestion = suggestion
        hint = f" Did you mean {suggestion!r}?" if suggestion else " `siteward ps --all` lists its jobs."
        super().__init__(f"site {site!r} has no job {job_id!r}.{hint}")


class LaunchError(SitewardError):
    """A job did not start, and nothing of it exists at the site or on the platform."""


class NoBackend(LaunchError):
    """No backend that the job offers is enabled at the site. ``offered`` and ``enabled`` name both sides."""

    def __init__(self, message: str, *, offered: Iterable[str], enabled: Iterable[str]) -> None:
        self.offered = tuple(offered)
        self.enabled = tuple(enabled)
        super().__init__(message)


class DuplicateJob(LaunchError):
    """The site already has a job of this id, running or ended."""


class OptionsRefused(LaunchError):
    """The job asks for what this backend or site does not allow. ``problems`` has all of it.

    Backends raise it from ``siteward_resolve_options``; paths are relative to the job's options block.
    """

    def __init__(self, problems: Iterable[Problem | str]) -> None:
        self.problems = tuple(p if isinstance(p, Problem) else Problem("", p) for p in problems)
        super().__init__("\n".join(map(str, self.problems)))


class ResourcesRefused(LaunchError):
    """The site's resource manager said no. ``refusal`` has its reason and words."""

    def __init__(self, site: str, refusal: Refusal) -> None:
        self.site = site
        self.refusal = refusal
        super().__init__(f"site {site!r} refused the job's resources: {refusal.message}")


class WorkspaceError(LaunchError):
    """The job's workspace cannot be copied to the job directory."""


class LaunchRefused(LaunchError):
    """The platform refused the job, definitely: nothing of it exists. Backends raise it from launch."""


class LaunchUncertain(SitewardError):
    """The platform's answer was lost: the job may exist. ``ref`` is what to look for."""

    def __init__(self, ref: JobRef, message: str = "the platform's answer was lost") -> None:
        self.ref = ref
        super().__init__(message)


class BackendError(SitewardError):
    """A backend, or the platform behind it, failed. It never means that a job has ended."""


class Unreachable(BackendError):
    """The platform cannot be reached just now; jobs on it keep their last known state."""


class ResourceError(SitewardError):
    """A resource manager was given a token that it does not know; nothing was changed."""
