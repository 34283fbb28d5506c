"""What ``siteward-nvflare check`` looks at: whether FLARE will find one launcher, and whether the site can be used."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from siteward import Finding, Site, SiteFile, SitewardError, nearest
from siteward_nvflare.comm_config import check_comm_config
from siteward_nvflare.kit import OURS, Kit, KitError, read_components, read_record, resources_file

# The names that FLARE's server lets a job use in launcher_spec.
_MODES = ("process", "docker", "k8s", "slurm")
_WITH_IMAGE = ("docker", "k8s")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_kit(kit: Kit) -> list[Finding]:
    """Return what is to be said about a kit with the bridge in it."""
    findings = list(_check_flare())
    try:
        if read_record(kit) is None:
            words, remedy = "the bridge is not installed", f"siteward-nvflare install {kit.folder} --site FILE"
            return [*findings, Finding(level="fail", subject="kit", message=words, remedy=remedy)]
    except KitError as error:
        return [*findings, Finding(level="fail", subject="kit", message=str(error))]
    findings += _check_components(kit)
    host, more = check_comm_config(kit)
    findings += more
    args = _launcher_args(kit)
    if args is not None:
        findings += _check_site(*args, host)
    return findings


def require_site(kit: Kit, path: Path, shared: tuple[str, ...] = ()) -> None:
    """Raise SitewardError or KitError, with every mistake, when a site file is none for a kit; platforms are not asked.

    The site is opened as FLARE's would be; in another account's kit its state directory is left to that account.
    """
    file = SiteFile.load(path)
    with tempfile.TemporaryDirectory() as folder:
        if not kit.ours:
            file = attrs.evolve(file, state_dir=folder)
        with Site(file, adopt=False):
            pass
    failed = [f"{each.subject}: {each.words}" for each in _check_file(file) if each.level == "fail"]
    mistakes = [*failed, *(f"--shared {name}: {_no_backend(file, name)}" for name in _unknown(file, shared))]
    if mistakes:
        raise KitError("\n".join(f"{path}: {each}" for each in mistakes))


def _unknown(file: SiteFile, shared: Iterable[str]) -> list[str]:
    return [name for name in shared if name not in file.backends]


def _no_backend(file: SiteFile, name: str) -> str:
    near = nearest(name, file.backends)
    hint = f"; did you mean {near!r}?" if near else ""
    return f"no such backend in the site file, which has {', '.join(file.backends)}{hint}"


def _check_flare() -> Iterator[Finding]:
    if importlib.util.find_spec("nvflare") is None:
        remedy = "Install siteward-nvflare into the environment that runs the FLARE site"
        yield Finding(level="fail", subject="nvflare", message="cannot be imported here", remedy=remedy)
        return
    version = importlib.metadata.version("nvflare")
    if [int(part) for part in version.split(".")[:2] if part.isdigit()] < [2, 9]:
        yield Finding(level="fail", subject="nvflare", message=f"is {version}", remedy="Install NVIDIA FLARE 2.9")


def _check_components(kit: Kit) -> Iterator[Finding]:
    """FLARE fails every job of a site that has not exactly one launcher."""
    files = {resources_file(kit), kit.local / OURS}
    for folder in (kit.folder / "startup", kit.local):
        files |= {*folder.glob("*__resources.json"), *folder.glob("*__p_resources.json")}
    launchers = []
    for path in sorted(files):
        try:
            _, components = read_components(path)
        except KitError as error:
            yield Finding(level="fail", subject="kit", message=str(error), remedy="Install the bridge again")
            continue
        launchers += [f"{each.get('id')} ({path.name})" for each in components if _is_launcher(each)]
    if len(launchers) == 1:
        yield Finding(level="ok", subject="kit", message=f"one launcher: {launchers[0]}")
    else:
        words = f"{len(launchers)} launchers: {', '.join(launchers) or 'none'}; FLARE fails every job unless it is one"
        remedy = "Install the bridge again (`nvflare deploy prepare` puts FLARE's own back)"
        yield Finding(level="fail", subject="kit", message=words, remedy=remedy)


def _is_launcher(component: dict[str, Any]) -> bool:
    path = component.get("path") or component.get("class_path") or component.get("name") or ""
    return str(path).endswith("Launcher")


def _launcher_args(kit: Kit) -> tuple[Path, tuple[str, ...]] | None:
    """Return the site file and the shared backends that FLARE gives the launcher; None when that cannot be read."""
    try:
        args = json.loads((kit.local / OURS).read_bytes())["components"][0]["args"]
        return Path(args["site_file"]), tuple(args.get("shared") or ())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _check_site(path: Path, shared: Iterable[str], host: str | None) -> Iterator[Finding]:
    try:
        with Site.load(path, adopt=False) as site:
            yield from _check_file(site.file)
            yield from _check_shared(site.file, shared)
            yield from _check_address(host, site.file)
            yield from site.doctor()
    except (SitewardError, OSError) as error:
        yield Finding(level="fail", subject="site file", message=str(error), remedy="FLARE's site does not start so")


def _check_shared(file: SiteFile, shared: Iterable[str]) -> Iterator[Finding]:
    for name in _unknown(file, shared):
        remedy = "Install the bridge again, with the right --shared"
        yield Finding(level="warn", subject=f"--shared {name}", message=_no_backend(file, name), remedy=remedy)


def _check_file(file: SiteFile) -> Iterator[Finding]:
    if file.default_backend is None:
        remedy = "Set default_backend in the site file"
        words = "jobs without a launcher_spec for this site, as most FLARE jobs are, cannot start"
        yield Finding(level="warn", subject="default_backend", message=words, remedy=remedy)
    elif file.default_backend in _WITH_IMAGE and not file.backends[file.default_backend].get("default_image"):
        words = "a job that names no image is refused, and most FLARE jobs name none"
        remedy = f"Set default_image in the {file.default_backend} block of the site file"
        yield Finding(level="warn", subject=f"backend {file.default_backend}", message=words, remedy=remedy)
    if file.max_jobs is not None:
        words = "a job that waits in siteward's queue has started for FLARE, and its other sites wait with it"
        remedy = "Leave max_jobs out; limit jobs with the server's job_scheduler, or with resources"
        yield Finding(level="warn", subject="max_jobs", message=words, remedy=remedy)
    for name in file.backends:
        if name not in _MODES and name != file.default_backend:
            words = f"FLARE's server refuses jobs that name {name!r}; it knows {', '.join(_MODES)}"
            yield Finding(level="warn", subject=f"backend {name}", message=words, remedy="Make it default_backend")
    if file.backends.get("k8s", {}).get("job_directory") == "none":
        words = "with job_directory: none pods do not get FLARE's workspace, and every job fails"
        yield Finding(level="fail", subject="backend k8s", message=words, remedy="Set it to transfer or pvc")


def _check_address(host: str | None, file: SiteFile) -> Iterator[Finding]:
    """FLARE's parent listens for its jobs on this machine's loopback unless told otherwise; pods have their own."""
    if host is None or "k8s" not in file.backends or not _own_network(file.backends["k8s"].get("pod_template")):
        return
    if host in _LOOPBACK:
        words = f"pods look for FLARE's parent at {host}, which is themselves"
        remedy = "Set host, port and connection_security of internal.resources in local/comm_config.json"
        yield Finding(level="warn", subject="comm_config.json", message=words, remedy=remedy)
    else:
        yield Finding(level="ok", subject="comm_config.json", message=f"pods look for FLARE's parent at {host}")


def _own_network(template: object) -> bool:
    """Whether pods have a network of their own, as far as the site file says; a template may be in another file."""
    if not isinstance(template, Mapping):
        return template is None
    spec = template.get("spec")
    return not (isinstance(spec, Mapping) and spec.get("hostNetwork"))
