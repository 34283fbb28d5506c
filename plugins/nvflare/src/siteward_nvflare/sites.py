"""How a FLARE parent opens its siteward site."""

from __future__ import annotations

from pathlib import Path

import attrs

from siteward import PluginError, Plugins, Site, SiteFile

# What FLARE's kits give their own resource manager as expiration_period (master_template.yml): between the server's
# question and the start of the job, FLARE deploys it at every site.
RESERVED_FOR = 300.0
_PERIOD = "expiration_period"


def open_site(path: str | Path) -> Site:
    """Open a site; its reservations last as long as FLARE's (:func:`with_flare_s_period`)."""
    file, plugins = SiteFile.load(path), Plugins()
    return Site(with_flare_s_period(file, plugins), plugins=plugins)


def with_flare_s_period(file: SiteFile, plugins: Plugins) -> SiteFile:
    """Return the site file with ``expiration_period`` set to 300 s, if its manager has the option and it is not set."""
    for name, block in (file.resources or {}).items():
        try:
            options = getattr(plugins.resource_manager(name), "SiteOptions", None)
        except PluginError:  # opening the site says so, with all else that is wrong
            continue
        if options is not None and _PERIOD in attrs.fields_dict(options) and _PERIOD not in block:
            return attrs.evolve(file, resources={name: {**block, _PERIOD: RESERVED_FOR}})
    return file
