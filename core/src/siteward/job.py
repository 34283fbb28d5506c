"""The job file: one command (per site) with inputs, for one site or many. Untrusted; read strictly."""

from __future__ import annotations

import os
import re
import secrets as random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import Factory, field, fields, frozen

from siteward.config import (
    check_args,
    check_argv,
    check_env,
    check_positive,
    check_site_name,
    nearest,
    read_block,
)
from siteward.errors import FileError, Problem
from siteward.resources import DEFAULT_KEY, spec_problems
from siteward.yamlfile import read_yaml

DEFAULT_SITE = "default"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", re.ASCII)
_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


def _check_name(name: str) -> str | None:
    ok = _NAME.fullmatch(name)
    return None if ok else f"expected 1 to 40 of a-z, 0-9 and -, with no - at either end, got {name!r}"


def _check_id(job_id: str) -> str | None:
    ok = _ID.fullmatch(job_id)
    return None if ok else f"expected 1 to 63 of a-z, 0-9 and -, with no - at either end, got {job_id!r}"


def _check_module(module: str) -> str | None:
    return None if _MODULE.fullmatch(module) else f"expected a Python module's dotted name, got {module!r}"


def _check_sites(sites: Sequence[str]) -> list[Problem] | str | None:
    if not sites:
        return "expected at least one site"
    problems = [Problem(f"[{i}]", words) for i, name in enumerate(sites) if (words := check_site_name(name))]
    problems += [Problem(f"[{i}]", "is there twice") for i, name in enumerate(sites) if name in sites[:i]]
    return problems or None


def _check_resource_spec(spec: Mapping[str, Mapping[str, Any]]) -> list[Problem] | None:
    return spec_problems(spec) or None


def _help(text: str, check: Any = None, **more: Any) -> dict[str, Any]:
    return {"help": text, "check": check, **more}


@frozen(kw_only=True)
class SiteSpec:
    """What a job wants different at one site."""

    command: tuple[str, ...] | None = field(default=None, metadata=_help("argv, never a shell string", check_argv))
    module: str | None = field(default=None, metadata=_help("a Python module to run", _check_module))
    args: tuple[str, ...] | None = field(default=None, metadata=_help("arguments of the module", check_args))
    env: Mapping[str, str] = field(factory=dict, metadata=_help("environment variables", check_env))


@frozen(kw_only=True)
class Job:
    """A job, as its file describes it. Make one with :meth:`load` or :meth:`from_mapping`, which check it."""

    name: str = field(metadata=_help("what the job is called: 1 to 40 of a-z, 0-9 and -", _check_name))
    id: str = field(
        default=Factory(lambda self: f"{self.name}-{random.token_hex(4)}", takes_self=True),
        metadata=_help("the job's id; by default its name and 8 random hex digits", _check_id),
    )
    command: tuple[str, ...] | None = field(
        default=None,
        metadata=_help("argv, never a shell string; {site}, {job_id} and {job_dir} are replaced", check_argv),
    )
    module: str | None = field(
        default=None, metadata=_help("a Python module to run instead of a command", _check_module)
    )
    args: tuple[str, ...] = field(default=(), metadata=_help("arguments of the module", check_args))
    sites: tuple[str, ...] | None = field(
        default=None, metadata=_help("sites that run it; by default every site given", _check_sites)
    )
    min_sites: int | None = field(
        default=None,
        metadata=_help("fewer sites that can start it: it starts nowhere; default all", check_positive),
    )
    lead: str | None = field(default=None, metadata=_help("the site whose own end is the run's verdict"))
    site_spec: Mapping[str, SiteSpec] = field(
        factory=dict, metadata=_help("what is different at one site: command, module, args, env")
    )
    env: Mapping[str, str] = field(factory=dict, metadata=_help("environment variables", check_env))
    secrets: Mapping[str, str] = field(
        factory=dict, metadata=_help("environment variable: name of a secret that the site lends", check_env)
    )
    workspace: str | None = field(
        default=None, metadata=_help("a folder beside this file whose contents start the job directory")
    )
    study: str | None = field(default=None, metadata=_help("a study of the site"))
    timeout: float | None = field(
        default=None, metadata=_help("seconds from RUNNING until the job is ended", check_positive)
    )
    launcher_spec: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(
        factory=dict, metadata=_help("site or `default`: backend: its options")
    )
    resource_spec: Mapping[str, Mapping[str, Any]] = field(
        factory=dict,
        metadata=_help("site or `@default`: num_of_gpus, num_of_cpus, memory, …", _check_resource_spec),
    )
    base_dir: Path = field(default=Path(), metadata={"internal": True})

    @classmethod
    def load(cls, path: str | Path) -> Job:
        """Read a job file; FileError with every mistake in it."""
        data = read_yaml(path)
        return cls.from_mapping(data, file=str(path), base_dir=Path(path).expanduser().resolve().parent)

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], *, file: str = "job", base_dir: str | Path = ".") -> Job:
        """Read a job from plain data of the file's shape. ``file`` names it in errors; paths start at ``base_dir``."""
        base_dir = Path(os.path.realpath(base_dir))
        values, problems = read_block(cls, data)
        problems += _cross_problems(values, data, base_dir)
        if problems:
            raise FileError(file, problems)
        return cls(**values, base_dir=base_dir)

    def workspace_path(self) -> Path | None:
        """Return the workspace's absolute path, None if the job has none."""
        return None if self.workspace is None else (self.base_dir / self.workspace).resolve()


def _key_problems(specs: Mapping[str, Mapping[str, Any]], sites: Sequence[str]) -> list[Problem]:
    reserved = {"launcher_spec": DEFAULT_SITE, "resource_spec": DEFAULT_KEY}
    problems = []
    for spec, block in specs.items():
        known = [*sites, *([reserved[spec]] if spec in reserved else [])]
        problems += [
            Problem(
                f"{spec}.{key}",
                f"names no site of this job; expected one of {', '.join(known)}",
                nearest(key, known),
            )
            for key in block
            if key not in known
        ]
    return problems


def _cross_problems(values: Mapping[str, Any], data: Mapping[str, Any], base_dir: Path) -> list[Problem]:
    """Return what is wrong between fields, judging only fields that could be read."""
    problems = []
    if isinstance(data, Mapping):
        problems += _what_runs_problems("", data, values)
    for site, spec in values.get("site_spec", {}).items():
        if spec.command is not None and spec.module is not None:
            problems.append(Problem(f"site_spec.{site}", "expected either command or module, not both"))
        elif spec.args is not None and spec.module is None and (spec.command is not None or not data.get("module")):
            problems.append(Problem(f"site_spec.{site}.args", "goes with module; put a command's arguments into it"))
    sites = values.get("sites")
    if sites:
        specs = {key: values[key] for key in ("launcher_spec", "resource_spec", "site_spec") if key in values}
        problems += _key_problems(specs, sites)
        if values.get("lead") and values["lead"] not in sites:
            problems.append(Problem("lead", f"{values['lead']!r} is not in sites", nearest(values["lead"], sites)))
        if values.get("min_sites") and values["min_sites"] > len(sites):
            problems.append(Problem("min_sites", f"expected at most {len(sites)}, the number of sites"))
    for name in sorted(values.get("env", {}).keys() & values.get("secrets", {}).keys()):
        problems.append(Problem(f"secrets.{name}", "is in env too; give the variable once"))
    if values.get("workspace") is not None:
        problems += _workspace_problems(values["workspace"], base_dir)
    return problems


def _what_runs_problems(path: str, data: Mapping[str, Any], values: Mapping[str, Any]) -> list[Problem]:
    has = {key for key in ("command", "module") if data.get(key) is not None}
    if len(has) == 2:
        return [Problem(path, "expected either command or module, not both")]
    specs = values.get("site_spec", {}).values()
    sites = values.get("sites")
    everywhere = sites and all(
        site in values.get("site_spec", {}) and (values["site_spec"][site].command or values["site_spec"][site].module)
        for site in sites
    )
    if not has and not everywhere and not ("site_spec" in data and "site_spec" not in values):
        return [
            Problem(
                path,
                "expected a command (a list) or a module, here or in site_spec for every site of `sites`",
            )
        ]
    if values.get("args") and "module" not in has and not any(spec.module for spec in specs):
        return [Problem("args", "goes with module; put a command's arguments into the command")]
    return []


def _workspace_problems(workspace: str, base_dir: Path) -> list[Problem]:
    if "\0" in workspace:
        return [Problem("workspace", "a path cannot hold a NUL character")]
    try:
        path = (base_dir / workspace).resolve()
        if not path.is_relative_to(base_dir):
            return [Problem("workspace", f"{workspace!r} leaves the job file's folder; keep the workspace inside it")]
        if not path.is_dir():
            return [Problem("workspace", f"there is no folder {workspace!r} beside this file")]
    except (OSError, RuntimeError, ValueError) as error:
        return [Problem("workspace", f"cannot be looked at: {error}")]
    return []


JOB_KEYS = tuple(each.name for each in fields(Job) if not each.metadata.get("internal"))
