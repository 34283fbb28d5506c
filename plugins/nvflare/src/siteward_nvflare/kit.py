"""Putting the bridge into a FLARE site's startup kit, and taking it out so that nothing is left of it.

Only files in the kit's ``local`` folder are touched: ``resources.json`` loses FLARE's own launcher (and, of a client,
its resource manager and consumer), ``siteward__p_resources.json``, which only the parent process reads, brings ours.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from attrs import frozen

OURS = "siteward__p_resources.json"
RECORD = "siteward.json"
BACKUP = "resources.json.before-siteward"
# FLARE's own ids (nvflare.tool.deploy); others' launchers are for `check` to find.
LAUNCHERS = ("process_launcher", "docker_launcher", "k8s_launcher", "slurm_launcher")
RESOURCES = ("resource_manager", "resource_consumer")


class KitError(ValueError):
    """A folder is no kit that the bridge can be put into; says what was expected."""


@frozen(kw_only=True)
class Kit:
    """The startup kit of one FLARE site; ``server`` or client."""

    folder: Path
    server: bool

    @property
    def local(self) -> Path:
        """Where the site's own configuration is."""
        return self.folder / "local"

    @property
    def ours(self) -> bool:
        """Whether it belongs to this account; FLARE's site runs as another one otherwise."""
        return self.local.stat().st_uid == os.geteuid()


def find_kit(folder: Path) -> Kit:
    """Return the kit in a folder; KitError when there is none."""
    startup = folder / "startup"
    for name, server in (("fed_server.json", True), ("fed_client.json", False)):
        if (startup / name).is_file():
            if not (folder / "local").is_dir():
                raise KitError(f"{folder} has no folder `local`; name a whole startup kit")
            return Kit(folder=folder.resolve(), server=server)
    if (startup / "fed_admin.json").is_file():
        raise KitError(f"{folder} is the kit of a FLARE admin, where no jobs run; name a server's or a client's")
    raise KitError(f"{folder} is no startup kit: it has neither startup/fed_server.json nor startup/fed_client.json")


def read_components(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a resources file and its components; KitError when it is not of that shape."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise KitError(f"{path} cannot be read: {error}") from error
    components = data.get("components", []) if isinstance(data, dict) else None
    if not isinstance(components, list) or not all(isinstance(each, dict) for each in components):
        raise KitError(f"{path}: expected a mapping with a list of `components`")
    return data, components


def resources_file(kit: Kit) -> Path:
    """Return the resources file that FLARE reads: ``resources.json``, else the one that it was delivered with."""
    own = kit.local / "resources.json"
    return own if own.exists() else kit.local / "resources.json.default"


def read_record(kit: Kit) -> dict[str, Any] | None:
    """Return what installing has noted, None when the bridge is not in the kit.

    KitError, with what to do by hand, when the bridge is there without a record that uninstalling could follow.
    """
    path = kit.local / RECORD
    if not path.exists():
        if (kit.local / OURS).exists():
            words = f"{kit.local / OURS} is there without {RECORD}, which says what was taken out of resources.json"
            raise KitError(f"{words}. {_by_hand(kit)}")
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise KitError(f"{path} cannot be read: {error}. {_by_hand(kit)}") from error
    if not _is_record(record):
        raise KitError(f"{path} is not what siteward-nvflare has written. {_by_hand(kit)}")
    return record


def _is_record(data: Any) -> bool:
    try:
        digest, had, removed = data["installed"], data["had_resources_json"], data["removed"]
        parts = [(each["index"], each["component"]["id"]) for each in removed]
    except (TypeError, LookupError):
        return False
    return isinstance(digest, str) and isinstance(had, bool) and all(isinstance(index, int) for index, _ in parts)


def _by_hand(kit: Kit) -> str:
    """Say how to take the bridge out when its record is of no use."""
    whole = [name for name in (BACKUP, "resources.json.default") if (kit.local / name).exists()]
    how = f"copy {whole[0]} to resources.json" if whole else "put resources.json of a new kit there"
    rest = " and ".join(name for name in (OURS, RECORD, BACKUP) if (kit.local / name).exists())
    return f"In {kit.local}: {how}, then remove {rest}; that is FLARE's own again, and you can install anew"


def install(kit: Kit, site_file: Path, shared: tuple[str, ...] | None = None) -> None:
    """Put the bridge in, in place of FLARE's launcher; done before, it is put in anew."""
    if read_record(kit) is not None:
        uninstall(kit)
    own = kit.local / "resources.json"
    before = own.read_bytes() if own.exists() else None
    data, components = read_components(resources_file(kit))
    unwanted = LAUNCHERS if kit.server else LAUNCHERS + RESOURCES
    removed = [{"index": i, "component": each} for i, each in enumerate(components) if each.get("id") in unwanted]
    kept = [each for each in components if each.get("id") not in unwanted]
    text = json.dumps({**data, "components": kept}, indent=2) + "\n"
    record = {
        "version": 1,
        "had_resources_json": before is not None,
        "installed": _digest(text.encode()),
        "removed": removed,
    }
    # In this order a crash leaves either FLARE's own launcher alone, or a record from which uninstall goes back.
    if before is not None:
        _write(kit.local / BACKUP, before, like=own)
    _write(kit.local / RECORD, (json.dumps(record, indent=2) + "\n").encode())
    _write(own, text.encode())
    ours = {"format_version": 2, "components": _components(kit, site_file, shared)}
    _write(kit.local / OURS, (json.dumps(ours, indent=2) + "\n").encode())


def _components(kit: Kit, site_file: Path, shared: tuple[str, ...] | None) -> list[dict[str, Any]]:
    role = "Server" if kit.server else "Client"
    args: dict[str, Any] = {"site_file": str(site_file.absolute())}
    if shared is not None:
        args["shared"] = list(shared)
    launcher = {"id": "siteward_launcher", "path": f"siteward_nvflare.{role}SitewardLauncher", "args": args}
    if kit.server:
        return [launcher]
    home = "siteward_nvflare.SitewardResource"
    return [
        launcher,
        {"id": RESOURCES[0], "path": f"{home}Manager", "args": {}},
        {"id": RESOURCES[1], "path": f"{home}Consumer", "args": {}},
    ]


def uninstall(kit: Kit) -> None:
    """Take the bridge out. ``resources.json`` is again what it was, byte for byte.

    If somebody has edited it meanwhile, the edits stay and what was removed is put back at its place.
    """
    record = read_record(kit)
    if record is None:
        raise KitError(f"the bridge is not installed in {kit.folder}")
    own, backup = kit.local / "resources.json", kit.local / BACKUP
    edited = own.exists() and _digest(own.read_bytes()) != record["installed"]
    restored = _put_back(own, record) if edited else b""  # before anything is removed: the file may be broken
    (kit.local / OURS).unlink(missing_ok=True)
    if edited:
        _write(own, restored)
    elif not record["had_resources_json"]:
        own.unlink(missing_ok=True)
    elif own.exists() and backup.exists():
        os.replace(backup, own)
    (kit.local / RECORD).unlink()
    backup.unlink(missing_ok=True)


def _put_back(path: Path, record: dict[str, Any]) -> bytes:
    """Return an edited resources file with what was removed back in its place."""
    data, components = read_components(path)
    present = {each.get("id") for each in components}
    for removed in record["removed"]:
        if removed["component"]["id"] not in present:
            components.insert(removed["index"], removed["component"])
    return (json.dumps({**data, "components": components}, indent=2) + "\n").encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes, *, like: Path | None = None) -> None:
    """Write a file whole or not at all, with the mode that it has, or another has."""
    part = path.with_name(f".{path.name}.siteward")
    part.write_bytes(content)
    model = like or path
    if model.exists():
        part.chmod(model.stat().st_mode & 0o777)
    os.replace(part, path)
