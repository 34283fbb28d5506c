"""Putting what siteward decides into a pod template: what is whose, item by item. Pure; nothing given is changed.

The template comes first and keeps its order. Where both speak of one thing siteward's word counts, and a warning says
so, unless that is what a template is for (the job's image, command and name).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Block = Mapping[str, Any]


def put(target: dict[str, Any], own: Block, where: str, warnings: list[str]) -> None:
    """Set keys in a block of a template that has been copied."""
    for key, value in own.items():
        if key in target and target[key] != value:
            warnings.append(f"{where}.{key}: {value!r} takes the place of the template's {target[key]!r}")
        target[key] = value


def by_key(
    template: Iterable[Block] | None, own: Iterable[Block], key: str, where: str, warnings: list[str]
) -> list[Any]:
    """Merge two lists whose items are told apart by a key; an item of ours takes the place of the template's."""
    found = {_same(each[key]): each for each in template or ()}
    for each in own:
        name = _same(each[key])
        if name in found and found[name] != each:
            warnings.append(f"{where}: {each[key]} is siteward's and takes the place of the template's")
        found[name] = each
    return list(found.values())


def _same(text: str) -> str:
    """A mount path with and without a slash at its end is one path."""
    return text.rstrip("/") or text


def joined(template: Iterable[Any] | None, own: Iterable[Any]) -> list[Any]:
    """Return the template's items, and ours that are not among them."""
    found = list(template or ())
    return found + [each for each in own if each not in found]


def security(default: Block, template: Block | None, site: Block, where: str, warnings: list[str]) -> dict[str, Any]:
    """Return a security context: the site's options over the template's over the safe default.

    ``capabilities`` are merged likewise, so that what a template adds does not bring back what the default drops. A key
    that is null in the site's options is left out.
    """
    template = template or {}
    found = {**default, **template}
    put(found, site, where, warnings) if template else found.update(site)
    if "capabilities" in found:
        parts = (each.get("capabilities") or {} for each in (default, template, site))
        dropped = site.get("capabilities", {}) is None
        found["capabilities"] = None if dropped else {key: value for part in parts for key, value in part.items()}
    if found.get("privileged") and "allowPrivilegeEscalation" not in {*template, *site}:
        # The API takes no container that is privileged and says no to this.
        found["allowPrivilegeEscalation"] = None
    return {key: value for key, value in found.items() if value is not None}


def resources(template: Block | None, requests: Block, limits: Block, caps: Block) -> dict[str, Any]:
    """Return a container's resources, the job's over the template's.

    ``caps`` are limits of resources that neither speaks of. Nothing of them is reserved for such a job: without a
    request of our own, Kubernetes would reserve the whole limit.
    """
    found = {**(template or {})}
    said_requests, said_limits = found.get("requests") or {}, found.get("limits") or {}
    open_caps = {key: cap for key, cap in caps.items() if key not in said_limits and key not in said_requests}
    found["requests"] = {**dict.fromkeys(open_caps, "0"), **said_requests, **requests}
    found["limits"] = {**said_limits, **open_caps, **limits}
    return {key: value for key, value in found.items() if value}
