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
from collections.abc import Iterable
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


def write_archive(image: str, file: Path, *, name: str | None = None, layers: Iterable[Path] = ()) -> None:
    """Write an image as an archive, which ``docker load`` and ``ctr images import`` read.

    ``layers`` are tar files that come on top of the image, which then has the other ``name``.
    """
    paths = [build(image), *layers]
    digests = [_digest(path) for path in paths]
    config: dict[str, object] = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    if image in _ENTRYPOINTS:
        config["Entrypoint"] = _ENTRYPOINTS[image]
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]}
    about = {"architecture": _architecture(), "os": "linux", "config": config, "rootfs": rootfs}
    described = json.dumps(about).encode()
    description, members = f"{hashlib.sha256(described).hexdigest()}.json", [f"{each}/layer.tar" for each in digests]
    manifest = json.dumps([{"Config": description, "RepoTags": [name or image], "Layers": members}]).encode()
    with tarfile.open(file, "w") as archive:
        for path, member in zip(paths, members, strict=True):
            archive.add(path, member)
        for member, content in ((description, described), ("manifest.json", manifest)):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(image: str) -> Path:
    return CACHE / "images" / f"{recipe(image)}.tar"


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def _script(image: str) -> Path:
    return _SCRIPTS / f"{image.partition('/')[2].partition(':')[0]}.sh"
