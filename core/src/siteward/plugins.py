"""The loader: finds plugins by entry points, loads only what is asked for, and isolates what is broken."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import pluggy

from siteward.config import nearest
from siteward.discovery import DISABLED_VARIABLE, Entry, PluginRecord, scan
from siteward.errors import PluginError, sentences
from siteward.hookspecs import PROJECT, BackendSpec, PluginSpec, ResourceSpec
from siteward.pluginrules import (
    BACKENDS,
    GLOBAL,
    GROUPS,
    RESOURCES,
    backend_hooks,
    is_site_class,
    plugin_problems,
)

__all__ = [
    "BACKENDS",
    "GLOBAL",
    "RESOURCES",
    "PluginRecord",
    "Plugins",
    "backend_hooks",
]

_WORDS = {BACKENDS: "backend", RESOURCES: "resource manager", GLOBAL: "plugin"}


class Plugins:
    """The plugins of this Python environment: scanned once, when first needed, each loaded when asked for.

    ``disabled`` are names to leave out, in every group; None takes them from ``SITEWARD_DISABLED_PLUGINS``.
    Safe to use from several threads.
    """

    def __init__(self, *, disabled: Iterable[str] | None = None) -> None:
        if disabled is None:
            disabled = os.environ.get(DISABLED_VARIABLE, "").split(",")
        self._disabled = frozenset(name.strip() for name in disabled)
        self._added: dict[tuple[str, str], Entry] = {}
        self._scanned: list[Entry] | None = None
        self._by_group: dict[str, list[Entry]] = {}
        self._manager: pluggy.PluginManager | None = None
        self._at_site: Mapping[str, object] = {}
        self._lock = threading.RLock()

    def add(self, group: str, name: str, plugin: object, *, distribution: str = "(added)") -> None:
        """Register a plugin of this process, in place of any other of its name; it is checked as others are.

        For tests, for the contract kit and for programs that bring their own backend.
        """
        if group not in GROUPS:
            raise ValueError(f"expected one of {', '.join(GROUPS)}, got {group!r}")
        kind = plugin if isinstance(plugin, type) else type(plugin)
        value = f"{kind.__module__}:{kind.__qualname__}"
        if isinstance(plugin, ModuleType):
            value = plugin.__name__
        record = PluginRecord(group=group, name=name, value=value, distribution=distribution, version="")
        entry = Entry(record, lambda: plugin)
        if name in self._disabled:
            entry.become("disabled", f"disabled by {DISABLED_VARIABLE}")
        with self._lock:
            self._added[group, name] = entry
            self._by_group.pop(group, None)
            self._manager = None

    def names(self, group: str) -> list[str]:
        """Return the names in a group that may be asked for, loading none: no clashes, no disabled ones."""
        return sorted({e.record.name for e in self._entries(group) if e.record.status in ("found", "loaded")})

    def records(self, *, load: bool = True) -> list[PluginRecord]:
        """Return every plugin, by group and name. ``load`` loads each, by itself, to see which are broken."""
        entries = [entry for group in GROUPS for entry in self._entries(group)]
        if load:
            self._global_manager()
            for entry in entries:
                self._load(entry)
        return [entry.record for entry in entries]

    def broken(self) -> list[PluginRecord]:
        """Return the plugins known to be broken so far; :meth:`records` finds out about all."""
        return [record for record in self.records(load=False) if record.status == "broken"]

    def backend(self, name: str) -> type[Any]:
        """Load one backend's class; PluginError when it is missing, broken, disabled or claimed twice."""
        return self._class(BACKENDS, name)

    def resource_manager(self, name: str) -> type[Any]:
        """Load one resource manager's class; PluginError as for :meth:`backend`."""
        return self._class(RESOURCES, name)

    def global_plugins(self) -> list[tuple[str, object]]:
        """Load the plugins of ``siteward.plugins``; return the good ones, in name order, and raise for none.

        Those that are classes, of which each site has its own, are what :meth:`site_classes` returns.
        """
        return [(name, plugin) for name, plugin in self._good_global_plugins() if not is_site_class(plugin)]

    def site_classes(self) -> dict[str, type[Any]]:
        """Load the plugins of ``siteward.plugins``; return the good ones that are made for each site, by name."""
        return {name: plugin for name, plugin in self._good_global_plugins() if is_site_class(plugin)}

    def _good_global_plugins(self) -> list[tuple[str, object]]:
        self._global_manager()
        return [(e.record.name, e.plugin) for e in self._entries(GLOBAL) if e.record.status == "loaded"]

    def global_plugin(self, name: str) -> object:
        """Load one plugin of ``siteward.plugins``; PluginError as for :meth:`backend`."""
        return self._class(GLOBAL, name)

    def at_site(self, made: Mapping[str, object]) -> Plugins:
        """Return the same plugins as one site has them: ``made`` are the instances of those that are classes."""
        with self._lock:
            self._entries(GLOBAL)
            here = copy.copy(self)
            here._at_site, here._manager = dict(made), None
            return here

    def make_manager(self) -> pluggy.PluginManager:
        """Return a new manager with all hooks specified and every good global plugin registered.

        Of a global plugin that is a class the site's instance is in it, if there is one.
        """
        manager = pluggy.PluginManager(PROJECT)
        for spec in (BackendSpec, ResourceSpec, PluginSpec):
            manager.add_hookspecs(spec)
        for entry in self._entries(GLOBAL):
            self._load(entry)
            plugin = self._at_site.get(entry.record.name) if is_site_class(entry.plugin) else entry.plugin
            if entry.record.status != "loaded" or plugin is None:
                continue
            if reason := _register(manager, plugin, GLOBAL, entry.record.name):
                entry.become("broken", reason)
        return manager

    def register_backend(self, manager: pluggy.PluginManager, backend: object, name: str) -> None:
        """Register a launcher's one backend; PluginError when it breaks a rule, the manager is as it was."""
        self._register_only(manager, backend, BACKENDS, name)

    def register_resource_manager(self, manager: pluggy.PluginManager, resource_manager: object, name: str) -> None:
        """Register a site's one resource manager; PluginError as for :meth:`register_backend`."""
        self._register_only(manager, resource_manager, RESOURCES, name)

    def _register_only(self, manager: pluggy.PluginManager, plugin: object, group: str, name: str) -> None:
        present = [other for other, _ in manager.list_name_plugin() if other.startswith(f"{group}/")]
        kind = _WORDS[group]
        if present:
            held = present[0].split("/", 1)[1]
            raise PluginError(name, f"a manager holds one {kind}, and {held!r} is in it")
        if reason := _register(manager, plugin, group, name):
            origins = [f" of {e.record.origin}" for e in self._entries(group) if e.record.name == name]
            raise PluginError(name, f"{kind} {name!r}{''.join(origins[:1])} is broken: {reason}")

    def _global_manager(self) -> pluggy.PluginManager:
        with self._lock:
            if self._manager is None:
                self._manager = self.make_manager()
            return self._manager

    def _entries(self, group: str) -> Sequence[Entry]:
        with self._lock:
            if self._scanned is None:
                self._scanned = scan(self._disabled)
            if group not in self._by_group:
                added = {name: entry for (own, name), entry in self._added.items() if own == group}
                found = [e for e in self._scanned if e.record.group == group and e.record.name not in added]
                self._by_group[group] = sorted(
                    [*found, *added.values()], key=lambda e: (e.record.name, e.record.distribution)
                )
            return self._by_group[group]

    def _load(self, entry: Entry) -> None:
        with self._lock:
            if entry.record.status != "found":
                return
            group = entry.record.group
            try:
                plugin = entry.load()
                if group != GLOBAL and not isinstance(plugin, type):
                    problems = ["the entry point does not name a class"]
                else:
                    problems = plugin_problems(plugin, group)
            except (Exception, SystemExit) as error:
                entry.error = error
                entry.become("broken", _failure_words(error))
                return
            if problems:
                entry.become("broken", "; ".join(problems))
            else:
                entry.plugin = plugin
                entry.become("loaded")

    def _class(self, group: str, name: str) -> type[Any]:
        entry = next((entry for entry in self._entries(group) if entry.record.name == name), None)
        if entry is None:
            raise PluginError(name, self._missing_words(group, name))
        self._load(entry)
        record, kind = entry.record, _WORDS[group]
        if record.status == "disabled":
            raise PluginError(name, f"{kind} {name!r} is {record.reason}; take it out of there")
        if record.status == "broken":
            words = f"{kind} {name!r} of {record.origin} is broken: {record.reason}"
            raise PluginError(name, sentences(words, "Repair, upgrade or uninstall it")) from entry.error
        return entry.plugin  # type: ignore[return-value]

    def _missing_words(self, group: str, name: str) -> str:
        names, kind = self.names(group), _WORDS[group]
        close = nearest(name, names)
        hint = f"; did you mean {close!r}?" if close else "."
        words = f"there is no {kind} {name!r}{hint} Installed: {', '.join(names) or 'none'}."
        broken = [f"{r.name} of {r.origin} ({r.reason})" for r in self.broken() if r.group == group]
        if broken:
            words += f" Broken: {', '.join(broken)}."
        return f"{words} Install the distribution that has it, or correct the name"


def _failure_words(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r}) while it was loaded"
    return f"{type(error).__name__}: {error}"


def _register(manager: pluggy.PluginManager, plugin: object, group: str, name: str) -> str | None:
    """Register a plugin as ``<group>/<name>``, or return why it is refused; then the manager is as it was."""
    full_name = f"{group}/{name}"
    if problems := plugin_problems(plugin, group):
        return "; ".join(problems)
    try:
        manager.register(plugin, name=full_name)
        manager.check_pending()
    except (pluggy.PluginValidationError, ValueError) as error:
        if manager.get_plugin(full_name) is plugin:
            manager.unregister(name=full_name)
        return str(error)
    return None
