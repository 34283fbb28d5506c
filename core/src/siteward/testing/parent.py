"""A process that launches jobs at a site and stays, until the kit kills it: ``python -m siteward.testing.parent``."""

from __future__ import annotations

import importlib
import json
import signal
import sys
from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from siteward.job import Job
from siteward.plugins import BACKENDS, Plugins
from siteward.site import Site


def locate(plugin: type) -> dict[str, Any]:
    """Say where a backend's class can be found by another process, also if no import path leads there."""
    name = plugin.__module__
    parents = [name[:end] for end, letter in enumerate(name) if letter == "."]
    packages = {parent: list(sys.modules[parent].__path__) for parent in parents if parent in sys.modules}
    return {"module": name, "file": sys.modules[name].__file__, "packages": packages, "class": plugin.__qualname__}


def load(place: Mapping[str, Any]) -> Any:
    """Return the class that :func:`locate` described, importing its module by name or else by its file."""
    try:
        found: Any = importlib.import_module(place["module"])
    except ImportError:
        for name, path in place["packages"].items():
            package = sys.modules[name] = ModuleType(name)
            package.__path__ = path
        spec = spec_from_file_location(place["module"], place["file"])
        assert spec is not None
        assert spec.loader is not None
        found = sys.modules[place["module"]] = module_from_spec(spec)
        spec.loader.exec_module(found)
    for name in place["class"].split("."):
        found = getattr(found, name)
    return found


def main(order: dict[str, Any]) -> None:
    """Launch what was ordered, say so with a line, and wait to be killed."""
    plugins = Plugins()
    if order["plugin"] is not None:
        plugins.add(BACKENDS, order["backend"], load(order["plugin"]))
    site = Site.load(order["site"], plugins=plugins)
    for data in order["jobs"]:
        site.launch(Job.from_mapping(data, base_dir=Path(order["base_dir"])))
    print("launched", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main(json.load(sys.stdin))
