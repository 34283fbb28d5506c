"""What passes between the core and plugins: the request for a job, its ref, its status, and a plugin's context."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from logging import Logger
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, field, frozen

from siteward.ends import JobState, Result
from siteward.errors import sentences
from siteward.resources import Allocation, PortableResources

MASK = "***"
_PLACEHOLDER = re.compile(r"\{(site|job_id|job_dir)\}")


class Secrets(Mapping[str, str]):
    """Secret values by environment variable; its repr and str show only the names."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._values = dict(values or {})

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Secrets({', '.join(f'{name}={MASK}' for name in self._values)})"


def _no_secret(name: str) -> str:
    raise ValueError(f"there is no secret {name!r} here")


@frozen(kw_only=True)
class Context:
    """What a plugin is told about where it works.

    ``directory`` is the plugin's own, created with mode 0700; ``env`` is the site's, already part of every
    job's environment; relative paths in a plugin's options are relative to ``base_dir``, the folder of the
    site file. ``lease_dir`` is where all sites of this host keep leases of what they share (it need not exist).
    With ``state_dir`` and ``site_file`` (None for a site that no file describes) another process can look whether
    a job of this site lives: :func:`~siteward.job_lives`. ``read_secret(name)`` returns the value of one of the
    site's ``job_secrets``, for what the site's own options name; ValueError says in words why it cannot be had.
    ``secret_names`` are theirs.
    """

    site: str
    backend: str
    directory: Path
    log: Logger
    env: Mapping[str, str] = {}
    base_dir: Path = Path()
    lease_dir: Path = Path()
    state_dir: Path = Path()
    site_file: Path | None = None
    read_secret: Callable[[str], str] = _no_secret
    secret_names: tuple[str, ...] = ()


@frozen(kw_only=True)
class JobRequest:
    """One job at one site, checked and complete: what a backend launches.

    ``job_dir`` is the job directory at the site; a backend whose jobs see it elsewhere passes that path to
    :meth:`argv` and :meth:`environment`. ``options`` is the backend's ``JobOptions`` and ``study`` its
    ``StudyOptions`` (None without a study). ``timeout`` (seconds from RUNNING) is enforced by the core;
    ``grace`` is the site's seconds between TERM and KILL. ``labels`` (``site``, ``job-id``, ``attempt``,
    ``name``) are for backends that can mark what they create; prefix and encode them as the platform asks.
    """

    job_id: str
    name: str
    site: str
    attempt: int = 1
    job_dir: Path
    options: Any = None
    study: Any = None
    study_name: str | None = None
    resources: PortableResources = PortableResources()
    allocation: Allocation | None = None
    timeout: float | None = None
    grace: float = 10.0
    labels: Mapping[str, str] = {}
    backend: str = ""
    command: Sequence[str] | None = None
    module: str | None = None
    args: Sequence[str] = ()
    env: Mapping[str, str] = {}
    secrets: Mapping[str, str] = field(factory=Secrets, converter=Secrets)

    @property
    def log_file(self) -> Path:
        """Where the core keeps the job's output.

        A backend on the same machine may write the output straight to it; otherwise the core saves what
        ``siteward_read_logs`` gives at the end.
        """
        return self.job_dir.with_name("output.log")

    def argv(self, python_path: str, job_dir: str | Path) -> list[str]:
        """Return what to run, never for a shell: the job's command, or ``python_path -u -m module args…``.

        ``{site}``, ``{job_id}`` and ``{job_dir}`` (as the job sees it) are replaced once; other braces stay.
        """
        words = {"site": self.site, "job_id": self.job_id, "job_dir": str(job_dir)}
        parts = self.command if self.command is not None else [python_path, "-u", "-m", self.module or "", *self.args]
        return [_PLACEHOLDER.sub(lambda match: words[match[1]], part) for part in parts]

    def environment(self, job_dir: str | Path) -> dict[str, str]:
        """Return the job's own variables, secrets included, for the job directory as the job sees it.

        From weakest to strongest: site, study, job, site_spec (all in ``env``), allocation, secrets, SITEWARD_*.
        """
        return {
            **self.env,
            **(self.allocation.env if self.allocation else {}),
            **self.secrets,
            "SITEWARD_SITE": self.site,
            "SITEWARD_JOB_ID": self.job_id,
            "SITEWARD_JOB_DIR": str(job_dir),
            "SITEWARD_BACKEND": self.backend,
            "SITEWARD_ATTEMPT": str(self.attempt),
        }

    def masked(self) -> JobRequest:
        """Return the same request with every secret's value as ``***``, fit to be shown."""
        return evolve(self, secrets=Secrets(dict.fromkeys(self.secrets, MASK)))


@frozen(kw_only=True)
class JobRef:
    """The identity of a launched job: small, JSON-serialisable, enough to find it again after a crash.

    ``data`` is the backend's own (a pid and start time, a container id, a pod's uid): JSON values only.
    """

    schema: int = 1
    site: str
    backend: str
    job_id: str
    attempt: int = 1
    data: Mapping[str, Any] = {}


@frozen(kw_only=True)
class JobStatus:
    """One look at a job. ``reachable=False``: the platform could not be asked, ``state`` is the last known.

    ``message`` is for people (why it is pending), ``progress`` a fraction from 0 to 1 or None (an image pull,
    say). ``result`` is there when ``state`` is an end.
    """

    state: JobState
    reachable: bool = True
    message: str = ""
    progress: float | None = None
    result: Result | None = None


@frozen(kw_only=True)
class Finding:
    """One line of ``siteward doctor``: what was looked at, what was found, what to do about it."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    message: str
    remedy: str = ""

    @property
    def words(self) -> str:
        """The message and what to do, as sentences."""
        return sentences(self.message, self.remedy)
