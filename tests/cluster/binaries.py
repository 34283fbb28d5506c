"""Kubernetes and containerd as programs: built of their Go modules once, and kept in the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from ..machine import images
from ..machine.common import CACHE, PATH, Unprovided, locked

VERSION = "1.34.4"
# Builds of other sources that stay: other checkouts may use them.
_KEPT = 3
IMAGES = (images.PAUSE, images.BUSYBOX, images.PYTHON)
_HERE = Path(__file__).parent
_CONTAINERD = "github.com/containerd/containerd"
_STAMPS = {"gitVersion": f"v{VERSION}", "gitMajor": "1", "gitMinor": "34"}
_STAMPED = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in _STAMPS.items())
# By the folder with go.mod: what is built there, and with which flags of the linker.
_MODULES = {
    "containerd": ([f"{_CONTAINERD}/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")], "-s -w"),
    "devkube": (["."], f"-s -w {_STAMPED}"),
}
# Programs and Debian's packages: scripts/system-packages installs these.
_NEEDED = {
    "runc": "runc",
    "openssl": "openssl",
    "ip": "iproute2",
    "cc": "gcc",
    "busybox": "busybox-static",
    "mmdebstrap": "mmdebstrap",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}


def check_machine() -> None:
    """Raise Unprovided, in words, where a cluster can be neither built nor run."""
    other = "or name a cluster's kubeconfig in SITEWARD_TEST_KUBECONFIG"
    if os.geteuid() != 0 or sys.platform != "linux":
        raise Unprovided(f"run as root on Debian, {other}")
    missing = [package for program, package in _NEEDED.items() if shutil.which(program, path=PATH) is None]
    if missing:
        raise Unprovided(f"install Debian's packages {' '.join(missing)} (scripts/system-packages does), {other}")
    if built() is None and shutil.which("go") is None:
        raise Unprovided(f"install Go 1.24 or newer, {other}")


def built() -> Path | None:
    """Return the folder with the programs if they have been built of these sources."""
    folder = _folder()
    return folder if folder.is_dir() else None


def is_all_built() -> bool:
    """Whether a cluster can start at once."""
    return built() is not None and all(images.built(image) for image in IMAGES)


def build() -> Path:
    """Return the folder with devkube, containerd, its shim and ctr; building takes about 7 minutes of two cores.

    Of builds at the same time the second waits for the first. Unprovided, with all that Go says, when it fails.
    """
    check_machine()
    folder = _folder()
    with locked(folder.parent / "build.lock"):
        if folder.is_dir():
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            part = Path(scratch) / "bin"
            part.mkdir()
            for module, (packages, flags) in _MODULES.items():
                _go_build(_HERE / module, part, packages, flags)
            for old in sorted(folder.parent.glob("bin-*"), key=lambda old: old.stat().st_mtime)[:-_KEPT]:
                shutil.rmtree(old)
            part.rename(folder)
    return folder


def build_all() -> Path:
    """Build the programs and the images, and return the folder with the programs."""
    check_machine()
    for image in IMAGES:
        images.build(image)
    return build()


def end_build(build: subprocess.Popen[bytes]) -> None:
    """End a ``python -m tests.cluster build`` that has a session of its own, and the compilers that it started."""
    os.killpg(build.pid, signal.SIGTERM)
    build.wait()


def _go_build(module: Path, out: Path, packages: list[str], flags: str) -> None:
    command = ["go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", f"{out}/"]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    done = subprocess.run(
        [*command, *packages],
        cwd=module,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise Unprovided(f"{module.name} cannot be built, `go build` in {module} says:\n{done.stdout.strip()}")


def _folder() -> Path:
    digest = hashlib.sha256(repr(_MODULES).encode())
    for module in _MODULES:
        for file in sorted((_HERE / module).iterdir()):
            digest.update(f"{module}/{file.name}\0".encode() + file.read_bytes() + b"\0")
    return CACHE / "cluster" / f"bin-{digest.hexdigest()[:12]}"
