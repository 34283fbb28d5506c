"""Global plugins that are classes: made once for each open site, with the options that its file has for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from siteward.config import Problems, build
from siteward.errors import OptionsRefused, PluginError
from siteward.plugins import Plugins
from siteward.request import Context


def needs_options(kind: type[Any]) -> bool:
    """Whether a plugin can do nothing without options: it then acts only at sites whose file has some for it."""
    return any(field.init and field.default is attrs.NOTHING for field in attrs.fields(kind.SiteOptions))


class SitePlugins:
    """The plugins as one open site has them: ``plugins``, with an instance in the place of each class.

    ``on_error`` hears of each that cannot be: of a block that is wrong (Problems), or of a plugin that is missing,
    broken, takes no options or fails (PluginError). A filter that cannot be had is no reason to do without.
    """

    def __init__(
        self,
        plugins: Plugins,
        blocks: Mapping[str, Mapping[str, Any]],
        context: Callable[[str], Context],
        on_error: Callable[[str, Exception], None],
    ) -> None:
        self._made: dict[str, object] = {}
        self._contexts: dict[str, Context] = {}
        kinds = plugins.site_classes()
        for name in sorted({*blocks, *kinds}):
            try:
                kind = kinds.get(name) or _class(plugins, name)
                if name in blocks or not needs_options(kind):
                    self._contexts[name] = context(name)
                    self._made[name] = _make(kind, name, self._contexts[name], blocks.get(name, {}))
            except (Problems, PluginError) as error:
                on_error(name, error)
        self.plugins = plugins.at_site(self._made)

    def open(self) -> None:
        """Tell those that have a method ``open`` that the site runs jobs now; exceptions go to the log."""
        self._call("open")

    def close(self) -> None:
        """Tell those that have a method ``close`` that the site is let go of; exceptions go to the log."""
        self._call("close")

    def _call(self, method: str) -> None:
        for name, plugin in self._made.items():
            try:
                getattr(plugin, method, lambda: None)()
            except Exception:
                self._contexts[name].log.exception("%s of plugin %s raised", method, name)


def _class(plugins: Plugins, name: str) -> type[Any]:
    """Raise what is wrong with a plugin that a site's file names and that is no class."""
    plugins.global_plugin(name)
    raise PluginError(name, f"plugin {name!r} takes no options; take it out of the site file")


def _make(kind: type[Any], name: str, context: Context, block: Mapping[str, Any]) -> object:
    options: Any = build(kind.SiteOptions, block)
    try:
        return kind(context, options)
    except (OptionsRefused, Problems) as error:
        raise Problems(error.problems) from error
    except Exception as error:
        raise PluginError(name, f"plugin {name!r} cannot be set up: {type(error).__name__}: {error}") from error
