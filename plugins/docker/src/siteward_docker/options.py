"""What a job may ask of this backend, what the site sets, and what a study adds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen

from siteward import Problem, check_argv, check_env, check_positive

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(?:[bB]|([kKmMgG])[bB]?)?", re.ASCII)
_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30}
_LARGEST = 2**63 - 1
_USER = re.compile(r"[0-9]{1,10}(:[0-9]{1,10})?", re.ASCII)
_DATASET = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?", re.ASCII)
_LEAST_MEMORY = 16 * 2**20
_OUR_LABELS = "siteward."
# What siteward itself decides for each container, and whatever could undo it.
RESERVED = frozenset(
    [
        *("auto_remove", "binds", "cap_drop", "command", "detach", "entrypoint", "environment", "image", "init"),
        *("labels", "mounts", "name", "network", "network_mode", "read_only", "remove", "restart_policy", "user"),
        *("volumes", "volumes_from", "working_dir"),
    ]
)
# Options of `docker run` that are not part of the engine's HostConfig: their names in its API.
CREATE_KWARGS = {"hostname": "Hostname", "domainname": "Domainname", "stop_signal": "StopSignal"}


def parse_size(text: str | int) -> int:
    """Return the bytes of a size as ``docker run`` takes it (``64m``, ``1.5g``, ``1024``); ValueError otherwise."""
    found = _SIZE.fullmatch(str(text)) if not isinstance(text, bool) else None
    size = int(float(found[1]) * _UNITS.get((found[2] or "").lower(), 1)) if found else -1
    if not 0 <= size <= _LARGEST:
        raise ValueError(f"expected bytes, or a number with b, k, m or g (like 2g), got {text!r}")
    return size


def _check_size(size: str | int) -> str | None:
    try:
        parse_size(size)
    except ValueError as error:
        return str(error)
    return None


def _check_text(text: str) -> str | None:
    return None if text.strip() and "\0" not in text else "expected some text"


def _check_entrypoint(entrypoint: str | tuple[str, ...]) -> list[Problem] | str | None:
    return _check_text(entrypoint) if isinstance(entrypoint, str) else check_argv(entrypoint)


def _check_gpus(count: int) -> str | None:
    return None if count >= 0 else f"expected 0 or more, got {count}"


def _check_memory(size: int) -> str | None:
    return None if size >= _LEAST_MEMORY else f"expected at least {_LEAST_MEMORY}, got {size}"


def _check_user(user: str) -> str | None:
    if _USER.fullmatch(user):
        return None
    return f"expected uid or uid:gid in numbers (a name means another user in each image), got {user!r}"


def _check_labels(labels: Mapping[str, str]) -> list[Problem] | None:
    wrong = [name for name in labels if not name or name.startswith(_OUR_LABELS)]
    return [Problem(name, f"labels that begin with {_OUR_LABELS} are set by siteward itself") for name in wrong] or None


def _check_kwargs(kwargs: Mapping[str, Any]) -> list[Problem] | None:
    if not kwargs:
        return None
    from siteward_docker.client import host_config

    problems = [Problem(name, "is decided by siteward; use the option for it") for name in kwargs if name in RESERVED]
    try:
        host_config({name: value for name, value in kwargs.items() if name not in RESERVED | CREATE_KWARGS.keys()})
    except (TypeError, ValueError) as error:
        problems.append(Problem("", str(error).replace("HostConfig.__init__() ", "")))
    return problems or None


def _check_auth(registries: Mapping[str, RegistryAuth]) -> list[Problem] | None:
    wrong = [name for name, each in registries.items() if (each.password_env is None) == (each.password_file is None)]
    return [Problem(name, "expected exactly one of password_env and password_file") for name in wrong] or None


def _check_datasets(datasets: Mapping[str, Dataset]) -> list[Problem] | None:
    words = "a dataset's name is 1 to 63 of a-z, 0-9, _ and -, with a letter or digit at both ends"
    return [Problem(name, words) for name in datasets if not _DATASET.fullmatch(name)] or None


def _check_secret_env(variables: Mapping[str, SecretSource]) -> list[Problem] | None:
    return check_env(dict.fromkeys(variables, ""))


def _check_mounts(mounts: Mapping[str, SecretMount]) -> list[Problem] | None:
    paths = [mount.mount_path for mount in mounts.values()]
    problems = [
        Problem(f"{name}.mount_path", "is another one's too")
        for number, (name, mount) in enumerate(mounts.items())
        if mount.mount_path in paths[:number]
    ]
    problems += [
        Problem(f"{name}.mount_path", f"expected an absolute path without .., got {mount.mount_path!r}")
        for name, mount in mounts.items()
        if not mount.mount_path.startswith("/") or ".." in mount.mount_path.split("/") or mount.mount_path == "/"
    ]
    return problems or None


def _help(text: str, check: Any = None, **more: Any) -> dict[str, Any]:
    return {"help": text, "check": check, **more}


@frozen(kw_only=True)
class RegistryAuth:
    """How to log in to a registry; the password comes from a variable or a file, never from the site file."""

    username: str = field(metadata=_help("the account's name"))
    password_env: str | None = field(
        default=None, metadata=_help("a variable of siteward's own environment with the password")
    )
    password_file: str | None = field(
        default=None, metadata=_help("a file with the password; a relative path starts at the site file's folder")
    )

    def password(self, base_dir: Path) -> str:
        """Return the password; ValueError says why it cannot be had."""
        if self.password_env is not None:
            if self.password_env not in os.environ:
                raise ValueError(f"the variable {self.password_env} is not set where siteward runs; set it")
            return os.environ[self.password_env]
        path = base_dir / Path(self.password_file or "").expanduser()
        try:
            return path.read_text().removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the file {path} cannot be read: {error}") from error


@frozen(kw_only=True)
class Dataset:
    """A folder or file of the site that a study's jobs see at ``/data/<study>/<dataset>``."""

    source: str = field(
        metadata=_help("a path on the engine's machine; a relative one starts at the site file's folder", _check_text)
    )
    mode: Literal["ro", "rw"] = field(default="ro", metadata=_help("ro: jobs can only read it"))


@frozen(kw_only=True)
class SecretSource:
    """A secret of the site."""

    source: str = field(metadata=_help("its name in the site's job_secrets"))


@frozen(kw_only=True)
class SecretMount:
    """A secret of the site as a file that the job can read. It lies in memory, never on a disk."""

    source: str = field(metadata=_help("its name in the site's job_secrets"))
    mount_path: str = field(metadata=_help("the file's absolute path in the container"))
    mode: Literal["ro"] = field(default="ro", metadata=_help("always ro"))


@frozen(kw_only=True)
class JobOptions:
    """What a job may ask of this backend. Nothing in it reaches the engine's machine."""

    image: str | None = field(
        default=None, metadata=_help("the image; by default the study's, then the site's", _check_text)
    )
    python_path: str | None = field(
        default=None, metadata=_help("Python of a job that names a module, as the image has it", _check_text)
    )
    entrypoint: str | tuple[str, ...] | None = field(
        default=None,
        metadata=_help("what runs the command; by default nothing does, not even the image's own", _check_entrypoint),
    )
    num_of_gpus: int | None = field(
        default=None, metadata=_help("GPUs, as in resource_spec", _check_gpus, portable="num_of_gpus")
    )
    shm_size: int | str | None = field(
        default=None, metadata=_help("size of /dev/shm: bytes, or like 2g; the engine's default is 64m", _check_size)
    )


@frozen(kw_only=True)
class SiteOptions:
    """What the site sets."""

    docker_host: str | None = field(
        default=None,
        metadata=_help(
            "the engine, like unix:///run/docker.sock; by default what the docker command uses", _check_text
        ),
    )
    network: str | None = field(
        default=None, metadata=_help("the jobs' network; by default the engine's own", _check_text)
    )
    pull: Literal["missing", "always", "never"] = field(
        default="missing", metadata=_help("when an image is pulled before a job starts")
    )
    registry_auth: Mapping[str, RegistryAuth] = field(
        factory=dict, metadata=_help("registry: the account to pull with, besides those of `docker login`", _check_auth)
    )
    default_image: str | None = field(
        default=None, metadata=_help("the image of jobs for which neither job nor study names one", _check_text)
    )
    default_python_path: str = field(
        default="python3", metadata=_help("Python of jobs that name a module, as images have it", _check_text)
    )
    allowed_images: tuple[str, ...] | None = field(
        default=None, metadata=_help("patterns, like registry.local/*, of images that jobs may name; by default all")
    )
    max_cpus: int | None = field(
        default=None,
        metadata=_help("most CPUs a job may ask for, and the limit of jobs that ask for none", check_positive),
    )
    max_memory: int | None = field(
        default=None,
        metadata=_help(
            "most bytes of memory a job may ask for, and the limit of jobs that ask for none", _check_memory
        ),
    )
    max_gpus: int | None = field(default=None, metadata=_help("most GPUs a job may ask for", _check_gpus))
    env: Mapping[str, str] = field(factory=dict, metadata=_help("environment of every container", check_env))
    container_kwargs: Mapping[str, Any] = field(
        factory=dict,
        metadata=_help("further options of docker-py's HostConfig for every container, like ulimits", _check_kwargs),
    )
    job_directory: Literal["bind", "copy"] = field(
        default="bind",
        metadata=_help("bind: the engine shares this machine's files; copy: it does not, files go through its API"),
    )
    max_collect: int = field(
        default=16 * 2**30,
        metadata=_help("with job_directory copy: most bytes that are taken back of a job", check_positive),
    )
    labels: Mapping[str, str] = field(factory=dict, metadata=_help("labels of every container", _check_labels))
    user: str | None = field(
        default=None,
        metadata=_help("uid:gid of jobs; by default siteward's own, or 65534:65534 if that is root's", _check_user),
    )
    cap_drop: tuple[str, ...] = field(default=("ALL",), metadata=_help("capabilities that jobs do not have"))
    read_only: bool = field(
        default=True, metadata=_help("jobs can write to their job directory, rw datasets and /tmp only")
    )
    no_new_privileges: bool = field(default=True, metadata=_help("setuid programs give jobs no further rights"))


@frozen(kw_only=True)
class StudyOptions:
    """What a study of the site adds."""

    image: str | None = field(default=None, metadata=_help("the image of jobs that name none", _check_text))
    datasets: Mapping[str, Dataset] = field(
        factory=dict, metadata=_help("dataset: where it is; jobs see it at /data/<study>/<dataset>", _check_datasets)
    )
    env: Mapping[str, str] = field(factory=dict, metadata=_help("environment of its containers", check_env))
    secret_env: Mapping[str, SecretSource] = field(
        factory=dict, metadata=_help("variable: the secret of the site that it holds", _check_secret_env)
    )
    secret_mounts: Mapping[str, SecretMount] = field(
        factory=dict, metadata=_help("any name: a secret of the site as a file in memory", _check_mounts)
    )
    docker_kwargs: Mapping[str, Any] = field(
        factory=dict, metadata=_help("like container_kwargs of the site, which it overrides", _check_kwargs)
    )
