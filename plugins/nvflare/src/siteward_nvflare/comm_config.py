"""What a kit's ``comm_config.json`` says: where FLARE's parent and its jobs meet, and what is wrong in it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from siteward import Finding, nearest
from siteward_nvflare.kit import Kit

_NAME = "comm_config.json"
# What FLARE reads from it by other names than those of its VarName: ConnectorManager, CoreCell, and drivers.
_SECTIONS = ("internal", "adhoc", "backbone", "grpc", "shared-file", "simulate_unstable_network")
_CONNECTION = ("scheme", "resources")


def check_comm_config(kit: Kit) -> tuple[str | None, list[Finding]]:
    """Return the host at which jobs look for FLARE's parent, None when the file is broken, and what is to be said."""
    path = next((each for each in (kit.local / _NAME, kit.local / f"{_NAME}.default") if each.exists()), None)
    if path is None:
        return "localhost", []
    try:
        data = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        return None, [_broken(path, f"line {error.lineno}, column {error.colno}: {error.msg}")]
    except (OSError, ValueError, RecursionError) as error:
        return None, [_broken(path, f"cannot be read: {error}")]
    mistakes = list(_mistakes(data))
    if mistakes:
        return None, [_broken(path, each) for each in mistakes]
    host = ((data.get("internal") or {}).get("resources") or {}).get("host")
    return str(host or "localhost"), [_unknown(path, *each) for each in _unknown_keys(data)]


def _mistakes(data: Any) -> Iterator[str]:
    """Say what keeps FLARE from starting (``ConnectorManager``)."""
    if not isinstance(data, dict):
        yield "expected a mapping"
        return
    for name in ("internal", "adhoc"):
        block = data.get(name)
        if not block:
            continue
        if not isinstance(block, dict):
            yield f"{name}: expected a mapping with {' and '.join(_CONNECTION)}"
            continue
        if not block.get("scheme"):
            yield f"{name}.scheme: is missing" + _hint("scheme", set(block) - {*_CONNECTION})
        resources = block.get("resources")
        if resources is None and name == "internal":
            yield f"{name}.resources: is missing" + _hint("resources", set(block) - {*_CONNECTION})
        elif resources is not None and not isinstance(resources, dict):
            yield f"{name}.resources: expected a mapping with host, port and connection_security"


def _hint(right: str, given: Iterable[str]) -> str:
    near = nearest(right, sorted(given))
    return f"; {near!r} is there, did you mean that?" if near else ""


def _unknown_keys(data: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield the path of each key that FLARE does not read, and the nearest that it does.

    Drivers may have parameters of their own among ``resources``: there only what looks like a slip counts.
    """
    settings, parameters = _known()
    yield from _not_in(data, settings)
    for name in ("internal", "adhoc"):
        block = data.get(name) or {}
        yield from _not_in(block, _CONNECTION, f"{name}.")
        resources = _not_in(block.get("resources") or {}, parameters, f"{name}.resources.")
        yield from ((path, near) for path, near in resources if near is not None)


def _not_in(block: Mapping[str, Any], known: Iterable[str], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    if known := list(known):
        for key in block:
            if key not in known:
                yield prefix + key, nearest(key, known)


def _known() -> tuple[list[str], list[str]]:
    """Return FLARE's names of settings and of a connection's parameters; empty where it is not installed."""
    if importlib.util.find_spec("nvflare") is None:
        return [], []
    from nvflare.fuel.f3.comm_config import VarName
    from nvflare.fuel.f3.drivers.driver_params import DriverParams

    settings = [value for name, value in vars(VarName).items() if name.isupper()]
    return [*settings, *_SECTIONS], [str(each.value) for each in DriverParams]


def _broken(path: Path, words: str) -> Finding:
    remedy = "Correct it: FLARE's site does not start so"
    return Finding(level="fail", subject=_NAME, message=f"{path}: {words}", remedy=remedy)


def _unknown(path: Path, key: str, near: str | None) -> Finding:
    words = f"{path}: {key}: FLARE knows no such key" + (f"; did you mean {near!r}?" if near else "")
    return Finding(level="warn", subject=_NAME, message=words, remedy="FLARE does without it, and says nothing")
