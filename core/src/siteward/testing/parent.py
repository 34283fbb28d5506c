"""A process that launches jobs at a site and stays, until the kit kills it: ``python -m siteward.testing.parent``."""

from __future__ import annotations

import importlib
import importlib.util
import json
import signal
import sys
from pathlib import Path
from typing import Any

from siteward.job import Job
from siteward.plugins import BACKENDS, Plugins
from siteward.site import Site


def locate(plugin: type) -> dict[str, str]:
    """Say where a backend's class can be found by another process."""
    module = sys.modules[plugin.__module__]
    return {"module": plugin.__module__, "file": str(module.__file__), "name": plugin.__qualname__}


def load(place: dict[str, str]) -> Any:
    """Return the class that :func:`locate` described, importing its module by name or else by its file."""
    try:
        found: Any = importlib.import_module(place["module"])
    except ImportError:
        spec = importlib.util.spec_from_file_location(place["module"], place["file"])
        assert spec is not None
        assert spec.loader is not None
        found = sys.modules[place["module"]] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    for name in place["name"].split("."):
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
