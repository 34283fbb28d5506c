"""What ``siteward doctor`` is told about the engine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from siteward import BackendError, Finding
from siteward_docker.client import Engine
from siteward_docker.options import SiteOptions

_LITTLE = 5 * 2**30


def check_engine(engine: Engine, options: SiteOptions) -> list[Finding]:
    """Look at everything that a job will need."""
    try:
        version, info, networks = engine.version(), engine.info(), engine.networks()
        findings = [_check_version(engine, version), _check_cgroups(info), _check_networks(networks, options)]
        findings += [_check_gpus(info, options), _check_disk(info), *_check_init(info)]
        return findings + _check_image(engine, options)
    except BackendError as error:
        remedy = "See that `docker version` works for the account that runs siteward."
        return [Finding(level="fail", subject="engine", message=str(error), remedy=remedy)]


def _check_version(engine: Engine, version: dict[str, Any]) -> Finding:
    message = f"{engine.address}: version {version.get('Version')}, API {version.get('ApiVersion')}"
    return Finding(level="ok", subject="engine", message=message)


def _check_cgroups(info: dict[str, Any]) -> Finding:
    message = f"version {info.get('CgroupVersion', '1')} ({info.get('CgroupDriver')})"
    missing = [name for name, key in (("memory", "MemoryLimit"), ("cpus", "CpuCfsQuota")) if info.get(key) is False]
    if not missing:
        return Finding(level="ok", subject="cgroups", message=message)
    remedy = "Enable these cgroup controllers in the kernel of the engine's machine."
    words = f"{message}; limits of {' and '.join(missing)} are not enforced"
    return Finding(level="warn", subject="cgroups", message=words, remedy=remedy)


def _check_networks(networks: list[str], options: SiteOptions) -> Finding:
    if options.network is None or options.network.startswith("container:") or options.network in networks:
        return Finding(level="ok", subject="networks", message=", ".join(sorted(networks)) or "none")
    words = f"there is no network {options.network!r}, only {', '.join(sorted(networks))}"
    remedy = f"Create it with: docker network create {options.network}"
    return Finding(level="fail", subject="networks", message=words, remedy=remedy)


def _check_gpus(info: dict[str, Any], options: SiteOptions) -> Finding:
    offered = "nvidia" in (info.get("Runtimes") or {}) or bool(
        info.get("CDISpecDirs") and info.get("DiscoveredDevices")
    )
    if offered:
        return Finding(level="ok", subject="GPUs", message="the engine offers them")
    message = "the engine offers none"
    if not options.max_gpus:
        return Finding(level="ok", subject="GPUs", message=message)
    remedy = "Install the NVIDIA Container Toolkit on the engine's machine, or set max_gpus to 0."
    return Finding(level="warn", subject="GPUs", message=message, remedy=remedy)


def _check_disk(info: dict[str, Any]) -> Finding:
    root = Path(info.get("DockerRootDir") or "/")
    if not os.access(root, os.R_OK):
        return Finding(level="ok", subject="disk", message=f"{root} cannot be looked at from here")
    free = shutil.disk_usage(root).free
    message = f"{free / 2**30:.1f} GiB free for images and containers in {root}"
    if free >= _LITTLE:
        return Finding(level="ok", subject="disk", message=message)
    return Finding(
        level="warn", subject="disk", message=message, remedy="Free some space: docker system df shows where."
    )


def _check_init(info: dict[str, Any]) -> list[Finding]:
    binary = info.get("InitBinary")
    if binary:
        return [Finding(level="ok", subject="init", message=f"{binary} is process 1 of each container")]
    remedy = "Install docker-init (Debian: tini) on the engine's machine."
    return [Finding(level="fail", subject="init", message="the engine has no init program", remedy=remedy)]


def _check_image(engine: Engine, options: SiteOptions) -> list[Finding]:
    image = options.default_image
    if image is None or options.pull != "never" or engine.has_image(image):
        return []
    remedy = f"docker pull {image}, or let siteward do so (pull: missing)."
    return [Finding(level="fail", subject="default_image", message=f"the engine does not have {image}", remedy=remedy)]
