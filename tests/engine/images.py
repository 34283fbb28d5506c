"""The images that tests use, made of Debian's packages, with no registry: built once, and kept in the cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .dockerd import CACHE, PATH, Engine, Unprovided

BUSYBOX = "siteward-test/busybox:1"
PYTHON = "siteward-test/python:1"
_SCRIPTS = Path(__file__).with_name("images")
_RECIPE = "siteward-test.recipe"


def provide(engine: Engine, image: str) -> str:
    """Have an image on an engine, as its script says now, and return its name; Unprovided when it cannot be built."""
    recipe = _file(image).stem
    with engine.client() as api:
        if not api.images(image, filters={"label": f"{_RECIPE}={recipe}"}):
            repository, _, tag = image.partition(":")
            api.import_image(str(build(image)), repository, tag, changes=[f"LABEL {_RECIPE}={recipe}"])
    return image


def build(image: str) -> Path:
    """Return an image's root file system as a tar file; it is built when there is none by this script yet."""
    script, file = _script(image), _file(image)
    if file.exists():
        return file
    print(f"building {image} from Debian's packages: once, and it may take a minute", file=sys.stderr, flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        part = Path(folder) / file.name
        done = subprocess.run([script, part], env={**os.environ, "PATH": PATH}, capture_output=True, text=True)
        if done.returncode != 0:
            words = f"image {image} cannot be built: {done.stderr[-300:].strip()}"
            raise Unprovided(f"{words}. As root on Debian, scripts/system-packages installs what it needs")
        for old in file.parent.glob(f"{script.stem}-*.tar"):
            old.unlink()
        part.rename(file)
    return file


def _script(image: str) -> Path:
    return _SCRIPTS / f"{image.partition('/')[2].partition(':')[0]}.sh"


def _file(image: str) -> Path:
    script = _script(image)
    return CACHE / "images" / f"{script.stem}-{hashlib.sha256(script.read_bytes()).hexdigest()[:12]}.tar"
