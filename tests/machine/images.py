"""The images that tests use, made of Debian's packages, with no registry: built once, and kept in the cache."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from .common import CACHE, PATH, Unprovided, locked

BUSYBOX = "siteward-test/busybox:1"
PYTHON = "siteward-test/python:1"
PAUSE = "registry.local/pause:3.10"
# What runs in each image that has a program of its own.
_ENTRYPOINTS = {PAUSE: ["/pause"]}
_SCRIPTS = Path(__file__).with_name("images")


def recipe(image: str) -> str:
    """Name the way an image is built: it changes when its script does."""
    script = _script(image)
    return f"{script.stem}-{hashlib.sha256(script.read_bytes()).hexdigest()[:12]}"


def built(image: str) -> bool:
    """Whether there is a root file system by the image's script as it is now."""
    return _file(image).exists()


def build(image: str) -> Path:
    """Return an image's root file system as a tar file; it is built when there is none by this script yet."""
    script, file = _script(image), _file(image)
    folder = file.parent
    with locked(folder / f"{script.stem}.lock"):
        if file.exists():
            return file
        print(f"building {image} from Debian's packages: once, and it may take a minute", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            part = Path(scratch) / file.name
            done = subprocess.run([script, part], env={**os.environ, "PATH": PATH}, capture_output=True, text=True)
            if done.returncode != 0:
                words = f"image {image} cannot be built: {done.stderr[-300:].strip()}"
                raise Unprovided(f"{words}. As root on Debian, scripts/system-packages installs what it needs")
            for old in folder.glob(f"{script.stem}-*.tar"):
                old.unlink()
            part.rename(file)
    return file


def write_archive(image: str, file: Path) -> None:
    """Write an image as an archive of one layer, which ``docker load`` and ``ctr images import`` read."""
    layer = build(image)
    digest = hashlib.sha256(layer.read_bytes()).hexdigest()
    config: dict[str, object] = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    if image in _ENTRYPOINTS:
        config["Entrypoint"] = _ENTRYPOINTS[image]
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    about = {"architecture": _architecture(), "os": "linux", "config": config, "rootfs": rootfs}
    described = json.dumps(about).encode()
    name, path = f"{hashlib.sha256(described).hexdigest()}.json", f"{digest}/layer.tar"
    manifest = json.dumps([{"Config": name, "RepoTags": [image], "Layers": [path]}]).encode()
    with tarfile.open(file, "w") as archive:
        archive.add(layer, path)
        for member, content in ((name, described), ("manifest.json", manifest)):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _file(image: str) -> Path:
    return CACHE / "images" / f"{recipe(image)}.tar"


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def _script(image: str) -> Path:
    return _SCRIPTS / f"{image.partition('/')[2].partition(':')[0]}.sh"
