"""An image for FLARE's jobs: Debian's Python and this environment's NVIDIA FLARE over it."""

from __future__ import annotations

import hashlib
import sys
import tarfile
import tempfile
from pathlib import Path

from ...engine.dockerd import Engine
from ...machine import images
from ...machine.common import Unprovided

_PYTHON = (3, 11)
_PACKAGES = "usr/local/lib/python3.11/dist-packages"
_BASE, _REPOSITORY = "siteward-test/flare:1", "siteward-test/nvflare"
# What only tests need, and what a job's image need not have.
_NOT_IN_IMAGES = ("siteward", "_siteward", "_editable", "__editable__", "pytest", "_pytest", "hypothesis", "docker")
_NOT_IN_IMAGES += ("kubernetes", "__pycache__")


def name() -> str:
    """Return the image's name: its tag says what is in it. Unprovided where Debian's Python is another one."""
    if sys.version_info[:2] != _PYTHON:
        words = ".".join(map(str, _PYTHON))
        raise Unprovided(f"needs the Python of Debian's image, for FLARE's packages: run these tests with {words}")
    contents = [images.recipe(_BASE), *(path.name for path in _packages())]
    return f"{_REPOSITORY}:{hashlib.sha256(' '.join(contents).encode()).hexdigest()[:12]}"


def write(file: Path) -> None:
    """Write it as an archive."""
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        layer = Path(scratch) / "layer.tar"
        with tarfile.open(layer, "w") as archive:
            for path in _packages():
                archive.add(path, f"{_PACKAGES}/{path.name}", filter=_without_caches)
        images.write_archive(_BASE, file, name=name(), layers=[layer])


def provide(engine: Engine) -> str:
    """Have it on a Docker engine, in the place of an older one, and return its name."""
    image = name()
    with engine.client() as api:
        there = {tag for each in api.images(_REPOSITORY) for tag in each["RepoTags"] or ()}
        if image not in there:
            with tempfile.TemporaryDirectory() as scratch:
                file = Path(scratch) / "image.tar"
                write(file)
                with file.open("rb") as archive:
                    for _ in api.load_image(archive):
                        pass
            for old in there if engine.own else ():
                api.remove_image(old)
    return image


def _packages() -> list[Path]:
    """Return what is installed beside NVIDIA FLARE in this environment."""
    folder = Path(sys.modules["pytest"].__file__ or "").parents[1]
    return sorted(path for path in folder.iterdir() if not path.name.startswith(_NOT_IN_IMAGES))


def _without_caches(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in info.name else info
