"""The tests' images on an engine."""

from __future__ import annotations

from ..machine.images import BUSYBOX as BUSYBOX
from ..machine.images import PYTHON as PYTHON
from ..machine.images import build as build
from ..machine.images import recipe
from .dockerd import Engine

_RECIPE = "siteward-test.recipe"


def provide(engine: Engine, image: str) -> str:
    """Have an image on an engine, as its script says now, and return its name; Unprovided when it cannot be built."""
    wanted = recipe(image)
    with engine.client() as api:
        if not api.images(image, filters={"label": f"{_RECIPE}={wanted}"}):
            repository, _, tag = image.partition(":")
            api.import_image(str(build(image)), repository, tag, changes=[f"LABEL {_RECIPE}={wanted}"])
    return image
