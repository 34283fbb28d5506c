"""What a plugin author tells the kit about a backend."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import Any

from attrs import frozen

from siteward.testing.platform import LocalPlatform, Platform

BASE_ENV = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "USER"})


@frozen(kw_only=True)
class BackendSetup:
    """One backend under test.

    ``name`` is its entry point's name; ``plugin`` its class, for one that is not installed. ``site_options``
    and ``job_options`` are its blocks in the site file and in a job's ``launcher_spec``. ``python`` (3.8 or
    newer) and ``shell`` are programs as the job sees them. ``base_env`` names the variables that the platform
    itself gives to jobs. ``patience`` multiplies every deadline, ``concurrent`` is how many jobs may run at
    once: change both for slow platforms.
    """

    name: str
    plugin: type | None = None
    site_options: Mapping[str, Any] = {}
    job_options: Mapping[str, Any] = {}
    python: str = sys.executable
    shell: str = "/bin/sh"
    platform: Platform = LocalPlatform()
    base_env: Collection[str] = BASE_ENV
    patience: float = 1.0
    concurrent: int = 20
