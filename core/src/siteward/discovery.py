"""Finds entry points: which plugins this Python environment has, without importing any."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import metadata
from typing import Literal

from attrs import define, evolve, field, frozen

from siteward.pluginrules import GROUPS

DISABLED_VARIABLE = "SITEWARD_DISABLED_PLUGINS"
Status = Literal["found", "loaded", "broken", "disabled"]


@frozen(kw_only=True)
class PluginRecord:
    """One entry point, and what became of it: what ``siteward plugins`` shows.

    ``status`` is ``found`` (not loaded: nothing has asked for it), ``loaded``, ``broken`` (``reason`` says
    why) or ``disabled``.
    """

    group: str
    name: str
    value: str
    distribution: str
    version: str
    status: Status = "found"
    reason: str = ""

    @property
    def origin(self) -> str:
        """The distribution with its version, as people write it: ``siteward-docker 0.1.0``."""
        return f"{self.distribution} {self.version}".strip()


@define
class Entry:
    """A plugin to be: its record, how to load it, and what came of it."""

    record: PluginRecord
    load: Callable[[], object]
    plugin: object = None
    error: BaseException | None = field(default=None, repr=False)

    def become(self, status: Status, reason: str = "") -> None:
        """Note what became of the plugin."""
        self.record = evolve(self.record, status=status, reason=reason)


def scan(disabled: frozenset[str]) -> list[Entry]:
    """Return an entry for each entry point in our groups; clashes are broken already, nothing is imported."""
    entries: list[Entry] = []
    seen: set[str] = set()
    for distribution in metadata.distributions():
        text = _entry_points_text(distribution)
        group = next((group for group in GROUPS if group in text), None)
        if group is None:
            continue
        label = "(unnamed)"
        try:
            label = distribution.name
            key = re.sub(r"[-_.]+", "-", label).lower()
            # The first of two copies on the path is the one that imports find.
            if key not in seen:
                entries += _entries(distribution, label)
            seen.add(key)
        except Exception as error:
            record = PluginRecord(group=group, name=str(label), value="", distribution=str(label), version="")
            entries.append(Entry(record, lambda: None, error=error))
            entries[-1].become("broken", f"its metadata cannot be read: {type(error).__name__}: {error}")
    _judge_names(entries, disabled)
    return entries


def _entry_points_text(distribution: metadata.Distribution) -> str:
    try:
        return distribution.read_text("entry_points.txt") or ""
    except (OSError, ValueError):
        return ""


def _entries(distribution: metadata.Distribution, label: str) -> list[Entry]:
    version = distribution.version
    return [
        Entry(
            PluginRecord(group=point.group, name=point.name, value=point.value, distribution=label, version=version),
            point.load,
        )
        for point in dict.fromkeys(distribution.entry_points)
        if point.group in GROUPS
    ]


def _judge_names(entries: list[Entry], disabled: frozenset[str]) -> None:
    claims: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        claims.setdefault((entry.record.group, entry.record.name), []).append(entry)
    for entry in entries:
        rivals = claims[entry.record.group, entry.record.name]
        if entry.record.name in disabled:
            entry.become("disabled", f"disabled by {DISABLED_VARIABLE}")
        elif len(rivals) > 1:
            names = " and ".join(sorted(f"{e.record.origin} ({e.record.value})" for e in rivals))
            entry.become("broken", f"the name is claimed by {names}; all are refused, uninstall all but one")
