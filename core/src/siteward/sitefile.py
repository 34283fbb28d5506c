"""The site file: who a site is, which backends it enables, what it allows. Trusted, and read as strictly."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from siteward.config import (
    Problems,
    check_env,
    check_not_negative,
    check_positive,
    check_site_name,
    convert,
    nearest,
    read_block,
)
from siteward.errors import FileError, Problem
from siteward.names import safe_name
from siteward.yamlfile import read_yaml

_STUDY = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?", re.ASCII)
_SHARED = (Path("/var/lock"), Path("/run/lock"))
# One string of an environment holds at most 32 pages on Linux (execve(2), MAX_ARG_STRLEN).
_LARGEST_SECRET = 131_000


def _help(text: str, check: Any = None, **more: Any) -> dict[str, Any]:
    return {"help": text, "check": check, **more}


def _check_path(path: str) -> str | None:
    return None if path and "\0" not in path else "expected a path"


def _check_backends(backends: Mapping[str, Any]) -> str | None:
    return None if backends else "expected at least one backend"


def _check_resources(resources: Mapping[str, Any]) -> str | None:
    names = ", ".join(resources) or "none"
    return None if len(resources) == 1 else f"expected exactly one resource manager, got {names}"


def _check_studies(studies: Mapping[str, Mapping[str, Any]]) -> list[Problem] | None:
    problems = []
    for name, study in studies.items():
        if not _STUDY.fullmatch(name):
            words = "a study's name is 1 to 63 of a-z, 0-9, _ and -, with a letter or digit at both ends"
            problems.append(Problem(name, words))
        try:
            env = convert(study.get("env", {}), Mapping[str, str])
            problems += [p.under(f"{name}.env") for p in check_env(env) or []]
        except Problems as error:
            problems += [p.under(f"{name}.env") for p in error.problems]
    return problems or None


def _check_secrets(secrets: Mapping[str, SecretSource]) -> list[Problem] | None:
    wrong = [name for name, source in secrets.items() if (source.env is None) == (source.file is None)]
    return [Problem(name, "expected exactly one of env and file") for name in wrong] or None


@frozen(kw_only=True)
class SecretSource:
    """Where the site has a secret: a variable of its environment, or a file (relative to the site file)."""

    env: str | None = field(default=None, metadata=_help("a variable of siteward's own environment"))
    file: str | None = field(default=None, metadata=_help("a file with the secret alone", _check_path))

    def read(self, base_dir: Path) -> str:
        """Return the secret, without one newline at its end; ValueError in words when it cannot be had."""
        if self.env is not None:
            if self.env not in os.environ:
                raise ValueError(f"the variable {self.env} is not set where siteward runs; set it")
            value = os.environ[self.env]
        else:
            path = _resolve(self.file or "", base_dir)
            try:
                with path.open("rb") as stream:
                    value = stream.read(_LARGEST_SECRET + 1).decode()
            except OSError as error:
                raise ValueError(f"the file {path} cannot be read: {error.strerror or error}") from error
            except UnicodeDecodeError:
                raise ValueError(f"the file {path} is not UTF-8 text, as a variable must be") from None
        if len(value) > _LARGEST_SECRET or "\0" in value:
            what = "is too long" if "\0" not in value else "has a NUL character"
            raise ValueError(f"the secret in {self.env or self.file} {what} for an environment variable")
        return value.removesuffix("\n")


@frozen(kw_only=True)
class Keep:
    """How many ended jobs ``gc`` keeps, and for how long; the first limit that is reached counts."""

    jobs: int = field(default=1000, metadata=_help("how many ended jobs are kept", check_not_negative))
    days: float = field(default=30.0, metadata=_help("days that an ended job is kept", check_not_negative))


@frozen(kw_only=True)
class SiteFile:
    """A site, as its file describes it. Make one with :meth:`load` or :meth:`from_mapping`, which check it.

    The blocks of ``backends``, ``resources``, ``plugins`` and ``studies`` are plain mappings here; the plugins' own
    option classes read them.
    """

    name: str = field(metadata=_help("the site: 1 to 64 printable characters without /", check_site_name))
    backends: Mapping[str, Mapping[str, Any]] = field(
        metadata=_help("the enabled backends, in order of preference, each with its options", _check_backends)
    )
    default_backend: str | None = field(
        default=None, metadata=_help("the backend for jobs that offer none for this site")
    )
    resources: Mapping[str, Mapping[str, Any]] | None = field(
        default=None, metadata=_help("the one resource manager, with its options", _check_resources)
    )
    plugins: Mapping[str, Mapping[str, Any]] = field(
        factory=dict, metadata=_help("options of plugins that act on every job: failure filters, sinks, observers")
    )
    env: Mapping[str, str] = field(factory=dict, metadata=_help("environment of every job", check_env))
    job_secrets: Mapping[str, SecretSource] = field(
        factory=dict, metadata=_help("secrets that jobs may ask for by name", _check_secrets)
    )
    studies: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(
        factory=dict, metadata=_help("study: its `env`, and its options for each backend", _check_studies)
    )
    max_jobs: int | None = field(
        default=None, metadata=_help("jobs at one time, more wait; by default no limit", check_positive)
    )
    state_dir: str | None = field(
        default=None, metadata=_help("where the store and the jobs are; on a local disk", _check_path)
    )
    lease_dir: str | None = field(
        default=None, metadata=_help("where the sites of this host keep the leases of its GPUs", _check_path)
    )
    grace: float = field(default=10.0, metadata=_help("seconds between TERM and KILL", check_not_negative))
    poll_interval: float = field(
        default=1.0, metadata=_help("seconds between looks at a backend that cannot watch", check_positive)
    )
    keep: Keep = field(factory=Keep, metadata=_help("how many ended jobs are kept, and for how long"))
    file: str = field(default="site", metadata={"internal": True})
    base_dir: Path = field(default=Path(), metadata={"internal": True})

    @classmethod
    def load(cls, path: str | Path) -> SiteFile:
        """Read a site file; FileError with every mistake in it."""
        data = read_yaml(path)
        return cls.from_mapping(data, file=str(path), base_dir=Path(path).expanduser().resolve().parent)

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], *, file: str = "site", base_dir: str | Path = ".") -> SiteFile:
        """Read data of a site file's shape; ``file`` names it in errors, paths start at ``base_dir``."""
        values, problems = read_block(cls, _with_empty_blocks(data))
        backends, default = values.get("backends"), values.get("default_backend")
        if backends and default is not None and default not in backends:
            words = f"{default!r} is not one of the backends: {', '.join(backends)}"
            problems.append(Problem("default_backend", words, nearest(default, backends)))
        if problems:
            raise FileError(file, problems)
        return cls(**values, file=file, base_dir=Path(base_dir).resolve())

    def study_env(self, name: str) -> Mapping[str, str]:
        """Return the environment that a study adds to its jobs; KeyError when the site has no such study."""
        return self.studies[name].get("env", {})

    def study_block(self, name: str, backend: str) -> Mapping[str, Any]:
        """Return a study's options for one backend, empty if it has none; KeyError for an unknown study."""
        return self.studies[name].get(backend, {})

    def read_secret(self, name: str) -> str:
        """Return one of the site's secrets; ValueError in words when there is none, or it cannot be had."""
        if name not in self.job_secrets:
            lent = ", ".join(self.job_secrets) or "none"
            raise ValueError(f"site {self.name!r} lends no secret {name!r}; it lends: {lent}")
        try:
            return self.job_secrets[name].read(self.base_dir)
        except ValueError as error:
            raise ValueError(f"the site's secret {name!r} cannot be read: {error}") from error

    def state_path(self) -> Path:
        """Return ``state_dir``, or else the folder for this site's name in the user's state directory."""
        if self.state_dir is not None:
            return _resolve(self.state_dir, self.base_dir)
        import platformdirs

        return platformdirs.user_state_path("siteward") / safe_name(self.name)

    def lease_path(self) -> Path:
        """Return where the host's leases are: ``lease_dir``, a shared place, or the user's runtime directory.

        The shared place is ``siteward`` in ``/var/lock`` or ``/run/lock``, where users can write. It need not
        exist: whoever creates it gives it mode 1777, or other users' sites would not see its leases.
        """
        if self.lease_dir is not None:
            return _resolve(self.lease_dir, self.base_dir)
        for shared in _SHARED:
            path = shared / "siteward"
            if not path.is_symlink() and os.access(path if path.exists() else shared, os.W_OK | os.X_OK):
                return path
        import platformdirs

        return platformdirs.user_runtime_path("siteward")


def _resolve(path: str, base_dir: Path) -> Path:
    return base_dir / os.path.expanduser(path)


def _with_empty_blocks(data: Any) -> Any:
    """Return the data with ``process:`` (nothing) read as ``process: {}`` where a plugin's block stands."""

    def filled(block: Any) -> Any:
        if not isinstance(block, Mapping):
            return block
        return {key: {} if value is None else value for key, value in block.items()}

    if not isinstance(data, Mapping):
        return data
    data = dict(data)
    for key in {"backends", "resources", "plugins", "studies"} & data.keys():
        data[key] = filled(data[key])
    if isinstance(data.get("studies"), Mapping):
        data["studies"] = {name: filled(study) for name, study in data["studies"].items()}
    return data
