"""The mark by which one installation tells what it created on a platform from what others did."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

_MACHINE_ID = Path("/etc/machine-id")


def installation_id(directory: Path) -> str:
    """Return the mark of the installation that has this directory: the same for every process that uses it.

    16 hex digits, for labels of containers and pods; ``directory`` is a plugin's own (``Context.directory``). The mark
    is written down there, and made from the machine and the path, so that it is the same should the directory be lost.
    OSError when it can be neither read nor written.
    """
    file = directory / "owner"
    with suppress(FileNotFoundError):
        return file.read_text().strip()
    machine = ""
    with suppress(OSError):
        machine = _MACHINE_ID.read_text().strip()
    mark = hashlib.sha256(f"{machine}\0{directory}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    draft = directory / f"owner.{os.getpid()}"
    draft.write_text(mark)
    os.replace(draft, file)
    return mark
