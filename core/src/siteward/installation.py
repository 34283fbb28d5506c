"""The mark by which one installation tells what it created on a platform from what others did."""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

_MACHINE_ID = Path("/etc/machine-id")


def installation_id(directory: Path) -> str:
    """Return the mark of the installation that has this directory: the same for every process that uses it.

    16 hex digits, for labels of containers and pods; ``directory`` is a plugin's own (``Context.directory``). The mark
    is written down there, and made from the machine and the path, so that it is the same should the directory be lost.
    Where the machine has no id of its own, and in pods, whose images and paths are alike, it is random. OSError when
    it can be neither read nor written.
    """
    file = directory / "owner"
    if mark := _read(file):
        return mark
    draft = directory / f"owner.{secrets.token_hex(8)}"
    draft.write_text(_new_mark(directory))
    try:
        with suppress(FileExistsError):
            os.link(draft, file)
        if not _read(file):  # the machine lost its power when it was written
            os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)
    return _read(file)


def _read(file: Path) -> str:
    with suppress(FileNotFoundError):
        return file.read_text().strip()
    return ""


def _new_mark(directory: Path) -> str:
    machine = ""
    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        with suppress(OSError):
            machine = _MACHINE_ID.read_text().strip()
    if machine in ("", "uninitialized"):
        return secrets.token_hex(8)
    return hashlib.sha256(f"{machine}\0{directory}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
