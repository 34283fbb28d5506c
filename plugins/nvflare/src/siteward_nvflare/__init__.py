"""siteward inside an NVIDIA FLARE federation: job launchers and a resource manager over a siteward site.

A FLARE site names these classes in ``local/siteward__p_resources.json``; ``siteward-nvflare install`` writes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siteward_nvflare.launcher import ClientSitewardLauncher, ServerSitewardLauncher
    from siteward_nvflare.resources import SitewardResourceConsumer, SitewardResourceManager

__version__ = "0.1.0"
__all__ = [
    "ClientSitewardLauncher",
    "ServerSitewardLauncher",
    "SitewardResourceConsumer",
    "SitewardResourceManager",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # The command line works, and says what is missing, where nvflare cannot be imported.
    if name.endswith("Launcher"):
        from siteward_nvflare import launcher as home
    elif name.startswith("SitewardResource"):
        from siteward_nvflare import resources as home  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module 'siteward_nvflare' has no attribute {name!r}")
    return getattr(home, name)
